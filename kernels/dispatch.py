"""Choice of an operation's implementation: the one that is named, or the best that serves these
arguments on this device.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from helios_jax.errors import HeliosError

from . import verdicts

log = logging.getLogger("helios_jax.kernels")

AUTO = "auto"
"""In place of an implementation's name: the best that serves."""

LAST_RESORT = "xla"
"""The implementation that every operation has, plain JAX."""


class UnsupportedError(HeliosError, ValueError):
    """A named implementation cannot serve these arguments on this device; the message says why."""


CAPABILITIES = {
    "A100": (8, 0),
    "L40S": (8, 9),
    "H100": (9, 0),
    "H200": (9, 0),
    "H800": (9, 0),
    "H20": (9, 0),
    "GH200": (9, 0),
    "B200": (10, 0),
    "RTX 5090": (12, 0),
}
"""Compute capabilities by a part of the device's name: a GPU that is compiled for and not there
says only that. One that is there says its capability itself.
"""


class Target(NamedTuple):
    """The device that a program traced now will run on.

    Attributes:
      platform: "cpu", "cuda", ...
      kind: the device's name, as "NVIDIA H100 80GB HBM3".
      capability: of an NVIDIA GPU, what instructions it has; None where that is not known.
    """

    platform: str
    kind: str
    capability: tuple[int, int] | None = None

    @property
    def has_wgmma(self) -> bool:
        """Whether it multiplies by warpgroups: compute capability 9.0 only, as its instructions are
        not in later ones.
        """
        return self.capability == (9, 0)

    @property
    def has_mosaic(self) -> bool:
        """Whether Pallas's Mosaic compiler makes kernels for it that copy tiles with the copy
        engine and wait at barriers: 9.0 and 10.x. Of jax 0.10, 12.0's assembler refuses them.
        """
        return self.capability is not None and self.capability[0] in (9, 10)


class Implementation(NamedTuple):
    """One way to compute an operation.

    Attributes:
      run: the function; every implementation of an operation takes the same arguments.
      refuses: takes the target and the same arguments; returns the reason why it cannot serve
        them, or None if it can.
    """

    run: Callable[..., Any]
    refuses: Callable[..., str | None]


def target() -> Target:
    """The device of the abstract mesh in scope, which a program compiled for an absent GPU has;
    otherwise the default backend's first device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.local_devices()[0]
    if device.platform not in ("gpu", "cuda"):
        return Target(device.platform, device.device_kind)
    return Target("cuda", device.device_kind, _capability(device))


def _capability(device: Any) -> tuple[int, int] | None:
    """The compute capability that a device says it has, or that its name is known to have."""
    if said := getattr(device, "compute_capability", None):
        major, _, minor = str(said).partition(".")
        return int(major), int(minor)
    name = device.device_kind
    return next((found for part, found in CAPABILITIES.items() if part in name), None)


def triton_capability() -> int | None:
    """The capability as Triton's compiler takes it, 90 for 9.0, known without asking the driver,
    which is not there when a program is compiled for a GPU elsewhere; None where it is not known.
    """
    capability = target().capability
    return None if capability is None else 10 * capability[0] + capability[1]


def check_name(
    operation: str, implementations: Mapping[str, Implementation], name: str | None
) -> None:
    """Raise :class:`UnsupportedError` unless ``name`` is None or one of the implementations."""
    if name not in (None, AUTO) and name not in implementations:
        known = ", ".join(implementations)
        raise UnsupportedError(f"{operation} has no implementation {name!r}; there are {known}")


def dispatch(
    operation: str,
    implementations: Mapping[str, Implementation],
    named: str | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run the implementation that is named, or the first that does not refuse.

    Args:
      operation: its name, for messages.
      implementations: best first; the last one, "xla", serves everything.
      named: a key of ``implementations``; None or "auto" for the first that does not refuse, and
        that no check found wrong on this device (see :mod:`.verdicts`).
      *args, **kwargs: of the operation.

    Raises:
      UnsupportedError: if there is none of that name, or it refuses, with its reason.
    """
    check_name(operation, implementations, named)
    device = target()
    if named not in (None, AUTO):
        if reason := implementations[named].refuses(device, *args, **kwargs):
            raise UnsupportedError(f"{operation}: {named} cannot serve: {reason}")
        return implementations[named].run(*args, **kwargs)
    for name, implementation in implementations.items():
        reason = implementation.refuses(device, *args, **kwargs)
        if reason is None and name != LAST_RESORT:
            reason = verdicts.against(device.kind, operation, name)
        if reason is None:
            return implementation.run(*args, **kwargs)
        if device.platform == "cuda":
            _warn_once(f"{operation}: not {name}, {reason}")
    raise AssertionError(f"{operation}: no implementation serves everything")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)

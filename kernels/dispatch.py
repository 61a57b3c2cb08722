"""Choice of an operation's implementation: the one that is named, or the best that serves these
arguments on this device.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from helios_jax.errors import HeliosError

log = logging.getLogger("helios_jax.kernels")


class UnsupportedError(HeliosError, ValueError):
    """A named implementation cannot serve these arguments on this device; the message says why."""


class Target(NamedTuple):
    """The device that a program traced now will run on.

    Attributes:
      platform: "cpu", "cuda", ...
      kind: the device's name, as "NVIDIA H100 80GB HBM3".
    """

    platform: str
    kind: str

    @property
    def is_hopper(self) -> bool:
        """Whether it is an NVIDIA GPU of compute capability 9.0."""
        names = ("H100", "H200", "H800", "H20", "GH200")
        return self.platform == "cuda" and any(name in self.kind for name in names)


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
    platform = "cuda" if device.platform in ("gpu", "cuda") else device.platform
    return Target(platform, device.device_kind)


def check_name(
    operation: str, implementations: Mapping[str, Implementation], name: str | None
) -> None:
    """Raise :class:`UnsupportedError` unless ``name`` is None or one of the implementations."""
    if name is not None and name not in implementations:
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
      named: a key of ``implementations``, or None.
      *args, **kwargs: of the operation.

    Raises:
      UnsupportedError: if there is none of that name, or it refuses, with its reason.
    """
    check_name(operation, implementations, named)
    device = target()
    if named is not None:
        if reason := implementations[named].refuses(device, *args, **kwargs):
            raise UnsupportedError(f"{operation}: {named} cannot serve: {reason}")
        return implementations[named].run(*args, **kwargs)
    for name, implementation in implementations.items():
        reason = implementation.refuses(device, *args, **kwargs)
        if reason is None:
            return implementation.run(*args, **kwargs)
        if device.platform == "cuda":
            _warn_once(f"{operation}: not {name}, {reason}")
    raise AssertionError(f"{operation}: no implementation serves everything")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)

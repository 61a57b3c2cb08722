"""Which implementation of an operation runs: the one that is named, or the best that serves these
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
    """What a program that is traced now will run on: a platform ("cpu", "cuda", ...) and the
    device's name.
    """

    platform: str
    kind: str

    @property
    def is_hopper(self) -> bool:
        """Whether it is an NVIDIA GPU of compute capability 9.0."""
        return self.platform == "cuda" and any(
            name in self.kind for name in ("H100", "H200", "H800", "H20", "GH200")
        )


class Implementation(NamedTuple):
    """One way to compute an operation.

    Attributes:
      run: the function; every implementation of an operation takes the same arguments.
      refuses: with the target and the same arguments, the reason why it cannot serve them, or None.
    """

    run: Callable[..., Any]
    refuses: Callable[..., str | None]


def target() -> Target:
    """The device of the abstract mesh in scope, as when a program is compiled for a GPU that is not
    there; otherwise the default backend's first.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return Target(
            "cuda" if device.platform in ("gpu", "cuda") else device.platform, device.device_kind
        )
    device = jax.local_devices()[0]
    return Target("cuda" if device.platform == "gpu" else device.platform, device.device_kind)


def dispatch(
    operation: str,
    implementations: Mapping[str, Implementation],
    named: str | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run the implementation that is named, or the first that does not refuse.

    Args:
      operation: for messages.
      implementations: best first; the last one, "xla", serves everything.
      named: a key of ``implementations``, or None.
      *args, **kwargs: of the operation.

    Raises:
      UnsupportedError: if the named one refuses, with its reason.
    """
    device = target()
    if named is not None:
        if named not in implementations:
            raise UnsupportedError(
                f"{operation} has no implementation {named!r}; there are {', '.join(implementations)}"
            )
        if reason := implementations[named].refuses(device, *args, **kwargs):
            raise UnsupportedError(f"{operation}: {named} cannot serve: {reason}")
        return implementations[named].run(*args, **kwargs)
    for name, implementation in implementations.items():
        reason = implementation.refuses(device, *args, **kwargs)
        if reason is None:
            return implementation.run(*args, **kwargs)
        if device.platform == "cuda":
            _say_once(f"{operation}: not {name}, {reason}")
    raise AssertionError(f"{operation}: no implementation serves everything")


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)

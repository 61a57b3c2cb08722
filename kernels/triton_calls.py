"""Calls of Triton kernels that a CUDA graph can hold.

XLA launches what stands between two calls that no graph can hold as one graph. Of jax-triton 0.3
every call ends one: it uses XLA's first interface for custom calls, which says nothing of graphs.
jaxlib has the same call behind the typed interface, too, where it says that it can be captured.
Kernels, grids and arguments are the same ones. Of the 3300 kernels of a chunk of the 14B model, 133
were in graphs; all but 3 are.

The one file that touches what jax and jax-triton keep private for this.
"""

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
from jax.interpreters import mlir

from .dispatch import triton_capability

TYPED = "triton_kernel_call_ffi"
"""The call behind the typed interface, as jaxlib registers it."""


def triton_call(
    *arrays: jax.Array,
    kernel: Any,
    name: str,
    out_shape: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, int],
    num_warps: int,
    input_output_aliases: Mapping[int, int] | None = None,
    **constants: Any,
) -> list[jax.Array]:
    """Run a Triton kernel on the device that is traced for.

    Args:
      *arrays: its first arguments; the results are the next ones.
      kernel: the ``triton.jit`` function.
      name: of the kernel, in profiles.
      out_shape: of every result.
      grid: programs in each direction.
      num_warps: of a program.
      input_output_aliases: for numbers of arrays, the result that takes the array's place.
      **constants: the kernel's ``constexpr`` arguments.
    """
    import jax_triton

    target: dict[str, Any] = {}
    if _is_untyped():
        _register()
        target = {"custom_call_target_name": TYPED}
    return jax_triton.triton_call(
        *arrays,
        kernel=kernel,
        name=name,
        out_shape=list(out_shape),
        grid=grid,
        num_warps=num_warps,
        input_output_aliases=dict(input_output_aliases or {}),
        compute_capability=triton_capability(),
        **target,
        **constants,
    )


@functools.cache
def _is_untyped() -> bool:
    """Whether jax-triton itself uses the first interface: before 0.4."""
    major, minor, *_ = importlib.metadata.version("jax-triton").split(".")
    return (int(major), int(minor)) < (0, 4)


@functools.cache
def _register() -> None:
    """Have calls of :data:`TYPED` lowered as the typed interface takes them; others stay."""
    from jax_triton import triton_lib

    def lower(context, *arrays, **params):
        results = triton_lib.triton_kernel_call_lowering(
            triton_lib.get_cuda_backend, context, *arrays, **params
        )
        if params["custom_call_target_name"] == TYPED:
            [first, *_] = results
            _make_typed(cast(Any, first).owner, params["name"])
        return results

    mlir.register_lowering(triton_lib.triton_kernel_call_p, lower, platform="cuda")


def _make_typed(call: Any, name: str) -> None:
    """Turn a lowered call of the first interface into one of the typed interface.

    Both are given the same compressed description of the launch; the typed one by name.
    """
    ir = mlir.ir
    attributes = call.attributes
    launch = attributes["backend_config"]
    attributes["backend_config"] = ir.StringAttr.get("")
    attributes["mhlo.backend_config"] = ir.DictAttr.get(
        {"name": ir.StringAttr.get(name), "opaque": launch}
    )
    # With a dictionary of attributes, XLA takes this version for the typed interface.
    attributes["api_version"] = mlir.i32_attr(1)

"""Compile for a GPU on a machine without one, to know before a GPU is rented that a program
compiles, what it launches and how much it needs.

XLA's CUDA compiler works from a description of the chip. It needs `jax-cuda13-plugin` and
`jax-cuda13-pjrt` of jax's own version, an assembler and its library (`nvidia-cuda-nvcc` and
`nvidia-nvvm`, or a CUDA toolkit), and JAX_PLATFORMS=cpu, without which the plugin looks for a
driver. What it cannot tell: numbers, speed, and which plan cuDNN or cuBLAS would choose.

The one file that touches what jax keeps private for this: three questions that jax puts to a live
GPU are answered here for the chip that is compiled for.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from helios_jax.compile_cache import without_compile_cache
from helios_jax.cost.chips import CHIPS, Chip

TARGETS: Mapping[str, Chip] = CHIPS
"""The chips that can be compiled for, by the name that ``--plan`` takes."""

SHARED_MEMORY = 232_448
"""Bytes of shared memory that a block may ask for on a Hopper chip."""

CUDNN = 91_200
"""The cuDNN release, 9.12.0, that is assumed to be there."""

_DESCRIPTION = """
gpu_device_info {{
  driver_version: "13.0.0"
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {chip.cores} fpus_per_core: 128 clock_rate_ghz: {chip.clock}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: {chip.threads}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: {chip.shared_memory} shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_memory}
  device_memory_size: {chip.memory} memory_bandwidth: {bandwidth} l2_cache_size: {chip.l2_cache}
}}
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
platform_name: "CUDA"
device_description_str: "{chip.name}"
"""


def describe(target: str) -> str:
    """What XLA is told of a chip, as the text of a GpuTargetConfigProto.

    With a driver from 12.3 on, XLA takes calls of libraries into CUDA graphs.
    """
    chip = TARGETS[target]
    major, minor = chip.capability
    return _DESCRIPTION.format(
        chip=chip,
        major=major,
        minor=minor,
        bandwidth=int(chip.bandwidth),
        shared_memory=chip.shared_memory - 1024,  # the driver keeps one KiB of it
    )


def unavailable() -> str | None:
    """Why nothing can be compiled here, or None."""
    if not has_plugin():
        return "jax-cuda13-plugin is not installed"
    if assembler() is None:
        return "there is no ptxas: install nvidia-cuda-nvcc and nvidia-nvvm"
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        return "JAX_PLATFORMS is not cpu"
    return None


def has_plugin() -> bool:
    """Whether jax's plugin for NVIDIA GPUs is installed."""
    names = itertools.product(_folders("jax_plugins"), ("xla_cuda13", "xla_cuda12"))
    return any((folder / name).is_dir() for folder, name in names)


OPTIONS = {
    # Without a device nothing can be timed, and of what it could generate itself for a matrix
    # product XLA would take the first: cuBLAS is what would win.
    "xla_gpu_enable_triton_gemm": False,
    # What XLA_FLAGS may say of the programs of this machine does not hold for the chip's.
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
"""Of XLA, by which a program for a GPU that is not there is compiled."""


def assembler() -> str | None:
    """Where `ptxas` lies: of the packages beside jax, or of a CUDA toolkit."""
    for folder in _folders("nvidia"):
        for path in folder.glob("*/bin/ptxas"):
            return str(path)
    return shutil.which("ptxas")


def devices(target: str = "h100", count: int = 1) -> list[jax.Device]:
    """``count`` chips of one machine, to be compiled for and nothing else.

    Raises:
      RuntimeError: where :func:`unavailable` gives a reason.
    """
    if reason := unavailable():
        raise RuntimeError(f"cannot compile for {target} here: {reason}")
    return topologies.get_topology_desc(
        platform="cuda", target_config=describe(target), topology=f"1x1x{count}"
    ).devices


@contextlib.contextmanager
def tracing_for(target: str = "h100", mesh: Mesh | None = None) -> Generator[None, None, None]:
    """What is traced inside is traced for this chip, ``jax.eval_shape`` included: kernels are
    chosen, and refused, as they would be on it.

    Args:
      target: a key of :data:`TARGETS`.
      mesh: of :func:`devices`; by default a single one.
    """
    mesh = mesh or Mesh(devices(target), ("device",))
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        _answers(TARGETS[target].capability),
    ):
        yield


def compile_for(
    fn: Callable[..., Any],
    *args: Any,
    target: str = "h100",
    mesh: Mesh | None = None,
    options: Mapping[str, Any] | None = None,
) -> jax.stages.Compiled:
    """Compile ``fn`` for a GPU that is not there.

    Args:
      fn: a function of arrays, jitted where it needs static or donated arguments.
      *args: trees of ``jax.ShapeDtypeStruct`` or of arrays, of which only shapes and dtypes are
        used. Leaves without a sharding are replicated; one whose memory is "pinned_host", of
        whatever device, stays in the memory of the host.
      target: a key of :data:`TARGETS`.
      mesh: of :func:`devices`; by default a single one.
      options: of XLA, by their flags' names without dashes.

    Returns:
      The program: ``memory_analysis()`` and ``as_text()`` tell about it; it cannot run.
    """
    mesh = mesh or Mesh(devices(target), ("device",))
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x, mesh)), args
    )
    jitted: Any = fn if hasattr(fn, "lower") else jax.jit(fn)
    with tracing_for(target, mesh), without_compile_cache():
        return jitted.lower(*args).compile(compiler_options=OPTIONS | dict(options or {}))


def _folders(package: str) -> list[Path]:
    """Folders of a package that several distributions share."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return [Path(folder) for folder in places or ()]


def _sharding(x: Any, mesh: Mesh) -> jax.sharding.Sharding:
    """Where the caller wants an abstract argument; an array's own place is a CPU."""
    asked = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None
    if asked is None:
        return NamedSharding(mesh, PartitionSpec())
    if asked.memory_kind == "pinned_host":
        # Beside devices that are not there the kind of memory would be lost.
        return NamedSharding(
            mesh.abstract_mesh,
            getattr(asked, "spec", PartitionSpec()),
            memory_kind=asked.memory_kind,
        )
    return asked


@contextlib.contextmanager
def _answers(capability: tuple[int, int]) -> Generator[None, None, None]:
    """What jax asks of the GPU while it traces cuDNN's attention."""
    from jax._src.cudnn import fused_attention_stablehlo as attention

    def version(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    with (
        mock.patch.object(attention, "check_cudnn_version", return_value=CUDNN),
        mock.patch.object(
            attention, "check_compute_capability", lambda least: version(least) <= capability
        ),
        mock.patch.object(
            attention,
            "is_cuda_compute_capability_equal",
            lambda exact: version(exact) == capability,
        ),
    ):
        yield

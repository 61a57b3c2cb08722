"""Platform, versions and whether they go together, and a GPU that is there and does not compute."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import jax

from helios_jax.devices import nvidia_gpus, unavailable
from helios_jax.doctor.verdict import Verdict
from helios_jax.memory.compiler import assembler, has_plugin

DRIVERS = {"13": 580, "12": 525}
"""The oldest driver for each release of CUDA that JAX's plugins are built for (NVIDIA, CUDA
compatibility).
"""

PACKAGES = ("jax", "jaxlib", "flax", "triton", "jax-triton")


def check_machine(root: Path = Path("/")) -> Iterator[Verdict]:
    """What is installed, and what computes.

    Args:
      root: of the file system, where the driver's files are looked for.
    """
    versions = [f"{name} {found}" for name in PACKAGES if (found := version(name))]
    yield Verdict("versions", "ok", f"Python {platform.python_version()}, {', '.join(versions)}")
    yield from check_packages()
    yield from check_driver(root)
    yield check_device(root)


def version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages() -> Iterator[Verdict]:
    """Whether jax, jaxlib and the plugins for NVIDIA GPUs are of one version."""
    wanted = version("jax")
    names = ["jaxlib"]
    for release in DRIVERS:
        names += [f"jax-cuda{release}-plugin", f"jax-cuda{release}-pjrt"]
    found = {name: installed for name in names if (installed := version(name))}
    other = [f"{name} {installed}" for name, installed in found.items() if installed != wanted]
    if other:
        detail = f"jax is {wanted}, but {', '.join(other)}: install all of one version"
        yield Verdict("versions go together", "wrong", detail)
    else:
        yield Verdict("versions go together", "ok", f"all of {', '.join(found)} are {wanted}")


def check_driver(root: Path) -> Iterator[Verdict]:
    """The NVIDIA driver, where there is a GPU, and whether JAX's plugin can work with it."""
    gpus = nvidia_gpus(root)
    if not gpus:
        yield Verdict("NVIDIA driver", "note", "no NVIDIA GPU on this machine")
        return
    release = driver_release(root)
    shown = "of an unknown release" if release is None else str(release)
    if not has_plugin():
        detail = f"driver {shown}, but no plugin for JAX: pip install 'helios-jax[cuda13]'"
        yield Verdict("NVIDIA driver", "wrong", detail)
        return
    cuda = next((name for name in DRIVERS if version(f"jax-cuda{name}-plugin")), None)
    if release is not None and cuda and release < DRIVERS[cuda]:
        detail = f"driver {shown} is too old for CUDA {cuda}, which needs {DRIVERS[cuda]}"
        yield Verdict("NVIDIA driver", "wrong", f"{detail}: a newer driver, or jax[cuda12]")
        return
    yield Verdict("NVIDIA driver", "ok", f"{len(gpus)} GPU(s), driver {shown}")
    if assembler() is None:
        detail = "no ptxas: kernels in Pallas and Triton cannot be assembled"
        yield Verdict("assembler", "wrong", f"{detail}; pip install nvidia-cuda-nvcc")


def driver_release(root: Path) -> int | None:
    """The driver's release, 580 of 580.65.06, by what its kernel module says."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module[^\n]*?\s(\d+)\.\d+", text)
    return int(found.group(1)) if found else None


def check_device(root: Path) -> Verdict:
    """The device that computes; a GPU that is there and does not is wrong."""
    if reason := unavailable():
        return Verdict("device", "wrong", reason)
    device = jax.local_devices()[0]
    shown = f"{device.device_kind} ({device.platform})"
    if device.platform == "cpu" and nvidia_gpus(root):
        asked = os.environ.get("JAX_PLATFORMS")
        why = f"JAX_PLATFORMS={asked}" if asked else plugin_problem()
        return Verdict("device", "wrong", f"a GPU is there and unused, a CPU computes: {why}")
    capability = getattr(device, "compute_capability", None)
    if capability:
        shown += f", compute capability {capability}"
    return Verdict("device", "ok", f"{shown}, {jax.local_device_count()} of them")


def plugin_problem() -> str:
    """Why the plugin for NVIDIA GPUs gives no device."""
    if not has_plugin():
        return "no CUDA plugin: pip install 'helios-jax[cuda13]'"
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        found = " ".join(str(error).split())
        if "cuda" in found and "Unknown backend" in found:
            return "the plugin did not start (cuDNN missing?): pip install 'helios-jax[cuda13]'"
        return found
    return "another platform comes first"

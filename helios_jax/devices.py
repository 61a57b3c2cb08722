"""The device that computes: why there is none, and why it is not the GPU of the machine."""

import contextlib
import logging
import os
from pathlib import Path

import jax

ADVICE = "helios-jax doctor says more"


def unavailable() -> str | None:
    """Why JAX has no device to compute on, in one line; None where it has one."""
    try:
        jax.local_devices()
    # Whatever is wrong: a platform that is not known, one without devices, a driver.
    except Exception as error:
        asked = os.environ.get("JAX_PLATFORMS")
        where = f" of JAX_PLATFORMS={asked}" if asked else ""
        reason = " ".join(str(error).split()).rstrip(".") or "no NVIDIA GPU is visible"
        return f"there is no device{where} to compute on: {reason} ({ADVICE})"
    return None


def cpu_cores() -> int:
    """The CPU cores that this process may use."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def nvidia_gpus(root: Path = Path("/")) -> list[str]:
    """NVIDIA GPUs of this machine, by the driver's files: one each, whether JAX uses it or not.

    Args:
      root: of the file system.
    """
    files = sorted((root / "dev").glob("nvidia[0-9]*"))
    return [file.name for file in files] or [file.name for file in (root / "dev").glob("dxg")]


class OneLine(logging.Filter):
    """Of what JAX logs about a GPU that it cannot use, one line in place of a traceback; nothing on
    a machine without a GPU.

    Attributes:
      root: of the file system, where the driver's files are looked for.
    """

    def __init__(self, root: Path = Path("/")):
        super().__init__()
        self.root = root

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_plugin = "plugin configuration error" in message
        if not is_plugin and "CUDA backend failed to initialize" not in message:
            return True
        if not nvidia_gpus(self.root):
            return False
        error = record.exc_info[1] if record.exc_info else None
        reason = str(error) if error else message
        reason = " ".join(reason.split()).rstrip(".")
        record.msg = f"the GPU is not used, a CPU computes instead: {reason} ({ADVICE})"
        record.args = ()
        record.exc_info = None
        record.exc_text = None
        return True


def report_in_one_line() -> None:
    """Have JAX's complaints about a GPU pass :class:`OneLine`."""
    logger = logging.getLogger("jax._src.xla_bridge")
    if not any(isinstance(found, OneLine) for found in logger.filters):
        logger.addFilter(OneLine())

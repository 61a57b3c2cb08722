"""OpenCV, which is installed only with the extra ``bench``."""

import importlib.util
from types import ModuleType

from helios_jax.evaluation.bench.errors import BenchError


def has_opencv() -> bool:
    """Whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def require_opencv(purpose: str) -> ModuleType:
    """The module ``cv2``.

    Raises:
      BenchError: naming ``purpose`` and how to install it.
    """
    try:
        import cv2
    except ImportError as error:
        raise BenchError(f"{purpose} needs OpenCV: pip install 'helios-jax[bench]'") from error
    return cv2

"""Methods of optical flow for the measures without weights.

Both are polynomial expansion (Farneback 2003). ``farneback`` is OpenCV's, with the parameters of
HeliosBench, at the full size of the picture, and needs the extra ``bench``. ``plain`` is
:func:`~helios_jax.media.flow.plain_flow`, and needs nothing. Results say which was used; only
figures of one method are compared.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench import amplitude
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.opencv import require_opencv
from helios_jax.media.flow import PairFlow, plain_flow, reduce_flow

Flow = Callable[[UInt8[np.ndarray, "Y X"], UInt8[np.ndarray, "Y X"]], PairFlow]


def farneback(first: UInt8[np.ndarray, "Y X"], second: UInt8[np.ndarray, "Y X"]) -> PairFlow:
    """Polynomial expansion as OpenCV computes it, with HeliosBench's numbers."""
    return reduce_flow(amplitude.farneback(first, second))


METHODS: dict[str, Flow] = {"farneback": farneback, "plain": plain_flow}


def choose_flow(method: str) -> Flow:
    """The function of a method: "plain" or "farneback".

    None is chosen by what is installed, or the same command would give other figures elsewhere.

    Raises:
      BenchError: if the method is unknown, or is OpenCV's and OpenCV is not there.
    """
    if method not in METHODS:
        raise BenchError(f"flow={method!r} must be one of {', '.join(METHODS)}")
    if method == "farneback":
        require_opencv("flow=farneback")
    return METHODS[method]

"""Finding loops: whether the picture of a video returns to what it was."""

import numpy as np
from jaxtyping import Float

LEAST_SPREAD = 2 / 255
"""A video whose thumbnails differ less than two levels from their mean stands still: no loop."""
APART = 0.5
"""How far the picture must first go, of the distance of unrelated frames, before it can return."""
NEAR = 0.1
"""How near it must then come."""


def find_loop(thumbnails: Float[np.ndarray, "F D"]) -> tuple[int, float]:
    r"""The period of a video, and how nearly it returns.

    The mean squared distance of frames p apart, over that of frames at random,

    .. math:: s(p) = \langle |a_t - a_{t+p}|^2 \rangle_t / 2 \operatorname{var}(a),

    is computed for all p at once by a Fourier transform. A loop is a p up to half the video where
    s falls below :data:`NEAR` after it rose above :data:`APART`.

    Args:
      thumbnails: small pictures, brightness 0 to 1, flattened.

    Returns:
      The period in frames, 0 where there is none; and 1 - s there, 0 where there is none.
    """
    frames = len(thumbnails)
    centred = np.asarray(thumbnails, np.float64) - thumbnails.mean(0)
    squares = (centred**2).sum(1)
    if frames < 8 or squares.mean() < centred.shape[1] * LEAST_SPREAD**2:
        return 0, 0.0
    spectrum = np.fft.rfft(centred, 2 * frames, axis=0)
    products = np.fft.irfft((np.abs(spectrum) ** 2).sum(1), 2 * frames)[:frames]
    sums = np.concatenate([[0], np.cumsum(squares)])
    lags = np.arange(frames // 2 + 1)
    overlap = frames - lags
    distance = (sums[overlap] + sums[-1] - sums[lags] - 2 * products[lags]) / overlap
    share = distance / (2 * squares.mean())
    gone = np.flatnonzero(share > APART)
    if not len(gone):
        return 0, 0.0
    after = share[gone[0] :]
    if after.min() > NEAR:
        return 0, 0.0
    # of several rounds the first; the later ones are as near
    first = np.flatnonzero(after <= after.min() + NEAR / 4)[0]
    while first + 1 < len(after) and after[first + 1] < after[first]:
        first += 1
    return int(gone[0] + first), float(1 - after[first])

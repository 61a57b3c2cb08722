"""High dynamic range to that of ordinary screens.

White of graphics and faces is at 203 nits (ITU-R BT.2408): what is well below keeps its brightness,
what is above is compressed.
"""

import functools

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

WHITE = 203
"""Nits of what becomes 1.0."""
KNEE = 0.3
"""Light up to here is kept as it is."""
PEAK = 10.0
"""Light that becomes white, where a file does not say how bright it gets."""
GAMMA = 2.4
"""Of an ordinary screen (ITU-R BT.1886)."""

BT2020_TO_BT709 = np.array(
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    np.float32,
)
"""Linear light of wide primaries to ordinary ones (ITU-R BT.2087)."""
Light = Float32[np.ndarray, "Y X 3"]


def tone_map(
    signal: UInt16[np.ndarray, "Y X 3"], transfer: str, peak: float = PEAK
) -> UInt8[np.ndarray, "Y X 3"]:
    """A frame of PQ or HLG as an ordinary one.

    Args:
      signal: R'G'B' of BT.2020, full range.
      transfer: ``smpte2084`` or ``arib-std-b67``.
      peak: light that becomes white.
    """
    light = _compress(_linear_light(transfer)[signal] @ BT2020_TO_BT709.T, peak)
    steps = np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)
    return _ordinary_signal()[steps]


def _compress(light: Light, peak: float) -> Light:
    """Mobius tone mapping of the brightest component; the others in proportion, so that no hue
    changes.

    Above ``j``, the knee, ``f(x) = s (x + a) / (x + b)``, where ``f(j) = j``, ``f'(j) = 1`` and
    ``f(peak) = 1``.
    """
    brightest = np.maximum(light.max(-1), 1e-6)
    j = KNEE
    a = -(j**2) * (peak - 1) / (j**2 - 2 * j + peak)
    b = (j**2 - 2 * j * peak + peak) / max(peak - 1, 1e-6)
    s = (b + j) ** 2 / (b - a)
    mapped = np.where(brightest <= j, brightest, s * (brightest + a) / (brightest + b))
    return light * (mapped / brightest)[..., None]


@functools.cache
def _linear_light(transfer: str) -> Float32[np.ndarray, "65536"]:
    """Light of each signal of 16 bits, in units of 203 nits: PQ (SMPTE ST 2084), or HLG as a screen
    of 1000 nits shows it (BT.2100), each colour by itself.
    """
    signal = np.linspace(0, 1, 2**16)
    if transfer == "smpte2084":
        m1 = 2610 / 16384
        m2 = 2523 / 4096 * 128
        c1 = 3424 / 4096
        c2 = 2413 / 4096 * 32
        c3 = 2392 / 4096 * 32
        power = signal ** (1 / m2)
        light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * 10000 / WHITE
    else:
        a = 0.17883277
        b = 1 - 4 * a
        c = 0.5 - a * np.log(4 * a)
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = scene**1.2 * 1000 / WHITE
    return light.astype(np.float32)


@functools.cache
def _ordinary_signal() -> UInt8[np.ndarray, "65536"]:
    """The 8-bit signal with which an ordinary screen shows each linear light."""
    return np.rint(255 * np.linspace(0, 1, 2**16) ** (1 / GAMMA)).astype(np.uint8)

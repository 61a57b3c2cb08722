"""Measures of frames that need no model."""

import numpy as np
from jaxtyping import UInt8

Frames = UInt8[np.ndarray, "F Y X 3"]
CHANNELS = ("red", "green", "blue")


def statistics(frames: Frames) -> dict[str, float]:
    """Statistics of a chunk, all from 0 to 1.

    Saturation, the mean and the standard deviation of each channel, and sharpness, which is the
    mean difference of neighbouring pixels.
    """
    pixels = frames.astype(np.float32) / 255
    top = pixels.max(-1)
    saturation = ((top - pixels.min(-1)) / np.maximum(top, 1e-3)).mean()
    sharpness = np.abs(np.diff(pixels, axis=1)).mean() + np.abs(np.diff(pixels, axis=2)).mean()
    found = {"saturation": float(saturation)}
    for i, channel in enumerate(CHANNELS):
        found[f"{channel} mean"] = float(pixels[..., i].mean())
        found[f"{channel} deviation"] = float(pixels[..., i].std())
    return found | {"sharpness": float(sharpness)}


def frame_difference(a: UInt8[np.ndarray, "Y X 3"], b: UInt8[np.ndarray, "Y X 3"]) -> float:
    """Mean absolute difference of two frames, in levels of 255."""
    return float(np.abs(a.astype(np.float32) - b).mean())


def psnr(frames: UInt8[np.ndarray, "*F Y X 3"], truth: UInt8[np.ndarray, "*F Y X 3"]) -> float:
    """Peak signal-to-noise ratio, dB; 138 where the two are equal."""
    squared = np.mean((frames.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(squared, 1e-9)))

"""How two implementations are compared."""

import numpy as np


def relative_error(ours, theirs) -> float:
    """Largest deviation, relative to the largest value of ``theirs``."""
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def channels_last(tensor) -> np.ndarray:
    """[B C T H W] torch to [B T H W C] numpy."""
    return np.moveaxis(tensor.float().numpy(), 1, -1)


def channels_first(array):
    """[B T H W C] numpy to [B C T H W] torch."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(array), -1, 1)))

"""The history window: the newest 19 latent frames, and the anchor, the first frame of the video."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from helios_jax.types import Array, Bool, DTypeLike, Float, FrameIndices, History


class HistoryState(NamedTuple):
    """What a chunk needs of those before it; its size does not depend on how many there were.

    Attributes:
      window: newest latent frames, oldest first; zeros where the video has not begun.
      anchor: first latent frame of the video; zeros until there is one.
      anchored: whether there is one.
    """

    window: Float[Array, "B frames H W C"]
    anchor: Float[Array, "B 1 H W C"]
    anchored: Bool[Array, ""]


def start_history(
    shape: tuple[int, int, int, int], sizes: tuple[int, int, int], dtype: DTypeLike = jnp.float32
) -> HistoryState:
    """The state before the first chunk of a video from text alone; ``shape`` is (B, H, W, C)."""
    B, *cells = shape
    return HistoryState(
        jnp.zeros((B, sum(sizes), *cells), dtype),
        jnp.zeros((B, 1, *cells), dtype),
        jnp.zeros((), bool),
    )


def split_history(state: HistoryState, sizes: tuple[int, int, int]) -> History:
    """The window as the model takes it: long (the oldest frames), mid, and short, which is the
    anchor and the newest frames.
    """
    long, mid, newest = jnp.split(state.window, np.cumsum(sizes)[:-1], axis=1)
    return History(short=jnp.concatenate([state.anchor, newest], axis=1), mid=mid, long=long)


def append_chunk(state: HistoryState, latents: Float[Array, "B T H W C"]) -> HistoryState:
    """The state after a chunk, whose first frame becomes the anchor if there was none."""
    window = jnp.concatenate([state.window, latents], axis=1)[:, -state.window.shape[1] :]
    return HistoryState(
        window, jnp.where(state.anchored, state.anchor, latents[:, :1]), jnp.ones((), bool)
    )


def release_anchor(state: HistoryState) -> HistoryState:
    """The same window without its anchor: the first frame of the next chunk becomes the anchor."""
    return state._replace(anchored=jnp.zeros((), bool))


def frame_indices(sizes: tuple[int, int, int], frames: int) -> FrameIndices:
    """Positions in time, the same for every chunk: the anchor is 0, then come long, mid and newest
    frames, then the ``frames`` noisy ones.
    """
    positions = np.arange(1, 1 + sum(sizes) + frames)
    long, mid, newest, noisy = (part.tolist() for part in np.split(positions, np.cumsum(sizes)))
    return FrameIndices(noisy=tuple(noisy), short=(0, *newest), mid=tuple(mid), long=tuple(long))

"""The history window holds the newest frames and the first."""

import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.history import (
    append_chunk,
    frame_indices,
    release_anchor,
    split_history,
    start_history,
)

SIZES = (16, 2, 1)


def chunk(number):
    """Nine frames whose value is their index in the video, counted from 1."""
    values = 1 + 9 * number + np.arange(9, dtype=np.float32)
    return jnp.asarray(np.broadcast_to(values[None, :, None, None, None], (2, 9, 4, 4, 3)))


def test_window_after_three_chunks():
    """Long, mid and newest are the last 19 frames in order; the anchor precedes the newest in the
    short segment.
    """
    state = start_history((2, 4, 4, 3), SIZES)
    for number in range(3):
        state = append_chunk(state, chunk(number))
    history = split_history(state, SIZES)
    frames = lambda segment: list(np.asarray(segment)[0, :, 0, 0, 0])
    assert frames(history.short) == [1, 27]
    assert frames(history.mid) == [25, 26]
    assert frames(history.long) == list(range(9, 25))


def test_first_window_is_zeros():
    """Before the first chunk everything is zero, the anchor too."""
    history = split_history(start_history((1, 4, 4, 3), SIZES), SIZES)
    assert [segment.shape[1] for segment in history] == [2, 2, 16]
    assert not any(np.any(segment) for segment in history)


def test_given_anchor_is_kept():
    """An anchor that came from an image is not overwritten by the first chunk."""
    state = start_history((2, 4, 4, 3), SIZES)._replace(
        anchor=jnp.full((2, 1, 4, 4, 3), 7.0), anchored=jnp.ones((), bool)
    )
    assert float(append_chunk(state, chunk(0)).anchor[0, 0, 0, 0, 0]) == 7


def test_released_anchor_is_replaced_by_the_next_chunk_alone():
    """The window is as it was until the chunk is appended, whose first frame is then the anchor for
    good.
    """
    state = append_chunk(start_history((2, 4, 4, 3), SIZES), chunk(0))
    released = release_anchor(state)
    np.testing.assert_array_equal(
        split_history(released, SIZES).short, split_history(state, SIZES).short
    )
    for number in (1, 2):
        released = append_chunk(released, chunk(number))
    assert float(released.anchor[0, 0, 0, 0, 0]) == 10


def test_frame_indices():
    """Anchor 0, long 1..16, mid 17..18, newest 19, noisy 20..28."""
    indices = frame_indices(SIZES, 9)
    assert indices.short == (0, 19)
    assert indices.mid == (17, 18)
    assert indices.long == tuple(range(1, 17))
    assert indices.noisy == tuple(range(20, 29))

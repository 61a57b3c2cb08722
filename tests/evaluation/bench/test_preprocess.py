"""Frames are resized, cropped and normalised as PyTorch does it."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.evaluation.bench.preprocess import bicubic_matrix, prepare


def pattern():
    y, x, c = np.ogrid[0:384, 0:640, 0:3]
    return ((7 * y + 3 * x + 50 * c + (x * y) // 50) % 256).astype(np.uint8)


# By whether bytes are resized: the first two values of each channel; mean, deviation, bounds.
GOLDEN = {
    False: (
        [[0.084372, 0.158704], [0.927547, 1.003963], [1.769782, 1.841874]],
        [0.1872461, 1.0723142, -2.49325, 2.82365],
    ),
    True: (
        [[0.090935, 0.163927], [0.934293, 1.009332], [1.776175, 1.847276]],
        [0.1874088, 1.0475650, -1.79226, 2.14590],
    ),
}


@pytest.mark.parametrize("as_bytes", GOLDEN)
def test_floats_keep_their_overshoot_and_bytes_are_clamped_and_rounded(as_bytes):
    found = np.asarray(prepare(jnp.asarray(pattern()[None]), as_bytes=as_bytes))[0]
    assert found.shape == (224, 224, 3)
    first, statistics = GOLDEN[as_bytes]
    np.testing.assert_allclose(found[0, :2].T, first, atol=1e-5)
    bounds = [found.mean(), found.std(), found.min(), found.max()]
    np.testing.assert_allclose(bounds, statistics, atol=2e-5)


@pytest.mark.parametrize(("before", "after"), [(384, 224), (96, 224), (224, 224), (7, 5)])
def test_the_resize_is_pytorchs_bicubic(before, after):
    line = np.random.default_rng(0).random((1, 1, before, 1)).astype(np.float32)
    resize = torch.nn.functional.interpolate
    expected = resize(torch.from_numpy(line), (after, 1), mode="bicubic", align_corners=False)
    found = bicubic_matrix(before, after) @ line[0, 0]
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


def test_a_portrait_frame_is_cropped_above_and_below():
    frame = np.zeros((1, 400, 100, 3), np.uint8)
    frame[:, 150:250] = 255
    assert np.asarray(prepare(jnp.asarray(frame), size=50)).min() > 1.9

"""AMT-S makes the middle frame that PyTorch makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.evaluation.bench.networks.amt import AMT, FeatureEncoder
from helios_jax.evaluation.bench.networks.amt_correlation import correlation, look_up
from helios_jax.evaluation.bench.networks.amt_layers import Upsample, resize, warp
from helios_jax.evaluation.bench.networks.amt_names import amt_slots
from helios_jax.evaluation.bench.networks.weights import build_params
from tests.evaluation.bench import torch_networks
from tests.evaluation.bench.golden import amt_arrays, as_tensors, assert_golden, random_input


@pytest.fixture(scope="module")
def arrays():
    return amt_arrays()


@pytest.fixture(scope="module")
def params(arrays):
    return build_params("random", amt_slots(), as_tensors(arrays))


def noise():
    """A pair of frames that have nothing to do with each other."""
    rng = np.random.default_rng(13)
    return [np.moveaxis(rng.random((3, 128, 160)), 0, -1).astype(np.float32) for _ in range(2)]


def waves():
    """A pair of frames that differ by a motion of six pixels."""
    y, x = np.mgrid[0:128, 0:160]
    moved = [np.sin(0.1 * (x - shift) + 0.2 * y) + np.cos(0.05 * x * y / 9) for shift in (0, 6)]
    return [(0.5 + 0.2 * np.stack([w, w**2, -w], -1)).astype(np.float32) for w in moved]


def channels_first(array):
    return np.moveaxis(np.asarray(array), -1, 1)


def test_the_table_has_the_tensors_of_the_published_file():
    slots = amt_slots()
    assert len(slots) == 213
    assert sum(int(np.prod(slot.shape)) for slot in slots) == 2_990_543


@pytest.fixture(scope="module")
def made(params):
    """The middle frames of both pairs, of one batch."""
    batch = [jnp.asarray(np.stack(frames)) for frames in zip(noise(), waves())]
    return channels_first(jax.jit(AMT().apply)({"params": params}, *batch))


def test_the_middle_frame_is_the_originals(made):
    first = (0.608813, 0.504454, 0.552888, 0.377065)
    assert_golden(made[:1], first, 0.4680735, 0.1666297, 123.154252)


def test_the_middle_frame_is_pytorchs(arrays, made):
    model = torch_networks.AMT().eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    with torch.no_grad():
        expected = model(*(torch_last(frame[None]) for frame in waves())).numpy()
    assert np.abs(made[1:] - expected).max() <= 1e-5


def test_features_for_the_correlation_are_the_originals(params):
    weights = {"params": params["feat_encoder"]}
    found = jax.jit(FeatureEncoder(jnp.float32).apply)(weights, jnp.asarray(noise()[0][None] - 0.5))
    first = (-2.519109, -2.422538, -1.708438, -1.735827)
    assert_golden(channels_first(found), first, 0.0389331, 1.3833223, 226.887177)


def torch_last(array):
    """Channels-last numpy as channels-first torch."""
    return torch.from_numpy(np.ascontiguousarray(channels_first(array)))


def test_the_upsampling_is_a_transposed_convolution():
    x = random_input(0, 2, 5, 7, 3)
    kernel, bias = random_input(1, 4, 4, 3, 6), random_input(2, 6)
    weights = {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    found = Upsample(6).apply(weights, jnp.asarray(x))
    expected = torch.nn.functional.conv_transpose2d(
        torch_last(x),
        torch.from_numpy(np.ascontiguousarray(kernel.transpose(2, 3, 0, 1))),
        torch.from_numpy(bias),
        stride=2,
        padding=1,
    )
    np.testing.assert_allclose(channels_first(found), expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 4, 1 / 2, 1 / 4])
def test_the_resize_is_pytorchs_bilinear(scale):
    x = random_input(0, 2, 12, 20, 3)
    expected = torch.nn.functional.interpolate(
        torch_last(x), scale_factor=scale, mode="bilinear", align_corners=False
    )
    found = resize(jnp.asarray(x), scale)
    np.testing.assert_allclose(channels_first(found), expected.numpy(), atol=1e-6)


def test_warping_samples_as_pytorch_does_up_to_the_border_and_beyond():
    x, flow = random_input(0, 2, 12, 20, 3), 30 * (random_input(1, 2, 12, 20, 2) - 0.5)
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(20.0), indexing="ij")
    at = torch.from_numpy(flow)
    expected = torch_networks.sample(
        torch_last(x), columns + at[..., 0], rows + at[..., 1], "border"
    )
    found = warp(jnp.asarray(x), jnp.asarray(flow))
    np.testing.assert_allclose(channels_first(found), expected.numpy(), atol=1e-5)


def test_the_correlation_is_looked_up_as_pytorch_samples_pooled_maps():
    one, other = random_input(0, 1, 16, 18, 4), random_input(1, 1, 16, 18, 4)
    centres = 30 * random_input(2, 1, 16, 18, 2) - 5
    found = look_up(correlation(jnp.asarray(one), jnp.asarray(other)), jnp.asarray(centres))
    pairs = torch.einsum("pc,qc->pq", *(torch.from_numpy(a).reshape(-1, 4) for a in (one, other)))
    maps = (pairs / 2).reshape(-1, 1, 16, 18)
    at = torch.from_numpy(centres).reshape(-1, 2)
    offsets = torch.arange(-3.0, 4.0)
    for level in range(4):
        x = at[:, 0, None, None] / 2**level + offsets[None, :, None]
        y = at[:, 1, None, None] / 2**level + offsets[None, None, :]
        expected = torch_networks.sample(maps, *torch.broadcast_tensors(x, y), "zeros")
        ours = np.asarray(found[0, ..., 49 * level : 49 * (level + 1)])
        np.testing.assert_allclose(ours.reshape(-1, 49), expected.reshape(-1, 49), atol=1e-5)
        maps = torch.nn.functional.avg_pool2d(maps, 2)

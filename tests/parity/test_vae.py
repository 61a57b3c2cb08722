"""The VAE agrees with Diffusers' AutoencoderKLWan on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from helios_jax.config import VAEConfig
from helios_jax.models.vae import VAE
from tests.parity.torch_weights import vae_params_from_torch

TOLERANCE = 1e-5  # largest deviation over largest value, float32 against float32

NARROW = VAEConfig(base_dim=3, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
WIDE = VAEConfig(base_dim=8)
RELEASED = VAEConfig()


def make_pair(config):
    """The module of Diffusers, and ours as a function (method, array), with random weights."""
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(
        base_dim=config.base_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("gamma"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
    params = vae_params_from_torch(theirs.state_dict())
    # At toy sizes the time goes to the compiler.
    apply = jax.jit(
        VAE(config).apply,
        static_argnames="method",
        compiler_options={"xla_backend_optimization_level": 0},
    )

    def ours(method, x):
        return apply({"params": params}, jnp.asarray(channels_last(x)), method=method)

    return theirs, ours


def channels_last(tensor):
    return tensor.permute(0, 2, 3, 4, 1).numpy()


def deviation(ours, theirs):
    theirs = channels_last(theirs)
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@torch.no_grad()
def check_decode(config, shape):
    theirs, ours = make_pair(config)
    latents = torch.randn(shape[0], config.z_dim, *shape[1:])
    expected = theirs.decode(latents).sample
    assert (expected.abs() < 1).float().mean() > 0.5  # or the clamp hides errors before it
    assert deviation(ours("decode", latents), expected) <= TOLERANCE


@torch.no_grad()
def check_encode(config, shape):
    theirs, ours = make_pair(config)
    video = torch.rand(shape[0], 3, *shape[1:]) * 2 - 1
    posterior = theirs.encode(video).latent_dist
    mean, logvar = ours("encode", video)
    assert deviation(mean, posterior.mean) <= TOLERANCE
    assert deviation(logvar, posterior.logvar) <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
@pytest.mark.parametrize("config", [NARROW, WIDE], ids=["narrow", "wide"])
def test_decode_is_that_of_diffusers(config, frames):
    check_decode(config, (2, frames, 4, 6))


@pytest.mark.parametrize("frames", [1, 5, 33, 34, 36])
@pytest.mark.parametrize("config", [NARROW, WIDE], ids=["narrow", "wide"])
def test_encode_is_that_of_diffusers(config, frames):
    check_encode(config, (2, frames, 24, 16))


@pytest.mark.slow
def test_decode_at_released_width_is_that_of_diffusers():
    check_decode(RELEASED, (1, 3, 2, 2))


@pytest.mark.slow
def test_encode_at_released_width_is_that_of_diffusers():
    check_encode(RELEASED, (1, 5, 16, 16))

"""The VAE agrees with diffusers' AutoencoderKLWan on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from helios_jax.config import VAEConfig
from helios_jax.models.vae import VAE
from tests.parity.torch_weights import vae_params_from_torch

TOLERANCE = 1e-5  # largest deviation over largest value, float32 against float32

SIZES = {
    "narrow": VAEConfig(base_dim=3, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
    "wide": VAEConfig(base_dim=8, dim_mult=(1, 2, 4, 4), num_res_blocks=2),
    "released": VAEConfig(),
}


def pair(size):
    """diffusers' module and ours with the same weights, every one of them random."""
    config = SIZES[size]
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(base_dim=config.base_dim, dim_mult=list(config.dim_mult), num_res_blocks=config.num_res_blocks).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("gamma"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return theirs, VAE(config), vae_params_from_torch(theirs.state_dict())


def channels_last(tensor):
    return tensor.permute(0, 2, 3, 4, 1).numpy()


def deviation(ours, theirs):
    assert ours.shape == theirs.shape
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    print(f"relative deviation {error:.1e}")
    return error


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
@pytest.mark.parametrize("size", ["narrow", "wide"])
def test_decode(size, frames):
    theirs, vae, params = pair(size)
    latents = torch.randn(2, 16, frames, 4, 6)
    with torch.no_grad():
        # the clamp would hide the error of all that it cuts
        expected = channels_last(theirs.decode(latents).sample)
    ours = vae.apply({"params": params}, jnp.asarray(channels_last(latents)), method="decode")
    assert (np.abs(expected) < 1).mean() > 0.5
    assert deviation(ours, expected) <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 5, 33, 34, 36])
@pytest.mark.parametrize("size", ["narrow", "wide"])
def test_encode(size, frames):
    theirs, vae, params = pair(size)
    video = torch.rand(2, 3, frames, 24, 16) * 2 - 1
    with torch.no_grad():
        posterior = theirs.encode(video).latent_dist
    mean, logvar = vae.apply({"params": params}, jnp.asarray(channels_last(video)), method="encode")
    assert deviation(mean, channels_last(posterior.mean)) <= TOLERANCE
    assert deviation(logvar, channels_last(posterior.logvar)) <= TOLERANCE

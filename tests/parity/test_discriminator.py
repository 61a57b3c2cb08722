"""A head of the discriminator against PyTorch's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from helios_jax.models.discriminator import Head

WIDTH = 64
CHANNELS = 5
SHAPE = (2, 9, 8, 12)


def torch_head() -> nn.Sequential:
    """The published layers."""
    # Kernel size, stride and padding.
    sizes = [
        ((3, 3, 3), 1, 1),
        ((4, 4, 4), 2, 1),
        ((4, 4, 4), 2, 1),
        ((3, 3, 3), (2, 1, 1), 1),
        ((3, 3, 3), (2, 1, 1), 1),
        ((1, 3, 3), 1, (0, 1, 1)),
    ]
    layers = []
    channels = CHANNELS
    for size, stride, padding in sizes:
        layers += [
            nn.Conv3d(channels, WIDTH, size, stride, padding),
            nn.GroupNorm(32, WIDTH),
            nn.SiLU(),
        ]
        channels = WIDTH
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(WIDTH, 1))


def test_logits_are_those_of_torchs_layers():
    """With the same weights, none of them at 0 or 1; within 1e-5 of the largest."""
    torch.manual_seed(0)
    theirs = torch_head()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    params = {}
    for i, (conv, norm) in enumerate(zip(theirs[0:18:3], theirs[1:18:3])):
        params[f"conv_{i}"] = {
            "kernel": conv.weight.detach().permute(2, 3, 4, 1, 0).numpy(),
            "bias": conv.bias.detach().numpy(),
        }
        params[f"norm_{i}"] = {
            "scale": norm.weight.detach().numpy(),
            "bias": norm.bias.detach().numpy(),
        }
    params["logit"] = {
        "kernel": theirs[-1].weight.detach().T.numpy(),
        "bias": theirs[-1].bias.detach().numpy(),
    }
    x = np.random.default_rng(0).standard_normal((*SHAPE, CHANNELS), np.float32)
    expected = theirs(torch.tensor(x).permute(0, 4, 1, 2, 3)).detach().numpy()[:, 0]
    logits = Head(WIDTH, jnp.float32).apply(
        {"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(x)
    )
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)

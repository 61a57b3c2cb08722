"""The transformer gives the velocities PyTorch gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.models.transformer import HeliosTransformer
from helios_jax.types import FrameIndices, History

from .compare import channels_first, channels_last, relative_error
from .torch_transformer import TINY, config_from_torch, params_from_torch, random_transformer

INDICES = FrameIndices(noisy=tuple(range(20, 23)), short=(0, 19), mid=(17, 18), long=tuple(range(1, 17)))


def inputs(seed, batch=2, grid=(6, 10), full=(12, 20), frames=3, text=7, channels=4, text_dim=16):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return {
        "latents": normal(batch, frames, *grid, channels),
        "text": normal(batch, text, text_dim) * (np.arange(text) < text - 3)[None, :, None].astype(np.float32),
        "history": History(*(normal(batch, n, *full, channels) for n in (2, 2, 16))),
    }


def torch_velocity(model, latents, timestep, text, history, dtype=torch.float32):
    index = lambda frames: torch.tensor([frames])
    arguments = {}
    if history is not None:
        for name, frames in zip(History._fields, INDICES[1:]):
            arguments[f"latents_history_{name}"] = channels_first(getattr(history, name)).to(dtype)
            arguments[f"indices_latents_history_{name}"] = index(frames)
        arguments["indices_hidden_states"] = index(INDICES.noisy)
    with torch.no_grad():
        return channels_last(
            model(
                hidden_states=channels_first(latents).to(dtype), timestep=torch.as_tensor(timestep),
                encoder_hidden_states=torch.from_numpy(text).to(dtype), return_dict=False, **arguments,
            )[0]
        )  # fmt: skip


def our_velocity(model, latents, timestep, text, history, dtype=jnp.float32):
    ours = HeliosTransformer(config_from_torch(model), dtype=dtype)
    apply = jax.jit(lambda *arguments: ours.apply(*arguments, frame_indices=None if history is None else INDICES))
    history = None if history is None else History(*map(jnp.asarray, history))
    return apply({"params": params_from_torch(model)}, jnp.asarray(latents), jnp.asarray(timestep), jnp.asarray(text), history)


GEOMETRIES = {
    "fractional timesteps": (TINY, {}, np.array([998.5342, 385.1468], np.float32)),
    "integer timesteps": (TINY, {}, np.array([998, 3], np.int32)),
    "odd token grids, padded": (TINY, dict(grid=(6, 14), full=(10, 14)), np.array([500.0, 20.0], np.float32)),
    "amplified history": (TINY | dict(is_amplify_history=True), {}, np.array([742.0, 512.0], np.float32)),
    "amplified history, one scale": (
        TINY | dict(is_amplify_history=True, history_scale_mode="scalar"),
        {},
        np.array([742.0, 1.0], np.float32),
    ),
    "one timestep for all tokens": (TINY | dict(zero_history_timestep=False), {}, np.array([742.0, 512.0], np.float32)),
    "text seen by history": (TINY | dict(guidance_cross_attn=False), {}, np.array([742.0, 512.0], np.float32)),
    "one block": (TINY | dict(num_layers=1), {}, np.array([742.0, 512.0], np.float32)),
    "two blocks": (TINY | dict(num_layers=2), {}, np.array([742.0, 512.0], np.float32)),
    "uneven rope": (TINY | dict(attention_head_dim=16, rope_dim=(8, 4, 4)), {}, np.array([742.0, 512.0], np.float32)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_velocity_equals_diffusers(geometry):
    """Float32 velocities agree to 1e-5 of the largest value, at every geometry."""
    config, shapes, timestep = GEOMETRIES[geometry]
    model, given = random_transformer(**config), inputs(1, **shapes)
    expected = torch_velocity(model, timestep=timestep, **given)
    error = relative_error(our_velocity(model, timestep=timestep, **given), expected)
    print(geometry, error)
    assert error <= 1e-5


def test_velocity_without_history_equals_diffusers():
    """Without history the model is a plain text-to-video model."""
    model, given = random_transformer(**TINY), inputs(2) | {"history": None}
    timestep = np.array([311.5, 20.0], np.float32)
    assert relative_error(our_velocity(model, timestep=timestep, **given), torch_velocity(model, timestep=timestep, **given)) <= 1e-5

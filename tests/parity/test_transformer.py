"""The transformer gives the velocities of Diffusers."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import HeliosTransformer3DModel

from helios_jax.checkpoint.names import component_slots
from helios_jax.config import HeliosConfig, TransformerConfig
from helios_jax.models.transformer import HeliosTransformer, keeps_float32
from helios_jax.types import FrameIndices, History

from .compare import channels_first, channels_last, relative_error
from .torch_transformer import TINY, config_from_torch, params_from_torch, random_transformer

INDICES = FrameIndices(
    noisy=tuple(range(20, 23)), short=(0, 19), mid=(17, 18), long=tuple(range(1, 17))
)


def inputs(seed, batch=2, grid=(6, 10), full=(12, 20), frames=3, text=7, channels=4, text_dim=16):
    """Random arguments of the network; the last three rows of the text are padding."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    is_token = (np.arange(text) < text - 3)[None, :, None].astype(np.float32)
    return {
        "latents": normal(batch, frames, *grid, channels),
        "text": normal(batch, text, text_dim) * is_token,
        "history": History(*(normal(batch, n, *full, channels) for n in (2, 2, 16))),
    }


def torch_velocity(model, latents, timestep, text, history, dtype=torch.float32):
    arguments = {
        "hidden_states": channels_first(latents).to(dtype),
        "timestep": torch.as_tensor(timestep),
        "encoder_hidden_states": torch.from_numpy(text).to(dtype),
    }
    if history is not None:
        for name, frames in zip(History._fields, INDICES[1:]):
            arguments[f"latents_history_{name}"] = channels_first(getattr(history, name)).to(dtype)
            arguments[f"indices_latents_history_{name}"] = torch.tensor([frames])
        arguments["indices_hidden_states"] = torch.tensor([INDICES.noisy])
    with torch.no_grad():
        return channels_last(model(return_dict=False, **arguments)[0])


def our_velocity(model, latents, timestep, text, history, dtype=jnp.float32):
    ours = HeliosTransformer(config_from_torch(model), dtype=dtype)
    # Where XLA rounds to bfloat16 depends on its options: those of users.
    options = {"xla_backend_optimization_level": 3} if dtype == jnp.bfloat16 else None
    frame_indices = None if history is None else INDICES
    apply = jax.jit(
        lambda *arguments: ours.apply(*arguments, frame_indices=frame_indices),
        compiler_options=options,
    )
    history = None if history is None else History(*map(jnp.asarray, history))
    return apply(
        {"params": params_from_torch(model)},
        jnp.asarray(latents),
        jnp.asarray(timestep),
        jnp.asarray(text),
        history,
    )


AMPLIFIED = TINY | dict(is_amplify_history=True)
# By name: configuration, shapes, timesteps.
GEOMETRIES = {
    "fractional timesteps": (TINY, {}, [998.5342, 385.1468]),
    "integer timesteps": (TINY, {}, [998, 3]),
    "odd token grids, padded": (TINY, dict(grid=(6, 14), full=(10, 14)), [500.0, 20.0]),
    "amplified history": (AMPLIFIED, {}, [742.0, 512.0]),
    "amplified history, one scale": (
        AMPLIFIED | dict(history_scale_mode="scalar"),
        {},
        [742.0, 1.0],
    ),
    "one timestep for all tokens": (TINY | dict(zero_history_timestep=False), {}, [742.0, 512.0]),
    "text seen by history": (TINY | dict(guidance_cross_attn=False), {}, [742.0, 512.0]),
    "one block": (TINY | dict(num_layers=1), {}, [742.0, 512.0]),
    "two blocks": (TINY | dict(num_layers=2), {}, [742.0, 512.0]),
    "uneven rope": (
        TINY | dict(attention_head_dim=16, rope_dim=(8, 4, 4)),
        {},
        [742.0, 512.0],
    ),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_velocity_equals_diffusers(geometry):
    """Float32 velocities agree to 1e-5 of the largest value, at every geometry."""
    config, shapes, timesteps = GEOMETRIES[geometry]
    timestep = np.array(timesteps, np.int32 if isinstance(timesteps[0], int) else np.float32)
    model = random_transformer(**config)
    given = inputs(1, **shapes)
    expected = torch_velocity(model, timestep=timestep, **given)
    error = relative_error(our_velocity(model, timestep=timestep, **given), expected)
    print(geometry, error)
    assert error <= 1e-5


def test_velocity_without_history_equals_diffusers():
    """Without history the model is a plain text-to-video model."""
    model = random_transformer(**TINY)
    given = inputs(2) | {"history": None}
    timestep = np.array([311.5, 20.0], np.float32)
    expected = torch_velocity(model, timestep=timestep, **given)
    assert relative_error(our_velocity(model, timestep=timestep, **given), expected) <= 1e-5


FULL_WIDTH = dict(num_layers=1, text_dim=64)
"""The released model's block: 5120 wide, 40 heads, feed-forward 13824, rope (44, 42, 42)."""
FEW_TOKENS = dict(batch=1, grid=(4, 4), full=(4, 4), channels=16, text_dim=64)


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float32))))


def in_bfloat16(model):
    """A copy with bfloat16 parameters, save those that Diffusers keeps in float32."""
    rounded = copy.deepcopy(model)
    for name, parameter in rounded.named_parameters():
        if not keeps_float32_in_torch(name):
            parameter.data = parameter.data.bfloat16()
    return rounded


def keeps_float32_in_torch(name):
    return any(part in name.split(".") for part in HeliosTransformer3DModel._keep_in_fp32_modules)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (TINY, {}),
        (TINY | dict(is_amplify_history=True, num_layers=1), {}),
        pytest.param(FULL_WIDTH, FEW_TOKENS, marks=pytest.mark.slow),
    ],
    ids=["three blocks", "amplified history", "full width"],
)
def test_bfloat16_is_as_close_to_float32_as_pytorch_is(config, shapes):
    """With bfloat16 weights and activations, our distance from these weights' float32 velocities is
    at most 1.2 times PyTorch's.
    """
    rounded = in_bfloat16(random_transformer(**config))
    given = inputs(3, **shapes)
    timestep = np.array([742.0, 174.0], np.float32)[: len(given["latents"])]
    ours = our_velocity(rounded, timestep=timestep, dtype=jnp.bfloat16, **given)
    assert ours.dtype == jnp.bfloat16
    # A float32 scale makes PyTorch's amplified keys float32, which its attention refuses: there is
    # only a bound for these.
    theirs = None
    if not config.get("is_amplify_history"):
        theirs = torch_velocity(rounded, timestep=timestep, dtype=torch.bfloat16, **given)
    same = rounded.float()
    exact = torch_velocity(same, timestep=timestep, **given)
    error = relative_error(our_velocity(same, timestep=timestep, **given), exact)
    distance = rms(ours.astype(jnp.float32) - exact) / rms(exact)
    print(
        f"float32 {error:.1e}; bfloat16 ours {distance:.2e}",
        "" if theirs is None else f"PyTorch {rms(theirs - exact) / rms(exact):.2e}",
    )
    assert error <= 1e-5
    assert distance <= 0.02
    if theirs is not None:
        assert distance <= 1.2 * rms(theirs - exact) / rms(exact)


def test_parameters_that_stay_float32_are_pytorchs():
    """Our rule for paths picks what Diffusers' list of modules picks by its names."""
    config = HeliosConfig(transformer=TransformerConfig(is_amplify_history=True))
    slots = component_slots(config, "transformer")
    kept = {slot.name for slot in slots if keeps_float32(slot.path)}
    assert kept == {slot.name for slot in slots if keeps_float32_in_torch(slot.name)}
    assert 0 < len(kept) < len(slots)

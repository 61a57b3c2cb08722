"""The chunk loop does what the Diffusers pipelines do around their network, which is replaced by a formula: seconds instead of minutes."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.diffusion.history import start_history
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.models.block import TextCache
from helios_jax.models.transformer import HeliosTransformer, HistoryTokens, TimeEmbedding
from helios_jax.sampling.chunk import sample_chunk
from helios_jax.sampling.request import make_request

from .compare import relative_error
from .torch_pipeline import OPTIONS, make_pair, run_torch

CHUNKS, SIZE = 3, (128, 128)
GAINS = np.array([0.7, 0.9, -0.4, 0.2], np.float32)
"""What the formula makes of two prompts and their negative prompts."""


class Formula(HeliosTransformer):
    """gain(text) x + t / 1000 + sum of history means and positions, each frame weighted by the cosine of its index."""

    def setup(self):
        pass

    def embed_history(self, history, indices):
        means = [jnp.mean(part, (2, 3, 4)) @ np.cos(frames, dtype=np.float32) for part, frames in zip(history, map(np.array, indices[1:]))]
        return HistoryTokens(sum(means)[:, None, None], None, None, None)

    def embed_time(self, timesteps):
        return TimeEmbedding(timesteps[:, None] / 1000, timesteps[:, None, None])

    def denoise(self, latents, time, text, history, frames):
        per_sample = jnp.mean(text.value, (0, 2, 3, 4)), history.tokens[:, 0, 0]
        gain, past = (x[:, None, None, None, None] for x in per_sample)
        return gain * latents + time.temb[:, :, None, None, None] + past + np.cos(frames, dtype=np.float32)[None, :, None, None, None]


def torch_formula(hidden_states, timestep, encoder_hidden_states, indices_hidden_states, **history):
    past = 0
    for part in ("short", "mid", "long"):
        means = history[f"latents_history_{part}"].mean((1, 3, 4))
        past = past + (means * history[f"indices_latents_history_{part}"].float().cos()).sum(1)
    per_sample = encoder_hidden_states.mean((1, 2)), timestep.float() / 1000 + past
    gain, offset = (x[:, None, None, None, None] for x in per_sample)
    return (gain * hidden_states + offset + indices_hidden_states.float().cos()[:, None, :, None, None],)


@pytest.mark.parametrize("variant", ["base", "mid", "distilled", "distilled, guided"])
def test_chunk_loop_equals_diffusers(variant, tmp_path, monkeypatch):
    """History and its positions, schedules, solver restarts, start points, guidance and first steps: three chunks of two videos to 1e-5."""
    variant, _, guided = variant.partition(", ")
    if guided:  # a distilled model obeys a guidance scale too
        monkeypatch.setitem(OPTIONS["distilled"], "guidance_scale", 2.0)
    theirs, ours = make_pair(variant, tmp_path)
    text = torch.from_numpy(GAINS)[:, None, None].expand(4, 3, 16)
    theirs.encode_prompt = lambda **_: (text[:2], text[2:])
    theirs.transformer.forward = torch_formula
    theirs.vae.decode = lambda latents, **_: (latents.new_zeros(2, 3, 33, 8, 8),)

    config = ours.config
    request = make_request(config, batch=2, num_frames=33 * CHUNKS, height=SIZE[0], width=SIZE[1], **OPTIONS[variant])
    T, H, W, C = request.latent_shape
    random, grids = np.random.default_rng(0), stage_grids(H, W, config.scheduler.stages)
    draw = lambda grid: random.standard_normal((2, T, *grid, C), np.float32)
    noise = [ChunkNoise(draw((H, W)), tuple(map(draw, grids[1:]))) for _ in range(CHUNKS)]
    expected, _ = run_torch(theirs, variant, ["", ""], noise, *SIZE)

    gains = GAINS if request.plan.guided else GAINS[:2]
    cache = TextCache(*(jnp.asarray(gains.reshape(1, -1, 1, 1, 1)),) * 2, None)
    state, chunks = start_history((2, H, W, C), request.plan.history_sizes), []
    for chunk in range(CHUNKS):
        plan = request.plan if chunk else request.first_plan
        options = dict(model=Formula(config.transformer), scheduler=config.scheduler, plan=plan)
        state, latents = sample_chunk({}, state, noise[chunk], cache, jnp.float32(request.guidance_scale), **options)
        chunks.append(latents)
    error = relative_error(np.concatenate(chunks, axis=1), expected)
    print(variant, guided, error)
    assert error <= 1e-5

"""The chunk loop does what the Diffusers pipelines do around their network, which is replaced by a
formula: seconds instead of minutes.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from helios_jax.diffusion.history import start_history
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.models.block import TextCache
from helios_jax.sampling.chunk import sample_chunk
from helios_jax.sampling.request import make_request

from .compare import relative_error
from .formula import Formula, torch_formula
from .torch_pipeline import OPTIONS, make_pair, run_torch

CHUNKS = 3
SIZE = (128, 128)
GAINS = np.array([0.7, 0.9, -0.4, 0.2], np.float32)
"""The formula's gains for two prompts and their negative prompts."""


@pytest.mark.parametrize("variant", ["base", "mid", "distilled", "distilled, guided"])
def test_chunk_loop_equals_diffusers(variant, tmp_path, monkeypatch):
    """History and its positions, schedules, solver restarts, start points, guidance and first
    steps: three chunks of two videos to 1e-5.
    """
    variant, _, guided = variant.partition(", ")
    if guided:  # a distilled model follows a guidance scale, too
        monkeypatch.setitem(OPTIONS["distilled"], "guidance_scale", 2.0)
    theirs, ours = make_pair(variant, tmp_path)
    text = torch.from_numpy(GAINS)[:, None, None].expand(4, 3, 16)
    theirs.encode_prompt = lambda **_: (text[:2], text[2:])
    theirs.transformer.forward = torch_formula
    theirs.vae.decode = lambda latents, **_: (latents.new_zeros(2, 3, 33, 8, 8),)

    config = ours.config
    request = make_request(
        config, batch=2, num_frames=33 * CHUNKS, height=SIZE[0], width=SIZE[1], **OPTIONS[variant]
    )
    T, H, W, C = request.latent_shape
    random = np.random.default_rng(0)
    grids = stage_grids(H, W, config.scheduler.stages)

    def draw(grid):
        return random.standard_normal((2, T, *grid, C), np.float32)

    noise = [ChunkNoise(draw((H, W)), tuple(map(draw, grids[1:]))) for _ in range(CHUNKS)]
    expected, _ = run_torch(theirs, variant, ["", ""], noise, *SIZE)

    gains = GAINS if request.plan.guided else GAINS[:2]
    text = jnp.asarray(gains.reshape(1, -1, 1, 1, 1))
    cache = TextCache(text, text, None)
    state = start_history((2, H, W, C), request.plan.history_sizes)
    chunks = []
    for chunk in range(CHUNKS):
        plan = request.plan if chunk else request.first_plan
        options = dict(model=Formula(config.transformer), scheduler=config.scheduler, plan=plan)
        state, latents = sample_chunk(
            {}, state, noise[chunk], cache, jnp.float32(request.guidance_scale), **options
        )
        chunks.append(latents)
    error = relative_error(np.concatenate(chunks, axis=1), expected)
    print(variant, guided, error)
    assert error <= 1e-5

"""Clipping, AdamW and the schedules against PyTorch and `diffusers`."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from diffusers.optimization import get_scheduler

from helios_jax.config import ConfigError
from helios_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer

SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_five_steps_are_those_of_torchs_clip_and_adamw(clip_norm, betas):
    config = OptimizerConfig(
        learning_rate=3e-2,
        b1=betas[0],
        b2=betas[1],
        weight_decay=0.1,
        clip_norm=clip_norm,
        schedule="constant_with_warmup",
        warmup_steps=3,
    )
    generator = np.random.default_rng(0)
    start = {
        name: np.asarray(generator.standard_normal(shape), np.float32)
        for name, shape in SHAPES.items()
    }
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    adamw = torch.optim.AdamW(
        theirs.values(),
        lr=config.learning_rate,
        betas=betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    schedule = get_scheduler(config.schedule, adamw, num_warmup_steps=3)
    ours = {name: jnp.asarray(value) for name, value in start.items()}
    optimizer = make_optimizer(config)
    state = optimizer.init(ours)
    for _ in range(5):
        gradients = {
            name: np.asarray(generator.standard_normal(shape), np.float32)
            for name, shape in SHAPES.items()
        }
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        adamw.step()
        schedule.step()
        updates, state = optimizer.update(
            {name: jnp.asarray(gradient) for name, gradient in gradients.items()}, state, ours
        )
        ours = optax.apply_updates(ours, updates)
        for name in SHAPES:
            np.testing.assert_allclose(ours[name], theirs[name].detach(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "cosine"])
def test_the_learning_rate_is_that_of_diffusers_at_every_step(schedule):
    config = OptimizerConfig(learning_rate=0.5, schedule=schedule, warmup_steps=4, decay_steps=20)
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = get_scheduler(schedule, adamw, num_warmup_steps=4, num_training_steps=20)
    ours = learning_rate(config)
    for step in range(20):
        assert float(ours(step)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-7)
        adamw.step()
        theirs.step()


def test_a_cosine_needs_to_know_where_it_ends():
    with pytest.raises(ConfigError, match="decay_steps=0 must be more than"):
        OptimizerConfig(schedule="cosine")

"""Distribution matching: noise levels, the student's cotangent, and which network moves when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint.params import blocks_in_host_memory
from helios_jax.config import SchedulerConfig
from helios_jax.training.config import AdversarialConfig, DistillationConfig
from helios_jax.training.distillation import (
    critic_gradient,
    dmd_gradient,
    frozen_params,
    init_state,
    make_step,
    student_cotangent,
)
from helios_jax.training.dmd import STUDENT, dmd_context
from helios_jax.training.levels import (
    LevelConfig,
    draw_timestep,
    score_levels,
    student_density,
)
from helios_jax.training.optimizer import OptimizerConfig
from tests.toys import toy_batch, toy_config, toy_params, warm


def test_levels_are_the_published_table():
    """48 x 80 cells of 9 frames: shift 1.919, and the nearest level of some timesteps."""
    levels = score_levels(SchedulerConfig(), 8640)
    assert levels.shift == pytest.approx(1.9191666667, abs=1e-9)
    np.testing.assert_allclose(
        levels.sigma[[1000, 0, 20, 500, 980]],
        [1, 0.0019174, 0.0208995, 0.5004844, 0.9798327],
        atol=5e-8,
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, (4, 1.5)),
        (125, (3.561, 1.427)),
        (250, (2.5, 1.25)),
        (375, (1.439, 1.073)),
        (900, (1, 1)),
    ],
)
def test_the_students_levels_become_uniform(step, expected):
    np.testing.assert_allclose(student_density(LevelConfig(), step), expected, atol=5e-4)


@pytest.mark.parametrize(("step", "mean"), [(0, 823), (250, 767), (500, 607)])
def test_timesteps_are_whole_bounded_and_of_the_published_mean(step, mean):
    config = LevelConfig()
    shift = score_levels(SchedulerConfig(), 8640).shift
    draw = lambda key: draw_timestep(key, config, shift, *student_density(config, step))
    timesteps = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)))
    assert timesteps.dtype == np.int32
    assert 20 <= timesteps.min() < timesteps.max() <= 980
    assert timesteps.mean() == pytest.approx(mean, abs=15)


def test_the_cotangent_is_the_gradient_of_half_the_squared_distance_to_a_target():
    """In float64: 1/2 mean (x - c)^2, c = x - its DMD gradient held constant; no smaller where
    everything is scaled, and 0 where the scores agree.
    """
    with jax.enable_x64():
        x, fake, real = (
            jnp.asarray(values)
            for values in np.random.default_rng(0).standard_normal((3, 2, 3, 4, 4, 2))
        )
        dmd = dmd_gradient(x, fake, real)
        target = x - dmd
        gradient = jax.grad(lambda x: 0.5 * jnp.mean((x - target) ** 2))(x)
        np.testing.assert_allclose(gradient, dmd / x.size, rtol=1e-9)
        np.testing.assert_allclose(dmd_gradient(5 * x, 5 * fake, 5 * real), dmd, rtol=1e-12)
        per_sample = jnp.abs(fake - real).mean((1, 2, 3, 4)) / jnp.abs(x - real).mean((1, 2, 3, 4))
        np.testing.assert_allclose(jnp.abs(dmd).mean((1, 2, 3, 4)), per_sample, rtol=1e-12)
        assert not dmd_gradient(x, real, real).any()
        assert not dmd_gradient(real, real, real).any()


@pytest.fixture(scope="module")
def run():
    """Three steps of a toy student, which moves at every other; its teacher is not guided."""
    config = toy_config(
        "distillation",
        distillation=DistillationConfig(guidance_scale=1.0, student_every=2),
        optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
    )
    params = {"student": toy_params(config), "critic": toy_params(config, 1)}
    batch = jax.tree.map(jnp.asarray, toy_batch(config))
    params["negative"] = {"text": batch.text[:1], "length": batch.length[:1]}
    step = jax.jit(make_step(config))
    state = init_state(config, params)
    frozen = blocks_in_host_memory(frozen_params(config, params))  # as on one GPU
    steps = []
    for _ in range(3):
        after, metrics = step(state, frozen, batch)
        steps.append((state, after, metrics))
        state = after
    return steps


def moved(before, after, network):
    differ = lambda a, b: bool(jnp.any(a != b))
    differing = jax.tree.map(differ, before.trainable[network], after.trainable[network])
    return any(jax.tree.leaves(differing))


@pytest.mark.slow
def test_a_student_has_nothing_to_learn_while_the_critic_is_its_teacher(run):
    """Adapters that do nothing yet: fake score and unguided real score agree to the last bit, and
    the student stays where it is.
    """
    before, after, metrics = run[0]
    assert float(metrics["student_loss"]) == 0
    assert not moved(before, after, "student")
    assert moved(before, after, "critic")


@pytest.mark.slow
def test_the_student_moves_at_every_other_step_and_the_critic_always(run):
    assert [moved(before, after, "critic") for before, after, _ in run] == [True, True, True]
    assert [moved(before, after, "student") for before, after, _ in run] == [False, False, True]
    assert float(run[2][2]["student_loss"]) > 0


@pytest.fixture(scope="module")
def adversarial():
    """The context of a student's update, with a discriminator that sees frames just large enough;
    and critic and latents.
    """
    model = toy_config("distillation").model
    model = dataclasses.replace(model, sample=dataclasses.replace(model.sample, height=128))
    settings = AdversarialConfig(width=64, hooks=(0,), start=10)
    config = toy_config(
        "distillation", model=model, distillation=DistillationConfig(adversarial=settings)
    )
    taller = lambda x: jnp.concatenate([x, x[:, :, ::-1]], axis=2)
    batch = jax.tree.map(jnp.asarray, toy_batch(config))
    batch = batch._replace(
        target=taller(batch.target), history=taller(batch.history), anchor=taller(batch.anchor)
    )
    params = {"student": toy_params(config), "critic": toy_params(config, 1)}
    params["negative"] = {"text": batch.text[:1], "length": batch.length[:1]}
    critic = warm(init_state(config, params).trainable["critic"])
    context = dmd_context(config, frozen_params(config, params), batch, jnp.array(10), STUDENT)
    latents = np.random.default_rng(1).standard_normal(batch.target.shape)
    return context, critic, jnp.asarray(latents, jnp.float32)


@pytest.mark.slow
def test_the_discriminator_begins_at_its_step(adversarial):
    """Before, its losses are zero and its heads have no gradient; then heads learn, and the
    critic's adapters learn from it, too.
    """
    context, critic, latents = adversarial
    assert context.adversarial
    earlier = dmd_context(context.config, context.frozen, context.batch, jnp.array(9), STUDENT)
    assert not earlier.adversarial
    learn = jax.jit(lambda on: critic_gradient(context._replace(adversarial=on), critic, latents))
    (before, lost_before) = learn(jnp.array(False))
    (after, lost_after) = learn(jnp.array(True))
    assert lost_before["loss"] == lost_after["loss"]
    for name in ("critic_adversarial_loss", "critic_penalty"):
        assert lost_before[name] == 0 < lost_after[name]
    assert not any(leaf.any() for leaf in jax.tree.leaves(before["heads"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(after["heads"]) if leaf.ndim > 1)
    differ = jax.tree.map(
        lambda a, b: bool((a != b).any()), before["network"]["blocks"], after["network"]["blocks"]
    )
    assert any(jax.tree.leaves(differ))


@pytest.mark.slow
def test_the_cotangent_is_the_gradient_of_the_students_whole_loss(adversarial):
    """By the latents it generates, the discriminator included, whose own gradient passes through
    window, noise, critic and heads.
    """
    context, critic, latents = adversarial

    @jax.jit
    def both(latents, on):
        def loss(latents):
            noisy = context.noised(latents, context.draws.adversarial.noise)
            [logits] = context.discriminate(critic, noisy)
            return 0.05 * jnp.mean(jax.nn.softplus(logits))

        switched = context._replace(adversarial=on)
        return student_cotangent(switched, critic, latents), jax.value_and_grad(loss)(latents)

    (cotangent, losses), (value, pulled) = both(latents, jnp.array(True))
    (without, _), _ = both(latents, jnp.array(False))
    assert float(losses["student_adversarial_loss"]) == pytest.approx(float(value), rel=1e-5)
    largest = float(jnp.abs(pulled).max())
    assert largest > 0
    np.testing.assert_allclose(
        cotangent - without, pulled, atol=1e-5 * max(largest, float(jnp.abs(without).max())), rtol=0
    )

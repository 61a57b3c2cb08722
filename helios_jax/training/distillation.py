"""Distribution matching distillation (DMD; Yin et al. 2024, Helios, section 3.3): a few-step student from a guided teacher.

The student makes data by a rollout. Noised again, they are shown to the teacher, which says where the data of its distribution would be (the *real*
score), and to a critic, the teacher with adapters or weights of its own, which learns by flow matching what the student makes (the *fake* score). The
student follows the difference of the two; the critic follows the student, one step after another, and the student moves every few of its steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.data.pipeline import TrainBatch
from helios_jax.diffusion.corruption import (
    CorruptionDraws,
    TaskDraws,
    apply_corruption,
    apply_task,
    draw_corruption,
    draw_task,
    segments,
)
from helios_jax.diffusion.guidance import guide
from helios_jax.diffusion.history import HistoryState, split_history
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training import ema
from helios_jax.training.config import TrainConfig
from helios_jax.training.levels import add_noise, density, draw_timestep, make_levels
from helios_jax.training.optimizer import make_optimizer
from helios_jax.training.rollout import RolloutDraws, draw_rollout, rollout, step_tables
from helios_jax.training.step import Questions, Step, TrainState, descend, gradient_norm, network
from helios_jax.training.trainable import frozen, init_trainable
from helios_jax.types import Array, Bool, Float, History, Int, Params


def direction(
    latents: Float[Array, "B T H W C"], fake: Float[Array, "B T H W C"], real: Float[Array, "B T H W C"]
) -> Float[Array, "B T H W C"]:
    """Where the student is and should not be: ``(fake - real) / mean |latents - real|``, the mean over each sample; finite always."""
    distance = jnp.mean(jnp.abs(latents - real), axis=tuple(range(1, latents.ndim)), keepdims=True)
    return jnp.nan_to_num((fake - real) / distance)


class DistillationDraws(NamedTuple):
    """All that is random about a sample, for the student's loss or for the critic's.

    Attributes:
      task, corruption: of the history.
      amplified: whether the sample has none, so that its rollout takes twice the steps.
      rollout: noise and exits.
      timestep, noise: with which the student's data are noised again.
    """

    task: TaskDraws
    corruption: CorruptionDraws
    amplified: Bool[Array, ""]
    rollout: RolloutDraws
    timestep: Int[Array, ""]
    noise: Float[Array, "T H W C"]


STUDENT, CRITIC = range(2)
"""Whose draws."""


def draw_batch(config: TrainConfig, batch: TrainBatch, whose: int, shift: float, step: Int[Array, ""]) -> DistillationDraws:
    """The draws of every sample: each depends on the seed, the epoch, the record and whose they are, and the student's levels on the step."""
    settings, sample, scheduler = config.distillation, config.model.sample, config.model.scheduler
    shape, window = batch.target.shape[1:], sum(sample.history_sizes)
    parts = segments(config.corruption.segments, sample.history_sizes, shape[0])
    a, b = density(settings.levels, step) if whose == STUDENT else (1.0, 1.0)

    def draw(number, anchor):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), number[0]), number[1])
        task, corruption, path, level, noise = jax.random.split(jax.random.fold_in(key, whose), 5)
        task = draw_task(task, config.task, window, shape[0])
        amplified = sample.amplify_first_chunk & ((task.task == 1) | jnp.all(anchor == 0))
        return DistillationDraws(
            task,
            draw_corruption(corruption, config.corruption, parts, shape[1:]),
            amplified,
            draw_rollout(path, shape, scheduler, sample.steps, amplified, settings.last_step_only),
            draw_timestep(level, settings.levels, shift, a, b),
            jax.random.normal(noise, shape),
        )

    return jax.vmap(draw)(batch.sample, batch.anchor)


def show_past(batch: TrainBatch, draws: DistillationDraws, config: TrainConfig) -> tuple[History, History]:
    """The histories that the student sees, and those that the two scores see, which keep their saturation."""
    sizes, chunk = config.model.sample.history_sizes, batch.target.shape[1]
    parts = segments(config.corruption.segments, sizes, chunk)

    def one(history, anchor, task, corruption):
        history, anchor = apply_task(history, anchor, task, chunk)
        for draws in (corruption, corruption._replace(saturation=jnp.ones_like(corruption.saturation))):
            yield HistoryState(*apply_corruption(history, anchor, draws, config.corruption, parts), jnp.ones((), bool))

    both = jax.vmap(lambda *row: tuple(one(*row)))(batch.history, batch.anchor, draws.task, draws.corruption)
    return tuple(split_history(state, sizes) for state in both)


def start_state(config: TrainConfig, params: Params) -> TrainState:
    """The state before the first step; ``params`` are those of :func:`make_base`. Pure, may be traced."""
    keys = jax.random.split(jax.random.key(config.seed))
    trainable = {
        "student": init_trainable(params["student"], config.trainable, keys[0]),
        "critic": init_trainable(params["critic"], config.critic.trainable, keys[1]),
    }
    optimizer = {
        "student": make_optimizer(config.optimizer).init(trainable["student"]),
        "critic": make_optimizer(config.critic.optimizer).init(trainable["critic"]),
    }
    average = jax.tree.map(jnp.copy, trainable["student"]) if config.ema.decay else None
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer, average, jnp.zeros(2, jnp.int32))


def make_base(config: TrainConfig, params: Params) -> Params:
    """What steps read: the student's frozen leaves, all parameters of the teacher, which are the critic's before it learned, and the negative prompt.

    Args:
      config: the run's.
      params: ``{"student": ..., "critic": ..., "negative": {"text": [1 S E], "length": [1]}}``.
    """
    return {"student": frozen(params["student"], config.trainable), "teacher": params["critic"], "negative": params["negative"]}


def make_step(config: TrainConfig) -> Step:
    """A step: every ``student_every`` steps the student, then the critic, on what the student now makes."""
    settings, scheduler = config.distillation, config.model.scheduler
    model = HeliosTransformer(config.model.transformer, jnp.dtype(config.dtype))
    optimizers = {"student": make_optimizer(config.optimizer), "critic": make_optimizer(config.critic.optimizer)}
    _, ph, pw = config.model.transformer.patch_size

    def step(state, base, batch):
        B, T, H, W, _ = batch.target.shape
        grids = [T * (rows // ph) * (columns // pw) for rows, columns in stage_grids(H, W, scheduler.stages)]
        tables, levels = step_tables(scheduler, config.model.sample.steps, grids), make_levels(scheduler, grids[-1])
        ask = lambda params, history, text, length: network(params, Questions([], history, text, length), model, config, T)
        negative = [jnp.broadcast_to(x, (B, *x.shape[1:])) for x in (base["negative"]["text"], base["negative"]["length"])]

        def begin(whose):
            draws = draw_batch(config, batch, whose, levels.shift, state.step)
            seen, scores = show_past(batch, draws, config)
            student = lambda trainable: ask(combine(base["student"], trainable), seen, batch.text, batch.length)
            make = lambda trainable: rollout(student, trainable, draws.rollout, draws.amplified, tables, scheduler)
            sigma = jnp.asarray(levels.sigma, jnp.float32)[draws.timestep]
            score = lambda params, latents, text, length: ask(params, scores, text, length)(latents, draws.timestep.astype(jnp.float32))
            return make, score, sigma, draws.noise

        def student_turn(trainable, optimizer, average):
            make, score, sigma, noise = begin(STUDENT)
            latents, pull = jax.vjp(make, trainable["student"])
            noised = add_noise(latents, noise, sigma)
            data = lambda velocity: noised - sigma[:, None, None, None, None] * velocity
            asked = lambda params, *text: score(params, noised, *text).astype(jnp.float32)
            fake = data(asked(combine(base["teacher"], trainable["critic"]), batch.text, batch.length))
            real = asked(base["teacher"], batch.text, batch.length)
            if settings.guidance_scale != 1:
                real = guide(real, asked(base["teacher"], *negative), settings.guidance_scale)
            away = direction(latents, fake, data(real))
            (gradient,) = pull(away / away.size)
            norm = gradient_norm(gradient)
            finite = jnp.isfinite(norm)
            moved, after = descend(optimizers["student"], gradient, trainable["student"], optimizer["student"], finite)
            if average is not None:
                turns = state.step // settings.student_every + 1
                decayed = ema.update(average, moved, ema.decay(turns, config.ema.start, config.ema.decay))
                average = jax.tree.map(lambda new, old: jnp.where(finite, new, old), decayed, average)
            trainable, optimizer = {**trainable, "student": moved}, {**optimizer, "student": after}
            return trainable, optimizer, average, {"student_loss": 0.5 * jnp.mean(away**2), "student_gradient_norm": norm}

        def no_turn(*held):
            return *held, {"student_loss": jnp.zeros(()), "student_gradient_norm": jnp.zeros(())}

        turn = state.step % settings.student_every == 0
        held = jax.lax.cond(turn, student_turn, no_turn, state.trainable, state.optimizer, state.ema)
        trainable, optimizer, average, told = held

        make, score, sigma, noise = begin(CRITIC)
        latents = make(trainable["student"])
        noised = add_noise(latents, noise, sigma)

        def critic_loss(critic):
            velocity = score(combine(base["teacher"], critic), noised, batch.text, batch.length).astype(jnp.float32)
            return jnp.mean((velocity - (noise - latents)) ** 2)

        loss, gradient = jax.value_and_grad(critic_loss)(trainable["critic"])
        norm = gradient_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        moved, after = descend(optimizers["critic"], gradient, trainable["critic"], optimizer["critic"], finite)
        finite &= jnp.isfinite(told["student_gradient_norm"])
        skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
        told |= {"loss": loss, "gradient_norm": norm, "skipped": skipped[0], "skipped_in_a_row": skipped[1]}
        trainable, optimizer = {**trainable, "critic": moved}, {**optimizer, "critic": after}
        return TrainState(state.step + 1, trainable, optimizer, average, skipped), told

    return step

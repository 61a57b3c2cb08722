"""Distribution matching distillation (DMD; Yin et al. 2024, Helios, section 3.3): a few-step
student from a guided teacher.

The student makes data by a rollout. Noised again, they are shown to the teacher, which says where
the data of its distribution would be (the *real* score), and to a critic, the teacher with adapters
or weights of its own, which learns by flow matching what the student makes (the *fake* score). The
student follows the difference of the two; the critic follows the student, one step after another,
and the student moves every few of its steps. From some step on, a discriminator on the critic's
features may tell the student's data from true ones (:mod:`~helios_jax.training.adversarial`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.data.batches import TrainBatch
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
from helios_jax.models.discriminator import Discriminator
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training import adversarial, ema
from helios_jax.training.adversarial import (
    AdversarialDraws,
    crop,
    draw_adversarial,
    init_heads,
    window,
)
from helios_jax.training.config import TrainConfig
from helios_jax.training.levels import add_noise, density, draw_timestep, make_levels
from helios_jax.training.optimizer import make_optimizer
from helios_jax.training.rollout import RolloutDraws, StepTable, draw_rollout, rollout, step_tables
from helios_jax.training.step import (
    Network,
    Questions,
    Step,
    TrainState,
    descend,
    gradient_norm,
    network,
)
from helios_jax.training.trainable import frozen, init_trainable
from helios_jax.types import Array, Bool, Float, History, Int, Params


def direction(
    latents: Float[Array, "B T H W C"],
    fake: Float[Array, "B T H W C"],
    real: Float[Array, "B T H W C"],
) -> Float[Array, "B T H W C"]:
    """Where the student is and should not be: ``(fake - real) / mean |latents - real|``, the mean
    over each sample; finite always.
    """
    distance = jnp.mean(jnp.abs(latents - real), axis=tuple(range(1, latents.ndim)), keepdims=True)
    return jnp.nan_to_num((fake - real) / distance)


class DistillationDraws(NamedTuple):
    """All that is random about a sample, for the student's loss or for the critic's.

    Attributes:
      task, corruption: of the history.
      amplified: whether the sample has none, so that its rollout takes twice the steps.
      rollout: noise and exits.
      timestep, noise: with which the student's data are noised again.
      adversarial: of the discriminator.
    """

    task: TaskDraws
    corruption: CorruptionDraws
    amplified: Bool[Array, ""]
    rollout: RolloutDraws
    timestep: Int[Array, ""]
    noise: Float[Array, "T H W C"]
    adversarial: AdversarialDraws


STUDENT, CRITIC = range(2)
"""Whose draws."""


def draw_batch(
    config: TrainConfig, batch: TrainBatch, whose: int, shift: float, step: Int[Array, ""]
) -> DistillationDraws:
    """The draws of every sample: each depends on the seed, the epoch, the record and whose they
    are, and the student's levels on the step.
    """
    settings, sample, scheduler = config.distillation, config.model.sample, config.model.scheduler
    shape, window = batch.target.shape[1:], sum(sample.history_sizes)
    parts = segments(config.corruption.segments, sample.history_sizes, shape[0])
    a, b = density(settings.levels, step) if whose == STUDENT else (1.0, 1.0)

    def draw(number, anchor):
        key = jax.random.fold_in(
            jax.random.fold_in(jax.random.key(config.seed), number[0]), number[1]
        )
        task, corruption, path, level, noise, adversarial = jax.random.split(
            jax.random.fold_in(key, whose), 6
        )
        task = draw_task(task, config.task, window, shape[0])
        amplified = sample.amplify_first_chunk & ((task.task == 1) | jnp.all(anchor == 0))
        return DistillationDraws(
            task,
            draw_corruption(corruption, config.corruption, parts, shape[1:]),
            amplified,
            draw_rollout(path, shape, scheduler, sample.steps, amplified, settings.last_step_only),
            draw_timestep(level, settings.levels, shift, a, b),
            jax.random.normal(noise, shape),
            draw_adversarial(adversarial, shape, config.model.transformer.patch_size),
        )

    return jax.vmap(draw)(batch.sample, batch.anchor)


def show_past(
    batch: TrainBatch, draws: DistillationDraws, config: TrainConfig
) -> tuple[History, History]:
    """The histories that the student sees, and those that the two scores see, which keep their
    saturation.
    """
    sizes, chunk = config.model.sample.history_sizes, batch.target.shape[1]
    parts = segments(config.corruption.segments, sizes, chunk)

    def one(history, anchor, task, corruption):
        history, anchor = apply_task(history, anchor, task, chunk)
        for draws in (
            corruption,
            corruption._replace(saturation=jnp.ones_like(corruption.saturation)),
        ):
            yield HistoryState(
                *apply_corruption(history, anchor, draws, config.corruption, parts),
                jnp.ones((), bool),
            )

    both = jax.vmap(lambda *row: tuple(one(*row)))(
        batch.history, batch.anchor, draws.task, draws.corruption
    )
    return tuple(split_history(state, sizes) for state in both)


def start_state(config: TrainConfig, params: Params) -> TrainState:
    """The state before the first step; ``params`` are those of :func:`make_base`. Pure, may be
    traced.
    """
    student, critic, heads = jax.random.split(jax.random.key(config.seed), 3)
    trainable = {
        "student": init_trainable(params["student"], config.trainable, student),
        "critic": {
            "network": init_trainable(params["critic"], config.critic.trainable, critic),
            "heads": init_heads(heads, config.distillation.adversarial, config.model.transformer),
        },
    }
    optimizer = {
        "student": make_optimizer(config.optimizer).init(trainable["student"]),
        "critic": make_optimizer(config.critic.optimizer).init(trainable["critic"]),
    }
    average = jax.tree.map(jnp.copy, trainable["student"]) if config.ema.decay else None
    return TrainState(
        jnp.zeros((), jnp.int32), trainable, optimizer, average, jnp.zeros(2, jnp.int32)
    )


def make_base(config: TrainConfig, params: Params) -> Params:
    """What steps read: the student's frozen leaves, all parameters of the teacher, which are the
    critic's before it learned, and the negative prompt.

    Args:
      config: the run's.
      params: ``{"student": ..., "critic": ..., "negative": {"text": [1 S E], "length": [1]}}``.
    """
    return {
        "student": frozen(params["student"], config.trainable),
        "teacher": params["critic"],
        "negative": params["negative"],
    }


class Turn(NamedTuple):
    """A batch at somebody's turn: what was drawn, what is seen of the past, and the networks that
    are asked about it.

    Attributes:
      config, base, batch: those of the step.
      draws: of every sample.
      past: what the student sees of it.
      scores_past: what teacher, critic and discriminator see of it.
      steps: of the rollout.
      sigma: noise level of each sample's ``draws.timestep``.
      on: whether the discriminator takes part.
    """

    config: TrainConfig
    base: Params
    batch: TrainBatch
    draws: DistillationDraws
    past: History
    scores_past: History
    steps: list[StepTable]
    sigma: Float[Array, "B"]
    on: Bool[Array, ""]

    def ask(
        self, params: Params, past: History, text: Float[Array, "B S E"], length: Int[Array, "B"]
    ) -> Network:
        """A network's answers, after a past and under a text."""
        model = HeliosTransformer(self.config.model.transformer, jnp.dtype(self.config.dtype))
        return network(
            params,
            Questions([], past, text, length),
            model,
            self.config,
            self.batch.target.shape[1],
        )

    def make(self, trainable: Params) -> Float[Array, "B T H W C"]:
        """What the student makes."""
        student = lambda trainable: self.ask(
            combine(self.base["student"], trainable), self.past, self.batch.text, self.batch.length
        )
        return rollout(
            student,
            trainable,
            self.draws.rollout,
            self.draws.amplified,
            self.steps,
            self.config.model.scheduler,
        )

    def velocity(
        self, params: Params, noised: Float[Array, "B T H W C"], *text: Array
    ) -> Float[Array, "B T H W C"]:
        """Of teacher or critic, under the batch's text, or another and its length."""
        score = self.ask(params, self.scores_past, *(text or (self.batch.text, self.batch.length)))
        return score(noised, self.draws.timestep.astype(jnp.float32)).astype(jnp.float32)

    def look(
        self, critic: Params, *shown: Float[Array, "B T H W C"]
    ) -> list[Float[Array, "B heads"]]:
        """The discriminator's logits of windows of noised latents, the same window of each."""
        config, settings = self.config, self.config.distillation.adversarial
        size = window(*self.batch.target.shape[2:4], config.model.transformer.patch_size)
        windows = jnp.concatenate(
            [crop(noised, self.draws.adversarial.corner, size) for noised in shown]
        )
        each = lambda tree: jax.tree.map(lambda x: jnp.concatenate([x] * len(shown)), tree)
        watched = self.ask(
            self.critic(critic), *map(each, (self.scores_past, self.batch.text, self.batch.length))
        )
        features = watched(
            windows, each(self.draws.timestep.astype(jnp.float32)), hooks=settings.hooks
        )
        discriminator = Discriminator(settings.width, jnp.dtype(config.dtype))
        return jnp.split(discriminator.apply({"params": critic["heads"]}, *features), len(shown))

    def critic(self, trainable: Params) -> Params:
        """The critic's whole network."""
        return combine(self.base["teacher"], trainable["network"])

    def where_on(
        self,
        f: Callable[[Any], Any],
        argument: Any,
        otherwise: Callable[[Any, Any], Any] = lambda argument, zeros: zeros,
    ) -> Any:
        """What ``f`` returns where the discriminator takes part; where it does not, zeros of its
        shape, or what ``otherwise`` makes of them.
        """
        shapes = jax.eval_shape(f, argument)
        zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.cond(self.on, f, lambda argument: otherwise(argument, zeros()), argument)


def begin(
    config: TrainConfig, base: Params, batch: TrainBatch, step: Int[Array, ""], whose: int
) -> Turn:
    """A turn of :data:`STUDENT` or :data:`CRITIC` at a step."""
    T, H, W, _ = batch.target.shape[1:]
    scheduler, (_, ph, pw) = config.model.scheduler, config.model.transformer.patch_size
    grids = [
        T * (rows // ph) * (columns // pw) for rows, columns in stage_grids(H, W, scheduler.stages)
    ]
    tables, levels = (
        step_tables(scheduler, config.model.sample.steps, grids),
        make_levels(scheduler, grids[-1]),
    )
    draws = draw_batch(config, batch, whose, levels.shift, step)
    sigma = jnp.asarray(levels.sigma, jnp.float32)[draws.timestep]
    return Turn(
        config,
        base,
        batch,
        draws,
        *show_past(batch, draws, config),
        tables,
        sigma,
        step >= config.distillation.adversarial.start,
    )


def student_cotangent(
    turn: Turn, critic: Params, latents: Float[Array, "B T H W C"]
) -> tuple[Float[Array, "B T H W C"], dict[str, Array]]:
    """The gradient of the student's loss where it has made ``latents``, and its parts.

    It needs no gradient of teacher or critic, and the discriminator's has come to its end here: the
    rollout's backward pass lives alone.
    """
    settings, draws, negative = turn.config.distillation, turn.draws, turn.base["negative"]
    noised = add_noise(latents, draws.noise, turn.sigma)
    data = lambda velocity: noised - turn.sigma[:, None, None, None, None] * velocity
    real = turn.velocity(turn.base["teacher"], noised)
    if settings.guidance_scale != 1:
        text = (
            jnp.broadcast_to(negative[name], (len(latents), *negative[name].shape[1:]))
            for name in ("text", "length")
        )
        real = guide(
            real, turn.velocity(turn.base["teacher"], noised, *text), settings.guidance_scale
        )
    away = direction(latents, data(turn.velocity(turn.critic(critic), noised)), data(real))
    cotangent, losses = away / away.size, {"student_loss": 0.5 * jnp.mean(away**2)}
    if settings.adversarial.width:

        def found_out(latents):
            [logits] = turn.look(critic, add_noise(latents, draws.adversarial.noise, turn.sigma))
            return settings.adversarial.student_weight * adversarial.student_loss(logits)

        losses["student_adversarial_loss"], pulled = turn.where_on(
            jax.value_and_grad(found_out), latents
        )
        cotangent += pulled
    return cotangent, losses


def critic_gradient(
    turn: Turn, critic: Params, latents: Float[Array, "B T H W C"]
) -> tuple[Params, dict[str, Array]]:
    """The gradient of what the critic loses where the student has made ``latents``, and its parts:
    by flow matching, and by its discriminator.

    The backward pass of the one has come to its end before the other begins, which takes what is
    there and adds to it.
    """
    settings, draws = turn.config.distillation.adversarial, turn.draws
    noised = add_noise(latents, draws.noise, turn.sigma)

    def flow(network):
        return jnp.mean(
            (turn.velocity(turn.critic({"network": network}), noised) - (draws.noise - latents))
            ** 2
        )

    def told_apart(critic):
        data = add_noise(turn.batch.target, draws.noise, turn.sigma)
        made, true, moved = turn.look(
            critic, noised, data, data + settings.penalty_sigma * draws.adversarial.shift
        )
        losses = {
            "critic_adversarial_loss": settings.critic_weight * adversarial.critic_loss(made, true),
            "critic_penalty": settings.penalty_weight * adversarial.penalty(true, moved),
        }
        return sum(losses.values()), losses

    def add(network):
        pulled, losses = jax.grad(told_apart, has_aux=True)(critic)
        return pulled | {"network": jax.tree.map(jnp.add, network, pulled["network"])}, losses

    loss, network = jax.value_and_grad(flow)(critic["network"])
    if not settings.width:
        return {"network": network, "heads": {}}, {"loss": loss}
    gradient, losses = turn.where_on(
        add, network, lambda network, zeros: (zeros[0] | {"network": network}, zeros[1])
    )
    return gradient, {"loss": loss} | losses


def make_step(config: TrainConfig) -> Step:
    """A step: every ``student_every`` steps the student, then the critic, on what the student now
    makes.
    """
    optimizers = {
        "student": make_optimizer(config.optimizer),
        "critic": make_optimizer(config.critic.optimizer),
    }
    metrics = (
        "student_loss",
        "student_gradient_norm",
        *(["student_adversarial_loss"] if config.distillation.adversarial.width else []),
    )

    def step(state, base, batch):
        def student_turn(student):
            turn = begin(config, base, batch, state.step, STUDENT)
            latents, pull = jax.vjp(turn.make, student)
            cotangent, losses = student_cotangent(turn, state.trainable["critic"], latents)
            (gradient,) = pull(cotangent)
            return gradient, losses | {"student_gradient_norm": gradient_norm(gradient)}

        def no_turn(student):
            return jax.tree.map(jnp.zeros_like, student), dict.fromkeys(metrics, jnp.zeros(()))

        # The branches return no more than a gradient: XLA would hold a state that they return
        # beside the one that they are given.
        its_turn = state.step % config.distillation.student_every == 0
        gradient, told = jax.lax.cond(its_turn, student_turn, no_turn, state.trainable["student"])
        moves = its_turn & jnp.isfinite(told["student_gradient_norm"])
        student, student_optimizer = descend(
            optimizers["student"],
            gradient,
            state.trainable["student"],
            state.optimizer["student"],
            moves,
        )
        average = state.ema
        if average is not None:
            turns = state.step // config.distillation.student_every + 1
            decayed = ema.update(
                average, student, ema.decay(turns, config.ema.start, config.ema.decay)
            )
            average = jax.tree.map(lambda new, old: jnp.where(moves, new, old), decayed, average)

        turn = begin(config, base, batch, state.step, CRITIC)
        gradient, losses = critic_gradient(turn, state.trainable["critic"], turn.make(student))
        norm = gradient_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(losses["loss"])
        critic, critic_optimizer = descend(
            optimizers["critic"],
            gradient,
            state.trainable["critic"],
            state.optimizer["critic"],
            finite,
        )

        finite &= jnp.isfinite(told["student_gradient_norm"])
        skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
        told |= losses | {
            "gradient_norm": norm,
            "skipped": skipped[0],
            "skipped_in_a_row": skipped[1],
        }
        trainable, optimizer = (
            {"student": student, "critic": critic},
            {"student": student_optimizer, "critic": critic_optimizer},
        )
        return TrainState(state.step + 1, trainable, optimizer, average, skipped), told

    return step

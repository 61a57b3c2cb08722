"""Stage 3, second half: distribution matching distillation (DMD; Yin et al. 2024; Helios, section
3.3) of a few-step student from a guided teacher.

The student generates data by a rollout. They are noised again and shown to the teacher, whose *real
score* points to its distribution, and to a critic, the teacher with adapters or weights of its own,
which learns by flow matching what the student generates: the *fake score*. The student follows the
difference of the two; the critic follows the student at every step, and the student moves every few
of them. From some step on, a discriminator on the critic's features may tell generated data from
true ones (:mod:`~helios_jax.training.adversarial`).
"""

import jax
import jax.numpy as jnp

from helios_jax.config import ConfigError
from helios_jax.data.batches import TrainBatch
from helios_jax.training import adversarial, ema
from helios_jax.training.config import TrainConfig
from helios_jax.training.dmd import CRITIC, STUDENT, DMDContext, dmd_context
from helios_jax.training.flops import StepCost, step_cost
from helios_jax.training.objective import Objective
from helios_jax.training.optimizer import make_optimizer
from helios_jax.training.records import abstract_records, load_records
from helios_jax.training.step import (
    Step,
    TrainState,
    descend,
    finish_step,
    first_state,
    gradient_norm,
)
from helios_jax.training.student import (
    SHIFT_FIELDS,
    check_student,
    no_validation,
    one_item_a_stage,
)
from helios_jax.training.trainable import frozen, init_trainable
from helios_jax.types import Array, Float, Params


def dmd_gradient(
    latents: Float[Array, "B T H W C"],
    fake: Float[Array, "B T H W C"],
    real: Float[Array, "B T H W C"],
) -> Float[Array, "B T H W C"]:
    """The DMD gradient (Yin et al. 2024), normalised for each sample.

    ``(fake - real) / mean |latents - real|``; always finite.

    Args:
      latents: what the student generates.
      fake, real: the data that the fake and the real score predict.
    """
    distance = jnp.mean(jnp.abs(latents - real), axis=tuple(range(1, latents.ndim)), keepdims=True)
    return jnp.nan_to_num((fake - real) / distance)


def student_cotangent(
    context: DMDContext, critic: Params, latents: Float[Array, "B T H W C"]
) -> tuple[Float[Array, "B T H W C"], dict[str, Array]]:
    """The gradient of the student's loss by the latents it generates, and the loss's parts.

    It needs no gradient of teacher or critic, and the discriminator's backward pass ends here: that
    of the rollout is alive alone.
    """
    settings = context.config.distillation.adversarial
    noisy = context.noised(latents, context.draws.noise)
    real = context.real_score(noisy)
    gradient = dmd_gradient(latents, context.fake_score(critic, noisy), real)
    cotangent = gradient / gradient.size
    losses = {"student_loss": 0.5 * jnp.mean(gradient**2)}
    if settings.width:

        def adversarial_loss(latents):
            noisy = context.noised(latents, context.draws.adversarial.noise)
            [logits] = context.discriminate(critic, noisy)
            return settings.student_weight * adversarial.student_loss(logits)

        loss, gradient = context.if_adversarial(jax.value_and_grad(adversarial_loss), latents)
        losses["student_adversarial_loss"] = loss
        cotangent += gradient
    return cotangent, losses


def student_gradient(
    context: DMDContext, critic: Params, student: Params
) -> tuple[Params, dict[str, Array]]:
    """The gradient of the student's loss by its parameters, and metrics."""
    latents, pullback = jax.vjp(context.generate, student)
    cotangent, losses = student_cotangent(context, critic, latents)
    (gradient,) = pullback(cotangent)
    return gradient, losses | {"student_gradient_norm": gradient_norm(gradient)}


def critic_gradient(
    context: DMDContext, critic: Params, latents: Float[Array, "B T H W C"]
) -> tuple[Params, dict[str, Array]]:
    """The gradient of the critic's loss on generated latents, and the loss's parts: by flow
    matching, and by its discriminator.

    The flow-matching gradient is computed first and the adversarial one added to it, so that only
    one backward pass is alive at a time.
    """
    settings = context.config.distillation.adversarial
    draws = context.draws
    noisy = context.noised(latents, draws.noise)

    def flow_loss(network):
        velocity = context.velocity(context.critic_params({"network": network}), noisy)
        return jnp.mean((velocity - (draws.noise - latents)) ** 2)

    def adversarial_loss(critic):
        data = context.noised(context.batch.target, draws.noise)
        moved = data + settings.penalty_sigma * draws.adversarial.shift
        generated, true, shifted = context.discriminate(critic, noisy, data, moved)
        loss = adversarial.critic_loss(generated, true)
        losses = {
            "critic_adversarial_loss": settings.critic_weight * loss,
            "critic_penalty": settings.penalty_weight * adversarial.penalty(true, shifted),
        }
        return sum(losses.values()), losses

    def add_adversarial(network):
        gradient, losses = jax.grad(adversarial_loss, has_aux=True)(critic)
        network = jax.tree.map(jnp.add, network, gradient["network"])
        return gradient | {"network": network}, losses

    def flow_alone(network, zeros):
        gradient, losses = zeros
        return gradient | {"network": network}, losses

    loss, network = jax.value_and_grad(flow_loss)(critic["network"])
    if not settings.width:
        return {"network": network, "heads": {}}, {"loss": loss}
    gradient, losses = context.if_adversarial(add_adversarial, network, flow_alone)
    return gradient, {"loss": loss} | losses


def make_step(config: TrainConfig) -> Step:
    """A step: every ``student_every`` steps the student moves, and at every step the critic, on
    what the student then generates.
    """
    student_optimizer = make_optimizer(config.optimizer)
    critic_optimizer = make_optimizer(config.critic.optimizer)
    every = config.distillation.student_every
    student_metrics = ["student_loss", "student_gradient_norm"]
    if config.distillation.adversarial.width:
        student_metrics.append("student_adversarial_loss")

    def update_student(state, frozen, batch):
        before = state.trainable["student"]

        # The branches return no more than a gradient: XLA would hold a state that they return
        # beside the one that they are given.
        def move(student):
            context = dmd_context(config, frozen, batch, state.step, STUDENT)
            return student_gradient(context, state.trainable["critic"], student)

        def stay(student):
            zero = jnp.zeros(())
            return jax.tree.map(jnp.zeros_like, student), dict.fromkeys(student_metrics, zero)

        due = state.step % every == 0
        gradient, metrics = jax.lax.cond(due, move, stay, before)
        finite = jnp.isfinite(metrics["student_gradient_norm"])
        moved = due & finite
        student, optimizer = descend(
            student_optimizer, gradient, before, state.optimizer["student"], moved
        )
        average = ema.follow(state.ema, student, state.step // every + 1, config.ema, moved)
        return student, optimizer, average, finite, metrics

    def update_critic(state, frozen, batch, student):
        context = dmd_context(config, frozen, batch, state.step, CRITIC)
        before = state.trainable["critic"]
        gradient, metrics = critic_gradient(context, before, context.generate(student))
        norm = gradient_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        critic, optimizer = descend(
            critic_optimizer, gradient, before, state.optimizer["critic"], finite
        )
        return critic, optimizer, finite, metrics | {"gradient_norm": norm}

    def step(state, frozen, batch):
        student, student_moments, average, student_finite, student_numbers = update_student(
            state, frozen, batch
        )
        critic, critic_moments, critic_finite, critic_numbers = update_critic(
            state, frozen, batch, student
        )
        after, counts = finish_step(
            state,
            {"student": student, "critic": critic},
            {"student": student_moments, "critic": critic_moments},
            average,
            critic_finite & student_finite,
        )
        return after, student_numbers | critic_numbers | counts

    return step


def init_state(config: TrainConfig, params: Params) -> TrainState:
    """The state before the first step; pure, may be traced.

    Args:
      config: of the run.
      params: as for :func:`frozen_params`.
    """
    student_key, critic_key, heads_key = jax.random.split(jax.random.key(config.seed), 3)
    settings = config.distillation.adversarial
    critic = init_trainable(params["critic"], config.critic.trainable, critic_key)
    trainable = {
        "student": init_trainable(params["student"], config.trainable, student_key),
        "critic": {
            "network": critic,
            "heads": adversarial.init_heads(heads_key, settings, config.model.transformer),
        },
    }
    optimizer = {
        "student": make_optimizer(config.optimizer).init(trainable["student"]),
        "critic": make_optimizer(config.critic.optimizer).init(trainable["critic"]),
    }
    return first_state(config, trainable, optimizer, averaged=trainable["student"])


def frozen_params(config: TrainConfig, params: Params) -> Params:
    """What steps read: the student's frozen leaves, all parameters of the teacher, which are the
    critic's before it learned, and the negative prompt.

    Args:
      config: of the run.
      params: ``{"student": ..., "critic": ..., "negative": {"text": [1 S E], "length": [1]}}``.
    """
    return {
        "student": frozen(params["student"], config.trainable),
        "teacher": params["critic"],
        "negative": params["negative"],
    }


def check(config: TrainConfig) -> None:
    """Check the recipe.

    Raises:
      ConfigError: if it is not a student's, if batches pass in parts, or if the discriminator hooks
        blocks that are not there.
    """
    check_student(config)
    if config.accumulate > 1:
        raise ConfigError("accumulate is not for the objective 'distillation'")
    hooks = config.distillation.adversarial.hooks
    layers = config.model.transformer.num_layers
    if hooks and not 0 <= hooks[0] <= hooks[-1] < layers:
        raise ConfigError(
            f"distillation.adversarial.hooks={hooks} must be among the blocks 0 to {layers - 1}"
        )


def cost(config: TrainConfig, trainable: Params, batch: TrainBatch) -> StepCost:
    """Tokens of a sample's rollout; operations, which depend on the exits, are not counted."""
    latent = batch.target.shape[1:4]
    return step_cost(config, {}, latent, one_item_a_stage(config))._replace(operations=0)


OBJECTIVE = Objective(
    component="transformer",
    load=load_records,
    abstract_batch=abstract_records,
    make_step=make_step,
    make_validation=no_validation,
    cost=cost,
    levels=one_item_a_stage,
    check=check,
    init_state=init_state,
    frozen_params=frozen_params,
    student_key="student",
    scheduler_fields=SHIFT_FIELDS,
)

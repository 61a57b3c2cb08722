"""What a step of distribution matching distillation reads (DMD; Yin et al. 2024; Helios, section
3.3): random draws, histories, and the networks bound to them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.data.batches import TrainBatch
from helios_jax.diffusion.corruption import CorruptionDraws, TaskDraws
from helios_jax.diffusion.guidance import guide
from helios_jax.diffusion.noise import mix
from helios_jax.diffusion.pyramid import stage_tokens
from helios_jax.models.discriminator import Discriminator
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training.adversarial import (
    AdversarialDraws,
    crop,
    draw_adversarial,
    window_size,
)
from helios_jax.training.config import TrainConfig
from helios_jax.training.denoising import Conditioning, VelocityFn, velocity_fn
from helios_jax.training.history import draw_history, sample_key, show_history
from helios_jax.training.levels import draw_timestep, score_levels, student_density
from helios_jax.training.rollout import RolloutDraws, StepTable, draw_rollout, rollout, step_tables
from helios_jax.types import Array, Bool, Float, History, Int, Params

STUDENT, CRITIC = range(2)
"""The networks that train; draws for their updates are apart."""


class DMDDraws(NamedTuple):
    """All that is random about a sample, for the student's update or for the critic's.

    Attributes:
      task, corruption: of the history.
      amplified: whether the sample has no history, so that its rollout takes twice the steps.
      rollout: noise and exits.
      timestep, noise: with which generated latents are noised again.
      adversarial: of the discriminator.
    """

    task: TaskDraws
    corruption: CorruptionDraws
    amplified: Bool[Array, ""]
    rollout: RolloutDraws
    timestep: Int[Array, ""]
    noise: Float[Array, "T H W C"]
    adversarial: AdversarialDraws


def draw_dmd(
    config: TrainConfig, batch: TrainBatch, network: int, shift: float, step: Int[Array, ""]
) -> DMDDraws:
    """The draws of every sample of a batch; each follows from the seed, the epoch, the record and
    the network, and the student's noise levels from the step.

    Args:
      config: of the run.
      batch: whose samples they are.
      network: :data:`STUDENT` or :data:`CRITIC`, which is updated.
      shift: of the noise levels, see :func:`~helios_jax.training.levels.score_levels`.
      step: of the run.
    """
    settings = config.distillation
    sample = config.model.sample
    shape = batch.target.shape[1:]
    a, b = student_density(settings.levels, step) if network == STUDENT else (1.0, 1.0)

    def draw(number, anchor):
        key = jax.random.fold_in(sample_key(config.seed, number), network)
        keys = jax.random.split(key, 6)
        task_key, corruption_key, rollout_key, level_key, noise_key, adversarial_key = keys
        task, corruption = draw_history(task_key, corruption_key, config, shape)
        amplified = sample.amplify_first_chunk & ((task.task == 1) | jnp.all(anchor == 0))
        return DMDDraws(
            task,
            corruption,
            amplified,
            draw_rollout(
                rollout_key,
                shape,
                config.model.scheduler,
                sample.steps,
                amplified,
                settings.last_step_only,
            ),
            draw_timestep(level_key, settings.levels, shift, a, b),
            jax.random.normal(noise_key, shape),
            draw_adversarial(adversarial_key, shape, config.model.transformer.patch_size),
        )

    return jax.vmap(draw)(batch.sample, batch.anchor)


class DMDContext(NamedTuple):
    """All that the update of a network reads, and the networks bound to it.

    Attributes:
      config, frozen, batch: those of the step.
      draws: of every sample.
      history: what the student sees.
      score_history: what teacher, critic and discriminator see; it keeps its saturation.
      steps: of the rollout.
      sigma: noise level of each sample's ``draws.timestep``.
      adversarial: whether the discriminator takes part.
    """

    config: TrainConfig
    frozen: Params
    batch: TrainBatch
    draws: DMDDraws
    history: History
    score_history: History
    steps: list[StepTable]
    sigma: Float[Array, "B"]
    adversarial: Bool[Array, ""]

    def conditioning(self, history: History) -> Conditioning:
        """A history, and the batch's text."""
        text = self.batch.text
        length = self.batch.length
        return Conditioning(history, jnp.asarray(text), jnp.asarray(length))

    def velocity_fn(self, params: Params, conditioning: Conditioning) -> VelocityFn:
        """The transformer with these parameters, under this conditioning."""
        config = self.config
        model = HeliosTransformer(config.model.transformer, jnp.dtype(config.dtype))
        return velocity_fn(params, conditioning, model, config, self.batch.target.shape[1])

    def generate(self, student: Params) -> Float[Array, "B T H W C"]:
        """The latents that the student generates, by a rollout."""
        conditioning = self.conditioning(self.history)

        def bind(student):
            return self.velocity_fn(combine(self.frozen["student"], student), conditioning)

        draws = self.draws
        scheduler = self.config.model.scheduler
        return rollout(bind, student, draws.rollout, draws.amplified, self.steps, scheduler)

    def noised(
        self, latents: Float[Array | np.ndarray, "B T H W C"], noise: Float[Array, "B T H W C"]
    ) -> Float[Array, "B T H W C"]:
        """``(1 - sigma) x + sigma noise`` at each sample's noise level."""
        return mix(jnp.asarray(latents), noise, _column(self.sigma))

    def velocity(
        self,
        params: Params,
        noisy: Float[Array, "B T H W C"],
        conditioning: Conditioning | None = None,
    ) -> Float[Array, "B T H W C"]:
        """The velocity of teacher or critic in float32, under the batch's text or another."""
        network = self.velocity_fn(params, conditioning or self.conditioning(self.score_history))
        timestep = self.draws.timestep.astype(jnp.float32)
        return network(noisy, timestep).astype(jnp.float32)

    def real_score(self, noisy: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        """The data that the guided teacher predicts."""
        teacher = self.frozen["teacher"]
        velocity = self.velocity(teacher, noisy)
        scale = self.config.distillation.guidance_scale
        if scale != 1:
            negative = self.frozen["negative"]
            text, length = (
                jnp.broadcast_to(negative[name], (len(noisy), *negative[name].shape[1:]))
                for name in ("text", "length")
            )
            unguided = self.velocity(teacher, noisy, Conditioning(self.score_history, text, length))
            velocity = guide(velocity, unguided, scale)
        return noisy - _column(self.sigma) * velocity

    def fake_score(
        self, critic: Params, noisy: Float[Array, "B T H W C"]
    ) -> Float[Array, "B T H W C"]:
        """The data that the critic predicts."""
        return noisy - _column(self.sigma) * self.velocity(self.critic_params(critic), noisy)

    def critic_params(self, critic: Params) -> Params:
        """The critic's whole network."""
        return combine(self.frozen["teacher"], critic["network"])

    def discriminate(
        self, critic: Params, *noisy: Float[Array, "B T H W C"]
    ) -> list[Float[Array, "B heads"]]:
        """The discriminator's logits of noisy latents, of the same window of each."""
        config = self.config
        settings = config.distillation.adversarial
        _, _, H, W, _ = self.batch.target.shape
        size = window_size(H, W, config.model.transformer.patch_size)
        windows = [crop(latents, self.draws.adversarial.corner, size) for latents in noisy]

        def repeat(tree):
            return jax.tree.map(lambda x: jnp.concatenate([x] * len(noisy)), tree)

        conditioning = self.conditioning(self.score_history)
        network = self.velocity_fn(self.critic_params(critic), repeat(conditioning))
        timestep = repeat(self.draws.timestep.astype(jnp.float32))
        features = network(jnp.concatenate(windows), timestep, hooks=settings.hooks)
        discriminator = Discriminator(settings.width, jnp.dtype(config.dtype))
        logits: Any = discriminator.apply({"params": critic["heads"]}, *features)
        return jnp.split(logits, len(noisy))

    def if_adversarial(
        self,
        f: Callable[[Any], Any],
        argument: Any,
        otherwise: Callable[[Any, Any], Any] = lambda argument, zeros: zeros,
    ) -> Any:
        """``f(argument)`` where the discriminator takes part; where it does not, zeros of that
        shape, or what ``otherwise(argument, zeros)`` returns.
        """
        shapes = jax.eval_shape(f, argument)

        def skip(argument):
            return otherwise(argument, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

        return jax.lax.cond(self.adversarial, f, skip, argument)


def dmd_context(
    config: TrainConfig, frozen: Params, batch: TrainBatch, step: Int[Array, ""], network: int
) -> DMDContext:
    """The context of the update of :data:`STUDENT` or :data:`CRITIC` at a step."""
    scheduler = config.model.scheduler
    T, H, W, _ = batch.target.shape[1:]
    tokens = stage_tokens((T, H, W), scheduler.stages, config.model.transformer.patch_size)
    levels = score_levels(scheduler, tokens[-1])
    draws = draw_dmd(config, batch, network, levels.shift, step)

    def show(corruption):
        return show_history(batch, draws.task, corruption, config)

    saturated = jnp.ones_like(draws.corruption.saturation)
    return DMDContext(
        config,
        frozen,
        batch,
        draws,
        history=show(draws.corruption),
        score_history=show(draws.corruption._replace(saturation=saturated)),
        steps=step_tables(scheduler, config.model.sample.steps, tokens),
        sigma=jnp.asarray(levels.sigma, jnp.float32)[draws.timestep],
        adversarial=step >= config.distillation.adversarial.start,
    )


def _column(values: Float[Array, "B"]) -> Float[Array, "B 1 1 1 1"]:
    return values[:, None, None, None, None]

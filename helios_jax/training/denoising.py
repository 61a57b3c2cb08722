"""The loss of the transformer: the velocity at noisy points, after a history and under a text."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.data.batches import TrainBatch
from helios_jax.diffusion.corruption import CorruptionDraws, TaskDraws
from helios_jax.diffusion.history import frame_indices
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training.config import TrainConfig
from helios_jax.training.history import draw_history, sample_key, show_history
from helios_jax.training.step import Loss
from helios_jax.training.targets import DenoisingTarget, FlowDraws, draw_flow
from helios_jax.types import Array, Bool, Float, History, Int, Params

VelocityFn = Callable[..., Any]
"""``(noisy, timesteps) -> velocity``, of one set of parameters and one conditioning; with
``hooks``, ``(velocity, tokens after these blocks)``.
"""


class Conditioning(NamedTuple):
    """What the network sees beside noisy latents.

    Attributes:
      history: the frames before.
      text: features of the prompts, zero past the last token of each.
      length: tokens of each prompt.
    """

    history: History
    text: Float[Array, "B S E"]
    length: Int[Array, "B"]


class DenoisingBatch(NamedTuple):
    """Targets of one resolution or several, and the conditioning that they share."""

    targets: list[DenoisingTarget]
    conditioning: Conditioning


MakeTargets = Callable[[Any, TrainConfig], DenoisingBatch]
"""``(batch, config) -> targets``, of one objective."""

SampleTargets = Callable[[Float[Array, "T H W C"], FlowDraws, TrainConfig], list[DenoisingTarget]]
"""``(latents, draws, config) -> targets`` of one sample, without a batch axis."""


class DenoisingDraws(NamedTuple):
    """All that is random about a sample.

    Attributes:
      task, corruption: of its history.
      flow: noise and noise levels.
      text: whether it keeps its caption.
    """

    task: TaskDraws
    corruption: CorruptionDraws
    flow: FlowDraws
    text: Bool[Array, ""]


def draw_denoising(config: TrainConfig, batch: TrainBatch, items: int) -> DenoisingDraws:
    """The draws of every sample of a batch; each follows from the seed, the epoch and the record.

    Args:
      config: of the run.
      batch: whose samples they are.
      items: targets of a sample.
    """
    shape = batch.target.shape[1:]

    def draw(sample):
        keys = jax.random.split(sample_key(config.seed, sample), 4)
        task_key, corruption_key, flow_key, text_key = keys
        task, corruption = draw_history(task_key, corruption_key, config, shape)
        return DenoisingDraws(
            task,
            corruption,
            draw_flow(flow_key, config.timesteps, shape, items),
            jax.random.uniform(text_key) >= config.caption_dropout,
        )

    return jax.vmap(draw)(batch.sample)


def denoising_batch(
    batch: TrainBatch, draws: DenoisingDraws, config: TrainConfig, sample_targets: SampleTargets
) -> DenoisingBatch:
    """The targets and the conditioning of a batch, from its draws.

    Args:
      batch: latents, histories and texts.
      draws: of every sample.
      config: of the run.
      sample_targets: the objective's targets of one sample.
    """

    def make(latents, flow):
        return sample_targets(latents, flow, config)

    targets = jax.vmap(make)(batch.target, draws.flow)
    history = show_history(batch, draws.task, draws.corruption, config)
    nothing = jnp.zeros((), batch.text.dtype)
    text = jnp.where(draws.text[:, None, None], batch.text, nothing)
    length = jnp.where(draws.text, batch.length, 0)
    return DenoisingBatch(targets, Conditioning(history, text, length))


def velocity_fn(
    params: Params,
    conditioning: Conditioning,
    model: HeliosTransformer,
    config: TrainConfig,
    frames: int,
) -> VelocityFn:
    """The network as a function of noisy latents at any noise level and resolution.

    The history and the text are embedded once.

    Args:
      params: all parameters of the network.
      conditioning: of every sample.
      model: the network.
      config: of the run.
      frames: T, noisy frames.
    """
    apply = functools.partial(model.apply, {"params": params})
    noisy_frames = tuple(range(frames))
    history = None
    if config.history:
        indices = frame_indices(config.model.sample.history_sizes, frames)
        noisy_frames = indices.noisy
        history = apply(conditioning.history, indices, method="embed_history")
    text = apply(
        conditioning.text,
        conditioning.length,
        config.model.text_encoder.max_sequence_length,
        method="embed_text",
    )

    def velocity(noisy, timestep, hooks=None):
        time = apply(timestep, method="embed_time")
        return apply(noisy, time, text, history, noisy_frames, hooks, method="denoise")

    return velocity


def denoising_losses(
    params: Params, batch: DenoisingBatch, model: HeliosTransformer, config: TrainConfig
) -> Float[Array, "items"]:
    """``mean_b weight_b mean (v(noisy) - velocity)^2`` of each target, in float32.

    Args:
      params: all parameters of the network.
      batch: targets and conditioning.
      model: the network.
      config: of the run.
    """
    frames = batch.targets[0].noisy.shape[1]
    velocity = velocity_fn(params, batch.conditioning, model, config, frames)

    def loss(target):
        error = velocity(target.noisy, target.timestep).astype(jnp.float32) - target.velocity
        return jnp.mean(target.weight * jnp.mean(error**2, axis=(1, 2, 3, 4)))

    return jnp.stack([loss(target) for target in batch.targets])


def make_denoising_loss(
    make_targets: MakeTargets, config: TrainConfig, model: HeliosTransformer | None = None
) -> Loss:
    """``(trainable, frozen, batch) -> losses`` of the transformer, one for each target.

    Args:
      make_targets: of the objective.
      config: of the run.
      model: the network; by default the run's transformer.
    """
    network = model or HeliosTransformer(config.model.transformer, jnp.dtype(config.dtype))

    def loss(trainable: Params, frozen: Params, batch: Any) -> Float[Array, "items"]:
        params = combine(frozen, trainable)
        return denoising_losses(params, make_targets(batch, config), network, config)

    return loss

"""One training step: draw, ask the network, compare, update. A pure function of the state, the
frozen weights and a batch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from helios_jax.data.batches import TrainBatch
from helios_jax.data.loading import Batch
from helios_jax.diffusion.corruption import (
    CorruptionDraws,
    TaskDraws,
    apply_corruption,
    apply_task,
    draw_corruption,
    draw_task,
    segments,
)
from helios_jax.diffusion.history import HistoryState, frame_indices, split_history
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training import ema
from helios_jax.training.config import TrainConfig
from helios_jax.training.optimizer import make_optimizer
from helios_jax.training.targets import FlowDraws, FlowItem, draw_flow, flow_items, pyramid_items
from helios_jax.training.trainable import init_trainable
from helios_jax.types import Array, Bool, Float, History, Int, Params, PRNGKeyArray

Network = Callable[..., Any]
"""``(latents, timesteps) -> velocity``, of one set of parameters, one history and one text; with
``hooks``, ``(velocity, tokens after them)``.
"""

Loss = Callable[[Params, Params, Batch], Float[Array, "items"]]
"""``(trainable, base, batch) -> losses``, of one objective."""


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      step: steps taken, skipped ones included.
      trainable: what trains, float32.
      optimizer: optax's state.
      ema: moving average of ``trainable``; None where there is none.
      skipped: steps without effect, because loss or gradient was not finite: in all, and in a row.
    """

    step: Int[Array, ""]
    trainable: Params
    optimizer: Any
    ema: Params | None
    skipped: Int[Array, "2"]


Step = Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, Array]]]
"""``(state, base, batch) -> (state, metrics)``, to be jitted with the state donated."""


class Draws(NamedTuple):
    """All that is random about a sample."""

    task: TaskDraws
    corruption: CorruptionDraws
    flow: FlowDraws
    text: Bool[Array, ""]


class Questions(NamedTuple):
    """A batch as the network sees it: items of one resolution or several, and the history they
    share.
    """

    items: list[FlowItem]
    history: History
    text: Float[Array, "B S E"]
    length: Int[Array, "B"]


def draw_sample(key: PRNGKeyArray, config: TrainConfig, shape: tuple[int, int, int, int]) -> Draws:
    """All draws of one sample whose latents have ``shape`` (T, H, W, C)."""
    sizes, chunk = config.model.sample.history_sizes, shape[0]
    task, corruption, flow, text = jax.random.split(key, 4)
    return Draws(
        draw_task(task, config.task, sum(sizes), chunk),
        draw_corruption(
            corruption,
            config.corruption,
            segments(config.corruption.segments, sizes, chunk),
            shape[1:],
        ),
        draw_flow(flow, config.timesteps, shape, config.items),
        jax.random.uniform(text) >= config.caption_dropout,
    )


def draw_batch(seed: int, config: TrainConfig, batch: TrainBatch) -> Draws:
    """The draws of every sample of a batch: each depends on the seed, the epoch and the record, on
    nothing it shares a batch with.
    """

    def draw(sample):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample[0]), sample[1])
        return draw_sample(key, config, batch.target.shape[1:])

    return jax.vmap(draw)(batch.sample)


def prepare(batch: TrainBatch, draws: Draws, config: TrainConfig) -> Questions:
    """The questions of a batch, from its draws."""
    sizes, chunk, scheduler = (
        config.model.sample.history_sizes,
        batch.target.shape[1],
        config.model.scheduler,
    )
    parts = segments(config.corruption.segments, sizes, chunk)
    T, H, W, _ = batch.target.shape[1:]
    _, ph, pw = config.model.transformer.patch_size

    def one(target, history, anchor, draws):
        history, anchor = apply_task(history, anchor, draws.task, chunk)
        history, anchor = apply_corruption(
            history, anchor, draws.corruption, config.corruption, parts
        )
        if config.objective == "flow":
            items = flow_items(
                target, draws.flow, scheduler, config.timesteps, T * (H // ph) * (W // pw)
            )
        else:
            items = pyramid_items(
                target, draws.flow, scheduler, config.timesteps, config.pyramid_items
            )
        return items, history, anchor

    items, history, anchor = jax.vmap(one)(batch.target, batch.history, batch.anchor, draws)
    text = jnp.where(draws.text[:, None, None], batch.text, jnp.zeros((), batch.text.dtype))
    window = split_history(HistoryState(history, anchor, jnp.ones((), bool)), sizes)
    return Questions(items, window, text, jnp.where(draws.text, batch.length, 0))


def network(
    params: Params, questions: Questions, model: HeliosTransformer, config: TrainConfig, frames: int
) -> Network:
    """The velocity of ``frames`` noisy frames at any noise level and resolution, after the history
    and under the text of ``questions``.
    """
    apply, noisy, history = (
        functools.partial(model.apply, {"params": params}),
        tuple(range(frames)),
        None,
    )
    if config.history:
        indices = frame_indices(config.model.sample.history_sizes, frames)
        noisy, history = indices.noisy, apply(questions.history, indices, method="embed_history")
    text = apply(
        questions.text,
        questions.length,
        config.model.text_encoder.max_sequence_length,
        method="embed_text",
    )

    def ask(latents, timestep, hooks=None):
        return apply(
            latents,
            apply(timestep, method="embed_time"),
            text,
            history,
            noisy,
            hooks,
            method="denoise",
        )

    return ask


def losses(
    params: Params, questions: Questions, model: HeliosTransformer, config: TrainConfig
) -> Float[Array, "items"]:
    """Mean squared error of the velocity, weighted, for each item: over all elements, then over the
    batch; float32.
    """
    velocity = network(params, questions, model, config, questions.items[0].latents.shape[1])

    def loss(item):
        error = velocity(item.latents, item.timestep).astype(jnp.float32) - item.velocity
        return jnp.mean(item.weight * jnp.mean(error**2, axis=(1, 2, 3, 4)))

    return jnp.stack([loss(item) for item in questions.items])


def make_loss(model: HeliosTransformer, config: TrainConfig) -> Loss:
    """``(trainable, base, batch) -> losses`` of the transformer."""

    def loss(trainable, base, batch):
        questions = prepare(batch, draw_batch(config.seed, config, batch), config)
        return losses(combine(base, trainable), questions, model, config)

    return loss


def start_state(config: TrainConfig, params: Params) -> TrainState:
    """The state before the first step of a run that starts from ``params``; pure, may be traced."""
    trainable = init_trainable(params, config.trainable, jax.random.key(config.seed))
    average = jax.tree.map(jnp.copy, trainable) if config.ema.decay else None
    optimizer = make_optimizer(config.optimizer).init(trainable)
    return TrainState(
        jnp.zeros((), jnp.int32), trainable, optimizer, average, jnp.zeros(2, jnp.int32)
    )


def gradient_norm(gradient: Params) -> Float[Array, ""]:
    """The length of a gradient, all leaves taken as one vector."""
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))


def descend(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    trainable: Params,
    state: optax.OptState,
    finite: Bool[Array, ""],
) -> tuple[Params, optax.OptState]:
    """What trains, and the optimiser's state, after a step; both as they were where the gradient is
    not ``finite``.
    """
    updates, after = optimizer.update(gradient, state, trainable)
    moved = optax.apply_updates(trainable, updates)
    return jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (moved, after), (trainable, state)
    )


def make_step(loss: Loss, config: TrainConfig) -> Step:
    """A step down the gradient of a loss.

    A step whose loss or gradient is not finite changes nothing but the counts.
    """
    optimizer = make_optimizer(config.optimizer)

    def value_and_grad(trainable, base, batch):
        # All items at once: one after another they would need as much memory, for a second
        # gradient, as they would save.
        def mean(trainable):
            each = loss(trainable, base, batch)
            return each.mean(), each

        (_, each), gradient = jax.value_and_grad(mean, has_aux=True)(trainable)
        return each, gradient

    def step(state, base, batch):
        if config.accumulate == 1:
            each, gradient = value_and_grad(state.trainable, base, batch)
        else:
            # Part a takes samples a, a + accumulate, ...: each device cuts what it holds.
            parts = jax.tree.map(
                lambda x: jnp.swapaxes(x.reshape(-1, config.accumulate, *x.shape[1:]), 0, 1), batch
            )
            zeros = (jnp.zeros(config.items), jax.tree.map(jnp.zeros_like, state.trainable))
            add = lambda total, part: (
                jax.tree.map(jnp.add, total, value_and_grad(state.trainable, base, part)),
                None,
            )
            total, _ = jax.lax.scan(add, zeros, parts)
            each, gradient = jax.tree.map(lambda x: x / config.accumulate, total)

        norm = gradient_norm(gradient)
        finite = jnp.isfinite(norm) & jnp.all(jnp.isfinite(each))
        trainable, after = descend(optimizer, gradient, state.trainable, state.optimizer, finite)
        average = state.ema
        if average is not None:
            done = state.step + 1 - state.skipped[0]
            moved = ema.update(
                average, trainable, ema.decay(done, config.ema.start, config.ema.decay)
            )
            average = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, average)
        skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
        metrics = {
            "loss": each.mean(),
            "gradient_norm": norm,
            "skipped": skipped[0],
            "skipped_in_a_row": skipped[1],
        }
        if config.items > 1:
            metrics |= {f"loss_{item}": value for item, value in enumerate(each)}
        return TrainState(state.step + 1, trainable, after, average, skipped), metrics

    return step

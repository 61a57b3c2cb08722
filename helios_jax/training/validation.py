"""The loss on validation data, always with the same draws; and with captions or histories of other
samples, to see that both are used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from helios_jax.data.batches import TrainBatch
from helios_jax.training.config import TrainConfig
from helios_jax.training.step import Loss
from helios_jax.types import Array, Params

Validate = Callable[[Params, Params, Sequence[TrainBatch]], dict[str, Any]]
"""``(trainable, frozen, batches) -> metrics``."""


def validate_loss(make_loss: Callable[[TrainConfig], Loss]) -> Callable[..., Validate]:
    """``(config, sharding) -> validate`` of an objective with this loss."""

    def make(config: TrainConfig, sharding: jax.sharding.Sharding | None = None) -> Validate:
        return make_validation(make_loss(config), config, sharding)

    return make


def make_validation(
    loss: Loss, config: TrainConfig, sharding: jax.sharding.Sharding | None = None
) -> Validate:
    """``(trainable, frozen, batches) -> metrics``: the mean losses over all batches.

    ``validation_loss`` and, where there are several, that of each item;
    ``validation_loss_other_captions`` and ``validation_loss_other_histories``, where every sample
    is given those of a sample of the next batch (of the same batch, where there is one only).

    Args:
      loss: of the objective.
      config: of the run.
      sharding: where the metrics lie.
    """
    loss = jax.jit(loss, out_shardings=sharding)

    def validate(
        trainable: Params, frozen: Params, batches: Sequence[TrainBatch]
    ) -> dict[str, Any]:
        totals: dict[str, list[Array]] = {"": [], "_other_captions": []}
        if config.history:
            totals["_other_histories"] = []
        for batch, other in zip(batches, [*batches[1:], batches[0]]):
            if other is batch:
                other = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)
            versions = (
                batch,
                batch._replace(text=other.text, length=other.length),
                batch._replace(history=other.history, anchor=other.anchor),
            )
            for total, version in zip(totals.values(), versions):
                total.append(loss(trainable, frozen, version))
        means = {name: jnp.stack(total).mean(0) for name, total in totals.items()}
        metrics = {f"validation_loss{name}": mean.mean() for name, mean in means.items()}
        if means[""].size > 1:
            metrics |= {f"validation_loss_{item}": loss for item, loss in enumerate(means[""])}
        return metrics

    return validate

"""The loss on data that is not trained on, always with the same draws; and with captions or
histories of others, to see that both are used.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from helios_jax.data.batches import TrainBatch
from helios_jax.training.config import TrainConfig
from helios_jax.training.step import Loss
from helios_jax.types import Array, Params


def make_validation(
    loss: Loss, config: TrainConfig, sharding: jax.sharding.Sharding | None = None
) -> Callable[[Params, Params, Sequence[TrainBatch]], dict[str, float | Array]]:
    """``(trainable, base, batches) -> metrics``: the mean losses over all batches.

    ``validation_loss`` and, for a pyramid, that of each item; ``validation_loss_other_captions``
    and ``validation_loss_other_histories``, where every sample is given those of a sample of the
    next batch (of the same batch, where there is one only). ``sharding`` is where the numbers go.
    """
    loss = jax.jit(loss, out_shardings=sharding)

    def validate(trainable, base, batches):
        totals = {"": [], "_other_captions": []} | (
            {"_other_histories": []} if config.history else {}
        )
        for batch, other in zip(batches, [*batches[1:], batches[0]]):
            if other is batch:
                other = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)
            versions = (
                batch,
                batch._replace(text=other.text, length=other.length),
                batch._replace(history=other.history, anchor=other.anchor),
            )
            for total, version in zip(totals.values(), versions):
                total.append(loss(trainable, base, version))
        means = {name: jnp.stack(total).mean(0) for name, total in totals.items()}
        found = {f"validation_loss{name}": mean.mean() for name, mean in means.items()}
        if config.items > 1:
            found |= {f"validation_loss_{item}": value for item, value in enumerate(means[""])}
        return found

    return validate

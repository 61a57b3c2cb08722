"""Training the text encoder: its features must tell, to a small reader that is thrown away
afterwards, all that a caption says.

One question for each colour, and one for the scene, attends to the features of the caption's
tokens; what it gathers is read by one linear map. The loss is the mean cross-entropy of the
answers. A colour's object has to be told from the others', so features bind what belongs together.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.models.lora import combine
from helios_jax.models.umt5 import UMT5Encoder, relative_position_buckets
from helios_jax.training.config import TrainConfig
from helios_jax.training.step import Loss
from helios_jax.types import Array, Bool, Float, Int, Params
from helios_jax.world.readings import OBJECT_QUESTIONS, SCENE_QUESTIONS, ReadingBatch
from helios_jax.world.scenes import COLORS

READER = "reader"
"""Its place beside the encoder's parameters while it trains."""


class Reader(nn.Module):
    """Features of a caption to logits of every answer: ``[B, colors, sum(OBJECT_QUESTIONS)]`` and ``[B,
    sum(SCENE_QUESTIONS)]``.
    """

    heads: int = 4

    @nn.compact
    def __call__(
        self, features: Float[Array, "B S E"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B colors logits"], Float[Array, "B scene_logits"]]:
        E = features.shape[-1]
        shape = (len(COLORS) + 1, self.heads, E // self.heads)
        query = self.param("query", nn.initializers.normal(shape[-1] ** -0.5), shape)
        key, value = (
            nn.DenseGeneral(shape[1:], use_bias=False, name=name)(features)
            for name in ("key", "value")
        )
        logits = jnp.where(mask[:, None, None], jnp.einsum("qkd,bskd->bkqs", query, key), -1e30)
        gathered = jnp.einsum("bkqs,bskd->bqkd", jax.nn.softmax(logits), value).reshape(
            -1, shape[0], E
        )
        of_colors = nn.Dense(sum(OBJECT_QUESTIONS.values()), name="of_colors")(gathered[:, :-1])
        return of_colors, nn.Dense(sum(SCENE_QUESTIONS.values()), name="of_scene")(gathered[:, -1])


def init_reader(config: TrainConfig) -> Params:
    """The reader's parameters at the beginning of a run, float32."""
    features = jnp.zeros((1, 1, config.model.text_encoder.d_model))
    params = Reader().init(jax.random.key(config.seed), features, jnp.ones((1, 1), bool))["params"]
    return {READER: params}


def begin(params: Params) -> Params:
    """Random parameters as a text encoder learns from soonest: attention that is soft, and near.

    Its logits have no scale but that of their parameters (Raffel et al. 2020), so queries begin
    small. Each head looks to one side, by turns, and half as far as the pair of heads after it: a
    word's attributes stand beside it.
    """
    attention = params["blocks"]["attention"]
    kernel, table = attention["qkv"]["kernel"], attention["relative_attention_bias"]["embedding"]
    buckets, heads = table.shape[1:]
    reach = 4 * buckets
    offsets, found = (
        np.arange(-reach, reach + 1),
        relative_position_buckets(2 * reach + 1, buckets, reach)[reach],
    )
    offset = np.array(
        [
            offsets[found == bucket].mean() if np.any(found == bucket) else reach
            for bucket in range(buckets)
        ]
    )
    head = np.arange(heads)
    away = offset[:, None] * (-1.0) ** head < 0
    near = -np.abs(offset)[:, None] * 2.0 ** -(head // 2) - 2.0 * away
    attention = attention | {
        "qkv": {"kernel": kernel.at[:, :, 0].multiply(kernel.shape[-1] ** -0.5)},
        "relative_attention_bias": {
            "embedding": jnp.broadcast_to(jnp.asarray(near, table.dtype), table.shape)
        },
    }
    return params | {"blocks": params["blocks"] | {"attention": attention}}


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, base, batch) -> losses``."""
    read = _reading(config)

    def loss(trainable, base, batch):
        entropies, asked, _ = read(combine(base, trainable), batch)
        return jnp.mean(entropies, where=asked)[None]

    return loss


def make_validation(
    config: TrainConfig, sharding: jax.sharding.Sharding | None = None
) -> Callable[[Params, Params, Sequence[ReadingBatch]], dict[str, float]]:
    """``(trainable, base, batches) -> metrics``: the share of right answers to every question."""
    read = _reading(config)

    def look(trainable, base, batch):
        _, asked, right = read(combine(base, trainable), batch)
        return jnp.sum(right & asked, axis=0), jnp.sum(asked, axis=0)

    look = jax.jit(look, out_shardings=sharding)
    of_colors, scene = (
        len(COLORS) * len(OBJECT_QUESTIONS),
        ("pattern", "camera", *["behind"] * (len(SCENE_QUESTIONS) - 2)),
    )

    def validate(trainable, base, batches):
        right, asked = np.sum(
            [jax.device_get(look(trainable, base, batch)) for batch in batches], axis=0
        )
        names = np.asarray([*OBJECT_QUESTIONS] * len(COLORS) + [*scene])
        assert len(names) == len(right) > of_colors
        return {
            f"validation_{name}": float(right[names == name].sum() / asked[names == name].sum())
            for name in dict.fromkeys(names)
        }

    return validate


def _reading(config: TrainConfig) -> Callable[[Params, ReadingBatch], tuple[Array, Array, Array]]:
    """Cross-entropy of each answer, whether it was asked for, and whether it is right: ``[B,
    questions]``, colour by colour, then of the scene.
    """
    encoder, reader = UMT5Encoder(config.model.text_encoder, jnp.dtype(config.dtype)), Reader()

    def read(params, batch):
        mask = jnp.arange(batch.ids.shape[1])[None] < batch.length[:, None]
        features = encoder.apply(
            {"params": {name: leaf for name, leaf in params.items() if name != READER}},
            batch.ids,
            mask,
        )
        of_colors, of_scene = reader.apply(
            {"params": params[READER]}, features.astype(jnp.float32), mask
        )
        found = [
            _score(of_colors, batch.objects, OBJECT_QUESTIONS),
            _score(of_scene, batch.scene, SCENE_QUESTIONS),
        ]
        return tuple(
            jnp.concatenate([part.reshape(len(mask), -1) for part in parts], axis=1)
            for parts in zip(*found)
        )

    return read


def _score(
    logits: Float[Array, "*B logits"], answers: Int[Array, "*B questions"], sizes: dict[str, int]
) -> tuple[Array, Array, Array]:
    """Cross-entropy, whether it was asked, whether it is right; each ``[*B, questions]``."""
    parts = jnp.split(logits, np.cumsum(list(sizes.values()))[:-1], axis=-1)
    entropies, right = [], []
    for i, part in enumerate(parts):
        answer = jnp.maximum(answers[..., i], 0)
        entropies.append(
            -jnp.take_along_axis(jax.nn.log_softmax(part), answer[..., None], axis=-1)[..., 0]
        )
        right.append(part.argmax(-1) == answer)
    return jnp.stack(entropies, axis=-1), answers >= 0, jnp.stack(right, axis=-1)

"""The text encoder's training: its features must tell a small reader, which is thrown away
afterwards, all that a caption says.

One query for each colour, and one for the scene, attends to the features of the caption's tokens;
what it gathers is read by one linear map. The loss is the mean cross-entropy of the answers. A
colour's object has to be told from the others', so features bind what belongs together.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.data.loading import Batches, LoaderOptions
from helios_jax.models.lora import combine
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.models.umt5 import UMT5Encoder, relative_position_buckets
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import StepCost
from helios_jax.training.objective import Objective, Split, refuse_transformer_settings
from helios_jax.training.step import Loss, descend_on
from helios_jax.types import Array, Bool, Float, Int, Params
from helios_jax.world.readings import (
    OBJECT_QUESTIONS,
    SCENE_QUESTIONS,
    ReadingBatch,
    load_readings,
    world_tokenizer,
)
from helios_jax.world.scenes import COLORS

READER = "reader"
"""Name of the reader's parameters beside the encoder's."""


class Reader(nn.Module):
    """Features of a caption to logits of every answer: ``[B, colors, sum(OBJECT_QUESTIONS)]`` and
    ``[B, sum(SCENE_QUESTIONS)]``.
    """

    heads: int = 4

    @nn.compact
    def __call__(
        self, features: Float[Array, "B S E"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B colors logits"], Float[Array, "B scene_logits"]]:
        E = features.shape[-1]
        shape = (len(COLORS) + 1, self.heads, E // self.heads)
        query = self.param("query", nn.initializers.normal(shape[-1] ** -0.5), shape)
        key = nn.DenseGeneral(shape[1:], use_bias=False, name="key")(features)
        value = nn.DenseGeneral(shape[1:], use_bias=False, name="value")(features)
        logits = jnp.where(mask[:, None, None], jnp.einsum("qkd,bskd->bkqs", query, key), -1e30)
        gathered = jnp.einsum("bkqs,bskd->bqkd", jax.nn.softmax(logits), value)
        gathered = gathered.reshape(-1, shape[0], E)
        of_colors = nn.Dense(sum(OBJECT_QUESTIONS.values()), name="of_colors")(gathered[:, :-1])
        of_scene = nn.Dense(sum(SCENE_QUESTIONS.values()), name="of_scene")(gathered[:, -1])
        return of_colors, of_scene


def extra_params(config: TrainConfig) -> Params:
    """The reader's parameters at the beginning of a run, float32."""
    features = jnp.zeros((1, 1, config.model.text_encoder.d_model))
    params = Reader().init(jax.random.key(config.seed), features, jnp.ones((1, 1), bool))["params"]
    return {READER: params}


def init_params(params: Params) -> Params:
    """Random parameters from which a text encoder learns soonest: attention that is soft, and near.

    Its logits have no scale but that of their parameters (Raffel et al. 2020), so queries begin
    small. Each head attends to one side, by turns, and half as far as the pair of heads after it: a
    word's attributes stand beside it.
    """
    attention = params["blocks"]["attention"]
    kernel = attention["qkv"]["kernel"]
    table = attention["relative_attention_bias"]["embedding"]
    _, buckets, heads = table.shape
    offset = _bucket_offsets(buckets)
    head = np.arange(heads)
    other_side = offset[:, None] * (-1.0) ** head < 0
    near = -np.abs(offset)[:, None] * 2.0 ** -(head // 2) - 2.0 * other_side
    bias = jnp.broadcast_to(jnp.asarray(near, table.dtype), table.shape)
    attention = attention | {
        "qkv": {"kernel": kernel.at[:, :, 0].multiply(kernel.shape[-1] ** -0.5)},
        "relative_attention_bias": {"embedding": bias},
    }
    return {**params, "blocks": {**params["blocks"], "attention": attention}}


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, frozen, batch) -> losses``."""
    score = _make_score(config)

    def loss(trainable: Params, frozen: Params, batch: ReadingBatch) -> Float[Array, "1"]:
        scores = score(combine(frozen, trainable), batch)
        return jnp.mean(scores.entropy, where=scores.asked)[None]

    return loss


def make_validation(
    config: TrainConfig, sharding: jax.sharding.Sharding | None = None
) -> Callable[[Params, Params, Sequence[ReadingBatch]], dict[str, float]]:
    """``(trainable, frozen, batches) -> metrics``: the share of right answers to every question."""
    score = _make_score(config)

    def count(trainable, frozen, batch):
        scores = score(combine(frozen, trainable), batch)
        right = jnp.sum(scores.right & scores.asked, axis=0)
        return right, jnp.sum(scores.asked, axis=0)

    count = jax.jit(count, out_shardings=sharding)
    backgrounds = ["behind"] * (len(SCENE_QUESTIONS) - 2)
    names = np.asarray([*OBJECT_QUESTIONS] * len(COLORS) + ["pattern", "camera", *backgrounds])

    def validate(trainable, frozen, batches):
        counts = [jax.device_get(count(trainable, frozen, batch)) for batch in batches]
        right, asked = np.sum(counts, axis=0)
        assert len(names) == len(right)
        return {
            f"validation_{name}": float(right[names == name].sum() / asked[names == name].sum())
            for name in dict.fromkeys(names)
        }

    return validate


def load(config: TrainConfig, split: Split, options: LoaderOptions) -> Batches[ReadingBatch]:
    """Batches of captions of the procedural world."""
    text = config.model.text_encoder
    return load_readings(
        options,
        vocab_size=text.vocab_size,
        text_rows=config.data.text_rows or text.max_sequence_length,
        seed=config.seed,
        split=split,
    )


def abstract_batch(config: TrainConfig) -> ReadingBatch:
    """Shapes of a batch."""
    B = config.data.batch_size
    S = config.data.text_rows or config.model.text_encoder.max_sequence_length
    shapes = (
        (B, S),
        (B,),
        (B, len(COLORS), len(OBJECT_QUESTIONS)),
        (B, len(SCENE_QUESTIONS)),
        (B, 2),
    )
    array: Any = jax.ShapeDtypeStruct  # stands for an array
    return ReadingBatch(*(array(shape, np.int32) for shape in shapes))


def export_params(config: TrainConfig, params: Params) -> Params:
    """The encoder without the reader."""
    return {name: leaf for name, leaf in params.items() if name != READER}


def tokenizer(config: TrainConfig) -> Tokenizer:
    """That of the world's captions."""
    return world_tokenizer()


def cost(config: TrainConfig, trainable: Params, batch: ReadingBatch) -> StepCost:
    """Tokens of a caption; operations are not counted."""
    return StepCost(batch.ids.shape[1], 0)


class _Scores(NamedTuple):
    """Of every question, colour by colour, then of the scene.

    Attributes:
      entropy: cross-entropy of the answer.
      asked: whether there is an answer.
      right: whether the likeliest answer is right.
    """

    entropy: Float[Array, "*B questions"]
    asked: Bool[Array, "*B questions"]
    right: Bool[Array, "*B questions"]


def _make_score(config: TrainConfig) -> Callable[[Params, ReadingBatch], _Scores]:
    """``(params, batch) -> scores`` of the encoder with its reader."""
    encoder = UMT5Encoder(config.model.text_encoder, jnp.dtype(config.dtype))
    reader = Reader()

    def score(params, batch):
        mask = jnp.arange(batch.ids.shape[1])[None] < batch.length[:, None]
        own = export_params(config, params)
        features: Any = encoder.apply({"params": own}, batch.ids, mask)
        features = features.astype(jnp.float32)
        answers: Any = reader.apply({"params": params[READER]}, features, mask)
        of_colors, of_scene = answers
        colors = _score(of_colors, batch.objects, OBJECT_QUESTIONS)
        scene = _score(of_scene, batch.scene, SCENE_QUESTIONS)

        def join(of_colors, of_scene):
            return jnp.concatenate([of_colors.reshape(len(mask), -1), of_scene], axis=1)

        return jax.tree.map(join, colors, scene)

    return score


def _score(
    logits: Float[Array, "*B logits"], answers: Int[Array, "*B questions"], sizes: dict[str, int]
) -> _Scores:
    """The scores of some questions.

    Args:
      logits: of all their answers.
      answers: the right ones, -1 where there is none.
      sizes: how many answers each question has.
    """
    parts = jnp.split(logits, np.cumsum(list(sizes.values()))[:-1], axis=-1)
    entropies = []
    right = []
    for i, part in enumerate(parts):
        answer = jnp.maximum(answers[..., i], 0)
        likelihood = jnp.take_along_axis(jax.nn.log_softmax(part), answer[..., None], axis=-1)
        entropies.append(-likelihood[..., 0])
        right.append(part.argmax(-1) == answer)
    return _Scores(jnp.stack(entropies, axis=-1), answers >= 0, jnp.stack(right, axis=-1))


def _bucket_offsets(buckets: int) -> Float[np.ndarray, "buckets"]:
    """Mean offset of each bucket of relative positions; far away where nothing falls into it."""
    reach = 4 * buckets
    offsets = np.arange(-reach, reach + 1)
    bucket_of = relative_position_buckets(2 * reach + 1, buckets, reach)[reach]
    means = []
    for bucket in range(buckets):
        inside = offsets[bucket_of == bucket]
        means.append(inside.mean() if len(inside) else reach)
    return np.array(means, np.float64)


OBJECTIVE = Objective(
    component="text_encoder",
    load=load,
    abstract_batch=abstract_batch,
    make_step=descend_on(make_loss),
    make_validation=make_validation,
    cost=cost,
    check=refuse_transformer_settings,
    init_params=init_params,
    extra_params=extra_params,
    export_params=export_params,
    tokenizer=tokenizer,
)

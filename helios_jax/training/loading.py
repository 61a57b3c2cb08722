"""The parameters that a run starts with: those of a checkpoint of the recipe's model, or random."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from helios_jax import checkpoint
from helios_jax.checkpoint.params import abstract_params, dtype_rules, random_params
from helios_jax.config import RUNTIME_FIELDS, differences, to_dict
from helios_jax.models.tokenizer import clean_prompt, toy_tokenizer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.parallel.mesh import tree_shardings
from helios_jax.progress import Progress
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import find_objective
from helios_jax.types import Array, Float, Int, Params, tree_bytes

IGNORED = tuple(f"transformer.{name}" for name in RUNTIME_FIELDS)
"""Fields in which a recipe's model may differ from its checkpoint's."""


def check_model(config: TrainConfig) -> None:
    """Refuse a checkpoint whose model is not the recipe's.

    Raises:
      CheckpointError: naming every field that differs.
    """
    model = to_dict(config.model)
    expected = {part: model[part] for part in ("transformer", "vae", "text_encoder")}
    fields = find_objective(config).scheduler_fields
    scheduler = {name: model["scheduler"][name] for name in fields}
    _check_checkpoint(config.checkpoint, expected | {"scheduler": scheduler})
    _check_checkpoint(config.critic.checkpoint, expected)


def load_start(config: TrainConfig, mesh: jax.sharding.Mesh, verify: bool = True) -> Params:
    """All parameters that a run starts with.

    Args:
      config: of the run.
      mesh: where they lie.
      verify: compare the files of checkpoints with their digests.

    Returns:
      Those of the component that learns; for a student beside them its teacher's, and the features
      of the negative prompt, as ``frozen_params`` of the objective takes them.
    """
    objective = find_objective(config)
    component = load_component(config, config.checkpoint, mesh, verify)
    own = {**component, **objective.extra_params(config)}
    if not objective.student_key:
        return own
    text, length = encode_prompt(config, config.model.sample.negative_prompt, verify)
    return {
        objective.student_key: own,
        "critic": load_component(config, config.critic.checkpoint, mesh, verify),
        "negative": {"text": text, "length": length},
    }


def load_component(
    config: TrainConfig, path: str, mesh: jax.sharding.Mesh, verify: bool = True
) -> Params:
    """The parameters of the component that learns, on the mesh: those of the checkpoint at
    ``path``, or random ones where there is none.
    """
    dtype = jnp.dtype(config.dtype)
    objective = find_objective(config)
    component = objective.component
    if not path:
        random = random_params(config.model, config.seed, dtype, dtype)[component]
        params = objective.init_params(random)
        return jax.device_put(params, tree_shardings(params, mesh, offload_blocks=config.offload))
    shapes = abstract_params(config.model, dtype, dtype)[component]
    shardings = tree_shardings(shapes, mesh, offload_blocks=config.offload)
    places: Any = flatten_dict(shardings, sep="/")
    rule = dtype_rules(dtype, dtype)[component]
    with Progress("loading", total=tree_bytes(shapes), unit="B") as progress:
        return checkpoint.load_params(
            path, component, rule, verify, places.__getitem__, progress.update
        )


def encode_prompt(
    config: TrainConfig, prompt: str, verify: bool = True
) -> tuple[Float[Array, "1 S E"], Int[Array, "1"]]:
    """Features of a prompt and the number of its tokens, by the checkpoint's text encoder, or a
    random one; it is loaded for this and let go again.
    """
    dtype = jnp.dtype(config.dtype)
    text = config.model.text_encoder
    if config.checkpoint:
        rule = dtype_rules(dtype, dtype)["text_encoder"]
        params = checkpoint.load_params(config.checkpoint, "text_encoder", rule, verify)
        tokenizer = checkpoint.load_tokenizer(config.checkpoint, verify)
    else:
        params = random_params(config.model, config.seed, dtype)["text_encoder"]
        tokenizer = toy_tokenizer(text.vocab_size)
    ids, length = tokenizer([clean_prompt(prompt)], text.max_sequence_length)
    return encode_text(UMT5Encoder(text, dtype), params, ids, length)


def _check_checkpoint(path: str, expected: dict[str, dict]) -> None:
    """Refuse a checkpoint that differs from ``expected`` in one of its fields."""
    if not path:
        return
    config = to_dict(checkpoint.load_config(path))
    there = {}
    for section, fields in expected.items():
        there[section] = {name: config[section][name] for name in fields}
    wrong = [
        f"model.{name}: there {theirs}, here {ours}"
        for name, theirs, ours in differences(there, expected, ignore=IGNORED)
    ]
    if wrong:
        raise checkpoint.CheckpointError(f"{path} is not the recipe's model: {'; '.join(wrong)}")

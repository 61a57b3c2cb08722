"""A run as shapes and dtypes: nothing is loaded or allocated."""

import functools

import jax
import jax.numpy as jnp

from helios_jax.checkpoint.params import abstract_params, blocks_in_host_memory
from helios_jax.data.loading import Batch
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import find_objective
from helios_jax.training.step import TrainState
from helios_jax.types import Params


def abstract_run(config: TrainConfig) -> tuple[TrainState, Params, Batch]:
    """State, frozen parameters and batch of a run.

    Raises:
      ConfigError: if the run cannot be, or names parameters that are not there.
    """
    dtype = jnp.dtype(config.dtype)
    objective = find_objective(config)
    component = abstract_params(config.model, dtype, dtype)[objective.component]
    extra = jax.eval_shape(lambda: objective.extra_params(config))
    params = {**component, **extra}
    if objective.student_key:
        negative = _abstract_prompt(config)
        params = {objective.student_key: params, "critic": params, "negative": negative}
    frozen = jax.eval_shape(functools.partial(objective.frozen_params, config), params)
    if config.offload:
        frozen = blocks_in_host_memory(frozen)
    return abstract_state(config, params), frozen, objective.abstract_batch(config)


def abstract_state(config: TrainConfig, params: Params) -> TrainState:
    """The state of a run that starts from ``params``, which may be abstract."""
    return jax.eval_shape(functools.partial(find_objective(config).init_state, config), params)


def _abstract_prompt(config: TrainConfig) -> Params:
    """Features of one prompt."""
    text = config.model.text_encoder
    rows = config.data.text_rows or text.max_sequence_length
    return {
        "text": jax.ShapeDtypeStruct((1, rows, text.d_model), jnp.dtype(config.dtype)),
        "length": jax.ShapeDtypeStruct((1,), jnp.int32),
    }

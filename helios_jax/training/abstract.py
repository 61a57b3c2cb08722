"""The compiled training step, and the bytes it is called with, for memory plans on machines without
a GPU.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from helios_jax.checkpoint.params import abstract_params, blocks_in_host_memory
from helios_jax.config import from_dict
from helios_jax.data.loading import Batch
from helios_jax.memory.report import Program
from helios_jax.training.config import TrainConfig
from helios_jax.training.objectives import OBJECTIVES
from helios_jax.training.step import TrainState
from helios_jax.types import Params


def abstract_run(config: TrainConfig) -> tuple[TrainState, Params, Batch]:
    """State, frozen parameters and batch of a run, as shapes and dtypes."""
    dtype = jnp.dtype(config.dtype)
    objective = OBJECTIVES[config.objective]
    params = abstract_params(config.model, dtype, dtype)[objective.component] | jax.eval_shape(
        lambda: objective.head(config)
    )
    if objective.learner:
        text = config.model.text_encoder
        negative = {
            "text": jax.ShapeDtypeStruct(
                (1, config.data.text_rows or text.max_sequence_length, text.d_model), dtype
            ),
            "length": jax.ShapeDtypeStruct((1,), jnp.int32),
        }
        params = {objective.learner: params, "critic": params, "negative": negative}
    base = jax.eval_shape(functools.partial(objective.base, config), params)
    return (
        abstract_state(config, params),
        blocks_in_host_memory(base) if config.offload else base,
        objective.abstract_batch(config),
    )


def abstract_state(config: TrainConfig, params: Params) -> TrainState:
    """The state of a run that starts from ``params``, which may be abstract."""
    return jax.eval_shape(functools.partial(OBJECTIVES[config.objective].start, config), params)


def step_program(config: TrainConfig) -> Program:
    """The step of a run on one device, jitted as it is when it trains."""
    return Program(
        jax.jit(OBJECTIVES[config.objective].make_step(config), donate_argnums=0),
        abstract_run(config),
    )


def step_program_from_json(config: dict[str, Any]) -> dict[str, Program]:
    """:func:`step_program` with an argument that another process can be sent."""
    return {"training step": step_program(from_dict(TrainConfig, config))}

"""The compiled training step, and the bytes it is called with, for memory plans on machines without a GPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.config import from_dict
from helios_jax.data.pipeline import TrainBatch
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.weights import abstract_params, blocks_in_host_memory
from helios_jax.program_memory import Program
from helios_jax.training.config import TrainConfig
from helios_jax.training.optimizer import make_optimizer
from helios_jax.training.step import TrainState, make_step, start_state
from helios_jax.training.trainable import frozen
from helios_jax.types import Params


def abstract_run(config: TrainConfig) -> tuple[TrainState, Params, TrainBatch]:
    """State, frozen parameters and batch of a run, as shapes and dtypes."""
    dtype = jnp.dtype(config.dtype)
    params = abstract_params(config.model, dtype)["transformer"]
    base = frozen(params, config.trainable)
    return abstract_state(config, params), blocks_in_host_memory(base) if config.offload else base, abstract_batch(config)


def abstract_state(config: TrainConfig, params: Params) -> TrainState:
    """The state of a run that starts from ``params``, which may be abstract."""
    return jax.eval_shape(functools.partial(start_state, config), params)


def abstract_batch(config: TrainConfig) -> TrainBatch:
    """A batch at the size of ``model.sample``."""
    sample, vae, text = config.model.sample, config.model.vae, config.model.text_encoder
    B, T, C = config.data.batch_size, sample.latent_frames_per_chunk, vae.z_dim
    cells = (sample.height // vae.spatial_factor, sample.width // vae.spatial_factor, C)
    array = jax.ShapeDtypeStruct
    return TrainBatch(
        target=array((B, T, *cells), np.float32),
        history=array((B, sum(sample.history_sizes), *cells), np.float32),
        anchor=array((B, 1, *cells), np.float32),
        text=array((B, config.data.text_rows or text.max_sequence_length, text.d_model), jnp.dtype(config.dtype)),
        length=array((B,), np.int32),
        sample=array((B, 2), np.uint32),
    )


def step_program(config: TrainConfig) -> Program:
    """The step of a run on one device, jitted as it is when it trains."""
    model = HeliosTransformer(config.model.transformer, jnp.dtype(config.dtype))
    return Program(jax.jit(make_step(model, config, make_optimizer(config.optimizer)), donate_argnums=0), abstract_run(config))


def step_program_from_json(config: dict[str, Any]) -> dict[str, Program]:
    """:func:`step_program` with an argument that another process can be sent."""
    return {"training step": step_program(from_dict(TrainConfig, config))}

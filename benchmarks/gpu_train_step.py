"""How long a training step of stage 1 takes on one GPU: LoRA 128, two clips, random weights.

  python benchmarks/gpu_train_step.py
  python benchmarks/gpu_train_step.py --size=toy   # small, on any device: does it run?

Rows as those of benchmarks/gpu.py: seconds of a step after one that compiles, and the share of the
chip's peak that the step's own operations are.
"""

import dataclasses
import functools
import json
import runpy
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from helios_jax.config import HeliosConfig, SampleConfig
from helios_jax.fields import from_dict
from helios_jax.memory.training import step_program
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import peak_operations
from helios_jax.training.objectives import find_objective

ROOT = Path(__file__).parents[1]
SIZE = flags.DEFINE_enum("size", "full", ["full", "toy"], "The released model, or the tiny preset.")
STEPS = flags.DEFINE_integer("steps", 3, "Timed steps.", lower_bound=1)
OUT = flags.DEFINE_string(
    "out", str(Path(__file__).parent / "results/gpu_train_step"), "Result file, without .json."
)


def recipe() -> TrainConfig:
    """The recipe of stage 1 at the size that is asked for."""
    read = runpy.run_path(str(ROOT / "configs/train/stage1_init.py"))["get_config"]
    config = from_dict(TrainConfig, read())
    if SIZE.value == "full":
        return config
    read = runpy.run_path(str(ROOT / "configs/tiny.py"))["get_config"]
    tiny = from_dict(HeliosConfig, read())
    blocks = dataclasses.replace(tiny.transformer, num_layers=2)
    model = dataclasses.replace(
        tiny, transformer=blocks, scheduler=config.model.scheduler, sample=small(tiny)
    )
    return dataclasses.replace(config, model=model)


def small(config: HeliosConfig) -> SampleConfig:
    """The least video."""
    return dataclasses.replace(config.sample, height=64, width=64)


def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Small random numbers for what is not whole, else zeros, made on the device."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jax.device_put(np.zeros(leaf.shape, leaf.dtype))
    if SIZE.value == "toy":
        return jax.device_put(np.full(leaf.shape, 0.01, leaf.dtype))  # nothing to compile
    return _normal(leaf.shape, leaf.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _normal(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return (0.02 * jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)).astype(dtype)


def main(_) -> None:
    config = recipe()
    program = step_program(config)
    state, frozen, batch = jax.tree.map(draw, program.args)
    began = time.perf_counter()
    state, metrics = program.function(state, frozen, batch)
    jax.block_until_ready(metrics)
    first = time.perf_counter() - began
    seconds = []
    for _ in range(STEPS.value):
        began = time.perf_counter()
        state, metrics = program.function(state, frozen, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    cost = find_objective(config).cost(config, state.trainable, batch)
    operations = jax.tree.leaves(batch)[0].shape[0] * cost.operations
    peak = peak_operations()
    row = {
        "row": "training step, stage 1, LoRA 128, two clips",
        "median_s": median,
        "first_s": first,
        "samples": len(seconds),
        "mfu": operations / median / peak if peak else None,
    }
    print(json.dumps(row), flush=True)
    Path(f"{OUT.value}.json").write_text(json.dumps({"results": [row]}, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)

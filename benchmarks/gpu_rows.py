"""What the rows of benchmarks/gpu.py have in common: what one is, the size of the model, and random
arrays.
"""

import dataclasses
import functools
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.config import HeliosConfig
from helios_jax.fields import from_dict

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """What is timed.

    Attributes:
      name: its first word is the kind of row.
      make: prepares the row and returns what is timed. That is called once to compile, then a few
        times, and returns seconds: a number, or several whose median is taken.
      amount: unit and amount of its rate: ("GB/s", bytes), ("TFLOP/s", operations) or
        ("frames/s", frames), or None.
      assumed: the field of :class:`helios_jax.cost.chips.Rates` that predicts the rate, or None.
    """

    name: str
    make: Callable[[], Callable[[], float | list[float]]]
    amount: tuple[str, float] | None = None
    assumed: str | None = None


UNITS = {"GB/s": 1e9, "TFLOP/s": 1e12, "frames/s": 1.0}


def queued(
    fn: Callable[..., Any], draw: Callable[[], list[tuple]], calls: int
) -> Callable[[], float]:
    """A function that returns the seconds of a call of ``fn`` when many wait in the queue.

    Starting a call costs nothing then. The inputs that ``draw`` makes take turns.
    """
    inputs = draw()

    def run():
        began = time.perf_counter()
        for call in range(calls):
            out = fn(*inputs[call % len(inputs)])
        jax.block_until_ready(out)
        return (time.perf_counter() - began) / calls

    return run


def random_like(tree: Any, seed: int = 0) -> Any:
    """Arrays of the shapes and dtypes of ``tree``, drawn on the device.

    Norms are one, everything else is normal with standard deviation 0.02.
    """

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def draw(key, shape, dtype):
        return (0.02 * jax.random.normal(key, shape, jnp.bfloat16)).astype(dtype)

    def make(number, path, leaf):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if names and names[-1] in ("scale", "gamma", "history_key_scale"):
            return jnp.ones(leaf.shape, leaf.dtype)
        return draw(jax.random.fold_in(jax.random.key(seed), number), leaf.shape, leaf.dtype)

    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return jax.tree.unflatten(
        structure, [make(number, path, leaf) for number, (path, leaf) in enumerate(leaves)]
    )


def drawn(shapes: tuple, times: int = 1) -> list[tuple]:
    """Random inputs of the shapes of a call, ``times`` over."""
    return [random_like(shapes, seed) for seed in range(times)]


def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


class Size(NamedTuple):
    """A model, its history tokens, and the noisy tokens of each stage."""

    config: HeliosConfig
    is_toy: bool
    history: int
    noisy: tuple[int, ...]
    height: int
    width: int


def read_size(name: str) -> Size:
    """The released model for "full", two blocks of the tiny preset for "toy"."""
    is_toy = name == "toy"
    preset = "tiny" if is_toy else "helios_distilled"
    read = runpy.run_path(str(ROOT / f"configs/{preset}.py"))["get_config"]
    config = from_dict(HeliosConfig, read())
    if is_toy:
        transformer = dataclasses.replace(config.transformer, num_layers=2)
        sample = dataclasses.replace(config.sample, height=64, width=64)
        config = dataclasses.replace(config, transformer=transformer, sample=sample)
    height = config.sample.height
    width = config.sample.width
    cells = (height // 16) * (width // 16)
    long, mid, short = config.sample.history_sizes
    history = cells * (short + 1) + -(-mid // 2) * -(-cells // 4) + -(-long // 4) * -(-cells // 16)
    noisy = tuple(config.sample.latent_frames_per_chunk * cells // 4**stage for stage in (2, 1, 0))
    return Size(config, is_toy, history, noisy, height, width)

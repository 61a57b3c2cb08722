"""What the device reaches in a few seconds: copies, matrix products, attention."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from helios_jax.cost.chips import CHIPS, Chip
from helios_jax.doctor.verdict import Verdict
from helios_jax.kernels.attention import attention

ENOUGH = 0.8
"""The share of an assumed rate below which a line says so."""


def known_chip() -> Chip | None:
    """The chip that computes, where its rates are assumed somewhere."""
    kind = jax.local_devices()[0].device_kind
    return next((chip for chip in CHIPS.values() if chip.name == kind), None)


def measure_rates(scale: float = 1.0) -> Iterator[Verdict]:
    """Bytes and operations a second.

    Args:
      scale: of the sizes; 1 fills a large GPU.
    """
    chip = known_chip()
    rates = chip.rates if chip else None
    small = jax.default_backend() == "cpu"
    elements = int((1 << 22 if small else 1 << 28) * scale)
    side = int((512 if small else 8192) * scale)
    tokens = int((256 if small else 8192) * scale)
    dtype = jnp.float32 if small else jnp.bfloat16
    x = jnp.zeros(elements, dtype)
    seconds = fastest(lambda x: x + jnp.ones((), dtype), x)
    rate = 2 * x.nbytes / seconds
    yield _line("copy", rate / 1e12, "TB/s", rates.copy / 1e12 if rates else None)
    square = jnp.ones((side, side), dtype)
    seconds = fastest(jnp.dot, square, square)
    rate = 2.0 * side**3 / seconds / 1e12
    yield _line("matrix product", rate, "TFLOP/s", rates.matmul / 1e12 if rates else None)
    q = jnp.ones((1, tokens, 8, 128), dtype)
    seconds = fastest(attention, q, q, q)
    rate = 4.0 * tokens**2 * 8 * 128 / seconds / 1e12
    yield _line("attention", rate, "TFLOP/s", rates.attention / 1e12 if rates else None)


def fastest(function: Callable[..., Any], *args: jax.Array, calls: int = 5) -> float:
    """Seconds of a call, the best of three queues of ``calls``."""
    run = jax.jit(function)
    jax.block_until_ready(run(*args))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready([run(*args) for _ in range(calls)])
        found.append((time.perf_counter() - began) / calls)
    return min(found)


def _line(name: str, rate: float, unit: str, assumed: float | None) -> Verdict:
    """A rate, beside what predictions assume of this chip."""
    if assumed is None:
        return Verdict(f"rate: {name}", "note", f"{rate:.3g} {unit}")
    detail = f"{rate:.3g} {unit}; predictions assume {assumed:.3g}"
    return Verdict(f"rate: {name}", "ok" if rate >= ENOUGH * assumed else "note", detail)

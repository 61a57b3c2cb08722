"""Every kernel, and every attention, against its plain version on small shapes, forward and
backward.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from helios_jax.doctor.verdict import Verdict
from helios_jax.kernels import verdicts
from helios_jax.kernels.attention.api import IMPLEMENTATIONS as ATTENTION
from helios_jax.kernels.channel_norm.api import IMPLEMENTATIONS as CHANNEL_NORM
from helios_jax.kernels.dispatch import LAST_RESORT, Implementation, target
from helios_jax.kernels.norm_rope.api import IMPLEMENTATIONS as NORM_ROPE
from helios_jax.kernels.quantize import UnscaledProduct
from helios_jax.kernels.quantize.api import IMPLEMENTATIONS as QUANTIZE
from helios_jax.kernels.residual_norm.api import (
    GATED_RESIDUAL,
    GATED_RESIDUAL_NORM,
    LAYER_NORM,
    MODULATED_LAYER_NORM,
    RMS_NORM,
)
from helios_jax.kernels.residual_norm.fusion import Norm

TOLERANCE = 0.02
"""Largest deviation of a result, and of a gradient, over the largest number of the plain version's:
five roundings to bfloat16.
"""

FLOAT8_TOLERANCE = 0.08
"""The same of results in float8: one step of its largest numbers, 32 of 448."""


class Case(NamedTuple):
    """An operation and its arguments.

    Attributes:
      operation: as messages and verdicts name it.
      implementations: by name, best first.
      arrays: its arguments.
      static: its keywords.
      tolerance: of its check.
    """

    operation: str
    implementations: Mapping[str, Implementation]
    arrays: tuple[Any, ...]
    static: dict[str, Any]
    tolerance: float = TOLERANCE


def cases(tokens: int, heads: int = 8, channels: int = 128) -> list[Case]:
    """Every operation, of bfloat16 tokens of whom a third are history, and of small frames."""
    width = heads * channels
    history = tokens // 3

    def draw(seed: int, *shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape).astype(dtype)

    x = draw(0, 1, tokens, width)
    y = draw(1, 1, tokens, width)
    shift, scale, gate = (draw(seed, 1, 2, width, dtype=jnp.float32) for seed in (2, 3, 4))
    weight = draw(5, width)
    angles = draw(6, tokens, channels // 2, dtype=jnp.float32)
    rope = (jnp.cos(angles), jnp.sin(angles))
    qkv = draw(7, 1, tokens, 3, heads, channels)
    query, key, value = (qkv[:, :, part] for part in range(3))
    text = key[:, : tokens // 2]
    bias = draw(8, 1, tokens // 2, dtype=jnp.float32)
    norm = dict(eps=1e-6)
    segments = dict(history=history)
    both = segments | norm
    token_scale, channel_scale = (
        jnp.abs(draw(seed, *sizes, dtype=jnp.float32))
        for seed, sizes in ((9, (1, tokens)), (10, (width,)))
    )
    product = UnscaledProduct(y, token_scale, channel_scale, weight)
    summed = segments | dict(norm=Norm(eps=1e-6))
    frames, past = (draw(seed, 1, count, 16, 24, 96) for seed, count in ((11, 3), (12, 2)))
    gamma = draw(13, 96)
    causal = dict(silu=True, reach=2, keep=True)
    return [
        Case("attention", ATTENTION, (query, key, value, None), {}),
        Case("attention", ATTENTION, (query, text, value[:, : tokens // 2], bias), {}),
        Case("norm_rope", NORM_ROPE, (qkv, (weight, weight), rope, None), both),
        Case("layer_norm", LAYER_NORM, (x, weight, weight), norm),
        Case("rms_norm", RMS_NORM, (x, weight), norm),
        Case("modulated_layer_norm", MODULATED_LAYER_NORM, (x, shift, scale), both),
        Case("gated_residual", GATED_RESIDUAL, (x, y, gate), segments),
        Case("gated_residual_norm", GATED_RESIDUAL_NORM, (x, y, gate, (scale, shift)), summed),
        Case(
            "gated_residual_norm",
            GATED_RESIDUAL_NORM,
            (x, product, gate, (scale, shift)),
            summed | dict(quantized=True),
            FLOAT8_TOLERANCE,
        ),
        Case("quantize", QUANTIZE, (product,), dict(gelu=True), FLOAT8_TOLERANCE),
        Case("channel_norm", CHANNEL_NORM, (frames, gamma, past), causal),
    ]


def check_kernels(tokens: int, deadline: float) -> Iterator[Verdict]:
    """A verdict for every operation and implementation, which the choice of implementations then
    consults, and the one that would be chosen.

    Args:
      tokens: of the cases.
      deadline: on the monotonic clock, after which no further check begins.
    """
    device = target()
    found: dict[tuple[str, str], Verdict] = {}
    made = cases(tokens)
    for case in made:
        for name, implementation in case.implementations.items():
            if name == LAST_RESORT:
                continue
            before = found.get((case.operation, name))
            if before is None or before.status == "ok":
                verdict = check_case(case, name, implementation, deadline)
                found[case.operation, name] = verdict
                if verdict.status in ("ok", "wrong"):
                    kept = verdicts.OK if verdict.status == "ok" else verdict.detail
                    verdicts.record(device.kind, case.operation, name, kept)
    yield from found.values()
    for operation, case in {case.operation: case for case in reversed(made)}.items():
        yield _choice(operation, case)


def check_case(case: Case, name: str, implementation: Implementation, deadline: float) -> Verdict:
    """One implementation of an operation."""
    device = target()
    check = f"{case.operation}, {name}"
    if reason := implementation.refuses(device, *case.arrays, **case.static):
        return Verdict(check, "not run", reason)
    if time.monotonic() > deadline:
        return Verdict(check, "not run", "there was no time left for it")
    verdicts.record(device.kind, case.operation, name, verdicts.RUNNING)
    try:
        error = deviation(implementation.run, case.implementations[LAST_RESORT].run, case)
    # Whatever a compiler or a driver raises, the other kernels still count.
    except Exception as problem:
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        return Verdict(check, "wrong", text[:200])
    if not error <= case.tolerance:
        return Verdict(check, "wrong", f"off by {error:.2g} of the largest number")
    return Verdict(check, "ok", f"within {error:.1g}, forward and backward")


def deviation(run: Callable[..., Any], plain: Callable[..., Any], case: Case) -> float:
    """The largest deviation of results and gradients from the plain version in float32, relative to
    the largest number of each array; NaN where there is one.
    """

    def cotangent(result: jax.Array) -> jax.Array:
        """Of the same numbers, whatever the result is."""
        numbers = jnp.arange(result.size, dtype=jnp.float32)
        return jnp.cos(numbers).reshape(result.shape).astype(result.dtype)

    def outcome(function: Callable[..., Any], arrays: tuple[Any, ...]) -> Any:
        static = functools.partial(function, **case.static)

        @jax.jit
        def both(arrays):
            results, pullback = jax.vjp(static, *arrays)
            return results, pullback(jax.tree.map(cotangent, results))

        return jax.tree.map(lambda x: x.astype(jnp.float32), both(arrays))

    ours = outcome(run, case.arrays)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), case.arrays)
    theirs = outcome(plain, exact)
    worst = 0.0
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        largest = jnp.maximum(jnp.max(jnp.abs(their)), 1e-6)
        error = float(jnp.max(jnp.abs(our - their)) / largest)
        worst = error if not error <= worst else worst
    return worst


def _choice(operation: str, case: Case) -> Verdict:
    """The implementation that an operation would have here, and why not those before it."""
    device = target()
    reasons = []
    for name, implementation in case.implementations.items():
        reason = implementation.refuses(device, *case.arrays, **case.static)
        if reason is None and name != LAST_RESORT:
            reason = verdicts.against(device.kind, operation, name)
        if reason is None:
            why = f" ({'; '.join(reasons)})" if reasons else ""
            return Verdict(f"{operation} is computed by", "note", f"{name}{why}")
        reasons.append(f"not {name}: {reason}")
    raise AssertionError(f"{operation}: nothing serves everything")

"""The fused kernel for Hopper, in Mosaic GPU: a warpgroup takes a few consecutive tokens of one
segment, whose weights it keeps in shared memory.

Tokens come through the asynchronous copy engine, the next one while this one is reduced. Results
leave the same way, from the place of what they were computed from. Several such warpgroups, each a
program, share a multiprocessor.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from ..quantize.pallas import round_to_float8, scale_of, scale_product
from ..quantize.types import FLOAT8, Quantized, UnscaledProduct
from .fusion import Fusion

TOKENS = 8
"""Tokens a program takes: enough to fetch the weights seldom, and few enough for the programs to
end together.
"""

STAGES = 2
"""Tokens in shared memory, one computed and one on its way."""

LANES = 256
"""Most elements in a dimension of what the copy engine moves."""

CHANNELS = 6144
"""Most channels of a token: two stages of two tokens and three weights, all in float32, fit in
shared memory.
"""


def residual_norm(
    x: Float[Array, "B N D"] | UnscaledProduct,
    y: Float[Array, "B n_y D"] | UnscaledProduct | None,
    gate: Float[Array, "#B #2 D"] | None,
    scale: Float[Array, "#B #2 D"] | None,
    shift: Float[Array, "#B #2 D"] | None,
    fusion: Fusion,
    *,
    interpret=False,
) -> tuple[Float[Array, "B N D"] | None, Float[Array, "B n_normed D"] | Quantized | None]:
    """``added`` and ``normed``, None for what is not asked for; see :mod:`.fusion`."""
    B, N, D = x.shape
    dtype = x.dtype
    unscaled = {}
    for product in (x, y):
        if isinstance(product, UnscaledProduct):
            unscaled = product._asdict()
            del unscaled["sums"]
    x = x.sums if isinstance(x, UnscaledProduct) else x
    y = y.sums if isinstance(y, UnscaledProduct) else y
    history = fusion.history
    norm_from = fusion.norm_from
    tile = (D // math.gcd(D, LANES), math.gcd(D, LANES))
    arrays = _folded(tile, x=x, y=y)
    weights = _folded(tile, gate=gate, scale=scale, shift=shift)
    # These stay in memory, and in the caches near the cores: beside the other weights there is no
    # room for them with two programs on a multiprocessor.
    for name in ("channel_scale", "bias"):
        if unscaled:
            unscaled[name] = unscaled[name].reshape(tile)
    results = {}
    if y is not None:
        results["added"] = jax.ShapeDtypeStruct((B, N, *tile), dtype)
    if fusion.norm:
        tokens = (B, N - norm_from)
        of_norm = FLOAT8 if fusion.quantized else dtype
        results["normed"] = jax.ShapeDtypeStruct((*tokens, *tile), of_norm)
        if fusion.quantized:
            results["normed_scale"] = jax.ShapeDtypeStruct(tokens, jnp.float32)
    add_from = 0 if y is None else N - y.shape[1]
    history_programs = pl.cdiv(history, TOKENS)
    noisy_programs = pl.cdiv(N - history, TOKENS)

    def body(*refs, ready, weights_ready, **smem):
        gmem = dict(zip((*arrays, *weights, *unscaled, *results), refs))
        program = lax.axis_index("program")
        batch = lax.axis_index("batch")
        segment = (program >= history_programs).astype(jnp.int32)
        first = program * TOKENS + segment * (history - history_programs * TOKENS)
        stop = lax.min(first + TOKENS, history + segment * (N - history))
        # Whether this program's tokens, all of one segment, have a `y`, and whether they are
        # normed.
        adds = add_from == 0 or segment == 1
        norms = norm_from == 0 or segment == 1

        def fetch(token, stage):
            plgpu.copy_gmem_to_smem(
                gmem["x"].at[batch, token], smem["x"].at[stage], ready.at[stage]
            )
            if y is not None:

                @pl.when(adds)
                def _():
                    plgpu.copy_gmem_to_smem(
                        gmem["y"].at[batch, token - add_from],
                        smem["y"].at[stage],
                        ready.at[STAGES + stage],
                    )

        def store(name, ref, token):
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(ref, gmem[name].at[batch, token])

        def scaled(sums, token):
            """A token of a product with scales and bias, in float32."""
            if not unscaled:
                return sums
            factor = gmem["token_scale"][batch, token]
            return scale_product(sums, factor, gmem["channel_scale"][...], gmem["bias"][...])

        fetch(first, 0)
        for name, weight in weights.items():
            row = gmem[name].at[
                batch if weight.shape[0] > 1 else 0, segment if weight.shape[1] > 1 else 0
            ]
            plgpu.copy_gmem_to_smem(row, smem[name], weights_ready)
        if weights:
            plgpu.barrier_wait(weights_ready)

        @pl.loop(first, stop)
        def _(token):
            stage = lax.rem(token - first, STAGES)

            @pl.when(token + 1 < stop)
            def _():
                # The results in the other stage are on their way.
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                fetch(token + 1, 1 - stage)

            row = smem["x"].at[stage]
            plgpu.barrier_wait(ready.at[stage])
            if y is not None:

                @pl.when(adds)
                def _():
                    plgpu.barrier_wait(ready.at[STAGES + stage])
                    term = scaled(smem["y"][stage].astype(jnp.float32), token - add_from)
                    if gate is not None:
                        term *= smem["gate"][...].astype(jnp.float32)
                    row[...] = (row[...].astype(jnp.float32) + term).astype(dtype)

                store("added", row, token)
            if fusion.norm:

                @pl.when(norms)
                def _():
                    value = row[...].astype(jnp.float32)
                    if y is None:
                        value = scaled(value, token)
                    if fusion.norm == "layer":
                        value -= jnp.sum(value) / D
                    value *= lax.rsqrt(jnp.sum(value * value) / D + fusion.eps)
                    if scale is not None:
                        value *= smem["scale"][...].astype(jnp.float32)
                    if shift is not None:
                        value += smem["shift"][...].astype(jnp.float32)
                    value = value.astype(dtype)
                    if fusion.quantized:
                        value = value.astype(jnp.float32)
                        factor = scale_of(value)
                        gmem["normed_scale"][batch, token - norm_from] = factor
                        value = round_to_float8(value, factor)
                        result = smem["normed"].at[stage]
                    else:
                        result = smem["x" if y is None else "y"].at[stage]
                    result[...] = value.astype(result.dtype)
                    store("normed", result, token - norm_from)

        plgpu.wait_smem_to_gmem(0)

    scratch = {name: plgpu.SMEM((STAGES, *tile), array.dtype) for name, array in arrays.items()}
    scratch |= {name: plgpu.SMEM(tile, weight.dtype) for name, weight in weights.items()}
    if fusion.quantized:
        scratch["normed"] = plgpu.SMEM((STAGES, *tile), FLOAT8)
    outputs = plgpu.kernel(
        body,
        out_type=list(results.values()),
        grid=(B, history_programs + noisy_programs),
        grid_names=("batch", "program"),
        scratch_types=dict(
            **scratch,
            ready=plgpu.Barrier(num_barriers=2 * STAGES),
            weights_ready=plgpu.Barrier(num_arrivals=max(len(weights), 1)),
        ),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        kernel_name="helios_residual_norm",
        interpret=interpret,
    )(*arrays.values(), *weights.values(), *unscaled.values())
    outputs = dict(zip(results, outputs))
    rows = {
        name: outputs[name].reshape(B, -1, D) for name in ("added", "normed") if name in outputs
    }
    if fusion.quantized:
        return rows.get("added"), Quantized(rows["normed"], outputs["normed_scale"])
    return rows.get("added"), rows.get("normed")


def _folded(tile: tuple[int, int], **arrays: jax.Array | None) -> dict[str, jax.Array]:
    """The arrays that there are, with their channels in two axes, as the copy engine takes them."""
    folded = {}
    for name, array in arrays.items():
        if array is not None:
            folded[name] = array.reshape(*array.shape[:-1], *tile)
    return folded

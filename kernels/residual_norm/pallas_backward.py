"""The backward pass of the fused kernel in Mosaic GPU, made as the forward one of :mod:`.pallas`:
the sums for the weights' gradients stay in shared memory until a program's tokens are done.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from .fusion import Fusion
from .gradient import Arrays, Gradients, segment_sums
from .pallas import LANES, _folded

TOKENS = 32
"""Tokens a program takes: its sums, of which it writes a row for each weight, are then a few per
cent of what it reads and writes.
"""

SHARED_MEMORY = 200_000
"""Bytes of tokens, weights and sums up to which two tokens are in shared memory, one computed and
one on its way; beyond, one.
"""


def residual_norm_backward(
    arrays: Arrays,
    gradients: tuple[Float[Array, "B N D"] | None, Float[Array, "B n_normed D"] | None],
    fusion: Fusion,
    *,
    interpret=False,
) -> Gradients:
    """``d_x``, ``d_y`` where there is a gate, and the sums of each weight; see :mod:`.gradient`.

    Args:
      arrays: of the forward pass.
      gradients: of ``added`` and ``normed``.
      fusion: of the forward pass.
    """
    x, y, gate, scale, shift = arrays
    d_added, d_normed = gradients
    B, N, D = x.shape
    history = fusion.history
    norm_from = fusion.norm_from
    add_from = 0 if y is None else N - y.shape[1]
    tile = (D // math.gcd(D, LANES), math.gcd(D, LANES))
    read = dict(y=y, d_added=d_added, d_normed=d_normed)
    tiled = _folded(tile, x=x if fusion.norm else None, **read)
    weights = _folded(tile, gate=gate, scale=scale)
    summed = dict(gate=gate, scale=scale, shift=shift)
    sums = [f"{name}_sums" for name, weight in summed.items() if weight is not None]
    results = {"d_x": N} if fusion.norm else {}
    if gate is not None:
        results["d_y"] = N - add_from
    size = sum(D * array.dtype.itemsize for array in tiled.values())
    stages = 2 if 2 * size + 4 * D * (len(weights) + len(sums)) <= SHARED_MEMORY else 1
    history_programs = pl.cdiv(history, TOKENS)
    programs = history_programs + pl.cdiv(N - history, TOKENS)
    barrier = {name: number * stages for number, name in enumerate(tiled)}

    def body(*refs, ready, weights_ready, **smem):
        gmem = dict(zip((*tiled, *weights, *results, *sums), refs))
        program = lax.axis_index("program")
        batch = lax.axis_index("batch")
        segment = (program >= history_programs).astype(jnp.int32)
        first = program * TOKENS + segment * (history - history_programs * TOKENS)
        stop = lax.min(first + TOKENS, history + segment * (N - history))
        # Of an array of noisy tokens only, history has nothing: zeros stand for it.
        offset = dict(x=0, d_added=0, y=add_from, d_normed=norm_from)

        def where_it_is(name, run):
            pl.when(jnp.logical_or(offset[name] == 0, segment == 1))(run)

        def fetch(token, stage):
            for name in tiled:

                def copy(name=name):
                    plgpu.copy_gmem_to_smem(
                        gmem[name].at[batch, token - offset[name]],
                        smem[name].at[stage],
                        ready.at[barrier[name] + stage],
                    )

                where_it_is(name, copy)

        def store(name, ref, token):
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(ref, gmem[name].at[batch, token])

        def add(name, value):
            smem[name][...] = smem[name][...] + value

        fetch(first, 0)
        for name, weight in weights.items():
            row = gmem[name].at[
                batch if weight.shape[0] > 1 else 0, segment if weight.shape[1] > 1 else 0
            ]
            plgpu.copy_gmem_to_smem(row, smem[name], weights_ready)
        for name in sums:
            smem[name][...] = jnp.zeros(tile, jnp.float32)
        for name in tiled:

            @pl.when(jnp.logical_and(offset[name] > 0, segment == 0))
            def _(name=name):
                for stage in range(stages):
                    smem[name].at[stage][...] = jnp.zeros(tile, tiled[name].dtype)

        if weights:
            plgpu.barrier_wait(weights_ready)

        @pl.loop(first, stop)
        def _(token):
            stage = lax.rem(token - first, stages)
            if stages > 1:

                @pl.when(token + 1 < stop)
                def _():
                    # The results in the other stage are on their way.
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    fetch(token + 1, 1 - stage)

            for name in tiled:
                where_it_is(
                    name, lambda name=name: plgpu.barrier_wait(ready.at[barrier[name] + stage])
                )

            def load(name):
                return smem[name][stage].astype(jnp.float32)

            def weight(name):
                return smem[name][...].astype(jnp.float32)

            if fusion.norm:
                normed = load("x")
                if y is not None:
                    term = load("y") if gate is None else load("y") * weight("gate")
                    normed = (normed + term).astype(x.dtype).astype(jnp.float32)
                if fusion.norm == "layer":
                    normed -= jnp.sum(normed) / D
                inverse = lax.rsqrt(jnp.sum(normed * normed) / D + fusion.eps)
                normed *= inverse
                gradient = load("d_normed")
                if shift is not None:
                    add("shift_sums", gradient)
                if scale is not None:
                    add("scale_sums", gradient * normed)
                    gradient *= weight("scale")
                along = jnp.sum(gradient * normed) / D
                if fusion.norm == "layer":
                    gradient -= jnp.sum(gradient) / D
                gradient = (gradient - normed * along) * inverse
                if y is not None:
                    gradient += load("d_added")
                result = smem["x"].at[stage]
                result[...] = gradient.astype(x.dtype)
                store("d_x", result, token)
            else:
                gradient = load("d_added")
            if gate is not None:
                add("gate_sums", gradient * load("y"))
                result = smem["y"].at[stage]

                def store_d_y():
                    result[...] = (gradient * weight("gate")).astype(x.dtype)
                    store("d_y", result, token - add_from)

                where_it_is("y", store_d_y)
            if stages == 1:

                @pl.when(token + 1 < stop)
                def _():
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    fetch(token + 1, 0)

        plgpu.commit_smem()
        for name in sums:
            plgpu.copy_smem_to_gmem(smem[name], gmem[name].at[batch, program])
        plgpu.wait_smem_to_gmem(0)

    scratch = {name: plgpu.SMEM((stages, *tile), array.dtype) for name, array in tiled.items()}
    scratch |= {name: plgpu.SMEM(tile, weight.dtype) for name, weight in weights.items()}
    scratch |= {name: plgpu.SMEM(tile, jnp.float32) for name in sums}
    rows = [jax.ShapeDtypeStruct((B, tokens, *tile), x.dtype) for tokens in results.values()]
    outputs = plgpu.kernel(
        body,
        out_type=rows + [jax.ShapeDtypeStruct((B, programs, *tile), jnp.float32)] * len(sums),
        grid=(B, programs),
        grid_names=("batch", "program"),
        scratch_types=dict(
            **scratch,
            ready=plgpu.Barrier(num_barriers=len(tiled) * stages),
            weights_ready=plgpu.Barrier(num_arrivals=max(len(weights), 1)),
        ),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        kernel_name="helios_residual_norm_backward",
        interpret=interpret,
    )(*tiled.values(), *weights.values())
    named = zip((*results, *sums), outputs)
    found = {name: output.reshape(*output.shape[:2], D) for name, output in named}
    by_segment = []
    for name in summed:
        rows = found.get(f"{name}_sums")
        by_segment.append(None if rows is None else segment_sums(rows, history_programs))
    return found.get("d_x", d_added), found.get("d_y"), tuple(by_segment)

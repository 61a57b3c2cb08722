"""The row kernel for Hopper, in Mosaic GPU: a warpgroup takes a few consecutive tokens of one
segment, whose weights it keeps in shared memory.

Rows come through the asynchronous copy engine, the next one while this one is reduced, and leave
the same way from where they lie: a result takes the place of what it was computed from. Several
such warpgroups, each a program, share a multiprocessor.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS = 8
"""Tokens a program takes: enough to fetch the weights seldom, and few enough for the programs to
end together.
"""

SLOTS = 2
"""Rows in shared memory, one computed and one on its way."""

LANES = 256
"""Most elements in a dimension of what the copy engine moves."""

CHANNELS = 6144
"""Most channels of a row: two slots of two rows and three weights, all in float32, fit in shared
memory.
"""


def row_kernel(
    x,
    y=None,
    gate=None,
    scale=None,
    shift=None,
    *,
    history=0,
    eps=0.0,
    norm=None,
    norm_from=0,
    interpret=False,
):
    """``added`` and ``normed``, None for what is not asked for; arguments as in
    :func:`.api.implementations`.
    """
    B, N, D = x.shape
    tile = (D // math.gcd(D, LANES), math.gcd(D, LANES))
    fold = lambda array: array.reshape(*array.shape[:-1], *tile)
    arrays = {name: fold(array) for name, array in dict(x=x, y=y).items() if array is not None}
    weights = {
        name: fold(array)
        for name, array in dict(gate=gate, scale=scale, shift=shift).items()
        if array is not None
    }
    results = {"added": N} if y is not None else {}
    results |= {"normed": N - norm_from} if norm else {}
    add_from = N - y.shape[1] if y is not None else 0
    history_programs, noisy_programs = pl.cdiv(history, ROWS), pl.cdiv(N - history, ROWS)

    def body(*refs, ready, weights_ready, **smem):
        gmem = dict(zip((*arrays, *weights, *results), refs))
        program, batch = lax.axis_index("program"), lax.axis_index("batch")
        segment = (program >= history_programs).astype(jnp.int32)
        first = program * ROWS + segment * (history - history_programs * ROWS)
        stop = lax.min(first + ROWS, history + segment * (N - history))
        # Whether this program's tokens, all of one segment, have a `y`, and whether they are
        # normed.
        adds, norms = (start == 0 or segment == 1 for start in (add_from, norm_from))

        def fetch(token, slot):
            plgpu.copy_gmem_to_smem(gmem["x"].at[batch, token], smem["x"].at[slot], ready.at[slot])
            if y is not None:

                @pl.when(adds)
                def _():
                    plgpu.copy_gmem_to_smem(
                        gmem["y"].at[batch, token - add_from],
                        smem["y"].at[slot],
                        ready.at[SLOTS + slot],
                    )

        def store(name, ref, token):
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(ref, gmem[name].at[batch, token])

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
            slot = lax.rem(token - first, SLOTS)

            @pl.when(token + 1 < stop)
            def _():
                plgpu.wait_smem_to_gmem(
                    0, wait_read_only=True
                )  # the results in the other slot are on their way
                fetch(token + 1, 1 - slot)

            row = smem["x"].at[slot]
            plgpu.barrier_wait(ready.at[slot])
            if y is not None:

                @pl.when(adds)
                def _():
                    plgpu.barrier_wait(ready.at[SLOTS + slot])
                    term = smem["y"][slot].astype(jnp.float32)
                    if gate is not None:
                        term *= smem["gate"][...].astype(jnp.float32)
                    row[...] = (row[...].astype(jnp.float32) + term).astype(x.dtype)

                store("added", row, token)
            if norm:

                @pl.when(norms)
                def _():
                    value = row[...].astype(jnp.float32)
                    if norm == "layer":
                        value -= jnp.sum(value) / D
                    value *= lax.rsqrt(jnp.sum(value * value) / D + eps)
                    if scale is not None:
                        value *= smem["scale"][...].astype(jnp.float32)
                    if shift is not None:
                        value += smem["shift"][...].astype(jnp.float32)
                    result = smem["x" if y is None else "y"].at[slot]
                    result[...] = value.astype(x.dtype)
                    store("normed", result, token - norm_from)

        plgpu.wait_smem_to_gmem(0)

    scratch = {name: plgpu.SMEM((SLOTS, *tile), array.dtype) for name, array in arrays.items()}
    scratch |= {name: plgpu.SMEM(tile, weight.dtype) for name, weight in weights.items()}
    outputs = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((B, tokens, *tile), x.dtype) for tokens in results.values()],
        grid=(B, history_programs + noisy_programs),
        grid_names=("batch", "program"),
        scratch_types=dict(
            **scratch,
            ready=plgpu.Barrier(num_barriers=2 * SLOTS),
            weights_ready=plgpu.Barrier(num_arrivals=max(len(weights), 1)),
        ),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        kernel_name="helios_rows",
        interpret=interpret,
    )(*arrays.values(), *weights.values())
    outputs = {name: output.reshape(*output.shape[:2], D) for name, output in zip(results, outputs)}
    return outputs.get("added"), outputs.get("normed")

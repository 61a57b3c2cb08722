"""What is computed once, in part, or for two rows only equals what computing everything everywhere
gives, to float32 rounding.

Tolerances are relative to the largest value. Sums over other shapes are added in another order,
which moves a float32 result by a few 1e-7 a block.
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint.params import blocks_in_host_memory
from helios_jax.config import TransformerConfig
from helios_jax.cost.hlo import parse
from helios_jax.kernels.residual_norm import gated_residual, modulated_layer_norm
from helios_jax.memory import compiler
from helios_jax.models import transformer
from helios_jax.models.block import Block, Segments, TextCache
from helios_jax.models.layer_stack import COPY_OPTIONS, layer_params, separate_layers
from helios_jax.models.rope import rope_table
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.types import FrameIndices, History

CONFIG = TransformerConfig(
    num_attention_heads=2,
    attention_head_dim=12,
    rope_dim=(4, 4, 4),
    in_channels=4,
    out_channels=4,
    text_dim=16,
    ffn_dim=32,
    num_layers=3,
)
INDICES = FrameIndices(noisy=(20, 21, 22), short=(0, 19), mid=(17, 18), long=tuple(range(1, 17)))
HISTORY_TOKENS = 2 * 6 * 10 + 3 * 5 + 4 * 2 * 3
ROUNDING = 2e-6


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def random_params(model):
    """Kernels that keep the size of activations, and nothing at the 0 or 1 that hides mistakes."""
    shapes = jax.eval_shape(
        lambda key: model.init(key, LATENTS, TIMESTEPS, TEXT, HISTORY, INDICES)["params"],
        jax.random.key(0),
    )
    random = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        fan_in = 10
        if name == "kernel":
            fan_in = leaf.size / leaf.shape[-1]
            if path[0].key == "blocks":
                fan_in = CONFIG.ffn_dim if path[-2].key == "down" else CONFIG.width
        mean = 1 if name == "scale" else 0
        value = mean + random.standard_normal(leaf.shape) * fan_in**-0.5
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


MODEL = HeliosTransformer(CONFIG)
LATENTS = normal(1, 2, 3, 6, 10, 4)
TIMESTEPS = jnp.array([998.0, 385.0])
HISTORY = History(*(normal(2 + frames, 2, frames, 12, 20, 4) for frames in (2, 2, 16)))
TEXT = normal(7, 2, 9, 16)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


# At toy sizes the time goes to the compiler.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(
    quick_jit, static_argnames=("method", "indices", "frame_indices", "frames", "total")
)
def run(params, method, *arguments, **options):
    return MODEL.apply({"params": params}, *arguments, **options, method=method)


def velocity(params, text: TextCache, history=None, latents=LATENTS, timesteps=TIMESTEPS):
    """One step, given what a chunk and a prompt have computed before."""
    if history is None:
        history = run(params, "embed_history", HISTORY, indices=INDICES)
    time = run(params, "embed_time", timesteps)
    return run(params, "denoise", latents, time, text, history, frames=INDICES.noisy)


def deviation(ours, plain):
    assert ours.shape == plain.shape
    return float(jnp.max(jnp.abs(ours - plain)) / jnp.max(jnp.abs(plain)))


def test_text_embedded_once_serves_every_step(params):
    """Keys and values kept from a first step give, at another timestep and on other latents, what
    embedding the text anew gives.
    """
    cache = run(params, "embed_text", TEXT)
    latents = normal(8, *LATENTS.shape)
    timesteps = jnp.array([3.0, 742.5])
    anew = run(params, "__call__", latents, timesteps, TEXT, HISTORY, frame_indices=INDICES)
    error = deviation(velocity(params, cache, latents=latents, timesteps=timesteps), anew)
    print(error)
    assert error <= ROUNDING


@pytest.mark.parametrize(
    "lengths", [(1, 1), (7, 40), (63, 5), (63, 63), (127, 3), (128, 1), (128, 128)]
)
def test_a_few_padding_rows_stand_for_all(params, lengths):
    """Text cut at its bucket, whose padding has logit biases, is attended to as all rows are, and
    not as one row more.

    All rows are 128, not 512: some CPUs add terms one after another, and n equal terms then round
    the same way each time, to as much as n 2^-24 of their sum: the error of the plain rows.
    The kernels' own tests have 512 rows, against float64.
    """
    total = 128
    bucket = 64 if max(lengths) < 64 else 128
    is_token = np.arange(total) < np.array(lengths)[:, None]
    text = normal(9, 2, total, 16) * is_token[..., None].astype(np.float32)
    collapsed = run(params, "embed_text", text[:, :bucket], jnp.array(lengths), total=total)
    assert collapsed.key.shape[2] == bucket
    full = velocity(params, run(params, "embed_text", text))
    error = deviation(velocity(params, collapsed), full)
    print(lengths, error)
    assert error <= ROUNDING
    if collapsed.bias is not None:  # or there is nothing to leave out
        real = np.arange(bucket) < np.array(lengths)[:, None]
        unpadded = collapsed._replace(bias=jnp.where(real, 0.0, -1e30))
        assert deviation(velocity(params, unpadded), full) > 100 * ROUNDING
        one_more = run(params, "embed_text", text[:, :bucket], jnp.array(lengths), total=total + 1)
        assert deviation(velocity(params, one_more), full) > 50 * ROUNDING


def test_first_block_history_projected_once(params):
    """The first block's queries, keys and values of history are the same computed once a chunk as
    at every step.
    """
    history = run(params, "embed_history", HISTORY, indices=INDICES)
    text = run(params, "embed_text", TEXT)
    assert history.first_qkv is not None
    at_every_step = velocity(params, text, history._replace(first_qkv=None))
    error = deviation(velocity(params, text, history), at_every_step)
    print(error)
    assert error <= ROUNDING


def test_last_block_returns_the_noisy_rows_of_the_whole(params):
    """With and without its history rows, the last block gives the same noisy rows."""
    history = run(params, "embed_history", HISTORY, indices=INDICES)
    assert history.tokens.shape[1] == HISTORY_TOKENS
    text = run(params, "embed_text", TEXT)
    layer = {"params": layer_params(params["blocks"], 2)}
    x = jnp.concatenate([history.tokens, normal(10, 2, 45, CONFIG.width)], axis=1)
    modulation = normal(11, 2, 2, 6, CONFIG.width)
    cache = TextCache(text.key[2], text.value[2], None)
    angles = normal(12, x.shape[1], CONFIG.attention_head_dim // 2)
    rope = history.rope._replace(cos=jnp.cos(angles), sin=jnp.sin(angles))

    @functools.partial(quick_jit, static_argnums=1)
    def apply(layer, noisy_only):
        segments = Segments(HISTORY_TOKENS, noisy_only=noisy_only)
        return Block(CONFIG).apply(layer, x, modulation, rope, cache, segments=segments)

    error = deviation(apply(layer, True), apply(layer, False)[:, HISTORY_TOKENS:])
    print(error)
    assert error <= ROUNDING


@pytest.mark.parametrize("history", [0, 3, 8])
def test_two_rows_modulate_as_one_row_a_token_does(history):
    """Layer norm, modulation and gated residual with a row for history and one for noisy tokens."""
    x = normal(13, 2, 8, 24)
    y = normal(14, 2, 8, 24)
    shift, scale, gate = normal(15, 3, 2, 2, 24)
    shifts, scales, gates = (
        np.repeat(rows, (history, 8 - history), axis=1) for rows in (shift, scale, gate)
    )
    normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    modulated = normed * (1 + scales) + shifts
    ours = modulated_layer_norm(x, shift, scale, history=history, eps=1e-6)
    assert deviation(ours, modulated) <= ROUNDING
    assert deviation(gated_residual(x, y, gate, history=history), x + y * gates) <= ROUNDING


@pytest.mark.parametrize("pool", [1, 2, 4])
@pytest.mark.parametrize("grid", [(16, 24, 40), (3, 5, 7)])
def test_rope_averaged_by_axis_is_the_whole_table_averaged(grid, pool):
    """Three small tables give the table over every cell of the fine grid, its cosines and sines
    averaged in blocks, the last plane repeated.
    """
    dims = (44, 42, 42)
    frames = tuple(range(1, 1 + grid[0]))
    cells = np.meshgrid(frames, np.arange(grid[1]), np.arange(grid[2]), indexing="ij")
    angles = []
    for position, d in zip(cells, dims):
        angles.append(position[..., None] * 10000.0 ** (-np.arange(0, d, 2) / d))
    angles = np.concatenate(angles, axis=-1)
    cos, sin = rope_table(frames, *grid[1:], rope_dim=dims, theta=10000.0, pool=pool)
    for ours, table in ((cos, np.cos(angles)), (sin, np.sin(angles))):
        table = np.pad(table, [*((0, -size % pool) for size in grid), (0, 0)], mode="edge")
        t, h, w, pairs = table.shape
        blocks = table.reshape(t // pool, pool, h // pool, pool, w // pool, pool, pairs)
        averaged = blocks.mean((1, 3, 5)).reshape(-1, pairs)
        assert deviation(ours, averaged) <= 4e-6  # float32 rounds an angle near 40 by 2e-6


def test_prompt_and_negative_prompt_share_a_batch(params):
    """Each half of a batch of twice the size is what that prompt gives alone, with texts of
    different lengths.
    """
    lengths = jnp.array([9, 40, 1, 63])
    is_token = jnp.arange(64)[None] < lengths[:, None]
    text = normal(16, 4, 64, 16) * is_token.astype(jnp.float32)[..., None]
    texts = [
        run(params, "embed_text", text[part], lengths[part], total=512)
        for part in (slice(0, 4), slice(0, 2), slice(2, 4))
    ]

    def twice(x):
        return jnp.concatenate([x, x])

    history = run(params, "embed_history", HISTORY, indices=INDICES)
    doubled = history._replace(tokens=twice(history.tokens), first_qkv=twice(history.first_qkv))
    both = velocity(params, texts[0], doubled, twice(LATENTS), twice(TIMESTEPS))
    apart = jnp.concatenate([velocity(params, text, history) for text in texts[1:]])
    error = deviation(both, apart)
    print(error)
    assert error <= ROUNDING


def test_time_and_modulation_are_float32_in_a_bfloat16_model(params):
    """The timestep's embedding is rounded once, after its last layer; the blocks' tables and the
    projected timestep are added unrounded.
    """
    variables = {"params": params}
    in_bfloat16 = HeliosTransformer(CONFIG, jnp.bfloat16)
    rounded = in_bfloat16.apply(variables, TIMESTEPS, method="embed_time")
    exact = MODEL.apply(variables, TIMESTEPS, method="embed_time")
    np.testing.assert_array_equal(rounded.temb, exact.temb.astype(jnp.bfloat16))
    block = Block(CONFIG, jnp.bfloat16)
    modulation = normal(17, 2, 2, 6, CONFIG.width).astype(jnp.bfloat16)
    layer = layer_params(params["blocks"], 1)
    rows = jnp.stack(block.apply({"params": layer}, modulation, method="_rows"), axis=2)
    np.testing.assert_array_equal(
        rows, layer["scale_shift_table"][None, None] + modulation.astype(jnp.float32)
    )


def test_blocks_in_host_memory_are_copied_layer_by_layer(params):
    """The velocity is the same to the last bit wherever the blocks are; so is everything computed
    before it.
    """
    parts = []
    for tree in (params, blocks_in_host_memory(params)):
        text = run(tree, "embed_text", TEXT)
        history = run(tree, "embed_history", HISTORY, indices=INDICES)
        parts.append((text, history, velocity(tree, text, history)))
    kinds = {
        leaf.sharding.memory_kind
        for leaf in jax.tree.leaves(blocks_in_host_memory(params)["blocks"])
    }
    assert kinds == {"pinned_host"}
    jax.tree.map(np.testing.assert_array_equal, *parts)
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(parts)} == {"device"}


@pytest.mark.skipif(compiler.unavailable() is not None, reason=str(compiler.unavailable()))
def test_the_next_block_is_copied_from_the_host_while_one_computes():
    """Compiled for a GPU, the copies of a turn start before its first matrix product, and are
    waited for behind its last.
    """
    config = dataclasses.replace(CONFIG, num_layers=8, kernels="xla", attention="xla")
    model = HeliosTransformer(config, jnp.bfloat16, jnp.bfloat16)
    arguments = (LATENTS, TIMESTEPS, TEXT, HISTORY)

    def run(params, *arguments):
        return model.apply({"params": params}, *arguments, INDICES)

    params = jax.eval_shape(
        lambda key: model.init(key, *arguments, INDICES)["params"], jax.random.key(0)
    )
    program = compiler.compile_for(
        run, blocks_in_host_memory(params), *arguments, options=COPY_OPTIONS
    )
    found = parse(program.as_text() or "")
    order = []
    for loop in found.computations[found.entry].instructions.values():
        if loop.opcode == "while" and "_run_blocks" in loop.op_name:
            body = found.computations[loop.attribute(r"body=%?([\w.\-]+)")]
            for instruction in body.instructions.values():
                is_product = "cublas" in instruction.target
                order.append("product" if is_product else instruction.opcode)
    first = order.index("product")
    last = len(order) - order[::-1].index("product")
    copies = order.count("fusion-start")
    assert copies >= 15  # arrays of a block
    assert order[:first].count("fusion-start") > 0.8 * copies
    assert order[last:].count("fusion-done") == copies


@pytest.mark.parametrize("hooks", [(0, 2)])
def test_tokens_after_a_block_are_those_a_model_of_fewer_blocks_ends_with(params, hooks):
    """The velocity is the same with hooks and without; the tokens are the noisy ones', on their
    grid.
    """

    @functools.partial(quick_jit, static_argnums=(0, 2))
    def denoise(model, params, hooks):
        variables = {"params": params}
        time = model.apply(variables, TIMESTEPS, method="embed_time")
        text = model.apply(variables, TEXT, method="embed_text")
        history = model.apply(variables, HISTORY, INDICES, method="embed_history")
        parts = (LATENTS, time, text, history, INDICES.noisy)
        return model.apply(variables, *parts, hooks, method="denoise")

    velocity, hooked = denoise(MODEL, params, hooks)
    plain = denoise(MODEL, params, None)
    np.testing.assert_allclose(velocity, plain, atol=ROUNDING * float(jnp.abs(plain).max()), rtol=0)
    for hook, tokens in zip(hooks, hooked, strict=True):
        shorter = HeliosTransformer(dataclasses.replace(CONFIG, num_layers=hook + 1))
        blocks = jax.tree.map(operator.itemgetter(slice(hook + 1)), params["blocks"])
        _, [last] = denoise(shorter, {**params, "blocks": blocks}, (hook,))
        assert tokens.shape == (2, 3, 3, 5, CONFIG.width)
        np.testing.assert_allclose(tokens, last, atol=ROUNDING * float(jnp.abs(last).max()), rtol=0)


def test_blocks_one_by_one_are_those_of_the_loop(params):
    """Velocity and tokens after a block in between; the program has no loop over blocks."""
    variables = {"params": params}
    given = LATENTS, TIMESTEPS, TEXT, HISTORY
    unrolled = HeliosTransformer(dataclasses.replace(CONFIG, unroll=True))
    looped = quick_jit(functools.partial(MODEL.apply, frame_indices=INDICES))
    one_by_one = quick_jit(functools.partial(unrolled.apply, frame_indices=INDICES))
    assert deviation(one_by_one(variables, *given), looped(variables, *given)) <= ROUNDING

    def loops(program):
        return str(program.trace(variables, *given).jaxpr).count("scan[")

    assert loops(looped) == 2
    assert loops(one_by_one) == 1  # that of the keys and values of the text


@pytest.mark.parametrize("remat", [None, "blocks"])
def test_separate_blocks_are_those_of_the_stack(params, remat):
    """One array a layer: keys and values, velocity and tokens after a block are those of the loop;
    the program takes no layer out of an array.
    """
    model = HeliosTransformer(dataclasses.replace(CONFIG, remat=remat))

    @quick_jit
    def denoise(params):
        variables = {"params": params}
        time = model.apply(variables, TIMESTEPS, method="embed_time")
        text = model.apply(variables, TEXT, method="embed_text")
        history = model.apply(variables, HISTORY, INDICES, method="embed_history")
        parts = (LATENTS, time, text, history, INDICES.noisy)
        velocity, [tokens] = model.apply(variables, *parts, (1,), method="denoise")
        return velocity, tokens, jnp.stack(tuple(text.key)), jnp.stack(tuple(text.value))

    separate = {**params, "blocks": separate_layers(params["blocks"])}
    for ours, theirs in zip(denoise(separate), denoise(params), strict=True):
        assert deviation(ours, theirs) <= ROUNDING
    assert "dynamic_slice" not in str(denoise.trace(separate).jaxpr)
    assert "dynamic_slice" in str(denoise.trace(params).jaxpr)


def test_tokens_that_fill_rows_change_nothing(params, monkeypatch):
    """45 noisy tokens made 48, as for a GPU: the same velocity, gradient and tokens of a hook."""

    @quick_jit
    def outcome(params):
        def total(params):
            variables = {"params": params}
            time = MODEL.apply(variables, TIMESTEPS, method="embed_time")
            text = MODEL.apply(variables, TEXT, method="embed_text")
            history = MODEL.apply(variables, HISTORY, INDICES, method="embed_history")
            parts = (LATENTS, time, text, history, INDICES.noisy)
            velocity, [tokens] = MODEL.apply(variables, *parts, (1,), method="denoise")
            return jnp.sum(jnp.sin(velocity)) + jnp.sum(jnp.sin(tokens)), (velocity, tokens)

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, plain), gradient = outcome(params)
    monkeypatch.setitem(transformer.ROW_MULTIPLE, "cpu", 8)
    jax.clear_caches()
    (_, filled), gradient_filled = outcome(params)
    for ours, theirs in zip(filled, plain, strict=True):
        assert deviation(ours, theirs) <= ROUNDING
    for ours, theirs in zip(*map(jax.tree.leaves, (gradient_filled, gradient)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())

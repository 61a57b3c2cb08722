"""The VAE in pieces, in other dtypes, its two spaces, and the forms of its convolutions."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.config import VAEConfig
from helios_jax.cost.kernels import ARGUMENT_COPIES, FUSED, count
from helios_jax.memory.compiler import compile_for, unavailable
from helios_jax.models.convolution import (
    COMPILER_OPTIONS,
    conv3d,
    convolve,
    frames_as_channels,
    tap_by_tap,
    upsample_convolve,
    winograd_in_time,
)
from helios_jax.models.vae import (
    VAE,
    decode_latents,
    decode_piece,
    encode_piece,
    sample_posterior,
    to_model_space,
    to_vae_space,
)
from helios_jax.models.vae_layers import ChannelNorm, kernels_by_output

# A latent spans 4 x 4 x 4 pixels.
CONFIG = VAEConfig(
    base_dim=4, dim_mult=(1, 2, 2), temperal_downsample=(True, True), num_res_blocks=1
)
# At toy sizes the time goes to the compiler.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def params():
    """Kernels that keep the size of what passes, and no bias at 0 or gamma at 1."""
    pixels = jnp.zeros((1, 1, 8, 8, 3))
    shapes = jax.eval_shape(VAE(CONFIG).init, jax.random.key(0), pixels)["params"]
    random = np.random.default_rng(0)

    def draw(path, leaf):
        mean, std = {
            "kernel": (0, np.prod(leaf.shape[:-1]) ** -0.5),
            "bias": (0, 0.2),
            "gamma": (1, 0.2),
        }[path[-1].key]
        return jnp.asarray(random.normal(mean, std, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def relative(ours, expected):
    assert ours.shape == expected.shape
    return float(jnp.max(jnp.abs(ours - expected)) / jnp.max(jnp.abs(expected)))


def run_pieces(step, params, clip, sizes):
    """The outputs of each piece but its cache, joined."""
    outputs = []
    cache = {}
    for start, size in zip(np.cumsum([0, *sizes]), sizes):
        *output, cache = step(params, cache, clip[:, start : start + size])
        outputs.append(output)
    return [jnp.concatenate(parts, axis=1) for parts in zip(*outputs)]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 2)])
def test_clip_decoded_in_pieces_is_the_clip_decoded_whole(params, sizes):
    vae = VAE(CONFIG)
    latents = jax.random.normal(jax.random.key(2), (2, 5, 2, 3, CONFIG.z_dim))
    whole = quick_jit(partial(decode_latents, vae))(params, latents)
    (pieces,) = run_pieces(quick_jit(partial(decode_piece, vae)), params, latents, sizes)
    assert whole.shape == (2, 17, 8, 12, 3)
    # Not bit for bit: which frames share a convolution changes the order of its sums.
    assert relative(pieces, whole) <= 5e-6


def test_clip_decoded_with_memory_for_a_piece_is_the_clip_decoded_whole(params):
    """One program decodes piece after piece; a clip that is no multiple of the piece is decoded
    whole.
    """
    vae = VAE(CONFIG)
    latents = jax.random.normal(jax.random.key(2), (2, 6, 2, 3, CONFIG.z_dim))
    whole = quick_jit(partial(decode_latents, vae))(params, latents)
    pieces = quick_jit(partial(decode_latents, vae, piece=2))(params, latents)
    assert relative(pieces, whole) <= 5e-6

    def program(piece):
        decode = jax.jit(partial(decode_latents, vae, piece=piece))
        return decode.lower(params, latents).as_text()

    assert program(4) == program(None) != program(2)


@pytest.mark.parametrize("sizes", [(1, 4, 4), (5, 4)])
def test_clip_encoded_in_pieces_is_the_clip_encoded_whole(params, sizes):
    vae = VAE(CONFIG)
    video = jax.random.uniform(jax.random.key(3), (2, 9, 8, 12, 3), minval=-1.0)
    whole = quick_jit(partial(vae.apply, method="encode"))({"params": params}, video)
    pieces = run_pieces(quick_jit(partial(encode_piece, vae)), params, video, sizes)
    assert whole[0].shape == (2, 3, 2, 3, CONFIG.z_dim)
    assert max(map(relative, pieces, whole)) <= 5e-6


def test_kernels_with_the_output_first_are_the_same_kernels(params):
    """As an accelerator has them; of abstract parameters, too."""
    vae = VAE(CONFIG)
    video = jax.random.uniform(jax.random.key(3), (1, 5, 8, 8, 3), minval=-1.0)
    turned = kernels_by_output(params)
    shapes = kernels_by_output(jax.eval_shape(lambda: params))
    assert jax.tree.map(jnp.shape, turned) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert "kernel" not in {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(turned)}
    run = quick_jit(vae.apply)
    np.testing.assert_array_equal(run({"params": turned}, video), run({"params": params}, video))


def test_cache_does_not_grow_with_the_clip(params):
    step = quick_jit(partial(decode_piece, VAE(CONFIG)))
    run_pieces(step, params, jnp.zeros((1, 4, 2, 2, CONFIG.z_dim)), (1, 1, 1, 1))
    assert step._cache_size() == 2  # one program for the first piece, one for all others


def test_piece_that_does_not_fill_latent_frames_is_refused(params):
    message = r"a piece of 4 frames does not fill latent frames: give 1 \+ 4 \* k frames at the"
    with pytest.raises(ValueError, match=message):
        encode_piece(VAE(CONFIG), params, {}, jnp.zeros((1, 4, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"give 0 \+ 4 \* k frames after the first piece"):
        encode_piece(VAE(CONFIG), params, {"encoder": {}}, jnp.zeros((1, 5, 8, 8, 3)))


def test_bfloat16_stays_bfloat16_and_near_float32(params):
    latents = jax.random.normal(jax.random.key(4), (1, 2, 2, 2, CONFIG.z_dim))
    exact = quick_jit(partial(decode_latents, VAE(CONFIG)))(params, latents)
    half = VAE(CONFIG, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    rounded = quick_jit(partial(decode_latents, half))(
        jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), latents
    )
    assert rounded.dtype == jnp.bfloat16
    assert relative(rounded.astype(jnp.float32), exact) < 0.1
    shapes = jax.eval_shape(half.init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}


def test_channel_norm_of_bfloat16_is_computed_in_float32():
    x = jax.random.normal(jax.random.key(5), (1, 1, 2, 2, 96), jnp.bfloat16)
    params = {"params": {"gamma": jnp.linspace(0.5, 2.0, 96)}}
    exact = ChannelNorm().apply(params, x.astype(jnp.float32))
    np.testing.assert_array_equal(
        ChannelNorm(dtype=jnp.bfloat16).apply(params, x), exact.astype(jnp.bfloat16)
    )


@pytest.mark.parametrize("frames", [2, 3, 4, 7])
@pytest.mark.parametrize(("step", "taps"), [(1, 1), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("form", [tap_by_tap, frames_as_channels, winograd_in_time])
def test_every_form_of_convolution_and_its_gradient_is_that_of_one_3d_convolution(
    form, frames, step, taps
):
    """Winograd's form serves three taps of step one only."""
    if form is winograd_in_time and (step, taps) != (1, 3):
        return
    x = jax.random.normal(jax.random.key(6), (2, frames, 4, 6, 5))
    kernel = jax.random.normal(jax.random.key(7), (taps, 3, 3, 5, 7))
    given = dict(strides=(step, 1, 1), padding=((0, 1), (1, 0)))

    @partial(quick_jit, static_argnums=0)
    def value_and_gradients(function, x, kernel):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(jnp.cos(y))

    ours = value_and_gradients(partial(form, **given), x, kernel)
    plain = value_and_gradients(partial(conv3d, **given), x, kernel)
    if frames < taps:
        assert ours[0].shape == plain[0].shape == (2, 0, 3, 5, 7)
    else:
        assert max(map(relative, ours, plain)) < 5e-6


def test_upsampling_is_repetition_then_convolution():
    x = jax.random.normal(jax.random.key(8), (2, 3, 4, 5, 6))
    kernel = jax.random.normal(jax.random.key(9), (1, 3, 3, 6, 7))
    bias = jnp.arange(7.0)

    @quick_jit
    def repeat_and_convolve(x, kernel, bias):
        repeated = x.repeat(2, axis=2).repeat(2, axis=3)
        return convolve(repeated, kernel, bias, padding=((1, 1), (1, 1)))

    ours = quick_jit(upsample_convolve)(x, kernel, bias)
    assert relative(ours, repeat_and_convolve(x, kernel, bias)) < 2e-6


def test_model_space_has_the_channels_of_the_configuration_standardised():
    config = VAEConfig(z_dim=2, latents_mean=(1.0, -2.0), latents_std=(2.0, 4.0))
    latents = jnp.asarray([3.0, 6.0], jnp.bfloat16).reshape(1, 1, 1, 1, 2)
    standard = to_model_space(config, latents)
    assert standard.dtype == jnp.float32
    assert standard.ravel().tolist() == [1.0, 2.0]
    assert to_vae_space(config, standard).ravel().tolist() == [3.0, 6.0]


def test_posterior_sample_is_the_mean_and_noise_of_its_deviation():
    values = (1.0, 2 * np.log(3.0), -2.0)
    mean, logvar, noise = (jnp.full((1, 1, 1, 1, 1), value) for value in values)
    np.testing.assert_allclose(sample_posterior(mean, logvar, noise), -5.0, rtol=1e-6)


def test_outputs_are_clamped(params):
    large = jax.tree.map(lambda leaf: 100.0 * leaf, params)

    def run(method, channels):
        apply = quick_jit(partial(VAE(CONFIG).apply, method=method))
        return apply({"params": large}, jnp.ones((1, 1, 8, 8, channels)))

    video = run("decode", CONFIG.z_dim)
    _, logvar = run("encode", 3)
    assert (video.min(), video.max()) == (-1.0, 1.0)
    assert (logvar.min(), logvar.max()) == (-30.0, 20.0)


@pytest.mark.skipif(unavailable() is not None, reason=f"cannot compile for a GPU: {unavailable()}")
@pytest.mark.skipif(find_spec("jax_triton") is None, reason="jax-triton is not installed")
def test_on_a_gpu_norms_are_single_kernels_and_weights_are_read_where_they_are():
    """Of all weights only the biases of upsampling are copied, once for each kind of pixel."""
    config = VAEConfig(
        base_dim=16, dim_mult=(1, 2), temperal_downsample=(True,), num_res_blocks=1, z_dim=16
    )
    vae = VAE(config, jnp.bfloat16, jnp.bfloat16, convolution="conv3d")
    shapes = jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))["params"]
    latents = jax.ShapeDtypeStruct((1, 3, 8, 8, config.z_dim), jnp.float32)
    decode = jax.jit(partial(decode_latents, vae), compiler_options=COMPILER_OPTIONS)
    program = compile_for(decode, kernels_by_output(shapes), latents)
    found = count(program.as_text()).kernels
    copied = sum(one.times * one.written for one in found if one.group == ARGUMENT_COPIES)
    assert copied == 4 * 16 * 2
    paths = [path for path, _ in jax.tree.leaves_with_path(shapes["decoder"])]
    norms = [path for path in paths if path[-1].key == "gamma"]
    assert sum(one.times for one in found if one.group == FUSED) == len(norms)

"""The VAE's training: clips encoded, sampled, decoded, and compared.

The loss is ``mean(|e| + e^2) + kl_weight KL``, with e the error of pixels in [-1, 1] and KL the
mean over latents of the posterior's divergence from the standard normal (Kingma and Welling 2013,
appendix B). With an ``equivariance_weight`` the same distance of half-size clips counts too,
decoded from the means of 2 x 2 latents (EQ-VAE, Kouzelis et al. 2025): what the coarse levels of
the pyramid hold is a small picture then.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import UInt8

from helios_jax.data.loading import Batches, LoaderOptions
from helios_jax.diffusion.pyramid import downsample
from helios_jax.models.lora import combine
from helios_jax.models.vae import VAE, sample_posterior
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import StepCost
from helios_jax.training.objective import Objective, Split, refuse_transformer_settings
from helios_jax.training.step import Loss, descend_on
from helios_jax.types import Array, Float, Params
from helios_jax.world.clips import ClipBatch, load_clips

STATISTICS_BATCHES = 8
"""Batches of held-out clips from which the statistics of latents are taken."""


def init_params(params: Params) -> Params:
    """Random parameters from which a VAE learns soonest.

    Residual blocks pass on what they get; convolutions see the newest frame alone; and where frames
    are halved or doubled, the newest of two is taken, and each is repeated. So what has learned
    pictures alone shows a clip's every fourth frame.
    """
    flat: Any = flatten_dict(params, sep="/")
    for path, kernel in flat.items():
        if path.endswith("/conv2/kernel"):
            flat[path] = jnp.zeros_like(kernel)
        elif path.endswith("/time_conv/kernel"):
            *_, inputs, outputs = kernel.shape
            copies = jnp.tile(jnp.eye(inputs, dtype=kernel.dtype), outputs // inputs)
            flat[path] = jnp.zeros_like(kernel).at[-1, 0, 0].set(copies)
        elif path.endswith("/kernel") and kernel.shape[0] == 3 and kernel.ndim == 5:
            flat[path] = kernel.at[:-1].set(0) * 3**0.5
    return unflatten_dict(flat, sep="/")


def make_loss(config: TrainConfig) -> Loss:
    """``(trainable, frozen, batch) -> losses``; the posterior's noise follows from the seed and
    each sample's number.
    """
    vae = VAE(config.model.vae, jnp.dtype(config.dtype))

    def loss(trainable: Params, frozen: Params, batch: ClipBatch) -> Float[Array, "1"]:
        params = {"params": combine(frozen, trainable)}
        apply: Callable[..., Any] = functools.partial(vae.apply, params)
        pixels = to_pixels(batch.frames)
        mean, logvar = apply(pixels, method="encode")

        def draw(sample):
            key = jax.random.fold_in(jax.random.key(config.seed), sample[1])
            return jax.random.normal(key, mean.shape[1:])

        def distance(latents, pixels):
            decoded = apply(latents, method="decode_unclipped")
            error = decoded.astype(jnp.float32) - pixels
            return jnp.mean(jnp.abs(error) + error**2)

        latents = sample_posterior(mean, logvar, jax.vmap(draw)(batch.sample))
        divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        total = distance(latents, pixels) + config.kl_weight * divergence
        if config.equivariance_weight:
            halved = distance(downsample(latents), downsample(pixels))
            total += config.equivariance_weight * halved
        return total[None]

    return loss


def make_validation(
    config: TrainConfig, sharding: jax.sharding.Sharding | None = None
) -> Callable[[Params, Params, Sequence[ClipBatch]], dict[str, float]]:
    """``(trainable, frozen, batches) -> metrics``: ``psnr`` of clips decoded from the posterior's
    mean, in dB, and the posterior's spread.
    """
    vae = VAE(config.model.vae, jnp.dtype(config.dtype))

    def measure(trainable, frozen, batch):
        params = {"params": combine(frozen, trainable)}
        apply: Callable[..., Any] = functools.partial(vae.apply, params)
        mean, logvar = apply(to_pixels(batch.frames), method="encode")
        decoded = apply(mean, method="decode")
        quality = jax.vmap(psnr)(decoded, batch.frames).mean()
        return quality, jnp.exp(0.5 * logvar).mean(), mean.std()

    measure = jax.jit(measure, out_shardings=sharding)

    def validate(trainable, frozen, batches):
        rows = [jax.device_get(measure(trainable, frozen, batch)) for batch in batches]
        names = ("validation_psnr", "posterior_noise", "posterior_spread")
        return dict(zip(names, np.mean(rows, axis=0).tolist()))

    return validate


def to_pixels(frames: UInt8[Array | np.ndarray, "B F Y X 3"]) -> Float[Array, "B F Y X 3"]:
    """Bytes to [-1, 1]."""
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1


def psnr(
    pixels: Float[Array, "F Y X 3"], frames: UInt8[Array | np.ndarray, "F Y X 3"]
) -> Float[Array, ""]:
    """Peak signal-to-noise ratio, in dB, of a clip in [-1, 1], rounded to bytes, against the true
    bytes.
    """
    error = jnp.round((pixels.astype(jnp.float32) + 1) * 127.5) - frames.astype(jnp.float32)
    return 20 * jnp.log10(255.0) - 10 * jnp.log10(jnp.mean(error**2))


def standardized(config: TrainConfig, params: Params, batches: Iterable[ClipBatch]) -> Params:
    """The same VAE with latents of mean 0 and standard deviation 1 in every channel, over these
    clips.

    What ``latents_mean`` and ``latents_std`` do for others is folded into the 1 x 1 convolutions on
    both sides of the latents.
    """
    mean, std = _statistics(config, params, batches)
    encoder = params["quant_conv"]
    decoder = params["post_quant_conv"]
    kernel = np.asarray(encoder["kernel"], np.float64)
    bias = np.asarray(encoder["bias"], np.float64)
    back = np.asarray(decoder["kernel"], np.float64)
    # The posterior's mean is shifted and scaled, its log variance shifted.
    scale = np.concatenate([1 / std, np.ones_like(std)])
    shift = np.concatenate([-mean / std, -2 * np.log(std)])
    through = np.tensordot(mean, back, (0, 3)).sum((0, 1, 2))
    return {
        **params,
        "quant_conv": _float32(kernel * scale, bias * scale + shift),
        "post_quant_conv": _float32(
            back * std[:, None], np.asarray(decoder["bias"], np.float64) + through
        ),
    }


def export_params(config: TrainConfig, params: Params) -> Params:
    """Fold the statistics of held-out clips into the VAE where the model declares standardised
    latents (mean 0, standard deviation 1), so that it has them.
    """
    vae = config.model.vae
    if any(vae.latents_mean) or set(vae.latents_std) != {1.0}:
        return params
    with contextlib.closing(load(config, "validation", config.data.loader())) as batches:
        return standardized(config, params, itertools.islice(batches, STATISTICS_BATCHES))


def load(config: TrainConfig, split: Split, options: LoaderOptions) -> Batches[ClipBatch]:
    """Batches of clips of the procedural world."""
    sample = config.model.sample
    return load_clips(
        config.clips,
        options,
        height=sample.height,
        width=sample.width,
        seed=config.seed,
        split=split,
    )


def abstract_batch(config: TrainConfig) -> ClipBatch:
    """Shapes of a batch."""
    B = config.data.batch_size
    shape = (B, config.clips.frames, *config.clips.window, 3)
    array: Any = jax.ShapeDtypeStruct  # stands for an array
    return ClipBatch(array(shape, np.uint8), array((B, 2), np.uint32))


def cost(config: TrainConfig, trainable: Params, batch: ClipBatch) -> StepCost:
    """Cells of latents, in place of tokens; operations are not counted."""
    vae = config.model.vae
    F, Y, X = batch.frames.shape[1:4]
    frames = 1 + (F - 1) // vae.temporal_factor
    return StepCost(frames * (Y // vae.spatial_factor) * (X // vae.spatial_factor), 0)


def _statistics(
    config: TrainConfig, params: Params, batches: Iterable[ClipBatch]
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """Mean and standard deviation of each channel of latents, the posterior's noise included."""
    vae = VAE(config.model.vae)

    @jax.jit
    def encode(frames):
        return vae.apply({"params": params}, to_pixels(frames), method="encode")

    means = []
    logvars = []
    for batch in batches:
        mean, logvar = jax.device_get(encode(batch.frames))
        means.append(mean.reshape(-1, mean.shape[-1]).astype(np.float64))
        logvars.append(logvar.reshape(-1, logvar.shape[-1]).astype(np.float64))
    every_mean = np.concatenate(means)
    noise = np.exp(np.concatenate(logvars)).mean(0)
    return every_mean.mean(0), np.sqrt(every_mean.var(0) + noise)


def _float32(kernel: np.ndarray, bias: np.ndarray) -> Params:
    """Parameters of a convolution."""
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}


OBJECTIVE = Objective(
    component="vae",
    load=load,
    abstract_batch=abstract_batch,
    make_step=descend_on(make_loss),
    make_validation=make_validation,
    cost=cost,
    check=refuse_transformer_settings,
    init_params=init_params,
    export_params=export_params,
)

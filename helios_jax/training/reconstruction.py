"""Training the VAE: clips encoded, sampled, decoded, and compared.

The loss is ``mean(|e| + e^2) + kl_weight KL``, with e the error of pixels in [-1, 1] and KL the
mean over latents of the posterior's divergence from the standard normal (Kingma and Welling 2013,
appendix B).
"""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import UInt8

from helios_jax.models.lora import combine
from helios_jax.models.vae import VAE, sample_posterior
from helios_jax.training.config import TrainConfig
from helios_jax.types import Array, Float, Params
from helios_jax.world.clips import ClipBatch


def begin(params: Params) -> Params:
    """Random parameters as a VAE learns from soonest.

    Residual blocks pass on what they get; convolutions see the newest frame alone; and where frames
    are halved or doubled, the newest of two is taken, and each is repeated. So what has learned
    pictures alone shows a clip's every fourth frame.
    """
    flat = flatten_dict(params, sep="/")
    for path, kernel in flat.items():
        if path.endswith("/conv2/kernel"):
            flat[path] = jnp.zeros_like(kernel)
        elif path.endswith("/time_conv/kernel"):
            eye = jnp.eye(kernel.shape[-2], dtype=kernel.dtype)
            flat[path] = (
                jnp.zeros_like(kernel)
                .at[-1, 0, 0]
                .set(jnp.tile(eye, kernel.shape[-1] // kernel.shape[-2]))
            )
        elif path.endswith("/kernel") and kernel.shape[0] == 3 and kernel.ndim == 5:
            flat[path] = kernel.at[:-1].set(0) * 3**0.5
    return unflatten_dict(flat, sep="/")


def make_loss(config: TrainConfig) -> Callable[[Params, Params, ClipBatch], Float[Array, "1"]]:
    """``(trainable, base, batch) -> losses``; the posterior's noise follows from the seed and each
    sample's number.
    """
    vae = VAE(config.model.vae, jnp.dtype(config.dtype))

    def loss(trainable, base, batch):
        apply = lambda x, method: vae.apply({"params": combine(base, trainable)}, x, method=method)
        pixels = to_pixels(batch.frames)
        mean, logvar = apply(pixels, "encode")
        draw = lambda sample: jax.random.normal(
            jax.random.fold_in(jax.random.key(config.seed), sample[1]), mean.shape[1:]
        )
        error = (
            apply(
                sample_posterior(mean, logvar, jax.vmap(draw)(batch.sample)), "decode_unclipped"
            ).astype(jnp.float32)
            - pixels
        )
        divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        return (jnp.mean(jnp.abs(error) + error**2) + config.kl_weight * divergence)[None]

    return loss


def make_validation(
    config: TrainConfig, sharding: jax.sharding.Sharding | None = None
) -> Callable[[Params, Params, Sequence[ClipBatch]], dict[str, float]]:
    """``(trainable, base, batches) -> metrics``: ``psnr`` of clips decoded from the posterior's
    mean, in dB, and the posterior's spread.
    """
    vae = VAE(config.model.vae, jnp.dtype(config.dtype))

    def look(trainable, base, batch):
        params = {"params": combine(base, trainable)}
        mean, logvar = vae.apply(params, to_pixels(batch.frames), method="encode")
        return (
            jax.vmap(psnr)(vae.apply(params, mean, method="decode"), batch.frames).mean(),
            jnp.exp(0.5 * logvar).mean(),
            mean.std(),
        )

    look = jax.jit(look, out_shardings=sharding)

    def validate(trainable, base, batches):
        seen = np.mean([jax.device_get(look(trainable, base, batch)) for batch in batches], axis=0)
        return dict(zip(("validation_psnr", "posterior_noise", "posterior_spread"), seen.tolist()))

    return validate


def to_pixels(frames: UInt8[Array | np.ndarray, "B F Y X 3"]) -> Float[Array, "B F Y X 3"]:
    """Bytes to [-1, 1]."""
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1


def psnr(
    pixels: Float[Array, "F Y X 3"], frames: UInt8[Array | np.ndarray, "F Y X 3"]
) -> Float[Array, ""]:
    """Peak signal-to-noise ratio of a clip in [-1, 1], rounded to bytes, against the true bytes;
    dB.
    """
    error = jnp.round((pixels.astype(jnp.float32) + 1) * 127.5) - frames.astype(jnp.float32)
    return 20 * jnp.log10(255.0) - 10 * jnp.log10(jnp.mean(error**2))


def standardized(config: TrainConfig, params: Params, batches: Iterable[ClipBatch]) -> Params:
    """The same VAE with latents of mean 0 and deviation 1 in every channel, over these clips.

    What ``latents_mean`` and ``latents_std`` do for others is folded into the 1 x 1 convolutions on
    both sides of the latents.
    """
    vae, dtype = VAE(config.model.vae), jnp.float32
    encode = jax.jit(
        lambda frames: vae.apply({"params": params}, to_pixels(frames), method="encode")
    )
    moments = [jax.device_get(encode(batch.frames)) for batch in batches]
    means, logvars = (
        np.concatenate([part[i].reshape(-1, part[i].shape[-1]) for part in moments]).astype(
            np.float64
        )
        for i in range(2)
    )
    mean, std = means.mean(0), np.sqrt(means.var(0) + np.exp(logvars).mean(0))
    into, out = params["quant_conv"], params["post_quant_conv"]
    kernel, bias = np.asarray(into["kernel"], np.float64), np.asarray(into["bias"], np.float64)
    back = np.asarray(out["kernel"], np.float64)
    scale = np.concatenate([1 / std, np.ones_like(std)])
    shift = np.concatenate([-mean / std, -2 * np.log(std)])
    quant = {
        "kernel": jnp.asarray(kernel * scale, dtype),
        "bias": jnp.asarray(bias * scale + shift, dtype),
    }
    post = {
        "kernel": jnp.asarray(back * std[:, None], dtype),
        "bias": jnp.asarray(
            np.asarray(out["bias"], np.float64) + np.tensordot(mean, back, (0, 3)).sum((0, 1, 2)),
            dtype,
        ),
    }
    return {**params, "quant_conv": quant, "post_quant_conv": post}

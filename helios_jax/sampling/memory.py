"""How much memory a request needs: an estimate by arithmetic, made before anything is loaded."""

import math
import os

import jax
import numpy as np

from helios_jax.config import HeliosConfig
from helios_jax.sampling.request import Request
from helios_jax.sampling.weights import abstract_params
from helios_jax.types import DTypeLike, Params


def estimate_memory(config: HeliosConfig, request: Request, dtype: DTypeLike, vae_dtype: DTypeLike) -> dict[str, int]:
    """Bytes of each part while a request runs.

    Weights and caches are exact. Activations are those that live at once in a block of the transformer at full resolution, with attention scores
    materialised as the plain implementation does, and in the widest layer of the VAE over a whole chunk.

    Returns:
      ``{"transformer": ..., "text encoder": ..., "vae": ..., "text cache": ..., "transformer activations": ..., "vae activations": ...}``.
    """
    weights = abstract_params(config, dtype, vae_dtype)
    size, vae_size = np.dtype(dtype).itemsize, np.dtype(vae_dtype).itemsize
    cfg, vae = config.transformer, config.vae
    T, H, W, _ = request.latent_shape
    samples = request.batch * (2 if request.plan.guided else 1)
    noisy = T * H * W // math.prod(cfg.patch_size)
    long, mid, short = request.plan.history_sizes
    cells = H * W // (cfg.patch_size[1] * cfg.patch_size[2])
    tokens = noisy + cells * (short + 1) + math.ceil(mid / 2) * cells // 4 + math.ceil(long / 4) * cells // 16
    # residual stream and its norm, q k v, their rotated copies in float32, and the widest of the two hidden layers
    per_token = (5 * cfg.width + max(cfg.ffn_dim, 2 * cfg.width)) * size + 2 * cfg.width * 4
    scores = 2 * cfg.num_attention_heads * tokens**2 * 4 if jax.default_backend() == "cpu" else 0
    pixels = request.frames_per_chunk * request.height * request.width
    # the last upsampling holds its input at full resolution, its patches and its output
    return {
        "transformer": _bytes(weights["transformer"]),
        "text encoder": _bytes(weights["text_encoder"]),
        "vae": _bytes(weights["vae"]),
        "text cache": 2 * cfg.num_layers * samples * config.text_encoder.max_sequence_length * cfg.width * size,
        "transformer activations": samples * (tokens * per_token + scores),
        "vae activations": request.batch * pixels * vae.base_dim * 6 * vae_size,
    }


def peak_memory(parts: dict[str, int]) -> int:
    """Bytes needed at once: everything but the activations of whichever of transformer and VAE is not running."""
    transformer, vae = parts["transformer activations"], parts["vae activations"]
    return sum(parts.values()) - min(transformer, vae)


def host_memory(config: HeliosConfig, request: Request, dtype: DTypeLike) -> int:
    """Bytes of host memory beside the device's: the largest parameter, as they are loaded one at a time, and the frames of a chunk."""
    largest = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_params(config, dtype)))
    return largest + request.batch * request.frames_per_chunk * request.height * request.width * 3


def available_memory() -> int | None:
    """Bytes free on the device that will compute, or None where that is not known."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0) or None
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None


def _bytes(tree: Params) -> int:
    """Size of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

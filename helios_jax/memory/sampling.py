"""How much memory a request needs: estimated before anything is loaded, or known by compiling its
programs for a GPU that need not be there.
"""

import functools
import math
import os
from collections.abc import Callable

import jax
import numpy as np

from helios_jax.checkpoint.params import abstract_params
from helios_jax.config import HeliosConfig, to_dict
from helios_jax.memory import compiler as deviceless
from helios_jax.memory.report import CompilerAbsentError, Plan, program_memory
from helios_jax.models.quantization import Quantization, quantize_transformer
from helios_jax.sampling.request import Request
from helios_jax.types import DTypeLike, Params


def plan_request(
    config: HeliosConfig,
    request: Request,
    target: str,
    dtype: DTypeLike,
    vae_dtype: DTypeLike = "bfloat16",
    *,
    text_encoder: bool = True,
    stream_blocks: bool = False,
    quantization: Quantization | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Plan:
    """The plan of a request on a GPU, from its programs as compiled for it; without the compiler
    (the extra ``plan``), an estimate.

    Args:
      config: of the checkpoint.
      request: what is to be made.
      target: a key of :data:`helios_jax.memory.compiler.TARGETS`.
      dtype, vae_dtype: of weights and activations.
      text_encoder: whether the text encoder stays on the device beside the others, or has been
        there before them.
      stream_blocks: whether the transformer's blocks stay in host memory.
      quantization: of the transformer's large weights; they are loaded before they are rounded.
      progress: told what has been compiled.

    Raises:
      PlanError: if the compiler fails.
    """
    held = dict(stream_blocks=stream_blocks, quantization=quantization)
    estimate = estimate_request(
        config, request, dtype, vae_dtype, text_encoder=text_encoder, **held, fused_attention=True
    )
    options = dict(
        batch=request.batch,
        num_frames=request.num_frames,
        height=request.height,
        width=request.width,
    )
    options |= dict(steps=request.plan.steps, guidance_scale=request.guidance_scale)
    names = dict(
        config=to_dict(config),
        request=options,
        dtype=np.dtype(dtype).name,
        vae_dtype=np.dtype(vae_dtype).name,
    )
    names |= held
    working, host, before = {}, dict(estimate.host), dict(estimate.before)
    try:
        for name, memory in program_memory(
            "helios_jax.memory.sampling_programs:request_programs_from_json", names, target
        ):
            progress(f"compiled {name} for {target} in {memory.seconds:.0f} s")
            if name == "text encoder" and not text_encoder:
                before[name] = memory.arguments + memory.working
            else:
                working[name] = memory.working
            if memory.host:
                host[name] = memory.host
    except CompilerAbsentError as error:
        return estimate._replace(
            source=f"{estimate.source} ({error}: pip install -e '.[plan]' for what the compiler says)"
        )
    return Plan(
        estimate.resident,
        working,
        before,
        host,
        f"as compiled for {deviceless.TARGETS[target].name}",
        "workspace that cuDNN and cuBLAS ask for when they run, and what the allocator loses between arrays",
    )


def estimate_request(
    config: HeliosConfig,
    request: Request,
    dtype: DTypeLike,
    vae_dtype: DTypeLike = "bfloat16",
    *,
    text_encoder: bool = True,
    stream_blocks: bool = False,
    quantization: Quantization | None = None,
    fused_attention: bool | None = None,
) -> Plan:
    """The plan of a request by arithmetic.

    Weights and caches are exact. Working memory is what lives at once in a block of the transformer
    at full resolution, in a layer of the text encoder, and around the VAE's last upsampling over a
    whole chunk.

    Args:
      config, request, dtype, vae_dtype, text_encoder, stream_blocks, quantization: as in
        :func:`plan_request`.
      fused_attention: whether attention scores are never stored; by default, where the program
        would run here.
    """
    if fused_attention is None:
        fused_attention = jax.default_backend() != "cpu"
    loaded = params = abstract_params(config, dtype, vae_dtype)
    if quantization:
        quantize = functools.partial(quantize_transformer, quantization=quantization)
        params = {**loaded, "transformer": jax.eval_shape(quantize, loaded["transformer"])}
    size, vae_size = np.dtype(dtype).itemsize, np.dtype(vae_dtype).itemsize
    cfg, text = config.transformer, config.text_encoder
    T, H, W, C = request.latent_shape
    samples, total = (
        request.batch * (2 if request.plan.guided else 1),
        config.text_encoder.max_sequence_length,
    )
    noisy = T * H * W // math.prod(cfg.patch_size)
    long, mid, newest = request.plan.history_sizes
    cells = H * W // (cfg.patch_size[1] * cfg.patch_size[2])
    tokens = (
        noisy
        + cells * (newest + 1)
        + math.ceil(mid / 2) * cells // 4
        + math.ceil(long / 4) * cells // 16
    )
    # residual stream and its norm, q k v, their rotated copies in float32, and the widest of the
    # two hidden layers
    per_token = (5 * cfg.width + max(cfg.ffn_dim, 2 * cfg.width)) * size + 2 * cfg.width * 4
    # logits and weights of one head of one sample
    scores = 0 if fused_attention else 2 * tokens**2 * 4
    text_per_token = (text.d_model * 6 + text.d_ff * 2) * size + 3 * text.num_heads * total * 4
    pixels = request.frames_per_chunk * request.height * request.width
    resident = {
        "transformer": _bytes(params["transformer"]),
        "text encoder": _bytes(params["text_encoder"]),
        "VAE": _bytes(params["vae"]),
        "text keys and values": 2 * cfg.num_layers * samples * total * cfg.width * size,
        # one window and anchor, a chunk of latents, and its noise, of which the coarser stages have
        # a third more
        "history and noise": request.batch
        * H
        * W
        * C
        * 4
        * (long + mid + newest + 1 + T + 4 * T // 3),
    }
    working = {
        "text encoder": samples * total * text_per_token,
        "chunk": samples * tokens * per_token + scores,
        # the last upsampling holds its input at full resolution, its patches and its output
        "VAE decoder": request.batch * pixels * config.vae.base_dim * 6 * vae_size,
    }
    before = {}
    if not text_encoder:
        before["text encoder"] = resident.pop("text encoder") + working.pop("text encoder")
    if quantization and not stream_blocks:
        others = sum(resident.get(part, 0) for part in ("text encoder", "VAE"))
        rounded = sum(
            _bytes(leaf)
            for leaf in jax.tree.leaves(params["transformer"])
            if leaf.dtype.itemsize == 1
        )
        before["weights while they are rounded"] = _bytes(loaded["transformer"]) + rounded + others
    leaves = jax.tree.leaves(loaded)
    host = {
        "largest array while weights load": max(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "frames of a chunk": request.batch * pixels * 3,
    }
    if stream_blocks:
        blocks = _bytes(params["transformer"]["blocks"])
        host["the transformer's blocks"] = _bytes(loaded["transformer"]["blocks"])
        resident["transformer"] -= blocks
        working["chunk"] += blocks // cfg.num_layers
    unseen = "what XLA and its libraries need beside the arrays of one layer"
    return Plan(resident, working, before, host, "estimated by arithmetic", unseen)


def available_memory() -> int | None:
    """Bytes free on the device that will compute, or None where that is not known."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0) or None
    try:
        with open("/proc/meminfo") as file:
            return next(
                int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")
            )
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        return (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if "SC_PHYS_PAGES" in names
            else None
        )


def _bytes(tree: Params | jax.ShapeDtypeStruct) -> int:
    """Size of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

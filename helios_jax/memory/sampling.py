"""How much memory a request needs: estimated before anything is loaded, or known by compiling its
programs for a GPU that need not be there.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.checkpoint.params import abstract_params, blocks_in_host_memory
from helios_jax.cost.report import predict
from helios_jax.diffusion.history import start_history
from helios_jax.memory import compiler
from helios_jax.memory.report import CompilerAbsentError, MemoryPlan, Program, program_memory
from helios_jax.models.convolution import COMPILER_OPTIONS
from helios_jax.models.layer_stack import COPY_OPTIONS, separate_layers
from helios_jax.models.quantization import Quantization, quantize_transformer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.umt5 import UMT5Encoder, encode_ids
from helios_jax.models.vae import VAE
from helios_jax.models.vae_layers import kernels_by_output
from helios_jax.sampling.chunk import sample_chunk
from helios_jax.sampling.decoding import CONVOLUTION, decode_frames
from helios_jax.sampling.loop import draw_noise, video_keys
from helios_jax.sampling.request import Request
from helios_jax.sampling.text import embed_text
from helios_jax.types import DTypeLike, Params, tree_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """What stays on the device, and how.

    Attributes:
      text_encoder: whether it stays beside the others, or has been there before them.
      stream_blocks: whether the transformer's blocks stay in host memory.
      quantization: of the transformer's large weights; they are loaded before they are rounded.
    """

    text_encoder: bool = True
    stream_blocks: bool = False
    quantization: Quantization | None = None


EVERYTHING = Placement()


def plan_request(
    request: Request,
    target: str = "h100",
    dtype: DTypeLike = "bfloat16",
    vae_dtype: DTypeLike = "bfloat16",
    placement: Placement = EVERYTHING,
    progress: Callable[[str], object] = lambda message: None,
) -> MemoryPlan:
    """Memory that a request takes on a GPU that need not be there; ``print`` it. No weights are
    needed.

    The programs are compiled for the GPU; without the compiler (the extra ``plan``) it is an
    estimate.

    Args:
      request: what is to be made.
      target: a key of :data:`helios_jax.memory.compiler.TARGETS`.
      dtype, vae_dtype: of weights and activations.
      placement: what stays on the device.
      progress: is told what has been compiled.

    Raises:
      PlanError: if the compiler fails.
    """
    estimate = estimate_request(request, dtype, vae_dtype, placement, fused_attention=True)
    working = {}
    host = dict(estimate.host)
    before = dict(estimate.before)
    times = {}
    args = (request, np.dtype(dtype).name, np.dtype(vae_dtype).name, placement)
    try:
        for name, memory in program_memory(request_programs, args, target):
            progress(f"compiled {name} in {memory.seconds:.0f} s")
            if name == "text encoder" and not placement.text_encoder:
                before[name] = memory.arguments + memory.working
            else:
                working[name] = memory.working
            times[name] = predict(memory.kernels, compiler.TARGETS[target])
            if memory.host:
                host[name] = memory.host
    except CompilerAbsentError as error:
        hint = f"({error}: pip install -e '.[plan]' for what the compiler says)"
        return estimate._replace(source=f"{estimate.source} {hint}")
    return MemoryPlan(
        resident=estimate.resident,
        working=working,
        before=before,
        host=host,
        source=f"as compiled for {compiler.TARGETS[target].name}",
        unseen="workspace that cuDNN and cuBLAS ask for when they run, and what the allocator "
        "loses between arrays",
        times=times,
    )


CHUNK_PROGRAMS = ("chunk", "VAE decoder")
"""The programs that run for every chunk of a video."""


def predicted_rate(request: Request, plan: MemoryPlan) -> float | None:
    """Frames a second of all videos of a request, once it runs; None where nothing was compiled.

    The amplified first chunk, text and what the host does are not in it.
    """
    if not plan.times:
        return None
    seconds = sum(plan.times[name].seconds for name in CHUNK_PROGRAMS)
    return request.batch * request.frames_per_chunk / seconds


def request_programs(
    request: Request,
    dtype: DTypeLike,
    vae_dtype: DTypeLike,
    placement: Placement = EVERYTHING,
) -> dict[str, Program]:
    """The programs that take memory, in the order they run, with arrays of a shape and a dtype
    only, for prompts of any length.

    An amplified first chunk is left out: its loops are longer, and it needs the same memory.
    """
    config = request.config
    dtype = jnp.dtype(dtype)
    params = _placed_params(request, dtype, jnp.dtype(vae_dtype), placement)
    transformer = HeliosTransformer(config.transformer, dtype)
    kernels = config.transformer.kernels
    vae = VAE(config.vae, jnp.dtype(vae_dtype), convolution=CONVOLUTION, kernels=kernels)
    array = jax.ShapeDtypeStruct

    samples = _samples(request)
    total = config.text_encoder.max_sequence_length
    ids = array((samples, total), jnp.int32)
    lengths = array((samples,), jnp.int32)
    features = array((samples, total, config.text_encoder.d_model), dtype)
    encoder = UMT5Encoder(config.text_encoder, dtype)
    encode_prompts = jax.jit(functools.partial(encode_ids, encoder))
    embed = jax.jit(functools.partial(embed_text, transformer, total))
    text = jax.eval_shape(embed, params["transformer"], features, lengths)

    shape = request.latent_shape
    sample = functools.partial(
        sample_chunk, model=transformer, scheduler=request.scheduler, plan=request.plan
    )
    history = jax.eval_shape(
        lambda: start_history((request.batch, *shape[1:]), request.plan.history_sizes)
    )
    noise = jax.eval_shape(lambda: draw_noise(request, video_keys(request), 1))
    chunk = (params["transformer"], history, noise, text, array((), jnp.float32))
    options = COPY_OPTIONS if placement.stream_blocks else {}
    frames = jax.jit(
        lambda params, latents: decode_frames(vae, params, latents, "uint8"),
        compiler_options=COMPILER_OPTIONS,
    )
    latents = array((request.batch, *shape), jnp.float32)
    return {
        "text encoder": Program(encode_prompts, (params["text_encoder"], ids, lengths)),
        "text keys and values": Program(embed, (params["transformer"], features, lengths)),
        "chunk": Program(
            jax.jit(sample, donate_argnums=1, compiler_options=options or None), chunk
        ),
        "VAE decoder": Program(frames, (params["vae"], latents)),
    }


def _placed_params(
    request: Request, dtype: DTypeLike, vae_dtype: DTypeLike, placement: Placement
) -> dict[str, Params]:
    """Abstract parameters as the programs are given them."""
    params = abstract_params(request.config, dtype, vae_dtype)
    params["vae"] = kernels_by_output(params["vae"])
    if not placement.stream_blocks:
        blocks = separate_layers(params["transformer"]["blocks"])
        params["transformer"] = {**params["transformer"], "blocks": blocks}
    if placement.quantization:
        quantize = functools.partial(quantize_transformer, quantization=placement.quantization)
        params["transformer"] = jax.eval_shape(quantize, params["transformer"])
    if placement.stream_blocks:
        params["transformer"] = blocks_in_host_memory(params["transformer"])
    return params


def _samples(request: Request) -> int:
    """Samples of a batch in the transformer: with guidance, each has its negative prompt, too."""
    return request.batch * (2 if request.plan.guided else 1)


def estimate_request(
    request: Request,
    dtype: DTypeLike,
    vae_dtype: DTypeLike = "bfloat16",
    placement: Placement = EVERYTHING,
    *,
    fused_attention: bool | None = None,
) -> MemoryPlan:
    """The plan of a request by arithmetic.

    Weights and caches are exact. Working memory is what lives at once in a block of the transformer
    at full resolution, in a layer of the text encoder, and around the VAE's last upsampling over a
    whole chunk.

    Args:
      request, dtype, vae_dtype, placement: as in :func:`plan_request`.
      fused_attention: whether attention scores are never stored; by default, where the program
        would run here.
    """
    if fused_attention is None:
        fused_attention = jax.default_backend() != "cpu"
    config = request.config
    params = _placed_params(request, dtype, vae_dtype, placement)
    working = {
        "text encoder": _text_encoder_bytes(request, dtype),
        "chunk": _chunk_bytes(request, dtype, fused_attention),
        # The last upsampling holds its input at full resolution, its patches and its output.
        "VAE decoder": _pixels(request) * config.vae.base_dim * 6 * np.dtype(vae_dtype).itemsize,
    }
    loaded = abstract_params(config, dtype, vae_dtype)
    resident = {
        "transformer": tree_bytes(params["transformer"]),
        "text encoder": tree_bytes(params["text_encoder"]),
        "VAE": tree_bytes(params["vae"]),
        "text keys and values": _text_cache_bytes(request, dtype),
        "history and noise": _history_bytes(request),
    }
    before = {}
    if not placement.text_encoder:
        before["text encoder"] = resident.pop("text encoder") + working.pop("text encoder")
    if placement.quantization and not placement.stream_blocks:
        rounded = [
            leaf for leaf in jax.tree.leaves(params["transformer"]) if leaf.dtype.itemsize == 1
        ]
        others = resident["VAE"] + resident.get("text encoder", 0)
        both = tree_bytes(loaded["transformer"]) + tree_bytes(rounded)
        before["weights while they are rounded"] = both + others
    host = {
        "largest array while weights load": max(map(tree_bytes, jax.tree.leaves(loaded))),
        "frames of a chunk": _pixels(request) * 3,
    }
    if placement.stream_blocks:
        blocks = tree_bytes(params["transformer"]["blocks"])
        host["the transformer's blocks"] = tree_bytes(loaded["transformer"]["blocks"])
        resident["transformer"] -= blocks
        # One block computes while the next one comes.
        working["chunk"] += 2 * (blocks // config.transformer.num_layers)
    return MemoryPlan(
        resident=resident,
        working=working,
        before=before,
        host=host,
        source="estimated by arithmetic",
        unseen="what XLA and its libraries need beside the arrays of one layer",
    )


def _pixels(request: Request) -> int:
    """Pixels of a chunk of all videos."""
    return request.batch * request.frames_per_chunk * request.height * request.width


def _tokens(request: Request) -> int:
    """Tokens of the transformer's sequence at full resolution: the noisy ones and the history's,
    whose older frames are in patches of (2, 2, 2) and (4, 4, 4) times the usual size.
    """
    patch = request.config.transformer.patch_size
    T, H, W, _ = request.latent_shape
    long, mid, newest = request.plan.history_sizes
    cells = H * W // (patch[1] * patch[2])
    noisy = T * H * W // math.prod(patch)
    recent = cells * (newest + 1)
    return noisy + recent + math.ceil(mid / 2) * cells // 4 + math.ceil(long / 4) * cells // 16


def _chunk_bytes(request: Request, dtype: DTypeLike, fused_attention: bool) -> int:
    """Working memory of a block of the transformer."""
    config = request.config.transformer
    tokens = _tokens(request)
    # Residual stream and its norm, q k v, their rotated copies in float32, and the widest of the
    # two hidden layers.
    hidden = max(config.ffn_dim, 2 * config.width)
    per_token = (5 * config.width + hidden) * np.dtype(dtype).itemsize + 2 * config.width * 4
    # Logits and weights of one head of one sample.
    scores = 0 if fused_attention else 2 * tokens**2 * 4
    return _samples(request) * tokens * per_token + scores


def _text_encoder_bytes(request: Request, dtype: DTypeLike) -> int:
    """Working memory of a layer of the text encoder."""
    config = request.config.text_encoder
    total = config.max_sequence_length
    per_token = (config.d_model * 6 + config.d_ff * 2) * np.dtype(dtype).itemsize
    per_token += 3 * config.num_heads * total * 4
    return _samples(request) * total * per_token


def _text_cache_bytes(request: Request, dtype: DTypeLike) -> int:
    """Keys and values of the text for all blocks."""
    config = request.config
    rows = _samples(request) * config.text_encoder.max_sequence_length
    width = config.transformer.num_layers * config.transformer.width
    return 2 * rows * width * np.dtype(dtype).itemsize


def _history_bytes(request: Request) -> int:
    """One window and anchor, a chunk of latents, and its noise, of which the coarser stages have a
    third more.
    """
    T, H, W, C = request.latent_shape
    frames = sum(request.plan.history_sizes) + 1 + T + 4 * T // 3
    return request.batch * H * W * C * 4 * frames


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
        if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
            return None
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

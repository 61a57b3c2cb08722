"""How fast helios-jax is on one GPU: kernels, attention, one forward, the VAE, chunks and requests.

  python benchmarks/gpu.py                          # full size: eight minutes, 60 GB of GPU memory
  python benchmarks/gpu.py --budget_s=240           # no row begins later; the rest is not measured
  python benchmarks/gpu.py --rows=kernel,attention  # some of the rows
  python benchmarks/gpu.py --size=toy               # every row, small, on any device: does it run?

Weights and data are random. Each row is written to --out as soon as it is measured, so an
interrupted run leaves the rows it has. How a row is timed:

  copy            x + 1 over 1 GiB of bfloat16, bytes read and written: the rate that kernels are
                  compared with
  matmul          the widest product of the model: the rate that the transformer is compared with
  kernel          a queue of calls over buffers that together exceed the L2 cache several times;
                  bytes are those of operands and results, once each; `reference` is plain JAX, one
                  operation after another, and `xla` the same as XLA fuses it
  attention       4 N S d K operations
  convolution     of the VAE; operations are those of the plain form
  block, forward  bfloat16, batch 1, history and text prepared, as the sampler calls them;
                  operations are those of PyTorch, which prepares nothing
  forward of stacked blocks   the same as a loop over one array for all blocks, which copies them
  vae             one chunk of latents to 8-bit frames, by the form of its convolutions
  chunk           seconds between the frames of two chunks in host memory, median of chunks 2 to 8;
                  transformer, VAE and copy inside
  request         prompt to the last frame, everything compiled; `first frames` is the wait for the
                  first chunk
"""

import datetime
import functools
import importlib.metadata
import json
import platform
import resource
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from helios_jax.checkpoint.params import abstract_params
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import HeliosConfig
from helios_jax.diffusion.history import frame_indices, start_history
from helios_jax.fields import from_dict
from helios_jax.kernels import attention as attention_kernel
from helios_jax.kernels import norm_rope, residual_norm
from helios_jax.models.block import Block, Rope, Segments, TextCache
from helios_jax.models.convolution import (
    conv3d,
    convolve,
    frames_as_channels,
    tap_by_tap,
    upsample_convolve,
)
from helios_jax.models.layer_stack import layer_params, separate_layers
from helios_jax.models.tokenizer import train_tokenizer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.sampling.chunk import ChunkPlan, embed_chunk_history
from helios_jax.sampling.decoding import CONVOLUTION, decode
from helios_jax.sampling.loading import separates_blocks
from helios_jax.sampling.pipeline import HeliosPipeline

ROOT = Path(__file__).parents[1]
SIZE = flags.DEFINE_enum(
    "size", "full", ["full", "toy"], "The released model at 384 x 640, or the tiny preset."
)
BUDGET = flags.DEFINE_float("budget_s", 540, "Seconds after which no further row begins.")
ROWS = flags.DEFINE_list("rows", [], "Rows to measure, by how their names begin; all by default.")
REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Timed repeats of a row; medians are reported.", lower_bound=1
)
OUT = flags.DEFINE_string(
    "out", str(Path(__file__).parent / "results/gpu"), "Result files, without .json and .md."
)
PROMPT = (
    "a red ball rolls slowly over green grass while the camera follows it from the left; soft "
    "morning light, long shadows"
)


class Row(NamedTuple):
    """What is timed.

    Attributes:
      name: its first word is the kind of row.
      make: prepares the row and returns what is timed. That is called once to compile, then
        ``REPEATS`` times, and returns seconds: a number, or several whose median is taken.
      amount: unit and amount of its rate: ("GB/s", bytes), ("TFLOP/s", operations) or
        ("frames/s", frames), or None.
      against: name of the row that the rate is given as a share of.
    """

    name: str
    make: Callable[[], Callable[[], float | list[float]]]
    amount: tuple[str, float] | None = None
    against: str | None = None


UNITS = {"GB/s": 1e9, "TFLOP/s": 1e12, "frames/s": 1.0}


def queued(
    fn: Callable[..., Any], draw: Callable[[], list[tuple]], calls: int
) -> Callable[[], float]:
    """A function that returns the seconds of a call of ``fn`` when many wait in the queue.

    Starting a call costs nothing then. The inputs that ``draw`` makes take turns.
    """
    inputs = draw()

    def run():
        began = time.perf_counter()
        for call in range(calls):
            out = fn(*inputs[call % len(inputs)])
        jax.block_until_ready(out)
        return (time.perf_counter() - began) / calls

    return run


def random_like(tree: Any, seed: int = 0) -> Any:
    """Arrays of the shapes and dtypes of ``tree``, drawn on the device.

    Norms are one, everything else is normal with standard deviation 0.02.
    """

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def draw(key, shape, dtype):
        return (0.02 * jax.random.normal(key, shape, jnp.bfloat16)).astype(dtype)

    def make(number, path, leaf):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if names and names[-1] in ("scale", "gamma", "history_key_scale"):
            return jnp.ones(leaf.shape, leaf.dtype)
        return draw(jax.random.fold_in(jax.random.key(seed), number), leaf.shape, leaf.dtype)

    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return jax.tree.unflatten(
        structure, [make(number, path, leaf) for number, (path, leaf) in enumerate(leaves)]
    )


def drawn(shapes: tuple, times: int = 1) -> list[tuple]:
    """Random inputs of the shapes of a call, ``times`` over."""
    return [random_like(shapes, seed) for seed in range(times)]


def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


class Size(NamedTuple):
    """A model, its history tokens, and the noisy tokens of each stage."""

    config: HeliosConfig
    history: int
    noisy: tuple[int, ...]
    height: int
    width: int


def read_size() -> Size:
    """The size that --size asks for."""
    name = {"full": "helios_distilled", "toy": "tiny"}[SIZE.value]
    config = from_dict(
        HeliosConfig, runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]()
    )
    height = config.sample.height
    width = config.sample.width
    cells = (height // 16) * (width // 16)
    long, mid, short = config.sample.history_sizes
    history = cells * (short + 1) + -(-mid // 2) * -(-cells // 4) + -(-long // 4) * -(-cells // 16)
    noisy = tuple(config.sample.latent_frames_per_chunk * cells // 4**stage for stage in (2, 1, 0))
    return Size(config, history, noisy, height, width)


def rows(size: Size) -> Iterator[Row]:
    """Every row; within its kind, the most important comes last."""
    yield from device_rows(size)
    yield from kernel_rows(size)
    yield from attention_rows(size)
    yield from convolution_rows(size)
    yield from model_rows(size)


def device_rows(size: Size) -> Iterator[Row]:
    elements = 2**29 if SIZE.value == "full" else 2**16
    copy = jax.jit(lambda x: x + jnp.bfloat16(1))
    draw = functools.partial(drawn, (array(elements),))
    yield Row("copy", functools.partial(queued, copy, draw, 10), ("GB/s", 4 * elements))
    cfg = size.config.transformer
    tokens = size.history + size.noisy[-1]
    draw = functools.partial(drawn, (array(tokens, cfg.width), array(cfg.width, cfg.ffn_dim)))
    operations = 2 * tokens * cfg.width * cfg.ffn_dim
    yield Row(
        "matmul", functools.partial(queued, jax.jit(jnp.dot), draw, 10), ("TFLOP/s", operations)
    )


def kernel_rows(size: Size) -> Iterator[Row]:
    """Each fused operation by each implementation that serves here, at the last stage's tokens."""
    cfg = size.config.transformer
    h = size.history
    N = h + size.noisy[-1]
    D = cfg.width
    K = cfg.num_attention_heads
    d = cfg.attention_head_dim
    x = array(1, N, D)
    row = array(D)
    pair = array(1, 2, D, dtype=jnp.float32)
    angles = array(N, d // 2, dtype=jnp.float32)
    operations = {
        "modulated layer norm": (
            functools.partial(residual_norm.modulated_layer_norm, history=h, eps=1e-6),
            (x, pair, pair),
        ),
        "layer norm": (functools.partial(residual_norm.layer_norm, eps=1e-6), (x, row, row)),
        "RMS norm": (functools.partial(residual_norm.rms_norm, eps=1e-6), (x, row)),
        "gated residual": (
            functools.partial(residual_norm.gated_residual, history=h),
            (x, x, pair),
        ),
        "gated residual + norm": (
            functools.partial(residual_norm.gated_residual_norm, history=h, eps=1e-6),
            (x, x, pair, (pair, pair)),
        ),
        "q, k norm + rotary": (
            functools.partial(norm_rope.norm_rope, history=h, eps=1e-6),
            (array(1, N, 3, K, d), (row, row), (angles, angles)),
        ),
    }
    for name, (fn, shapes) in operations.items():
        moved = sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in jax.tree.leaves((shapes, jax.eval_shape(fn, *shapes)))
        )
        calls = {"reference": functools.partial(fn, implementation="xla")}
        calls |= {
            name: jax.jit(functools.partial(fn, implementation=name))
            for name in ("xla", "triton", "pallas")
        }
        for implementation, call in calls.items():
            make = functools.partial(queued, call, functools.partial(drawn, shapes, 3), 60)
            yield Row(f"kernel {name}, {implementation}", make, ("GB/s", moved), "copy")


def attention_rows(size: Size) -> Iterator[Row]:
    cfg = size.config.transformer
    K = cfg.num_attention_heads
    d = cfg.attention_head_dim
    S = 128
    for kind, shapes in (
        *(
            (f"self, {size.history + n} tokens", (size.history + n, size.history + n))
            for n in size.noisy
        ),
        (f"text, {size.noisy[-1]} tokens on {S}", (size.noisy[-1], S)),
    ):
        queries, keys = (array(1, tokens, K, d) for tokens in shapes)
        bias = array(1, S, dtype=jnp.float32) if kind.startswith("text") else None
        operations = 4 * shapes[0] * shapes[1] * K * d
        for implementation in ("cudnn", "pallas") if SIZE.value == "full" else ("xla",):
            call = jax.jit(
                functools.partial(attention_kernel.attention, implementation=implementation)
            )
            make = functools.partial(
                queued, call, functools.partial(drawn, (queries, keys, keys, bias)), 10
            )
            yield Row(
                f"attention {kind}, {implementation}", make, ("TFLOP/s", operations), "matmul"
            )


def convolution_rows(size: Size) -> Iterator[Row]:
    """The VAE's widest convolution in each form, and its last upsampling in both.

    They run over the frames of three latent frames.
    """
    frames = 12
    C = size.config.vae.base_dim
    given = dict(strides=(1, 1, 1), padding=((1, 1), (1, 1)))
    draw = functools.partial(
        drawn, (array(1, frames + 2, size.height, size.width, C), array(3, 3, 3, C, C))
    )
    operations = 2 * 27 * C * C * frames * size.height * size.width
    for form in (conv3d, tap_by_tap, frames_as_channels):
        make = functools.partial(queued, jax.jit(functools.partial(form, **given)), draw, 5)
        yield Row(
            f"convolution 3 x 3 x 3, {form.__name__}", make, ("TFLOP/s", operations), "matmul"
        )
    draw = functools.partial(
        drawn,
        (
            array(1, frames, size.height // 2, size.width // 2, 2 * C),
            array(1, 3, 3, 2 * C, C),
            array(C),
        ),
    )

    def repeated(x, kernel, bias):
        return convolve(
            x.repeat(2, axis=2).repeat(2, axis=3), kernel, bias, padding=((1, 1), (1, 1))
        )

    operations = 2 * 9 * 2 * C * C * frames * size.height * size.width
    for name, form in {"phases": upsample_convolve, "repetition": repeated}.items():
        make = functools.partial(queued, jax.jit(form), draw, 5)
        yield Row(f"convolution after upsampling, {name}", make, ("TFLOP/s", operations), "matmul")


def model_rows(size: Size) -> Iterator[Row]:
    """The transformer in parts, then the pipeline, of one set of random weights."""
    parts = Parts(size)
    config = size.config
    rows = config.text_encoder.max_sequence_length
    operations = block_operations(size, size.noisy[-1], rows)
    yield Row(
        f"block, {size.history + size.noisy[-1]} tokens",
        parts.block,
        ("TFLOP/s", operations),
        "matmul",
    )
    for stage, n in enumerate(size.noisy):
        operations = forward_operations(size, n, rows)
        yield Row(
            f"forward, {size.history + n} tokens",
            functools.partial(parts.forward, stage),
            ("TFLOP/s", operations),
            "matmul",
        )
    stage = len(size.noisy) - 1
    tokens = size.history + size.noisy[-1]
    yield Row(
        f"forward of stacked blocks, {tokens} tokens",
        functools.partial(parts.forward, stage, stacked=True),
        ("TFLOP/s", forward_operations(size, size.noisy[-1], rows)),
        "matmul",
    )
    yield Row("vae decode of a chunk", functools.partial(parts.decode, CONVOLUTION))
    other = "frames_as_channels"
    yield Row(f"vae decode of a chunk, {other}", functools.partial(parts.decode, other))
    frames = 1 + config.vae.temporal_factor * (config.sample.latent_frames_per_chunk - 1)
    for steps in ((1, 1, 1), (2, 2, 2)):
        make = functools.partial(parts.video, between_chunks, steps, 8 * frames)
        yield Row(f"chunk {'-'.join(map(str, steps))}", make, ("frames/s", frames))
    make = functools.partial(parts.video, between_chunks, (2, 2, 2), 8 * frames, quantized=True)
    yield Row("chunk 2-2-2, fp8 weights and activations", make, ("frames/s", frames))
    first = (
        "first chunk amplified"
        if config.sample.amplify_first_chunk
        else "first chunk as the others"
    )
    yield Row(
        f"request of 240 frames, 2-2-2, {first}",
        functools.partial(parts.video, whole_request, (2, 2, 2), 240),
        ("frames/s", 240),
    )
    yield Row(
        f"first frames, 2-2-2, {first}",
        functools.partial(parts.video, first_frames, (2, 2, 2), frames),
    )


class Parts:
    """Parts of a model of random weights, which are drawn when the first part needs them."""

    def __init__(self, size: Size):
        self.size = size
        self.model = HeliosTransformer(size.config.transformer, jnp.bfloat16)
        vae = size.config.vae
        T = size.config.sample.latent_frames_per_chunk
        self.latent_shape = (
            1,
            T,
            size.height // vae.spatial_factor,
            size.width // vae.spatial_factor,
            vae.z_dim,
        )
        self.indices = frame_indices(size.config.sample.history_sizes, T)

    @functools.cached_property
    def pipeline(self) -> HeliosPipeline:
        config = self.size.config
        abstract = abstract_params(config, jnp.bfloat16, jnp.bfloat16)
        if separates_blocks():
            blocks = separate_layers(abstract["transformer"]["blocks"])
            abstract["transformer"] = {**abstract["transformer"], "blocks": blocks}
        params = random_like(abstract)
        words = [
            "a red ball rolls over green grass",
            "the quick brown fox jumps over the lazy dog",
            "0123456789 .,;:!?'()-",
        ]
        tokenizer = train_tokenizer(words, config.text_encoder.vocab_size)
        return HeliosPipeline(config, params, tokenizer, dtype=jnp.bfloat16, vae_dtype=jnp.bfloat16)

    @property
    def params(self) -> Any:
        """The transformer's."""
        return self.pipeline.params["transformer"]

    @functools.cached_property
    def text(self) -> TextCache:
        return self.pipeline.encode_prompts([PROMPT])

    @functools.cached_property
    def history(self) -> Any:
        """The history before a first chunk, prepared as the sampler does once a chunk."""
        B, T, H, W, C = self.latent_shape
        state = start_history((B, H, W, C), self.size.config.sample.history_sizes)
        prepare = functools.partial(
            embed_chunk_history, frames=T, model=self.model, plan=ChunkPlan((1,), False)
        )
        return jax.jit(prepare)(self.params, state)

    @functools.cached_property
    def time(self) -> Any:
        embed = jax.jit(
            lambda params, time: self.model.apply({"params": params}, time, method="embed_time")
        )
        return embed(self.params, jnp.full((1,), 500.0))

    @functools.cached_property
    def denoise(self) -> Callable[..., Any]:
        def apply(params, latents, time, text, history):
            return self.model.apply(
                {"params": params},
                latents,
                time,
                text,
                history,
                self.indices.noisy,
                method="denoise",
            )

        return jax.jit(apply)

    def block(self) -> Callable[[], float]:
        cfg = self.size.config.transformer
        tokens = self.size.history + self.size.noisy[-1]
        block = Block(cfg, jnp.bfloat16, parent=None)
        angles = array(tokens, cfg.attention_head_dim // 2, dtype=jnp.float32)
        middle = layer_params(self.params["blocks"], cfg.num_layers // 2)
        cache = TextCache(self.text.key[0], self.text.value[0], self.text.bias)
        x, modulation, *angles = random_like(
            (array(1, tokens, cfg.width), array(1, 2, 6, cfg.width), angles, angles)
        )
        run = jax.jit(
            lambda params, x, *rest: block.apply(
                {"params": params}, x, *rest, segments=Segments(self.size.history)
            )
        )
        return queued(run, lambda: [(middle, x, modulation, Rope(*angles), cache)], 10)

    def forward(self, stage: int, stacked: bool = False) -> Callable[[], float]:
        """One forward; with ``stacked``, of weights in one array for all blocks, as a loop."""
        B, T, H, W, C = self.latent_shape
        latents = random_like(
            array(B, T, H // 2 ** (2 - stage), W // 2 ** (2 - stage), C, dtype=jnp.float32)
        )
        params, text = self.params, self.text
        if stacked:
            abstract = abstract_params(self.size.config, jnp.bfloat16, jnp.bfloat16)
            params = random_like(abstract["transformer"])
            text = TextCache(jnp.stack(list(text.key)), jnp.stack(list(text.value)), text.bias)
        return queued(self.denoise, lambda: [(params, latents, self.time, text, self.history)], 2)

    def decode(self, form: str) -> Callable[[], float]:
        """The VAE with its convolutions computed in this form."""
        vae = self.pipeline.vae.clone(convolution=form)
        run = functools.partial(decode, vae, self.pipeline.params["vae"])
        draw = functools.partial(drawn, (array(*self.latent_shape, dtype=jnp.float32),))
        return queued(lambda latents: run(latents, "uint8"), draw, 2)

    def video(
        self,
        timed: Callable[..., Any],
        steps: tuple[int, ...],
        num_frames: int,
        quantized: bool = False,
    ) -> Callable[[], float | list[float]]:
        """A function that returns what ``timed`` measures of a video as it streams."""
        pipeline = self.pipeline
        if quantized:
            pipeline = pipeline.quantized("fp8", round_activations=True)
        stream = functools.partial(
            pipeline.stream, PROMPT, steps=steps, guidance_scale=1.0, lookahead=1
        )
        return functools.partial(timed, functools.partial(stream, num_frames=num_frames))


def between_chunks(stream: Callable[[], Iterator[np.ndarray]]) -> list[float]:
    """Seconds from each chunk to the next."""
    arrived = [time.perf_counter() for _ in stream()]
    return list(np.diff(arrived))


def whole_request(stream: Callable[[], Iterator[np.ndarray]]) -> float:
    began = time.perf_counter()
    for _ in stream():
        pass
    return time.perf_counter() - began


def first_frames(stream: Callable[[], Iterator[np.ndarray]]) -> float:
    began = time.perf_counter()
    next(stream())
    return time.perf_counter() - began


def block_operations(size: Size, n: int, S: int) -> float:
    """Operations of a block as PyTorch computes it; a multiplication and an addition are two.

    It has ``n`` noisy tokens and all ``S`` text rows, and nothing is prepared.
    """
    cfg = size.config.transformer
    D = cfg.width
    F = cfg.ffn_dim
    N = size.history + n
    return (
        8.0 * N * D**2 + 4 * N**2 * D + 4 * N * D * F + 4 * n * D**2 + 4 * n * S * D + 4 * S * D**2
    )


def forward_operations(size: Size, n: int, S: int) -> float:
    """Operations of a forward: all blocks, patches, text and time embeddings, output head."""
    cfg = size.config.transformer
    D = cfg.width
    cells = int(cfg.in_channels * np.prod(cfg.patch_size))
    outside = (
        4 * n * cells * D
        + 2 * size.history * cells * D
        + 2 * S * (cfg.text_dim * D + D**2)
        + 4 * (cfg.freq_dim * D + 7 * D**2)
    )
    return cfg.num_layers * block_operations(size, n, S) + outside


def measure(row: Row, rates: dict[str, float], deadline: float) -> dict[str, Any]:
    """Time a row at least once, and no more after the deadline.

    Args:
      row: to be timed.
      rates: of the rows so far; takes this row's.
      deadline: on the monotonic clock.
    """
    began = time.perf_counter()
    run = row.make()
    run()
    compiled = time.perf_counter() - began
    samples = []
    repeats = 0
    while not samples or (repeats < REPEATS.value and time.monotonic() < deadline):
        samples += np.atleast_1d(run()).tolist()
        repeats += 1
    median = statistics.median(samples)
    result = {
        "row": row.name,
        "median_s": median,
        "min_s": min(samples),
        "max_s": max(samples),
        "repeats": repeats,
        "samples": len(samples),
        "first_s": compiled,
    }
    if row.amount:
        unit, amount = row.amount
        rates[row.name] = result["rate"] = amount / median / UNITS[unit]
        result["unit"] = unit
        if row.against in rates:
            result["share"] = result["rate"] / rates[row.against]
            result["against"] = row.against
    return result | {"peak_bytes_so_far": peak_bytes()}


def peak_bytes() -> int:
    """Peak memory of the device, or of this process where the device keeps no count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return stats.get("peak_bytes_in_use", process)


def conditions() -> dict[str, Any]:
    device = jax.local_devices()[0]
    sample = read_size().config.sample
    packages = ("jax", "jaxlib", "triton", "jax-triton", "numpy")
    installed = {name: importlib.metadata.version(name) for name in packages if has(name)}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"one {device.device_kind}",
        "platform": getattr(device.client, "platform_version", device.platform)
        .strip()
        .splitlines()[0],
        "python": platform.python_version(),
        **installed,
        "size": SIZE.value,
        "dtype": "bfloat16 weights and activations; float32 latents, norms, modulation",
        "weights and data": "random",
        "video": f"{sample.width} x {sample.height}, batch 1, no guidance; a chunk begins before "
        "the previous one is copied to the host",
        "prompt": PROMPT,
        "statistic": f"median of {REPEATS.value} repeats after one that compiles, or of as many as "
        f"the budget of {BUDGET.value:g} s left time for",
        "peak memory": "of the device"
        if device.memory_stats()
        else "of the process, because the device keeps no count",
    }


def has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def markdown(report: dict[str, Any]) -> str:
    """The results as a table."""
    lines = [
        "# helios-jax on a GPU",
        "",
        f"`{report['command']}`; how to read a row: `--help`.",
        "",
    ]
    lines += [
        "| row | median | rate | share | min .. max, samples | peak GB so far |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["results"]:
        rate = f"{row['rate']:.4g} {row['unit']}" if "rate" in row else ""
        share = f"{row['share']:.0%} of {row['against']}" if "share" in row else ""
        peak = f"{row['peak_bytes_so_far'] / 1e9:.1f}" if row.get("peak_bytes_so_far") else ""
        if "not_measured" in row:
            lines.append(f"| {row['row']} | not measured: {row['not_measured']} | | | | |")
            continue
        spread = f"{milliseconds(row['min_s'])} .. {milliseconds(row['max_s'])}, {row['samples']}"
        median = milliseconds(row["median_s"])
        lines.append(f"| {row['row']} | {median} | {rate} | {share} | {spread} | {peak} |")
    return "\n".join(
        [
            *lines,
            "",
            "## Conditions",
            "",
            *(f"* {name}: {value}" for name, value in report["conditions"].items()),
            "",
        ]
    )


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms" if seconds < 9.9995 else f"{seconds * 1e3:.0f} ms"


def write(path: Path, text: str) -> None:
    """Replace a file at once."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def main(argv: list[str]) -> None:
    """Measure row after row while there is time; write both files after each."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    use_compile_cache()  # a run that goes on compiles nothing twice
    deadline = time.monotonic() + BUDGET.value
    rates = {}
    report = {
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        "conditions": conditions(),
        "results": [],
    }
    for row in rows(read_size()):
        if (
            ROWS.value
            and not row.name.startswith(tuple(ROWS.value))
            and row.name not in ("copy", "matmul")
        ):
            continue
        if time.monotonic() > deadline:
            result = {
                "row": row.name,
                "not_measured": f"the budget of {BUDGET.value:g} s was spent",
            }
        else:
            try:
                result = measure(row, rates, deadline)
            # Refused, or more memory than there is: the other rows still count.
            except (ValueError, jax.errors.JaxRuntimeError) as error:
                result = {"row": row.name, "not_measured": " ".join(str(error).split())[:300]}
        print(markdown({**report, "results": [result]}).splitlines()[6], flush=True)
        report["results"].append(result)
        write(Path(f"{OUT.value}.json"), json.dumps(report, indent=2) + "\n")
        write(Path(f"{OUT.value}.md"), markdown(report))


if __name__ == "__main__":
    app.run(main)

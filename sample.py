"""Make videos from prompts with Helios.

Without a checkpoint, a small model with random weights shows that everything runs, in seconds on a laptop:

  python sample.py --prompt "a red ball rolls over green grass"

A converted checkpoint (see convert_torch_weights.py) and a minute of video:

  python sample.py --checkpoint checkpoints/helios-distilled --prompt "a sailing boat in a storm" --num_frames 1440 --out boat.mp4

Every prompt of a file, two seeds each, as animated GIFs:

  python sample.py --checkpoint checkpoints/helios-distilled --prompt_file prompts.txt --batch 2 --out clip.gif

Any field of a preset can be changed: --config configs/helios_mid.py --config.sample.cfg_zero_star=False

What a request would take on a GPU, asked on a machine that has none (`pip install -e '.[plan]'` for the compiler, without which it is estimated):

  python sample.py --config configs/helios_distilled.py --plan=h100

Compiled programs are kept in the user's cache folder (--compile_cache), so that only the first run of a shape compiles.

Exit status: 0 when every video is written, 2 when the request cannot be served (one line on stderr says why, and nothing is written).
"""

import contextlib
import dataclasses
import os
import runpy
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from helios_jax import checkpoint, media
from helios_jax.cli import plan_flag, run_script
from helios_jax.compile_cache import count_programs, use_compile_cache
from helios_jax.config import ConfigError, HeliosConfig, from_dict
from helios_jax.kernels.deviceless import TARGETS
from helios_jax.models.tokenizer import TokenizerError
from helios_jax.program_memory import PlanError
from helios_jax.sampling.pipeline import HeliosPipeline, default_dtype
from helios_jax.sampling.plan import GIB, available_memory, estimate_request, plan_request
from helios_jax.sampling.request import Request, RequestError, make_request, reference_frames
from helios_jax.sampling.timing import Stopwatch

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Preset: a file of configs/. With --checkpoint, its model must be the checkpoint's."
)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Checkpoint directory; without one, random weights of --config or configs/tiny.py.")
PROMPT = flags.DEFINE_string("prompt", None, "What the video shows.")
PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "Text file with one prompt a line, one video each.")
NEGATIVE_PROMPT = flags.DEFINE_string("negative_prompt", None, "What guidance leads away from; unused where guidance_scale is 1.")
NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames of the video; whole chunks are generated and the last one is cut.")
REFERENCE_FRAMES = flags.DEFINE_bool("reference_frames", False, "Round --num_frames as the PyTorch implementation does: 99 becomes 97.")
HEIGHT = flags.DEFINE_integer("height", None, "Pixels; a multiple of 64 for a pyramid of three stages, of 16 for one.")
WIDTH = flags.DEFINE_integer("width", None, "Pixels; a multiple of 64 for a pyramid of three stages, of 16 for one.")
FPS = flags.DEFINE_integer("fps", None, "Frames per second of the file; the model's are 24.")
STEPS = flags.DEFINE_list("steps", None, "Solver steps of each stage, coarsest first: 2,2,2. One number serves every stage.")
GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "Weight of the prompt against the negative prompt; 1 is none.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise; video b of a batch has seed + b.")
BATCH = flags.DEFINE_integer("batch", 1, "Videos of each prompt.")
OUT = flags.DEFINE_string("out", "helios.mp4", "What to write: .mp4, .gif, a folder for PNG images, or .safetensors for latents.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Let a folder of images take the place of an older one.")
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Of transformer and text encoder; float32 on a CPU, else bfloat16.")
PLAN = flags.DEFINE_flag(plan_flag("Print the memory that the request takes on this GPU, which need not be there, and make nothing."))
WARMUP = flags.DEFINE_bool(
    "warmup", False, "Compile everything, and run it once, before the first video: its first frames come at full speed."
)
COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    None,
    "Folder of compiled programs; empty for none. By default JAX_COMPILATION_CACHE_DIR, or one in the user's cache folder.",
)
RELEASE_TEXT_ENCODER = flags.DEFINE_bool(
    "release_text_encoder", False, "Encode the prompts, then drop the text encoder before the transformer is loaded: at 14B, 11 GB less."
)
VERIFY = flags.DEFINE_bool("verify", True, "Compare the checkpoint's files with their digests.")

TINY = Path(__file__).parent / "configs" / "tiny.py"


def main() -> None:
    """Read the request, say what it will take, make the videos, say where the time went."""
    config = read_config()
    request = read_request(config)
    if PLAN.value is not None:
        show_plan(config, request)
        return
    prompts = read_prompts()
    fps = FPS.value or config.sample.fps
    paths = media.numbered(OUT.value, len(prompts) * BATCH.value)
    for path in paths:
        media.check_output(path, OVERWRITE.value)
    use_compile_cache(COMPILE_CACHE.value)
    dtype = DTYPE.value or default_dtype()
    announce(config, request, len(prompts), fps, dtype)

    with Stopwatch() as stopwatch, count_programs() as programs:
        began = time.perf_counter()
        with stopwatch("load"):
            pipeline = load(config, dtype, prompts)
        if WARMUP.value:
            with stopwatch("warm-up"):
                warm_up(pipeline, request, prompts)
        chunks = request.chunks * len(prompts)
        with tqdm(total=chunks, unit="chunk", desc="compiling", disable=None, dynamic_ncols=True) as bar:
            for number, prompt in enumerate(prompts):
                own = paths[number * BATCH.value : (number + 1) * BATCH.value]
                make_videos(pipeline, request, prompt, own, fps, stopwatch, bar)
    report(stopwatch, time.perf_counter() - began, request.num_frames * len(paths), paths, programs)


def read_request(config: HeliosConfig) -> Request:
    """What is asked for, checked."""
    request = make_request(
        config,
        batch=BATCH.value,
        num_frames=NUM_FRAMES.value,
        height=HEIGHT.value,
        width=WIDTH.value,
        steps=[whole_number(step) for step in STEPS.value] if STEPS.value else None,
        guidance_scale=GUIDANCE_SCALE.value,
    )
    if REFERENCE_FRAMES.value:
        request = dataclasses.replace(request, num_frames=reference_frames(config, request.num_frames))
    if FPS.value is not None and FPS.value < 1:
        raise RequestError(f"fps={FPS.value} must be at least 1")
    return request


def read_prompts() -> list[str]:
    """The prompts of --prompt or --prompt_file."""
    if (PROMPT.value is None) == (PROMPT_FILE.value is None):
        raise RequestError("give a prompt: either --prompt or --prompt_file")
    if PROMPT.value is not None:
        prompts = [PROMPT.value]
    else:
        try:
            prompts = Path(PROMPT_FILE.value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"cannot read --prompt_file {PROMPT_FILE.value}: {getattr(error, 'strerror', None) or error}") from error
    prompts = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not prompts:
        raise RequestError("the prompt is empty" if PROMPT.value is not None else f"--prompt_file {PROMPT_FILE.value} has no prompt in it")
    return prompts


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"--steps takes whole numbers, one a stage, not {text!r}") from None


def read_config() -> HeliosConfig:
    """The checkpoint's configuration with the preset's defaults for sampling, or the preset."""
    preset = CONFIG.value
    if CHECKPOINT.value is None:
        if preset is None:
            preset = runpy.run_path(str(TINY))["get_config"]()
        return from_dict(HeliosConfig, preset)
    config = checkpoint.load_config(CHECKPOINT.value)
    if preset is None:
        return config
    wanted = from_dict(HeliosConfig, preset)
    differing = [
        f"{section}.{name} is {there} there, {here} here"
        for section in ("scheduler", "transformer", "vae", "text_encoder")
        for (name, here), there in zip(
            dataclasses.asdict(getattr(wanted, section)).items(), dataclasses.asdict(getattr(config, section)).values(), strict=True
        )
        if here != there
    ]
    if differing:
        raise RequestError(f"{CHECKPOINT.value} is not a checkpoint of this --config: {'; '.join(differing)}")
    return dataclasses.replace(config, sample=wanted.sample)


def announce(config: HeliosConfig, request: Request, prompts: int, fps: int, dtype: str) -> None:
    """Say what will be made and what it needs, and refuse what does not fit."""
    steps = "-".join(map(str, request.plan.steps))
    if request.first_plan != request.plan:
        steps += f", {'-'.join(map(str, request.first_plan.steps))} in the first chunk"
    print(
        f"{prompts * request.batch} video(s) of {request.num_frames} frames, {request.width}x{request.height}, "
        f"{request.num_frames / fps:.1f} s at {fps} frames/s: {request.chunks} chunk(s) of {request.frames_per_chunk} frames, "
        f"steps {steps}, guidance {request.guidance_scale:g}"
    )
    plan = estimate_request(config, request, dtype, default_dtype(), text_encoder=not RELEASE_TEXT_ENCODER.value)
    peak, free = plan.peak, available_memory()
    print(
        f"device memory, estimated: {size(peak)}{f' of {size(free)} free' if free else ''} "
        f"(weights and caches: {', '.join(f'{part} {size(count)}' for part, count in plan.resident.items())}; "
        f"beside them, in turn: {', '.join(f'{part} {size(count)}' for part, count in plan.working.items())}); "
        f"host memory beside it: {size(sum(plan.host.values()))}"
    )
    if NEGATIVE_PROMPT.value and not request.plan.guided:
        print("--negative_prompt has no effect: guidance_scale is 1")
    if free and peak > free:
        raise RequestError(f"this needs about {size(peak)} of device memory and {size(free)} are free: ask for a smaller size or batch")


def show_plan(config: HeliosConfig, request: Request) -> None:
    """Print the memory that the request takes on the GPU of --plan, and refuse what does not fit."""
    gpu, dtype = TARGETS[PLAN.value], DTYPE.value or "bfloat16"
    with tqdm(total=0, bar_format="{desc}", disable=None, leave=False) as line:
        plan = plan_request(
            config, request, PLAN.value, dtype, text_encoder=not RELEASE_TEXT_ENCODER.value, progress=line.set_description_str
        )
    print(f"{request.batch} video(s) of {request.width}x{request.height}, {dtype}, on {gpu.name}")
    print(plan)
    share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
    verdict = (
        f"{plan.peak / GIB:.2f} GiB at once, of {gpu.memory / GIB:.2f} GiB, of which JAX takes {share:.0%} (XLA_PYTHON_CLIENT_MEM_FRACTION)"
    )
    if plan.peak > share * gpu.memory:
        raise RequestError(f"it does not fit: {verdict}")
    print(f"it fits: {verdict}")


def load(config: HeliosConfig, dtype: str, prompts: list[str]) -> HeliosPipeline:
    """The checkpoint, or random weights."""
    encoded = [*prompts, config.sample.negative_prompt if NEGATIVE_PROMPT.value is None else NEGATIVE_PROMPT.value]
    if CHECKPOINT.value is not None:
        only = encoded if RELEASE_TEXT_ENCODER.value else None
        return HeliosPipeline.from_checkpoint(CHECKPOINT.value, dtype=dtype, verify=VERIFY.value, prompts=only)
    print("no --checkpoint: the weights are random, so expect coloured noise, not what the prompt says")
    pipeline = HeliosPipeline.random(config, dtype=dtype)
    if RELEASE_TEXT_ENCODER.value:
        pipeline.release_text_encoder(encoded)
    return pipeline


def warm_up(pipeline: HeliosPipeline, request: Request, prompts: list[str]) -> None:
    """Compile and run everything once, and count the programs as they come."""
    with tqdm(unit=" programs", desc="warming up", disable=None, dynamic_ncols=True) as bar, count_programs(bar.update), Stopwatch() as own:
        pipeline.warmup(prompts, NEGATIVE_PROMPT.value, stopwatch=own, **options(request))


def make_videos(
    pipeline: HeliosPipeline, request: Request, prompt: str, paths: list[str], fps: int, stopwatch: Stopwatch, bar: tqdm
) -> None:
    """Make the videos of one prompt and write each chunk as it comes."""
    chunks = pipeline.stream(prompt, NEGATIVE_PROMPT.value, seed=SEED.value, stopwatch=stopwatch, **options(request))
    if media.output_kind(OUT.value) == ".safetensors":
        collected = np.concatenate([advance(bar, chunk, request) for chunk in chunks], axis=1)
        for path, own in zip(paths, collected, strict=True):
            media.save_latents(path, own[None], {"prompt": prompt, "seed": str(SEED.value)})
        return
    with contextlib.ExitStack() as stack:
        with stopwatch("media"):
            writers = [stack.enter_context(media.open_video_writer(path, fps, overwrite=OVERWRITE.value)) for path in paths]
        left = request.num_frames
        for chunk in chunks:
            with stopwatch("media"):
                for writer, frames in zip(writers, chunk, strict=True):
                    writer.write(frames[:left])
            left -= request.frames_per_chunk
            advance(bar, chunk, request)
        with stopwatch("media"):
            stack.close()


def options(request: Request) -> dict[str, Any]:
    """The request as :meth:`HeliosPipeline.stream` takes it."""
    return dict(
        batch=request.batch,
        num_frames=request.num_frames,
        height=request.height,
        width=request.width,
        steps=request.plan.steps,
        guidance_scale=request.guidance_scale,
        output="latent" if media.output_kind(OUT.value) == ".safetensors" else "uint8",
    )


def advance(bar: tqdm, chunk: np.ndarray, request: Request) -> np.ndarray:
    """Count a chunk, with the rate in frames."""
    bar.set_description("sampling")
    bar.update()
    elapsed = bar.format_dict["elapsed"]
    if elapsed:
        bar.set_postfix_str(f"{bar.n * request.frames_per_chunk * request.batch / elapsed:.2f} frames/s")
    return chunk


def report(stopwatch: Stopwatch, seconds: float, frames: int, paths: list[str], programs: Counter[str]) -> None:
    """Where the time went."""
    parts = dict(stopwatch.seconds)
    stages = sorted(part for part in parts if part.startswith("stage "))
    print("seconds, compilation apart:")
    for part in ("load", "warm-up", "text", "transformer", *stages, "vae", "media", "compile"):
        if part in parts:
            print(f"  {'  ' if part in stages else ''}{part:<14}{parts[part]:9.2f}")
    warm = seconds - sum(parts.get(part, 0.0) for part in ("load", "warm-up", "compile"))
    print(f"  {'total':<14}{seconds:9.2f}   {frames / seconds:.2f} frames/s, {frames / warm:.2f} warm")
    print(f"{programs['needed'] - programs['cached']} programs compiled, {programs['cached']} found in the compile cache")
    print("wrote " + ", ".join(paths))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000


if __name__ == "__main__":
    run_script(main, (RequestError, PlanError, ConfigError, TokenizerError, checkpoint.CheckpointError, media.MediaError, OSError))

"""Make videos from prompts with Helios.

Without a checkpoint, a small model with random weights shows that everything runs, in seconds on a laptop:

  python sample.py --prompt "a red ball rolls over green grass"

A converted checkpoint (see convert_torch_weights.py) and a minute of video:

  python sample.py --checkpoint checkpoints/helios-distilled --prompt "a sailing boat in a storm" --num_frames 1440 --out boat.mp4

Every prompt of a file, two seeds each, as animated GIFs:

  python sample.py --checkpoint checkpoints/helios-distilled --prompt_file prompts.txt --batch 2 --out clip.gif

Any field of a preset can be changed: --config configs/helios_mid.py --config.sample.cfg_zero_star=False

Exit status: 0 when every video is written, 2 when the request cannot be served (one line on stderr says why, and nothing is written).
"""

import contextlib
import dataclasses
import runpy
import time
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from helios_jax import checkpoint, media
from helios_jax.cli import run_script
from helios_jax.config import ConfigError, HeliosConfig, from_dict
from helios_jax.models.tokenizer import TokenizerError
from helios_jax.sampling.memory import available_memory, estimate_memory, host_memory, peak_memory
from helios_jax.sampling.pipeline import HeliosPipeline, default_dtype
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
VERIFY = flags.DEFINE_bool("verify", True, "Compare the checkpoint's files with their digests.")

TINY = Path(__file__).parent / "configs" / "tiny.py"


def main() -> None:
    """Read the request, say what it will take, make the videos, say where the time went."""
    prompts = read_prompts()
    config = read_config()
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
    fps = FPS.value or config.sample.fps
    paths = media.numbered(OUT.value, len(prompts) * BATCH.value)
    for path in paths:
        media.check_output(path, OVERWRITE.value)
    dtype = DTYPE.value or default_dtype()
    announce(config, request, len(prompts), fps, dtype)

    with Stopwatch() as stopwatch:
        began = time.perf_counter()
        with stopwatch("load"):
            pipeline = load(config, dtype)
        chunks = request.chunks * len(prompts)
        with tqdm(total=chunks, unit="chunk", desc="compiling", disable=None, dynamic_ncols=True) as bar:
            for number, prompt in enumerate(prompts):
                own = paths[number * BATCH.value : (number + 1) * BATCH.value]
                make_videos(pipeline, request, prompt, own, fps, stopwatch, bar)
    report(stopwatch, time.perf_counter() - began, request.num_frames * len(paths), paths)


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
    parts = estimate_memory(config, request, dtype, "float32")
    peak, free = peak_memory(parts), available_memory()
    print(
        f"device memory, estimated: {size(peak)}{f' of {size(free)} free' if free else ''} "
        f"({', '.join(f'{part} {size(count)}' for part, count in parts.items())}); "
        f"host memory beside it: {size(host_memory(config, request, dtype))}"
    )
    if NEGATIVE_PROMPT.value and not request.plan.guided:
        print("--negative_prompt has no effect: guidance_scale is 1")
    if free and peak > free:
        raise RequestError(f"this needs about {size(peak)} of device memory and {size(free)} are free: ask for a smaller size or batch")


def load(config: HeliosConfig, dtype: str) -> HeliosPipeline:
    """The checkpoint, or random weights."""
    if CHECKPOINT.value is not None:
        return HeliosPipeline.from_checkpoint(CHECKPOINT.value, dtype=dtype, verify=VERIFY.value)
    print("no --checkpoint: the weights are random, so expect coloured noise, not what the prompt says")
    return HeliosPipeline.random(config, dtype=dtype)


def make_videos(
    pipeline: HeliosPipeline, request: Request, prompt: str, paths: list[str], fps: int, stopwatch: Stopwatch, bar: tqdm
) -> None:
    """Make the videos of one prompt and write each chunk as it comes."""
    latents = media.output_kind(paths[0]) == ".safetensors"
    chunks = pipeline.stream(
        prompt,
        NEGATIVE_PROMPT.value,
        seed=SEED.value,
        batch=BATCH.value,
        output="latent" if latents else "uint8",
        stopwatch=stopwatch,
        num_frames=request.num_frames,
        height=request.height,
        width=request.width,
        steps=request.plan.steps,
        guidance_scale=request.guidance_scale,
    )
    if latents:
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


def advance(bar: tqdm, chunk: np.ndarray, request: Request) -> np.ndarray:
    """Count a chunk, with the rate in frames."""
    bar.set_description("sampling")
    bar.update()
    elapsed = bar.format_dict["elapsed"]
    if elapsed:
        bar.set_postfix_str(f"{bar.n * request.frames_per_chunk * request.batch / elapsed:.2f} frames/s")
    return chunk


def report(stopwatch: Stopwatch, seconds: float, frames: int, paths: list[str]) -> None:
    """Where the time went."""
    parts = dict(stopwatch.seconds)
    stages = sorted(part for part in parts if part.startswith("stage "))
    print("seconds, compilation apart:")
    for part in ("load", "text", "transformer", *stages, "vae", "media", "compile"):
        if part in parts:
            print(f"  {'  ' if part in stages else ''}{part:<14}{parts[part]:9.2f}")
    print(
        f"  {'total':<14}{seconds:9.2f}   {frames / seconds:.2f} frames/s, {frames / (seconds - parts['compile'] - parts['load']):.2f} warm"
    )
    print("wrote " + ", ".join(paths))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000


if __name__ == "__main__":
    run_script(main, (RequestError, ConfigError, TokenizerError, checkpoint.CheckpointError, media.MediaError, OSError))

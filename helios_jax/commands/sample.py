"""Make videos with Helios: from prompts, from an image, or from the end of another video.

Without a checkpoint it is helios-nano that makes them, which ships with the package and knows
simple things that move, on a laptop:

  python sample.py --prompt "A large red star glides slowly to the right, against a plain navy background. The camera stays still."

A converted checkpoint (see convert_torch_weights.py) and a minute of video:

  python sample.py --checkpoint checkpoints/helios-distilled --prompt "a sailing boat in a storm" --num_frames 1440 --out boat.mp4

Every prompt of a file, two seeds each, as animated GIFs:

  python sample.py --checkpoint checkpoints/helios-distilled --prompt_file prompts.txt --batch 2 --out clip.gif

A picture that begins to move, a video that goes on, a story whose prompts change while it runs:

  python sample.py --checkpoint ... --image boat.jpg --prompt "the boat sets sail"
  python sample.py --checkpoint ... --video boat.mp4 --prompt "the wind rises"
  python sample.py --checkpoint ... --prompt_schedule story.yaml        # a list of {prompt: ..., chunks: 4, blend: 2}

Watch while it is made, stop it at any moment, and go on later with what is there (prompt, seed and
size are kept beside the file):

  python sample.py --checkpoint ... --prompt "a sailing boat" --num_frames 1440 --out boat.mp4 --live
  python sample.py --checkpoint ... --out boat.mp4 --resume
  python sample.py --checkpoint ... --prompt "a sailing boat" --out - | ffplay -

Latents can be kept and decoded later, and drift be looked at:

  python sample.py --checkpoint ... --prompt "a sailing boat" --save_latents boat.safetensors --statistics boat.csv --report boat.svg
  python sample.py --checkpoint ... --decode boat.safetensors --out boat.mp4

Any field of a preset can be changed, e.g. the noise levels at which guidance is used:

  python sample.py --config configs/helios_base.py "--config.sample.guidance_interval=(0.5,1.0)"

What a request would take on a GPU, asked on a machine that has none (`pip install -e '.[plan]'` for
the compiler, without which it is estimated):

  python sample.py --config configs/helios_distilled.py --plan=h100

Compiled programs are kept in the user's cache folder (--compile_cache), so that only the first run
of a shape compiles.

Exit status: 0 when every video is written, 2 when the request cannot be served (one line on stderr
says why, and nothing is written).
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from helios_jax import checkpoint, media, nano
from helios_jax.commands.legacy import plan_flag, run_script
from helios_jax.compile_cache import count_programs, use_compile_cache
from helios_jax.config import RUNTIME_FIELDS, ConfigError, HeliosConfig, from_dict
from helios_jax.diffusion.drift import DriftControl
from helios_jax.kernels.dispatch import UnsupportedError
from helios_jax.memory.compiler import TARGETS
from helios_jax.memory.report import GIB, PlanError
from helios_jax.memory.sampling import available_memory, estimate_request, plan_request
from helios_jax.models.tokenizer import TokenizerError
from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.pipeline import HeliosPipeline, Prompt, default_dtype
from helios_jax.sampling.prompts import PromptSchedule, make_schedule, read_schedules
from helios_jax.sampling.request import (
    Request,
    RequestError,
    frames_per_chunk,
    make_request,
    reference_frames,
)
from helios_jax.sampling.state import VideoState, load_state, save_state
from helios_jax.sampling.statistics import chunk_rows, load_statistics, save_curves, save_statistics
from helios_jax.sampling.timing import Stopwatch

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Preset: a file of configs/. With --checkpoint, its model must be the checkpoint's.",
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Checkpoint directory; without one, helios-nano, or random weights of --config.",
)
PROMPT = flags.DEFINE_string("prompt", None, "What the video shows.")
PROMPT_FILE = flags.DEFINE_string(
    "prompt_file", None, "Text file with one prompt a line, one video each."
)
PROMPT_SCHEDULE = flags.DEFINE_string(
    "prompt_schedule",
    None,
    "Prompts that follow one another in one video: a JSON or YAML list of {prompt, chunks, blend}, or a CSV with the columns id, prompt_index and "
    "prompt, one video for each id.",
)
REFERENCE_SCHEDULE = flags.DEFINE_bool(
    "reference_schedule",
    False,
    "Follow a schedule as the PyTorch implementation does: a new prompt begins one chunk late, and after the last one comes the first again.",
)
IMAGE = flags.DEFINE_string(
    "image", None, "Image file the video starts from; it is not part of the output."
)
VIDEO = flags.DEFINE_string(
    "video",
    None,
    "Video file to go on from, at least 33 frames at the model's rate; only what follows is written.",
)
FIT = flags.DEFINE_enum(
    "fit",
    "crop",
    list(media.FITS),
    "Where proportions differ: "
    + "; ".join(f"{name}: {what}" for name, what in media.FITS.items()),
)
IMAGE_NOISE = flags.DEFINE_list(
    "image_noise",
    ["0.111", "0.135"],
    "Least and largest noise on the image, or on the first frame of --video: more is more motion and less likeness.",
)
VIDEO_NOISE = flags.DEFINE_list(
    "video_noise",
    ["0.111", "0.135"],
    "The same for the frames that the first chunk continues, of an image too.",
)
IMAGE_HISTORY = flags.DEFINE_enum(
    "image_history",
    "still",
    ["still", "window", "anchor"],
    "What of the image the first chunk sees as its past: a still clip's last frame, as in the reference; that frame in a window of noise, as later "
    "training has it; or the image as anchor alone.",
)
SKIP_FIRST_CHUNK = flags.DEFINE_bool(
    "skip_first_chunk",
    False,
    "Take the anchor from the second chunk: for videos that begin too still. All chunks are written.",
)
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", None, "What guidance leads away from; unused where guidance_scale is 1."
)
NUM_FRAMES = flags.DEFINE_integer(
    "num_frames", None, "Frames of the video; whole chunks are generated and the last one is cut."
)
REFERENCE_FRAMES = flags.DEFINE_bool(
    "reference_frames",
    False,
    "Round --num_frames as the PyTorch implementation does: 99 becomes 97.",
)
HEIGHT = flags.DEFINE_integer(
    "height", None, "Pixels; a multiple of 64 for a pyramid of three stages, of 16 for one."
)
WIDTH = flags.DEFINE_integer(
    "width", None, "Pixels; a multiple of 64 for a pyramid of three stages, of 16 for one."
)
FPS = flags.DEFINE_integer("fps", None, "Frames per second of the file; the model's are 24.")
STEPS = flags.DEFINE_list(
    "steps",
    None,
    "Solver steps of each stage, coarsest first: 2,2,2. One number serves every stage.",
)
GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "Weight of the prompt against the negative prompt; 1 is none."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise; video b of a batch has seed + b.")
BATCH = flags.DEFINE_integer("batch", 1, "Videos of each prompt.")
OUT = flags.DEFINE_string(
    "out",
    "helios.mp4",
    "What to write: .mp4, .gif, a folder for PNG images, .safetensors for latents, or - for an mp4 on standard output.",
)
LIVE = flags.DEFINE_bool(
    "live",
    False,
    "Write the mp4 in place, playable after each chunk, and resumable; always so for a named pipe or standard output.",
)
RESUME = flags.DEFINE_bool(
    "resume",
    False,
    "Go on with the video that a --live run has left at --out; prompt, seed, size and steps are its own, --num_frames may be larger.",
)
SAVE_LATENTS = flags.DEFINE_string(
    "save_latents", None, "Keep the latents of every chunk in this .safetensors file."
)
DECODE = flags.DEFINE_string(
    "decode", None, "Make no video: decode the latents of this file to --out."
)
DRIFT = flags.DEFINE_bool(
    "drift",
    False,
    "Add noise to the model's memory of chunks whose statistics leave the running ones (adaptive sampling).",
)
DRIFT_THRESHOLDS = flags.DEFINE_list(
    "drift_thresholds",
    ["0.15", "0.15"],
    "Distances of mean and variance beyond which a chunk has drifted.",
)
STATISTICS = flags.DEFINE_string(
    "statistics", None, "Keep mean, deviation, saturation and drift of each chunk in this CSV file."
)
REPORT = flags.DEFINE_string(
    "report",
    None,
    "Draw the --statistics as this SVG file; without a prompt, those of an earlier run.",
)
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Let a folder of images take the place of an older one."
)
QUANT = flags.DEFINE_enum(
    "quant",
    None,
    ["int8", "fp8"],
    "Hold the transformer's large weights in eight bits, one scale a channel.",
)
QUANT_ACTIVATIONS = flags.DEFINE_bool(
    "quant_activations",
    False,
    "With --quant, multiply eight bits by eight bits: activations are rounded, too.",
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of transformer and text encoder; float32 on a CPU, else bfloat16.",
)
PLAN = flags.DEFINE_flag(
    plan_flag(
        "Print the memory that the request takes on this GPU, which need not be there, and make nothing."
    )
)
WARMUP = flags.DEFINE_bool(
    "warmup",
    False,
    "Compile everything, and run it once, before the first video: its first frames come at full speed.",
)
COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    None,
    "Folder of compiled programs; empty for none. By default JAX_COMPILATION_CACHE_DIR, or one in the user's cache folder.",
)
RELEASE_TEXT_ENCODER = flags.DEFINE_bool(
    "release_text_encoder",
    False,
    "Encode the prompts, then drop the text encoder before the transformer is loaded: at 14B, 11 GB less.",
)
MEMORY = flags.DEFINE_enum(
    "memory",
    "all",
    ["all", "low"],
    "low: let the text encoder go, too, and keep the transformer's blocks in host memory, from where each is copied in its turn: 14B in 12 GiB.",
)
VERIFY = flags.DEFINE_bool("verify", True, "Compare the checkpoint's files with their digests.")


class Video(NamedTuple):
    """One thing to make: what it is made from, checked, and the files it goes to."""

    prompt: Prompt
    request: Request
    paths: list[str]


def _main() -> None:
    """Read the request, say what it will take, make the videos, say where the time went."""
    if QUANT_ACTIVATIONS.value and not QUANT.value:
        raise RequestError(
            "--quant_activations rounds activations beside the weights of --quant: name int8 or fp8 there"
        )
    if REPORT.value and not STATISTICS.value:
        raise RequestError("--report draws what --statistics keeps: name that file, too")
    if REPORT.value and not (prompt_flags() or RESUME.value):
        save_curves(REPORT.value, load_statistics(STATISTICS.value))
        return
    config = read_config()
    if PLAN.value is not None:
        show_plan(config, read_request(config))
        return
    use_compile_cache(COMPILE_CACHE.value)
    if DECODE.value:
        decode_file(config)
        return
    if SAVE_LATENTS.value:
        if media.output_kind(SAVE_LATENTS.value) != ".safetensors":
            raise RequestError(f"--save_latents={SAVE_LATENTS.value} must be a .safetensors file")
        media.check_output(SAVE_LATENTS.value)
    state = read_state() if RESUME.value else None
    videos = read_videos(config, state)
    fps = FPS.value or config.sample.fps
    for path in (path for video in videos for path in video.paths):
        media.check_output(path, OVERWRITE.value)
    sources = {} if state else read_sources(config, videos[0].request)
    dtype = DTYPE.value or default_dtype()
    announce(config, videos, fps, dtype)

    with Stopwatch() as stopwatch, count_programs() as programs:
        began = time.perf_counter()
        with stopwatch("load"):
            pipeline = load(config, dtype, videos)
        if WARMUP.value:
            with stopwatch("warm-up"):
                warm_up(pipeline, videos, state, sources)
        done = state.chunk if state else 0
        with tqdm(
            total=sum(video.request.chunks for video in videos),
            initial=done,
            unit="chunk",
            desc="compiling",
            disable=None,
            dynamic_ncols=True,
        ) as bar:
            for video in videos:
                make_video(pipeline, video, state, sources, fps, stopwatch, bar)
    frames = sum(
        (video.request.num_frames - done * video.request.frames_per_chunk) * video.request.batch
        for video in videos
    )
    report(
        stopwatch,
        time.perf_counter() - began,
        frames,
        [path for video in videos for path in video.paths],
        programs,
    )


def say(text: str) -> None:
    """Print a line, beside the video where that goes to standard output."""
    print(text, file=sys.stderr if media.is_pipe(OUT.value) else sys.stdout)


def read_state() -> VideoState:
    """The state of the video at --out."""
    if prompt_flags() or IMAGE.value or VIDEO.value:
        raise RequestError(
            "--resume goes on with the prompts it finds: leave --prompt and its like out"
        )
    return load_state(state_path())


def read_videos(config: HeliosConfig, state: VideoState | None) -> list[Video]:
    """What is asked for, checked."""
    prompts: list[Prompt]
    if state is not None:
        prompts, batch = [state.prompts], len(state.prompts.changes[0].prompts)
    else:
        prompts, batch = read_prompts(), BATCH.value
    paths = media.numbered(OUT.value, len(prompts) * batch)
    requests = [read_request(config, prompt, state) for prompt in prompts]
    return [
        Video(prompt, request, paths[number * batch : (number + 1) * batch])
        for number, (prompt, request) in enumerate(zip(prompts, requests, strict=True))
    ]


def read_request(
    config: HeliosConfig, prompt: Prompt = "", state: VideoState | None = None
) -> Request:
    """Size, length and steps: those of the flags, or of the video that is resumed."""
    num_frames = NUM_FRAMES.value
    if num_frames is None and isinstance(prompt, PromptSchedule) and prompt.chunks:
        num_frames = prompt.chunks * frames_per_chunk(config)
    wanted = dict(
        batch=BATCH.value,
        height=HEIGHT.value,
        width=WIDTH.value,
        guidance_scale=GUIDANCE_SCALE.value,
    )
    wanted |= dict(
        skip_first_chunk=SKIP_FIRST_CHUNK.value,
        steps=[number(step, int, "--steps") for step in STEPS.value or []] or None,
    )
    if state is not None:
        num_frames = num_frames or state.options["num_frames"]
        wanted = {name: state.options[name] for name in wanted if name != "batch"} | dict(
            batch=len(prompt.changes[0].prompts)
        )
    request = make_request(config, num_frames=num_frames, **wanted)
    if REFERENCE_FRAMES.value:
        request = dataclasses.replace(
            request, num_frames=reference_frames(config, request.num_frames)
        )
    if FPS.value is not None and FPS.value < 1:
        raise RequestError(f"fps={FPS.value} must be at least 1")
    return request


def prompt_flags() -> list[str]:
    """Those of the flags that give prompts which are there."""
    return [flag.name for flag in (PROMPT, PROMPT_FILE, PROMPT_SCHEDULE) if flag.value is not None]


def read_prompts() -> list[Prompt]:
    """The prompts of --prompt, --prompt_file or --prompt_schedule."""
    if len(prompt_flags()) != 1:
        raise RequestError("give a prompt: one of --prompt, --prompt_file and --prompt_schedule")
    if PROMPT_SCHEDULE.value is not None:
        return list(
            read_schedules(PROMPT_SCHEDULE.value, reference=REFERENCE_SCHEDULE.value).values()
        )
    if PROMPT.value is not None:
        prompts = [PROMPT.value]
    else:
        try:
            prompts = Path(PROMPT_FILE.value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"cannot read --prompt_file {PROMPT_FILE.value}: {getattr(error, 'strerror', None) or error}"
            ) from error
    prompts = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not prompts:
        raise RequestError(
            "the prompt is empty"
            if PROMPT.value is not None
            else f"--prompt_file {PROMPT_FILE.value} has no prompt in it"
        )
    return prompts


def read_sources(config: HeliosConfig, request: Request) -> dict[str, Any]:
    """The image or the video to start from, as :meth:`HeliosPipeline.stream` takes it."""
    if IMAGE.value and VIDEO.value:
        raise RequestError("give --image or --video, not both")
    ranges = {
        flag.name: [number(value, float, f"--{flag.name}") for value in flag.value]
        for flag in (IMAGE_NOISE, VIDEO_NOISE)
    }
    if IMAGE.value:
        pixels, done = media.read_image(IMAGE.value, request.height, request.width, FIT.value)
        say(done)
        return dict(image=pixels[None], image_history=IMAGE_HISTORY.value, **ranges)
    if VIDEO.value:
        size = (request.height, request.width)
        video = media.read_video(
            VIDEO.value, *size, config.sample.fps, FIT.value, piece=request.frames_per_chunk
        )
        say(video.description)
        return dict(video=np.concatenate([video.first[None], video.tail])[None], **ranges)
    return {}


def number(text: str, kind: type, flag: str) -> Any:
    """A number out of a list of them."""
    try:
        return kind(text)
    except ValueError:
        raise RequestError(
            f"{flag} takes {'whole ' if kind is int else ''}numbers, not {text!r}"
        ) from None


def checkpoint_path() -> str | Path | None:
    """--checkpoint, or helios-nano; None for random weights of --config."""
    return CHECKPOINT.value or (nano.CHECKPOINT if CONFIG.value is None else None)


def read_config() -> HeliosConfig:
    """The checkpoint's configuration with the preset's defaults for sampling, or the preset."""
    preset, path = CONFIG.value, checkpoint_path()
    if path is None:
        return from_dict(HeliosConfig, preset)
    config = checkpoint.load_config(path)
    if preset is None:
        return config
    wanted = from_dict(HeliosConfig, preset)
    differing = [
        f"{section}.{name} is {there} there, {here} here"
        for section in ("scheduler", "transformer", "vae", "text_encoder")
        for (name, here), there in zip(
            dataclasses.asdict(getattr(wanted, section)).items(),
            dataclasses.asdict(getattr(config, section)).values(),
            strict=True,
        )
        if here != there and name not in RUNTIME_FIELDS
    ]
    if differing:
        raise RequestError(f"{path} is not a checkpoint of this --config: {'; '.join(differing)}")
    runtime = {name: getattr(wanted.transformer, name) for name in RUNTIME_FIELDS}
    return dataclasses.replace(
        config, sample=wanted.sample, transformer=dataclasses.replace(config.transformer, **runtime)
    )


def announce(config: HeliosConfig, videos: list[Video], fps: int, dtype: str) -> None:
    """Say what will be made and what it needs, and refuse what does not fit."""
    request = max((video.request for video in videos), key=lambda request: request.num_frames)
    steps = "-".join(map(str, request.plan.steps))
    low, high = request.plan.guidance_interval
    levels = (
        f" at noise levels {low:g} to {high:g}"
        if request.plan.guided and (low, high) != (0, 1)
        else ""
    )
    if request.first_plan != request.plan:
        steps += f", {'-'.join(map(str, request.first_plan.steps))} in the first chunk"
    say(
        f"{sum(len(video.paths) for video in videos)} video(s) of {request.num_frames} frames, {request.width}x{request.height}, "
        f"{request.num_frames / fps:.1f} s at {fps} frames/s: {request.chunks} chunk(s) of {request.frames_per_chunk} frames, "
        f"steps {steps}, guidance {request.guidance_scale:g}{levels}"
    )
    plan = estimate_request(config, request, dtype, default_dtype(), **kept())
    peak, free = plan.peak, available_memory()
    say(
        f"device memory, estimated: {size(peak)}{f' of {size(free)} free' if free else ''} "
        f"(weights and caches: {', '.join(f'{part} {size(count)}' for part, count in plan.resident.items())}; "
        f"beside them, in turn: {', '.join(f'{part} {size(count)}' for part, count in plan.working.items())}); "
        f"host memory beside it: {size(sum(plan.host.values()))}"
    )
    if NEGATIVE_PROMPT.value and not request.plan.guided:
        say("--negative_prompt has no effect: guidance_scale is 1")
    if free and peak > free:
        raise RequestError(
            f"this needs about {size(peak)} of device memory and {size(free)} are free: ask for a smaller size or batch"
        )


def show_plan(config: HeliosConfig, request: Request) -> None:
    """Print the memory that the request takes on the GPU of --plan, and refuse what does not fit."""
    gpu, dtype = TARGETS[PLAN.value], DTYPE.value or "bfloat16"
    if QUANT.value:
        transformer = dataclasses.replace(
            config.transformer, round_activations=QUANT_ACTIVATIONS.value
        )
        config = dataclasses.replace(config, transformer=transformer)
    with tqdm(total=0, bar_format="{desc}", disable=None, leave=False) as line:
        plan = plan_request(
            config, request, PLAN.value, dtype, **kept(), progress=line.set_description_str
        )
    print(f"{request.batch} video(s) of {request.width}x{request.height}, {dtype}, on {gpu.name}")
    print(plan)
    share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
    verdict = f"{plan.peak / GIB:.2f} GiB at once, of {gpu.memory / GIB:.2f} GiB, of which JAX takes {share:.0%} (XLA_PYTHON_CLIENT_MEM_FRACTION)"
    if plan.peak > share * gpu.memory:
        raise RequestError(f"it does not fit: {verdict}")
    print(f"it fits: {verdict}")


def kept() -> dict[str, Any]:
    """What stays on the device, and how, as the plan and the pipeline are told."""
    low = MEMORY.value == "low"
    return dict(
        text_encoder=not (RELEASE_TEXT_ENCODER.value or low),
        stream_blocks=low,
        quantization=QUANT.value,
    )


def load(config: HeliosConfig, dtype: str, videos: list[Video]) -> HeliosPipeline:
    """The checkpoint, or random weights."""
    prompts = [text for video in videos for text in make_schedule(video.prompt, None).prompts()]
    encoded = [
        *prompts,
        config.sample.negative_prompt if NEGATIVE_PROMPT.value is None else NEGATIVE_PROMPT.value,
    ]
    if path := checkpoint_path():
        only = None if kept()["text_encoder"] else encoded
        streamed = kept()["stream_blocks"]
        pipeline = HeliosPipeline.from_checkpoint(
            path, dtype=dtype, verify=VERIFY.value, prompts=only, stream_blocks=streamed
        )
        if path == nano.CHECKPOINT and (advice := nano.advice(prompts, pipeline.tokenizer)):
            say(advice)
    else:
        say(
            "--config without --checkpoint: the weights are random, so expect coloured noise, not what the prompt says"
        )
        pipeline = HeliosPipeline.random(config, dtype=dtype)
        if not kept()["text_encoder"]:
            pipeline.release_text_encoder(encoded)
    pipeline.configure(**{name: getattr(config.transformer, name) for name in RUNTIME_FIELDS})
    if QUANT.value:
        pipeline.quantize(QUANT.value, round_activations=QUANT_ACTIVATIONS.value)
    if kept()["stream_blocks"]:
        pipeline.stream_blocks()
    return pipeline


def warm_up(
    pipeline: HeliosPipeline, videos: list[Video], state: VideoState | None, sources: dict[str, Any]
) -> None:
    """Compile and run everything once, for prompts of every length, and count the programs as they
    come.
    """
    with (
        tqdm(unit=" programs", desc="warming up", disable=None, dynamic_ncols=True) as bar,
        count_programs(bar.update),
        Stopwatch() as own,
    ):
        prompts = [text for video in videos for text in make_schedule(video.prompt, None).prompts()]
        drift = drift_control()
        if state is not None:  # a video goes on as it began
            drift = state.options["drift"] and DriftControl(**state.options["drift"])
        given = dict(output=output_kind(), on_chunk=lambda record: None, stopwatch=own, drift=drift)
        pipeline.warmup(
            prompts, NEGATIVE_PROMPT.value, **given, **sources, **options(videos[0].request)
        )


def drift_control() -> DriftControl | None:
    """What --drift asks for."""
    control = [number(value, float, "--drift_thresholds") for value in DRIFT_THRESHOLDS.value]
    return (
        DriftControl(mean_threshold=control[0], variance_threshold=control[-1])
        if DRIFT.value
        else None
    )


def make_video(
    pipeline: HeliosPipeline,
    video: Video,
    state: VideoState | None,
    sources: dict[str, Any],
    fps: int,
    stopwatch: Stopwatch,
    bar: tqdm,
) -> None:
    """Make one video, or a batch of one prompt, and write each chunk while the next is made."""
    request, records = video.request, []
    given = dict(output=output_kind(), on_chunk=records.append, stopwatch=stopwatch)
    if state is not None:
        chunks = pipeline.resume(state, num_frames=request.num_frames, **given)
    else:
        prompt = dict(
            seed=SEED.value, drift=drift_control(), **sources, **given, **options(request)
        )
        chunks = pipeline.stream(video.prompt, NEGATIVE_PROMPT.value, **prompt)
    with contextlib.ExitStack() as stack:
        keep = Keeper(video, state, fps, stack)
        writing = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        written, made = writing.submit(lambda: None), 0
        for chunk in chunks:
            with stopwatch("media"):
                written.result()  # so that one chunk waits at most
            written = writing.submit(keep, chunk, records.pop())
            bar.set_description("sampling")
            bar.update()
            made += request.frames_per_chunk * request.batch
            if elapsed := bar.format_dict["elapsed"]:  # 0 where no bar is shown
                bar.set_postfix_str(f"{made / elapsed:.2f} frames/s")
        with stopwatch("media"):
            written.result()
            stack.close()


class Keeper:
    """Writes what is kept of each chunk: frames or latents, the state to resume from, statistics."""

    def __init__(
        self, video: Video, state: VideoState | None, fps: int, stack: contextlib.ExitStack
    ):
        self.request, self.paths = video.request, video.paths
        self.metadata = {"seed": str(SEED.value)} | (
            {"prompt": video.prompt} if isinstance(video.prompt, str) else {}
        )
        self.made = state.chunk * self.request.frames_per_chunk if state else 0
        self.live = LIVE.value or RESUME.value or media.is_pipe(OUT.value)
        self.latents, self.rows = [], []
        if state and SAVE_LATENTS.value and Path(SAVE_LATENTS.value).exists():
            self.latents = [
                media.load_latents(SAVE_LATENTS.value)[0][
                    :, : state.chunk * self.request.latent_shape[0]
                ]
            ]
        if state and STATISTICS.value and Path(STATISTICS.value).exists():
            self.rows = [
                row for row in load_statistics(STATISTICS.value) if row["chunk"] < state.chunk
            ]
        self.writers = []
        if output_kind() != "latent":
            open_writer = functools.partial(media.open_video_writer, overwrite=OVERWRITE.value)
            if self.live:
                open_writer = functools.partial(media.open_live_writer, keep_frames=self.made)
            self.writers = [stack.enter_context(open_writer(path, fps)) for path in self.paths]

    def __call__(self, chunk: np.ndarray, record: ChunkRecord) -> None:
        left = self.request.num_frames - self.made
        for writer, frames in zip(self.writers, chunk, strict=bool(self.writers)):
            writer.write(frames[:left])
        self.made += self.request.frames_per_chunk
        if SAVE_LATENTS.value or not self.writers:
            self.latents.append(np.asarray(record.latents))
        if SAVE_LATENTS.value:
            media.save_latents(
                SAVE_LATENTS.value, np.concatenate(self.latents, axis=1), self.metadata
            )
        if not self.writers and self.made >= self.request.num_frames:
            for path, own in zip(self.paths, np.concatenate(self.latents, axis=1), strict=True):
                media.save_latents(path, own[None], self.metadata)
        if STATISTICS.value:
            self.rows += chunk_rows(
                record.index, record.latents, record.frames if self.writers else None, record.drift
            )
            save_statistics(STATISTICS.value, self.rows)
            if REPORT.value:
                save_curves(REPORT.value, self.rows)
        if self.live and not media.is_pipe(OUT.value) and len(chunk[0][:left]) == len(chunk[0]):
            # Last: what it says is there, is there. After a chunk that was cut, the video goes on
            # with that chunk.
            save_state(state_path(self.paths[0]), record.state)


def state_path(path: str | None = None) -> str:
    """Where the state of a live video is kept."""
    return f"{path or OUT.value}.state"


def decode_file(config: HeliosConfig) -> None:
    """Decode saved latents; of the checkpoint, only the VAE is loaded."""
    latents, _ = media.load_latents(DECODE.value, VERIFY.value)
    paths = media.numbered(OUT.value, len(latents))
    for path in paths:
        media.check_output(path, OVERWRITE.value)
    path = checkpoint_path()
    pipeline = (
        HeliosPipeline.for_decoding(path, verify=VERIFY.value)
        if path
        else HeliosPipeline.random(config)
    )
    chunks = pipeline.decode_video(latents)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                media.open_video_writer(
                    path, FPS.value or config.sample.fps, overwrite=OVERWRITE.value
                )
            )
            for path in paths
        ]
        count = latents.shape[1] // config.sample.latent_frames_per_chunk
        for chunk in tqdm(chunks, total=count, unit="chunk", desc="decoding", disable=None):
            for writer, frames in zip(writers, chunk, strict=True):
                writer.write(frames)
    say("wrote " + ", ".join(paths))


def output_kind() -> str:
    """What the pipeline is to yield."""
    return "latent" if media.output_kind(OUT.value) == ".safetensors" else "uint8"


def options(request: Request) -> dict[str, Any]:
    """The request as :meth:`HeliosPipeline.stream` takes it."""
    return dict(
        batch=request.batch,
        num_frames=request.num_frames,
        height=request.height,
        width=request.width,
        steps=request.plan.steps,
        guidance_scale=request.guidance_scale,
        skip_first_chunk=request.skip_first_chunk,
    )


def report(
    stopwatch: Stopwatch, seconds: float, frames: int, paths: list[str], programs: Counter[str]
) -> None:
    """Where the time went."""
    parts = dict(stopwatch.seconds)
    stages = sorted(part for part in parts if part.startswith("stage "))
    say("seconds, compilation apart:")
    for part in ("load", "warm-up", "text", "transformer", *stages, "vae", "media", "compile"):
        if part in parts:
            say(f"  {'  ' if part in stages else ''}{part:<14}{parts[part]:9.2f}")
    warm = seconds - sum(parts.get(part, 0.0) for part in ("load", "warm-up", "compile"))
    say(
        f"  {'total':<14}{seconds:9.2f}   {frames / seconds:.2f} frames/s, {frames / warm:.2f} warm"
    )
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    say(f"peak memory: {f'device {size(device)}, ' if device else ''}process {size(host)}")
    say(
        f"{programs['needed'] - programs['cached']} programs compiled, {programs['cached']} found in the compile cache"
    )
    say("wrote " + ", ".join(paths))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000


def main(argv=None) -> int:
    """Run the command."""
    errors = (
        RequestError,
        PlanError,
        ConfigError,
        TokenizerError,
        UnsupportedError,
        checkpoint.CheckpointError,
        media.MediaError,
        OSError,
    )
    run_script(_main, errors)

"""Make videos with Helios: from prompts, from an image, or from the end of another video.

Without a checkpoint, helios-nano makes them. It ships with the package, knows simple things that
move, and runs on a laptop:

  helios-jax sample --prompt "A large red star glides slowly to the right, against a plain navy \\
      background. The camera stays still."

A converted checkpoint (see helios-jax convert) and a minute of video:

  helios-jax sample --checkpoint checkpoints/helios-distilled --out boat.mp4 \\
      --prompt "a sailing boat in a storm" --num_frames 1440

Every prompt of a file, or of a folder of text files, two seeds each, as animated GIFs, and one
picture of them all:

  helios-jax sample --checkpoint ... --prompt_file prompts.txt --batch 2 --out clip.gif \\
      --contact_sheet sheet.png

A picture that begins to move, a video that goes on, a story whose prompts change while it runs (a
list of {prompt: ..., chunks: 4, blend: 2}):

  helios-jax sample --checkpoint ... --image boat.jpg --prompt "the boat sets sail"
  helios-jax sample --checkpoint ... --video boat.mp4 --prompt "the wind rises"
  helios-jax sample --checkpoint ... --prompt_schedule story.yaml

Watch it while it is made, stop it at any moment, and go on later with what is there (prompt, seed
and size are kept beside the file):

  helios-jax sample --checkpoint ... --prompt "a boat" --num_frames 1440 --out boat.mp4 --live
  helios-jax sample --checkpoint ... --out boat.mp4 --resume
  helios-jax sample --checkpoint ... --prompt "a boat" --out - | ffplay -

Keep the latents and decode them later, and look at drift:

  helios-jax sample --checkpoint ... --prompt "a boat" --save_latents boat.safetensors \\
      --statistics boat.csv --report boat.svg
  helios-jax sample --checkpoint ... --decode boat.safetensors --out boat.mp4

Sample a checkpoint otherwise than it says: another solver, fewer steps, guidance at some noise
levels only, no CFG-Zero*. A line says what is different:

  helios-jax sample --checkpoint checkpoints/helios-mid --prompt "a boat" --solver dpmpp_2m \\
      --steps 10 --guidance_interval 0.2,0.9 --nocfg_zero_star

Merge adapters while the checkpoint is loaded, in their order, each with a strength of its own:

  helios-jax sample --checkpoint checkpoints/helios-distilled --prompt "a boat" \\
      --lora paint.safetensors:0.8 --lora grain.safetensors:0.3

What a request would take on a GPU, asked on a machine that has none (`pip install -e '.[plan]'` for
the compiler, without which it is estimated):

  helios-jax sample --config helios_distilled --plan=h100

Any field of a preset can be changed, too: --config helios_base --config.sample.fps=16. Compiled
programs are kept in the user's cache folder (--compile_cache), so that only the first run of a
shape compiles.

Exit status: 0 when every video is written, 2 when the request cannot be served (one line on stderr
says why, and nothing is written), 130 when it is interrupted.
"""

import contextlib
import functools
import itertools
import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from helios_jax import checkpoint, media, nano
from helios_jax.checkpoint.lora import partial_remark
from helios_jax.commands.cli import complain, run_command
from helios_jax.commands.lora_flags import read_lora
from helios_jax.commands.sample_flags import define_flags
from helios_jax.commands.sample_inputs import (
    Video,
    check_apart,
    check_flags,
    checkpoint_path,
    draws_only,
    input_files,
    placement,
    read_adapters,
    read_config,
    read_fields,
    read_videos,
)
from helios_jax.commands.sample_report import (
    Say,
    announce_memory,
    announce_sampler,
    announce_video,
    report,
    show_plan,
)
from helios_jax.commands.sample_sheet import Sheet
from helios_jax.compile_cache import count_programs, use_compile_cache
from helios_jax.config import HeliosConfig
from helios_jax.errors import InterruptedRunError
from helios_jax.locks import only_writer
from helios_jax.progress import Progress, track
from helios_jax.sampling.curves import save_curves
from helios_jax.sampling.loading import default_dtype
from helios_jax.sampling.loop import ChunkRecord, StreamFields
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.prompts import to_schedule
from helios_jax.sampling.request import Request, request_for_prompt
from helios_jax.sampling.statistics import chunk_rows, load_statistics
from helios_jax.sampling.timing import Stopwatch
from helios_jax.sampling.writing import StreamWriter
from helios_jax.writers import WriteError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`. Without a flag, print
    examples.
    """
    argv = list(sys.argv if argv is None else argv)
    if len(argv) == 1:
        print(examples(argv[0]))
        return 0
    return run_command(__doc__ or "", define_flags, sample, argv)


def sample(options: flags.FlagValues) -> None:
    """Read the request, say what it will take, make the videos, say where the time went."""
    check_flags(options)
    if draws_only(options):
        save_curves(options.report, load_statistics(options.statistics))
        print(f"wrote {options.report}")
        return
    config = read_config(options)
    if options.plan is not None:
        fields = read_fields(options, read_adapters(options, config))
        _, request = request_for_prompt(config, "plan", fields)
        announce_adapters(options, request, print)
        show_plan(request, options, placement(options))
        return
    use_compile_cache(options.compile_cache)
    say = functools.partial(print, file=sys.stderr if media.is_pipe(options.out) else sys.stdout)
    if options.decode:
        decode_file(options, config, say)
        return
    videos = read_videos(options, config, say)
    check_apart(options, videos)
    writers = [make_writer(video) for video in videos]
    # Whoever writes the same files is found before anything heavy is loaded.
    with writers[0].lock():
        if is_complete(videos[0]):
            with writers[0]:
                pass
            frames = videos[0].request.num_frames
            say(f"all {frames} frames are made; --num_frames names more, to go on with them")
            return
        announce(options, videos, say)
        began = time.perf_counter()
        sheet = Sheet() if options.contact_sheet else None
        with Stopwatch(times_stages(options)) as stopwatch, count_programs() as programs:
            with stopwatch("load"):
                pipeline = load(options, config, videos, say)
            if options.warmup:
                with stopwatch("warm-up"):
                    warm_up(pipeline, videos, stopwatch.by_stage)
            make_videos(pipeline, videos, writers, stopwatch, options.out, sheet)
        seconds = time.perf_counter() - began
    report(stopwatch, seconds, sum(map(frames_to_make, videos)), programs, say)
    paths = [*itertools.chain.from_iterable(video.files.videos for video in videos)]
    if sheet is not None:
        sheet.save(options.contact_sheet)
        paths.append(options.contact_sheet)
    say("wrote " + ", ".join(paths))
    if options.open:
        webbrowser.open(Path(paths[-1]).absolute().as_uri())


def examples(program: str) -> str:
    """Three commands that work as they stand."""
    if program.endswith(".py"):
        program = f"python {os.path.basename(program)}"
    first, second, third = nano.EXAMPLES
    lines = [
        "Make a video of what a prompt says:",
        f'  {program} --out star.mp4 --prompt "{first}"',
        "One that grows while it is made, by the small model that is fast:",
        f"  {program} --checkpoint nano --num_frames 240 --live --out circle.mp4 "
        f'--prompt "{second}"',
        "Another seed and fewer steps, as an animation, and open it:",
        f'  {program} --seed 3 --steps 12 --out square.gif --open --prompt "{third}"',
        "",
        f"{program} --help tells every flag.",
    ]
    return "\n".join(lines)


def announce(options: flags.FlagValues, videos: list[Video], say: Say) -> None:
    """Say what will be made, how, and what it needs, and refuse what does not fit."""
    request = max((video.request for video in videos), key=lambda request: request.num_frames)
    count = sum(len(video.files.videos) for video in videos)
    announce_video(request, count, options.fps or request.config.sample.fps, say)
    if path := checkpoint_path(options):
        announce_sampler(request, checkpoint.load_config(path), say)
    announce_adapters(options, request, say)
    announce_memory(request, options.dtype or default_dtype(), placement(options), say)
    if options.negative_prompt and not request.plan.guided:
        say("--negative_prompt has no effect: guidance_scale is 1")


def announce_adapters(options: flags.FlagValues, request: Request, say: Say) -> None:
    """Say which adapters are merged, and what may have been trained with them and is not."""
    if request.adapters:
        say(f"adapters, merged in this order: {', '.join(request.adapters)}; they have no digests")
    if remark := partial_remark(read_lora(options), None):
        complain(remark)


def load(
    options: flags.FlagValues, config: HeliosConfig, videos: list[Video], say: Say
) -> HeliosPipeline:
    """The checkpoint, or random weights, placed as the flags say."""
    placed = placement(options)
    dtype = options.dtype or default_dtype()
    adapters = read_lora(options)
    prompts = all_prompts(videos)
    encoded = [*prompts, *(video.request.negative_prompt for video in videos)]
    if path := checkpoint_path(options):
        pipeline = HeliosPipeline.from_checkpoint(
            path,
            dtype=dtype,
            verify=options.verify,
            prompts=None if placed.text_encoder else encoded,
            stream_blocks=placed.stream_blocks,
            adapters=adapters,
        )
        if nano.is_nano(path) and (advice := nano.advice(prompts, pipeline.tokenizer)):
            say(advice)
    else:
        say(
            "--config without --checkpoint: the weights are random, so expect coloured noise, not "
            "what the prompt says"
        )
        pipeline = HeliosPipeline.random(config, dtype=dtype)
        for file in adapters:
            pipeline = pipeline.with_adapter(file.path, strength=file.strength)
        if not placed.text_encoder:
            pipeline = pipeline.with_text_encoder_released(encoded)
    pipeline = pipeline.replace(config=config)
    if placed.quantization:
        rounded = config.transformer.round_activations
        pipeline = pipeline.quantized(placed.quantization, round_activations=rounded)
    return pipeline.with_streamed_blocks() if placed.stream_blocks else pipeline


def all_prompts(videos: list[Video]) -> list[str]:
    """Every prompt of every video."""
    texts: list[str] = []
    for video in videos:
        texts += to_schedule(video.prompt, None).prompts()
    return texts


def times_stages(options: flags.FlagValues) -> bool:
    """Whether every stage is waited for, so that it can be timed."""
    return jax.default_backend() == "cpu" if options.times is None else options.times


def warm_up(pipeline: HeliosPipeline, videos: list[Video], by_stage: bool) -> None:
    """Compile and run everything once, for prompts of every length, and count the programs as they
    come.
    """
    video = videos[0]

    def measure(record: ChunkRecord) -> None:
        if video.files.statistics:
            chunk_rows(record.index, record.latents, record.frames, record.drift)

    with (
        Progress("warming up", unit="programs") as progress,
        count_programs(progress.update),
        Stopwatch() as own,
    ):
        pipeline.warmup(
            all_prompts(videos),
            video.request,
            image=video.image,
            video=video.video,
            output=StreamWriter(video.files, video.request).output,
            on_chunk=measure,
            stopwatch=own if by_stage else None,
        )


def make_writer(video: Video) -> StreamWriter:
    """What writes one video, or a batch of one prompt."""
    prompt = video.prompt if isinstance(video.prompt, str) else None
    return StreamWriter(video.files, video.request, start=video.start, prompt=prompt)


def is_complete(video: Video) -> bool:
    """Whether a video that is resumed has all its chunks."""
    return video.start is not None and video.start.chunk >= video.request.chunks


def make_videos(
    pipeline: HeliosPipeline,
    videos: list[Video],
    writers: list[StreamWriter],
    stopwatch: Stopwatch,
    out: str,
    sheet: Sheet | None = None,
) -> None:
    """Make one after another.

    Raises:
      InterruptedRunError: on Ctrl-C, where something is left; it says what, and how to go on.
      WriteError: if something cannot be written; likewise.
    """
    written: list[str] = []
    with Progress(
        "compiling or loading",
        total=sum(video.request.chunks for video in videos),
        initial=videos[0].start.chunk if videos[0].start else 0,
        unit="chunks",
    ) as progress:
        for video, writer in zip(videos, writers, strict=True):
            try:
                make_video(pipeline, video, writer, stopwatch, progress, sheet)
            except (KeyboardInterrupt, media.MediaError, WriteError) as error:
                left = [*written, *writer.describe()]
                if not left:
                    raise
                interrupted = isinstance(error, KeyboardInterrupt)
                message = f"{'interrupted' if interrupted else error}; there are {', '.join(left)}"
                if len(videos) == 1 and writer.state_path and writer.frames:
                    message += f": --out={out} --resume goes on with them"
                kind = InterruptedRunError if interrupted else WriteError
                raise kind(message) from error
            written += writer.paths


def make_video(
    pipeline: HeliosPipeline,
    video: Video,
    writer: StreamWriter,
    stopwatch: Stopwatch,
    progress: Progress,
    sheet: Sheet | None = None,
) -> None:
    """Make one video, or a batch of one prompt, and write each chunk while the next is made."""

    def write(record: ChunkRecord) -> None:
        with stopwatch("media"):
            writer.write(record)

    with contextlib.ExitStack() as stack:
        stack.enter_context(writer)
        run = StreamFields(output=writer.output, on_chunk=write, lookahead=1)
        if stopwatch.by_stage:
            run |= StreamFields(stopwatch=stopwatch, lookahead=0)
        if video.start:
            frames = video.request.num_frames
            chunks = pipeline.resume(video.start, num_frames=frames, **run)
        else:
            chunks = pipeline.stream(
                video.prompt, video.request, image=video.image, video=video.video, **run
            )
        made = 0
        if sheet is not None:
            sheet.add(video.prompt, video.request)
        for chunk in chunks:
            if sheet is not None:
                sheet.take(chunk)
            progress.describe("sampling")
            made += video.request.frames_per_chunk * video.request.batch
            progress.note(f"{made / progress.seconds:.2f} frames/s")
            progress.update()
        with stopwatch("media"):
            stack.close()


def frames_to_make(video: Video) -> int:
    """Frames of this run, of all videos of a batch."""
    made = video.start.chunk * video.request.frames_per_chunk if video.start else 0
    return (video.request.num_frames - made) * video.request.batch


def decode_file(options: flags.FlagValues, config: HeliosConfig, say: Say) -> None:
    """Decode saved latents; of the checkpoint, only the VAE is loaded."""
    latents, _ = media.load_latents(options.decode, options.verify)
    say(f"{options.decode} has no digest: what was altered there is not noticed")
    paths = media.numbered(options.out, len(latents))
    media.check_apart(paths, input_files(options))
    with contextlib.ExitStack() as stack:
        for path in paths:
            media.check_output(path, options.overwrite)
            stack.enter_context(only_writer(path))
        decode_latents(options, config, latents, paths)
    say("wrote " + ", ".join(paths))


def decode_latents(
    options: flags.FlagValues, config: HeliosConfig, latents: np.ndarray, paths: list[str]
) -> None:
    """Decode latents, a path for each video of them."""
    if path := checkpoint_path(options):
        pipeline = HeliosPipeline.for_decoding(path, verify=options.verify)
    else:
        pipeline = HeliosPipeline.random(config)
    chunks = pipeline.decode_video(latents)
    fps = options.fps or config.sample.fps
    count = latents.shape[1] // config.sample.latent_frames_per_chunk
    with contextlib.ExitStack() as stack:
        writers = []
        for path in paths:
            opened = media.open_video_writer(path, fps, overwrite=options.overwrite)
            writers.append(stack.enter_context(opened))
        for chunk in track(chunks, "decoding", total=count, unit="chunks"):
            for writer, frames in zip(writers, chunk, strict=True):
                writer.write(frames)

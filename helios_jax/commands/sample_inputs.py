"""What the flags of ``helios-jax sample`` ask for, checked before anything heavy is loaded."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from helios_jax import checkpoint, media, nano
from helios_jax.checkpoint.adapters import read_adapter
from helios_jax.checkpoint.names import transformer_slots
from helios_jax.commands.cli import recipes
from helios_jax.commands.lora_flags import read_lora
from helios_jax.commands.request_flags import read_numbers, read_request_flags
from helios_jax.commands.sample_report import Say
from helios_jax.config import HeliosConfig, from_dict
from helios_jax.diffusion.drift import DriftControl
from helios_jax.memory.sampling import Placement
from helios_jax.readers import read_text
from helios_jax.sampling.geometry import check_adapters, check_model, reference_frames
from helios_jax.sampling.prompt_files import read_prompt_file
from helios_jax.sampling.prompts import Prompt, read_schedules, to_schedule
from helios_jax.sampling.request import Request, RequestError, request_for_prompt
from helios_jax.sampling.state import VideoState, load_state
from helios_jax.sampling.writing import StreamFiles, state_path


class Video(NamedTuple):
    """One thing to make: what it is made from, checked, and where it goes."""

    prompt: Prompt
    request: Request
    files: StreamFiles
    start: VideoState | None = None
    image: np.ndarray | None = None
    video: np.ndarray | None = None


def check_flags(options: flags.FlagValues) -> None:
    """Refuse flags that do not go together, before anything is read.

    Raises:
      RequestError: saying what to add or leave out.
    """
    if options.quant_activations and not options.quant:
        raise RequestError(
            "--quant_activations rounds activations beside the weights of --quant: name int8 or "
            "fp8 there"
        )
    if options.report and not options.statistics:
        raise RequestError("--report draws what --statistics keeps: name that file, too")
    if options.lora and options.decode:
        raise RequestError("--decode makes no video: leave --lora out, latents have its effect")
    if options.image and options.video:
        raise RequestError("give --image or --video, not both")
    if options.contact_sheet:
        if Path(options.contact_sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise RequestError(f"--contact_sheet={options.contact_sheet} must be a .png or a .jpg")
        if options.resume or media.output_kind(options.out) == ".safetensors":
            raise RequestError("--contact_sheet shows videos made whole: not with --resume")
    if options.fps is not None and options.fps < 1:
        raise RequestError(f"fps={options.fps} must be at least 1")
    if options.fps is not None and media.output_kind(options.out) != ".safetensors":
        media.check_rate(options.out, options.fps)
    if options.resume and (prompt_flags(options) or options.image or options.video):
        raise RequestError(
            "--resume goes on with the prompts it finds: leave --prompt and its like out"
        )
    if (path := options.save_latents) and media.output_kind(path) != ".safetensors":
        raise RequestError(f"--save_latents={path} must be a .safetensors file")
    statistics = None if draws_only(options) else options.statistics
    written = (options.save_latents, statistics, options.report, options.contact_sheet)
    for path in filter(None, written):
        media.check_file(path)


def draws_only(options: flags.FlagValues) -> bool:
    """Whether --report draws statistics that are there, and no video is made."""
    return bool(options.report) and not (prompt_flags(options) or options.resume)


def prompt_flags(options: flags.FlagValues) -> list[str]:
    """Those of the flags that give prompts which are there."""
    names = ("prompt", "prompt_file", "prompt_schedule")
    return [name for name in names if options[name].value is not None]


def checkpoint_path(options: flags.FlagValues) -> str | Path | None:
    """--checkpoint, or helios-nano; None for random weights of --config."""
    return options.checkpoint or (nano.CHECKPOINT if options.config is None else None)


def read_config(options: flags.FlagValues) -> HeliosConfig:
    """The checkpoint's configuration, or a preset of the same geometry, which may be sampled and
    computed otherwise.
    """
    path = checkpoint_path(options)
    if options.config is None:
        config = checkpoint.load_config(path or nano.CHECKPOINT)
    elif "objective" in options.config:
        raise RequestError(
            "--config names a recipe of training, and sampling takes a preset: "
            f"{', '.join(name for name in recipes() if '/' not in name)}, or --checkpoint alone"
        )
    else:
        config = from_dict(HeliosConfig, options.config)
        if path is not None:
            check_model(checkpoint.load_config(path), config, str(path))
    if options.quant_activations:
        transformer = dataclasses.replace(config.transformer, round_activations=True)
        config = dataclasses.replace(config, transformer=transformer)
    return config


def read_adapters(options: flags.FlagValues, config: HeliosConfig) -> tuple[str, ...]:
    """The records of the adapters of --lora, which are read and checked.

    Raises:
      CheckpointError: if one cannot be read, or does not fit the model.
    """
    shapes = {slot.name: slot.shape for slot in transformer_slots(config.transformer)}
    records = []
    for file in read_lora(options):
        adapter = read_adapter(file)
        adapter.check(shapes)
        records.append(adapter.record)
    return tuple(records)


def read_fields(options: flags.FlagValues, adapters: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of the request that are given."""
    fields = read_request_flags(options) | {"adapters": adapters}
    if options.drift:
        numbers = read_numbers(options.drift_thresholds, float, "drift_thresholds")
        if len(numbers) not in (1, 2):
            raise RequestError(
                f"--drift_thresholds takes one or two numbers, of mean and variance, not "
                f"{len(numbers)}"
            )
        fields["drift"] = DriftControl(mean_threshold=numbers[0], variance_threshold=numbers[-1])
    return fields


def read_videos(options: flags.FlagValues, config: HeliosConfig, say: Say) -> list[Video]:
    """What is asked for, checked, with the files that it starts from."""
    adapters = read_adapters(options, config)
    if options.resume:
        return [resumed_video(options, config, adapters, say)]
    fields = read_fields(options, adapters)
    prompts = read_prompts(options, say)
    requests = []
    for prompt in prompts:
        _, request = request_for_prompt(config, prompt, fields)
        if options.reference_frames:
            frames = reference_frames(config, request.num_frames)
            request = dataclasses.replace(request, num_frames=frames)
        requests.append(request)
    paths = media.numbered(options.out, sum(request.batch for request in requests))
    for path in paths:
        media.check_output(path, options.overwrite)
    image = read_image(options, requests[0], say)
    video = read_video(options, requests[0], say)
    videos = []
    for number, (prompt, request) in enumerate(zip(prompts, requests)):
        files = stream_files(options, paths[: request.batch], number, len(prompts))
        paths = paths[request.batch :]
        videos.append(Video(prompt, request, files, image=image, video=video))
    return videos


def resumed_video(
    options: flags.FlagValues, config: HeliosConfig, adapters: tuple[str, ...], say: Say
) -> Video:
    """The video at --out, as it was asked for, and as long as is asked for now."""
    first = options.out
    if not media.is_pipe(first) and not Path(state_path(first)).exists():
        numbered = media.numbered(first, 2)[0]  # a batch has its state beside its first video
        first = numbered if Path(state_path(numbered)).exists() else first
    state = load_state(state_path(first))
    check_model(state.request.config, config, state_path(first))
    check_adapters(state.request.adapters, adapters, state_path(first))
    given = read_request_flags(options)
    request = state.request
    if "num_frames" in given:
        request = dataclasses.replace(request, num_frames=given.pop("num_frames"))
    if options.reference_frames:
        frames = reference_frames(config, request.num_frames)
        request = dataclasses.replace(request, num_frames=frames)
    own = request.arguments()
    if ignored := [name for name, value in given.items() if value != own[name]]:
        say(f"--{', --'.join(ignored)}: without effect, a video that is resumed keeps its own")
    paths = media.numbered(options.out, request.batch)
    for path in paths:
        media.check_output(path, options.overwrite)
    return Video(state.prompts, request, stream_files(options, paths), state)


def check_apart(options: flags.FlagValues, videos: list[Video]) -> None:
    """Refuse results that would take the place of what they are made from.

    Raises:
      MediaError: naming the file.
    """
    written: list[str] = []
    for files in (video.files for video in videos):
        written += [*files.videos, *filter(None, (files.latents, files.statistics, files.curves))]
    if options.contact_sheet:
        written.append(options.contact_sheet)
    media.check_apart(written, input_files(options))


def input_files(options: flags.FlagValues) -> list[str | Path]:
    """The files that the flags say to read, of a checkpoint its weights."""
    named = (options.image, options.video, options.prompt_file, options.prompt_schedule)
    found = [path for path in (*named, options.decode) if path]
    found += [file.path for file in read_lora(options)]
    if path := checkpoint_path(options):
        found += Path(path).glob("*/*.safetensors")
    return found


def stream_files(
    options: flags.FlagValues, paths: list[str], number: int = 0, count: int = 1
) -> StreamFiles:
    """Where one video, or a batch of one prompt, goes.

    Args:
      options: the flags.
      paths: of the videos.
      number, count: of ``count`` prompts, this is that of ``number``: each has files of its own.
    """

    def own(path: str | None) -> str | None:
        return media.numbered(path, count)[number] if path else None

    return StreamFiles(
        paths,
        live=options.live,
        fps=options.fps,
        overwrite=options.overwrite,
        verify=options.verify,
        latents=own(options.save_latents),
        statistics=own(options.statistics),
        curves=own(options.report),
    )


def read_prompts(options: flags.FlagValues, say: Say) -> list[Prompt]:
    """The prompts of --prompt, --prompt_file or --prompt_schedule.

    Raises:
      RequestError: if there is none, or more than one of these.
    """
    if len(prompt_flags(options)) != 1:
        raise RequestError("give a prompt: one of --prompt, --prompt_file and --prompt_schedule")
    if options.prompt_schedule is not None:
        path = options.prompt_schedule
        return list(read_schedules(path, reference=options.reference_schedule).values())
    if options.prompt is not None:
        return [*to_schedule(options.prompt.strip(), None).prompts()]
    if Path(options.prompt_file).is_dir():
        return [*read_prompt_folder(options.prompt_file)]
    found = read_prompt_file(options.prompt_file)
    for note in found.notes:
        say(note)
    return [*found.prompts]


def read_prompt_folder(folder: str) -> list[str]:
    """The text of each .txt file of a folder, in the order of their names.

    Raises:
      RequestError: if there is none.
    """
    files = sorted(file for file in Path(folder).iterdir() if file.match("*.txt"))
    texts = [" ".join(read_text(file).split()) for file in files]
    prompts = [text for text in texts if text]
    if not prompts:
        raise RequestError(f"--prompt_file {folder} is a folder without a prompt in a .txt file")
    return prompts


def read_image(options: flags.FlagValues, request: Request, say: Say) -> np.ndarray | None:
    """The image to start from, as :meth:`HeliosPipeline.stream` takes it."""
    if not options.image:
        return None
    size = (request.height, request.width)
    pixels, description = media.read_image(options.image, *size, options.fit)
    say(description)
    return pixels[None]


def read_video(options: flags.FlagValues, request: Request, say: Say) -> np.ndarray | None:
    """The end of the video to go on from, as :meth:`HeliosPipeline.stream` takes it."""
    if not options.video:
        return None
    size = (request.height, request.width)
    fps = request.config.sample.fps
    piece = request.frames_per_chunk
    video = media.read_video(options.video, *size, fps, options.fit, piece=piece)
    say(video.description)
    return np.concatenate([video.first[None], video.tail])[None]


def placement(options: flags.FlagValues) -> Placement:
    """What stays on the device, and how."""
    low = options.memory == "low"
    return Placement(
        text_encoder=not (options.release_text_encoder or low),
        stream_blocks=low,
        quantization=options.quant,
    )

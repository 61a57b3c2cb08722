"""A request for a video: one object from the flag to the compiled program to the saved state.

Everything that fixes a video, beside the weights, its prompts and the pixels that it starts from,
is a field of :class:`Request`. A new field is one line there and one in :class:`RequestFields`,
which names it for callers: its flag, its place in saved states and in memory plans, and its default
follow from these.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Unpack

import numpy as np

from helios_jax.config import HeliosConfig, SampleConfig, SchedulerConfig, Solver
from helios_jax.diffusion.drift import DriftControl
from helios_jax.fields import (
    Checked,
    ConfigError,
    Count,
    Difference,
    Range,
    Share,
    differences,
    from_dict,
    to_dict,
)
from helios_jax.sampling.chunk import ChunkPlan
from helios_jax.sampling.fields import RequestError, check_unicode, request_field, show
from helios_jax.sampling.geometry import check_size, frames_per_chunk
from helios_jax.sampling.prompts import Prompt, PromptSchedule, to_schedule

__all__ = ["Request", "RequestError", "RequestFields", "make_request"]

MAX_SEED = 2**31 - 1

NOISE = (0.111, 0.135)
"""Noise on what a video starts from: Diffusers' range of sigma."""

ImageHistory = Literal["still", "window", "anchor"]


class RequestFields(TypedDict, total=False):
    """What :func:`make_request`, and everything that calls it, takes by name; None is "not given".

    What each means stands beside the field of the same name of :class:`Request`.
    """

    batch: int | None
    num_frames: int | None
    height: int | None
    width: int | None
    steps: int | Sequence[int] | None
    guidance_scale: float | None
    guidance_interval: Sequence[float] | None
    cfg_zero_star: bool | None
    zero_init_steps: int | None
    negative_prompt: str | None
    solver: Solver | None
    shift: float | None
    use_dynamic_shifting: bool | None
    time_shift_type: Literal["exponential", "linear"] | None
    shift_tokens: Literal["previous_stage", "own_stage"] | None
    base_image_seq_len: int | None
    max_image_seq_len: int | None
    base_shift: float | None
    max_shift: float | None
    amplify_first_chunk: bool | None
    skip_first_chunk: bool | None
    seed: int | None
    image_noise: Sequence[float] | None
    video_noise: Sequence[float] | None
    image_history: ImageHistory | None
    drift: DriftControl | None
    adapters: Sequence[str] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Checked):
    """A video to be made, complete and checked; :func:`make_request` fills in defaults.

    ``dataclasses.replace(request, num_frames=99)`` is another request, checked again.

    Attributes:
      config: of the model that is to make it.

    Raises:
      RequestError: naming the field that lies outside its range, or that the model cannot serve.
    """

    config: HeliosConfig
    batch: Count = request_field("Videos of each prompt, made at once.", default=1)
    num_frames: int = request_field(
        "Frames of the video; whole chunks are generated and the last one is cut."
    )
    height: int = request_field(
        "Pixels; a multiple of 64 for a pyramid of three stages, of 16 for one."
    )
    width: int = request_field(
        "Pixels; a multiple of 64 for a pyramid of three stages, of 16 for one."
    )
    steps: tuple[int, ...] = request_field(
        "Solver steps of each stage, coarsest first: 2,2,2. One number serves every stage.",
        sampler=True,
    )
    guidance_scale: float = request_field(
        "Weight of the prompt against the negative prompt; 1 or less runs without the latter.",
        sampler=True,
    )
    guidance_interval: tuple[float, float] = request_field(
        "Least and greatest noise level (timestep / 1000) of the steps with guidance: 0.2,0.9. The "
        "others follow the prompt alone, at half the cost (Kynkäänniemi et al. 2024).",
        sampler=True,
    )
    cfg_zero_star: bool = request_field(
        "Guide against the projected negative velocity (CFG-Zero*, Fan et al. 2025).", sampler=True
    )
    zero_init_steps: int = request_field(
        "Leading steps of the first stage at which CFG-Zero* takes a velocity of zero.",
        sampler=True,
    )
    negative_prompt: str = request_field(
        "What guidance leads away from; unused where guidance_scale is 1."
    )
    solver: Solver = request_field("Solver of the flow's equation.", sampler=True)
    shift: float = request_field(
        "Shift of the noise schedule; 1 is none, and needed beside dynamic shifting.", sampler=True
    )
    use_dynamic_shifting: bool = request_field(
        "Shift the noise schedule by the number of tokens.", sampler=True
    )
    time_shift_type: Literal["exponential", "linear"] = request_field(
        "How the dynamic shift grows with the number of tokens.", sampler=True
    )
    shift_tokens: Literal["previous_stage", "own_stage"] = request_field(
        "Whose tokens set the dynamic shift of a stage: those of the stage before it, as in "
        "Diffusers, or its own, as in the original implementation.",
        sampler=True,
    )
    base_image_seq_len: int = request_field(
        "Tokens at which the dynamic shift is base_shift.", sampler=True
    )
    max_image_seq_len: int = request_field(
        "Tokens at which the dynamic shift is max_shift.", sampler=True
    )
    base_shift: float = request_field("Dynamic shift at base_image_seq_len tokens.", sampler=True)
    max_shift: float = request_field("Dynamic shift at max_image_seq_len tokens.", sampler=True)
    amplify_first_chunk: bool = request_field(
        "Twice the steps in the first chunk, of a distilled model.", sampler=True
    )
    skip_first_chunk: bool = request_field(
        "Take the anchor from the second chunk: for videos that begin too still. All chunks are "
        "written.",
        default=False,
    )
    seed: Annotated[int, Range(0, MAX_SEED)] = request_field(
        "Seed of the noise; video b of a batch has seed + b.", default=0
    )
    image_noise: tuple[Share, Share] = request_field(
        "Least and greatest noise on the image, or on the first frame of a video that is "
        "continued: more is more motion and less likeness.",
        default=NOISE,
    )
    video_noise: tuple[Share, Share] = request_field(
        "The same for the frames that the first chunk continues, of an image too.", default=NOISE
    )
    image_history: ImageHistory = request_field(
        "What of the image the first chunk sees as its past: a still clip's last frame, as in "
        "Diffusers; that frame in a window of noise, as later training has it; or the image as "
        "anchor alone.",
        default="still",
    )
    drift: DriftControl | None = request_field(
        "When to corrupt the history of a chunk that has drifted, and how much.",
        default=None,
        flag=False,
    )

    adapters: tuple[str, ...] = request_field(
        "Records of the adapters that are merged into the model, in order; the pipeline says them.",
        default=(),
        flag=False,
    )

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
            # The ranges of what the configuration has, too, are stated there.
            _ = self.sample, self.scheduler
        except ConfigError as error:
            raise RequestError(_unqualified(error)) from error
        for name in ("image_noise", "video_noise"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise RequestError(
                    f"{name}={least},{greatest} must be two numbers, 0 <= least <= greatest <= 1"
                )
        stages = self.config.scheduler.stages
        if len(self.steps) != stages:
            raise RequestError(
                f"steps={show(self.steps)} names {len(self.steps)} stages, but this checkpoint has "
                f"{stages}"
            )
        if self.seed + self.batch - 1 > MAX_SEED:
            raise RequestError(
                f"seed={self.seed} must be at most {MAX_SEED + 1 - self.batch} for a batch of "
                f"{self.batch}"
            )
        check_unicode("the negative prompt", self.negative_prompt)
        check_size(self.config, self.height, self.width)

    @functools.cached_property
    def sample(self) -> SampleConfig:
        """The model's defaults, with what is asked for in their place."""
        return _take(self.config.sample, self)

    @functools.cached_property
    def scheduler(self) -> SchedulerConfig:
        """The model's stages with the request's solver and shifts."""
        return _take(self.config.scheduler, self)

    @functools.cached_property
    def plan(self) -> ChunkPlan:
        """Of every chunk but an amplified first one."""
        return ChunkPlan(
            steps=self.steps,
            guided=self.guidance_scale > 1,
            guidance_interval=self.guidance_interval,
            cfg_zero_star=self.cfg_zero_star,
            zero_init_steps=self.zero_init_steps if self.cfg_zero_star else 0,
            history_sizes=self.config.sample.history_sizes,
        )

    @property
    def first_plan(self) -> ChunkPlan:
        """Of the first chunk; a few-step student may take twice the steps there."""
        if not (self.amplify_first_chunk and self.solver == "dmd"):
            return self.plan
        return self.plan._replace(steps=tuple(2 * n for n in self.steps))

    @property
    def frames_per_chunk(self) -> int:
        """Frames that a chunk of latents decodes to."""
        return frames_per_chunk(self.config)

    @property
    def chunks(self) -> int:
        """Number of chunks of the whole video."""
        return math.ceil(self.num_frames / self.frames_per_chunk)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a chunk's latents."""
        factor = self.config.vae.spatial_factor
        return (
            self.config.sample.latent_frames_per_chunk,
            self.height // factor,
            self.width // factor,
            self.config.vae.z_dim,
        )

    @property
    def advice(self) -> list[str]:
        """What is allowed and seldom meant, a sentence each."""
        found = []
        zeros = self.plan.zero_init_steps if self.plan.guided else 0
        if zeros >= self.steps[0]:
            found.append(
                f"zero_init_steps={zeros} leaves all {self.steps[0]} steps of the first stage "
                "without an effect: ask for more steps there, or for zero_init_steps=0"
            )
        return found

    def arguments(self) -> dict[str, Any]:
        """Every field by name, ready for JSON: ``make_request(request.config, **arguments)`` is
        this request again.
        """
        values = {field.name: getattr(self, field.name) for field in request_fields()}
        return values | {"drift": self.drift and dataclasses.asdict(self.drift)}

    def sampler_differences(self, config: HeliosConfig) -> list[Difference]:
        """Settings of the sampler that are not those of ``config``: of a checkpoint, for one."""
        own = make_request(config)
        return differences(_sampler_settings(own), _sampler_settings(self))


def make_request(config: HeliosConfig, **fields: Unpack[RequestFields]) -> Request:
    """A request with defaults where nothing is given, or None: those of the configuration, or of
    :class:`Request`.

    Args:
      config: of the checkpoint.
      **fields: of :class:`Request`; ``steps`` may be one number for every stage.

    Raises:
      RequestError: naming what is unknown, or does not fit.
    """
    return read_request(config, fields)


def read_request(config: HeliosConfig, values: Mapping[str, Any]) -> Request:
    """:func:`make_request` of fields that come from flags or from a file."""
    given = {name: value for name, value in values.items() if value is not None}
    for field in request_fields():
        if field.name not in given:
            given[field.name] = _default(config, field)
    given["steps"] = _steps(given["steps"], config.scheduler.stages)
    plain = {name: _plain(value) for name, value in given.items()}
    try:
        return from_dict(Request, {"config": config, **plain})
    except ConfigError as error:
        raise RequestError(_unqualified(error)) from error


def request_for_prompt(
    config: HeliosConfig, prompt: Prompt, values: Mapping[str, Any]
) -> tuple[PromptSchedule, Request]:
    """:func:`read_request` with as many videos as prompts, and as many chunks as a schedule has,
    where ``values`` do not say; and the schedule, with a prompt for each video everywhere.
    """
    asked = {name: value for name, value in values.items() if value is not None}
    schedule = to_schedule(prompt, asked.get("batch"))
    asked["batch"] = len(schedule.changes[0].prompts)
    if "num_frames" not in asked and schedule.chunks:
        asked["num_frames"] = schedule.chunks * frames_per_chunk(config)
    return schedule, read_request(config, asked)


def request_fields() -> list[dataclasses.Field]:
    """The fields that can be asked for."""
    return [field for field in dataclasses.fields(Request) if field.name != "config"]


def field_types() -> dict[str, Any]:
    """The types of these fields, without their ranges."""
    return typing.get_type_hints(Request)


def _sampler_settings(request: Request) -> dict[str, Any]:
    """What can be set differently for the same weights."""
    settings = to_dict(request.scheduler)
    for field in request_fields():
        if field.metadata["sampler"]:
            settings[field.name] = getattr(request, field.name)
    return settings


Section = TypeVar("Section", SampleConfig, SchedulerConfig)


def _take(section: Section, request: Request) -> Section:
    """A section of the configuration with the fields that the request has, too."""
    there = {field.name for field in dataclasses.fields(section)}
    shared = [field.name for field in request_fields() if field.name in there]
    return dataclasses.replace(section, **{name: getattr(request, name) for name in shared})


def _unqualified(error: ConfigError) -> str:
    """The message of an error, with a field's name alone."""
    message = str(error)
    for section in ("sample.", "scheduler."):
        message = message.replace(section, "")
    return message


def _default(config: HeliosConfig, field: dataclasses.Field) -> Any:
    """The value of a field that is not given."""
    if field.default is not dataclasses.MISSING:
        return field.default
    section = config.sample if hasattr(config.sample, field.name) else config.scheduler
    return getattr(section, field.name)


def _steps(steps: Any, stages: int) -> Any:
    """One number serves every stage."""
    if isinstance(steps, list | tuple):
        return tuple(steps) * stages if len(steps) == 1 else tuple(steps)
    return (steps,) * stages


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, and so within a sequence."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value

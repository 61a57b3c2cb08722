"""A request for a video, checked and completed before anything heavy is loaded."""

import dataclasses
import math
from collections.abc import Sequence

from helios_jax.config import HeliosConfig
from helios_jax.errors import HeliosError
from helios_jax.sampling.chunk import ChunkPlan


class RequestError(HeliosError, ValueError):
    """A request the model cannot serve; the message says what to change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A video to be made.

    Attributes:
      height, width: pixels.
      num_frames: frames wanted; whole chunks are generated and the last one is cut.
      batch: videos made at once.
      chunks: number of chunks.
      frames_per_chunk: decoded frames of one chunk.
      latent_shape: (T, H, W, C) of a chunk's latents.
      plan: of every chunk but an amplified first one.
      first_plan: of the first chunk.
      guidance_scale: weight of the prompt against the negative prompt; 1 is no guidance.
      skip_first_chunk: whether the anchor is taken from the second chunk, in place of an image, a
        video, or the first chunk.
    """

    height: int
    width: int
    num_frames: int
    batch: int
    chunks: int
    frames_per_chunk: int
    latent_shape: tuple[int, int, int, int]
    plan: ChunkPlan
    first_plan: ChunkPlan
    guidance_scale: float
    skip_first_chunk: bool


def make_request(
    config: HeliosConfig,
    *,
    batch: int = 1,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    steps: int | Sequence[int] | None = None,
    guidance_scale: float | None = None,
    skip_first_chunk: bool = False,
) -> Request:
    """A request with the configuration's defaults where nothing is given.

    Args:
      config: of the checkpoint.
      batch: number of videos.
      num_frames: frames of the video.
      height, width: pixels; the coarsest stage must still divide into patches.
      steps: solver steps, one number a stage, or one for every stage.
      guidance_scale: 1 or less runs without the negative prompt.
      skip_first_chunk: take the anchor from the second chunk, when a video begins too still.

    Raises:
      RequestError: naming what does not fit.
    """
    sample, scheduler = config.sample, config.scheduler
    height = sample.height if height is None else height
    width = sample.width if width is None else width
    num_frames = sample.num_frames if num_frames is None else num_frames
    guidance_scale = sample.guidance_scale if guidance_scale is None else guidance_scale
    steps = sample.steps if steps is None else steps
    steps = (steps,) * scheduler.stages if isinstance(steps, int) else tuple(steps)
    if len(steps) == 1:
        steps *= scheduler.stages

    if num_frames < 1:
        raise RequestError(f"num_frames={num_frames} must be at least 1")
    if batch < 1:
        raise RequestError(f"batch={batch} must be at least 1")
    if len(steps) != scheduler.stages:
        raise RequestError(
            f"steps={','.join(map(str, steps))} names {len(steps)} stages, but this checkpoint has {scheduler.stages}"
        )
    if min(steps) < 1:
        raise RequestError(f"steps={','.join(map(str, steps))} must be at least 1 at every stage")
    _check_size(config, height, width)

    length = frames_per_chunk(config)
    plan = ChunkPlan(
        steps=steps,
        guided=guidance_scale > 1,
        guidance_interval=sample.guidance_interval,
        cfg_zero_star=sample.cfg_zero_star,
        zero_init_steps=sample.zero_init_steps if sample.cfg_zero_star else 0,
        history_sizes=sample.history_sizes,
    )
    amplified = plan._replace(steps=tuple(2 * n for n in steps))
    factor = config.vae.spatial_factor
    return Request(
        height=height,
        width=width,
        num_frames=num_frames,
        batch=batch,
        chunks=math.ceil(num_frames / length),
        frames_per_chunk=length,
        latent_shape=(
            sample.latent_frames_per_chunk,
            height // factor,
            width // factor,
            config.vae.z_dim,
        ),
        plan=plan,
        first_plan=amplified if sample.amplify_first_chunk and scheduler.solver == "dmd" else plan,
        guidance_scale=float(guidance_scale),
        skip_first_chunk=skip_first_chunk,
    )


def frames_per_chunk(config: HeliosConfig) -> int:
    """Frames that a chunk of latents decodes to."""
    return 1 + config.vae.temporal_factor * (config.sample.latent_frames_per_chunk - 1)


def reference_frames(config: HeliosConfig, num_frames: int) -> int:
    """Frames the reference implementation returns when asked for ``num_frames``: whole chunks, cut
    to 4m + 1.
    """
    factor, length = config.vae.temporal_factor, frames_per_chunk(config)
    return (max(1, math.ceil(num_frames / length)) * length - 1) // factor * factor + 1


def _check_size(config: HeliosConfig, height: int, width: int) -> None:
    """Height and width must divide into the VAE's cells, halve at every stage, and divide into
    patches at the coarsest.
    """
    for name, size, patch in (
        ("height", height, config.transformer.patch_size[1]),
        ("width", width, config.transformer.patch_size[2]),
    ):
        multiple = config.vae.spatial_factor * patch * 2 ** (config.scheduler.stages - 1)
        if size < 1 or size % multiple:
            nearest = max(multiple, round(size / multiple) * multiple)
            raise RequestError(
                f"{name}={size} must be a multiple of {multiple} for {config.scheduler.stages} stage(s) of patches of {patch}; "
                f"the nearest is {nearest}"
            )

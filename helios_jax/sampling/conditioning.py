"""What a video starts from: the history before its first chunk, made from an image or from the end
of another video.

The transformer has one conditioning input, its history window, so an image or a video is encoded
into latent frames and put there. The anchor is the image, or the first frame of the video, and
stays for the whole run; the newest frames of the window are what the first chunk continues.
Training corrupts the history with noise, so noise is added here too, ``(1 - sigma) x + sigma
noise``, with sigma drawn from a range.

A video goes in pieces as long as a chunk, the last ``frames_per_chunk * k`` frames of it, each
encoded as a clip of its own. Those that end before the window begins are not encoded: nothing of
them would be read.

An image has one newest frame: the last latent frame of a still clip, the image repeated to the
length of a chunk. A video that goes on from stillness tends to begin with stillness. What can be
done about it:

* wider noise, e.g. ``image_noise=(0.2, 0.3)``: more motion, less of the image's identity;
* ``skip_first_chunk``: the anchor is taken anew from the second chunk
  (:func:`~helios_jax.diffusion.history.release_anchor`), so that every later chunk is anchored to a
  frame in motion rather than to the image;
* ``image_history``, a start that is consistent with training. Training of the released checkpoints
  never showed an anchor with one newest frame. The original implementation corrected that in
  training alone, where some examples now keep just these two frames (``random_drop_i2v_ratio``); it
  samples as before. ``"still"`` is how it samples. ``"window"`` is a start as those examples have
  it: corruption takes the newest nine frames together, so that the eight zeros among them carry
  noise too. ``"anchor"`` leaves the window empty, as examples of the released checkpoints have it:
  the video shows what the image shows, but need not begin with it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8, UInt32

from helios_jax.diffusion.history import HistoryState, start_history
from helios_jax.diffusion.noise import mix
from helios_jax.models.vae import VAE, encode_clip
from helios_jax.sampling.pixels import image_pixels, video_pixels
from helios_jax.sampling.request import Request, RequestError
from helios_jax.types import Array, Float, Key, Params

_BEFORE_CHUNKS = np.uint32(2**32 - 1)
"""Where the key of a chunk's noise has the chunk's index."""


class Conditioning(NamedTuple):
    """A checked image or video, and how it is used.

    Attributes:
      anchor: pixels of the frame that becomes the anchor; a batch of 1 serves all videos, as in
        ``pieces``.
      pieces: pixels of the clips whose latents fill the window, oldest first.
      anchor_noise, window_noise: ranges of sigma.
      frames: newest latent frames of the window that are not zero.
      known: newest latent frames that show something; the others are noise alone.
    """

    anchor: UInt8[np.ndarray, "B 1 Y X 3"]
    pieces: tuple[UInt8[np.ndarray, "B F Y X 3"], ...]
    anchor_noise: tuple[float, float]
    window_noise: tuple[float, float]
    frames: int
    known: int


class ClipNoise(NamedTuple):
    """The draws for one encoded clip.

    Attributes:
      posterior: standard normal, for the VAE's posterior.
      sigma: uniform in [0, 1), the place of a frame's sigma in its range.
      noise: standard normal, added in proportion to sigma.
    """

    posterior: Float[Array, "B T H W C"]
    sigma: Float[Array, "B T"]
    noise: Float[Array, "B T H W C"]


class ConditioningNoise(NamedTuple):
    """The draws for the anchor, and for each piece, oldest first."""

    anchor: ClipNoise
    pieces: tuple[ClipNoise, ...]


def make_conditioning(
    request: Request, *, image: Any = None, video: Any = None
) -> Conditioning | None:
    """What a request starts from, checked; None if from text alone.

    Args:
      request: the video to be made, with the strengths of noise.
      image: one for each video or one for all of them, as
        :data:`~helios_jax.sampling.pixels.ImageSources` says.
      video: as :data:`~helios_jax.sampling.pixels.VideoSource` says; frames before the last
        ``frames_per_chunk * k`` have no effect, save the first, the anchor.

    Raises:
      RequestError: naming what does not fit.
      MediaError: if a file cannot be read.
    """
    if image is not None and video is not None:
        raise RequestError(
            "an image and a video are given; give the one that the new video shall start from"
        )
    if image is not None:
        return _from_image(request, image)
    if video is not None:
        return _from_video(request, video)
    return None


def _from_image(request: Request, image: Any) -> Conditioning:
    """The image as anchor, and the last latent frame of a still clip as the newest frame."""
    shape = (request.height, request.width, 3)
    pixels = _check("image", image_pixels(image, request), shape, request.batch)[:, None]
    frames = {"still": 1, "window": request.latent_shape[0], "anchor": 0}[request.image_history]
    shape = (len(pixels), request.frames_per_chunk, *pixels.shape[2:])
    pieces = (np.broadcast_to(pixels, shape),) if frames else ()
    return Conditioning(
        anchor=pixels,
        pieces=pieces,
        anchor_noise=request.image_noise,
        window_noise=request.video_noise,
        frames=frames,
        known=1,
    )


def _from_video(request: Request, video: Any) -> Conditioning:
    """The first frame as anchor, and the end of the video, in pieces as long as a chunk."""
    shape = (None, request.height, request.width, 3)
    pixels = _check("video", video_pixels(video, request), shape, request.batch)
    length = request.frames_per_chunk
    T = request.latent_shape[0]
    if pixels.shape[1] < length:
        raise RequestError(
            f"video of {pixels.shape[1]} frames is too short: at least one chunk, {length} frames, "
            "is needed"
        )
    window = sum(request.plan.history_sizes)
    count = min(pixels.shape[1] // length, math.ceil(window / T))
    pieces = np.split(pixels[:, pixels.shape[1] - count * length :], count, axis=1)
    return Conditioning(
        anchor=pixels[:, :1],
        pieces=tuple(pieces),
        anchor_noise=request.image_noise,
        window_noise=request.video_noise,
        frames=count * T,
        known=count * T,
    )


def draw_conditioning_noise(
    keys: Key[Array, "B"], pieces: int, shape: tuple[int, int, int, int]
) -> ConditioningNoise:
    """All draws of a start; a video's depend on its own key only, a piece's also on its place
    before the first chunk, not on how many there are.

    Args:
      keys: [B] one key a video.
      pieces: number of clips.
      shape: (T, H, W, C) of a chunk's latents.
    """
    *clips, anchor = (_draw_clip(keys, jnp.uint32(clip), shape) for clip in range(pieces, -1, -1))
    return ConditioningNoise(jax.tree.map(lambda x: x[:, :1], anchor), tuple(clips))


def initial_history(
    vae: VAE,
    params: Params,
    request: Request,
    conditioning: Conditioning | None,
    noise: Callable[[], ConditioningNoise],
) -> HistoryState:
    """The history before the first chunk.

    Args:
      vae, params: the module and its parameters.
      request: the video to be made.
      conditioning: from :func:`make_conditioning`.
      noise: makes the draws; not called for a video from text alone.
    """
    state = start_history((request.batch, *request.latent_shape[1:]), request.plan.history_sizes)
    if conditioning is None:
        return state
    draws = noise()
    clips = []
    for clip, drawn in zip(conditioning.pieces, draws.pieces, strict=True):
        clips.append(encode_clip(vae, params, clip, drawn.posterior))
    anchor = encode_clip(vae, params, conditioning.anchor, draws.anchor.posterior)
    ranges = jnp.asarray([conditioning.anchor_noise, conditioning.window_noise], jnp.float32)
    return _fill(state, anchor, clips, draws, ranges, conditioning.frames, conditioning.known)


def add_noise(
    latents: Float[Array, "B T H W C"], noise: ClipNoise, sigmas: Float[Array, "2"]
) -> Float[Array, "B T H W C"]:
    """``(1 - sigma) latents + sigma noise``, with a sigma for each frame between the two of
    ``sigmas``.
    """
    least, largest = sigmas
    sigma = (least + (largest - least) * noise.sigma)[:, :, None, None, None]
    return mix(latents, noise.noise, sigma)


@functools.partial(jax.jit, static_argnums=2)
def _draw_clip(
    keys: Key[Array, "B"], clip: UInt32[Array, ""], shape: tuple[int, int, int, int]
) -> ClipNoise:
    """The draws of one clip of latents."""

    def draw(key):
        own = jax.random.fold_in(jax.random.fold_in(key, _BEFORE_CHUNKS), clip)
        normal, uniform = jax.random.split(own)
        posterior, noise = jax.random.normal(normal, (2, *shape), jnp.float32)
        return ClipNoise(posterior, jax.random.uniform(uniform, shape[:1], jnp.float32), noise)

    return jax.vmap(draw)(keys)


@functools.partial(jax.jit, static_argnums=(5, 6), donate_argnums=0)
def _fill(
    state: HistoryState,
    anchor: Float[Array, "B 1 H W C"],
    clips: list[Float[Array, "B T H W C"]],
    draws: ConditioningNoise,
    ranges: Float[Array, "2 2"],
    frames: int,
    known: int,
) -> HistoryState:
    """The empty state with its anchor and the newest ``frames`` of its window filled; of these the
    newest ``known`` show the clips.
    """
    window = [state.window]
    if frames:
        latents = jnp.concatenate(clips, axis=1)
        T = latents.shape[1]
        latents = jnp.where((jnp.arange(T) < T - known)[None, :, None, None, None], 0.0, latents)
        noise = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *draws.pieces)
        window.append(add_noise(latents, noise, ranges[1])[:, T - frames :])
    window = jnp.concatenate(window, axis=1)[:, -state.window.shape[1] :]
    return HistoryState(window, add_noise(anchor, draws.anchor, ranges[0]), jnp.ones((), bool))


def _check(name: str, pixels: Any, shape: tuple[int | None, ...], batch: int) -> np.ndarray:
    """The pixels, if they are uint8, of the request's size, and one for all videos or for each."""
    if not isinstance(pixels, np.ndarray | jax.Array):
        found = type(pixels).__name__
    elif pixels.dtype == np.uint8 and _fits(pixels.shape, shape, batch):
        return np.asarray(pixels)
    else:
        found = f"{pixels.dtype} {list(pixels.shape)}"
    batches = f"1 or {batch}" if batch > 1 else "1"
    sizes = ["frames" if size is None else str(size) for size in shape]
    raise RequestError(
        f"{name} must be a file or an array of uint8 [{', '.join([batches, *sizes])}], not {found}"
    )


def _fits(actual: tuple[int, ...], shape: tuple[int | None, ...], batch: int) -> bool:
    """Whether a shape is that of 1 or ``batch`` arrays of ``shape``, where None is any size."""
    if len(actual) != len(shape) + 1 or actual[0] not in (1, batch):
        return False
    return all(wanted in (None, size) for wanted, size in zip(shape, actual[1:]))

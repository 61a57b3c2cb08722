"""What a video starts from: the history before its first chunk, made from an image or from the end
of another video.

The transformer has one conditioning input, its history window, so an image or a video is encoded
into latent frames and put there. The anchor is the image, or the first frame of the video, and
stays for the whole run; the newest frames of the ring are what the first chunk continues. Training
corrupts the history with noise, so noise is added here too, ``(1 - sigma) x + sigma noise``, with
sigma drawn from a range.

A video goes in pieces as long as a chunk, the last ``frames_per_chunk * k`` frames of it, each
encoded as a clip of its own. Those that end before the window begins are not encoded: nothing of
them would be read.

An image has one newest frame: the last latent frame of a still clip, the image repeated to the
length of a chunk. A video that goes on from stillness tends to begin with stillness. What can be
done about it:

* wider noise, e.g. ``image_noise=(0.2, 0.3)``: more motion, less of the image's identity; *
``skip_first_chunk``: the anchor is taken anew from the second chunk
(:func:`~helios_jax.diffusion.history.release_anchor`), so that every later
  chunk is anchored to a frame in motion rather than to the image;
* ``image_history``, a start that is consistent with training. Training of the released checkpoints
never showed an anchor with one newest frame. The
  reference corrected that in training alone, where some examples now keep just these two frames
  (``random_drop_i2v_ratio``); it samples as before. ``"still"`` is how it samples. ``"window"`` is
  a start as those examples have it: corruption takes the newest nine frames together, so that the
  eight zeros among them carry noise too. ``"anchor"`` leaves the ring empty, as examples of the
  released checkpoints have it: the video shows what the image shows, but need not begin with it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8, UInt32

from helios_jax.diffusion.history import HistoryState, start_history
from helios_jax.models.vae import VAE, encode_clip
from helios_jax.sampling.request import Request, RequestError
from helios_jax.types import Array, Float, Key, Params

NOISE = (0.111, 0.135)
"""The reference's range of sigma, for the anchor and for the frames of the ring."""

_BEFORE_CHUNKS = np.uint32(2**32 - 1)
"""Where the key of a chunk's noise has the chunk's index."""


class Conditioning(NamedTuple):
    """A checked image or video, and how it is used.

    Attributes:
      anchor: pixels of the frame that becomes the anchor; a batch of 1 serves all videos, as in
        ``pieces``.
      pieces: pixels of the clips whose latents fill the ring, oldest first.
      anchor_noise, ring_noise: ranges of sigma.
      frames: newest latent frames of the ring that are not zero.
      known: newest latent frames that show something; the others are noise alone.
    """

    anchor: UInt8[np.ndarray, "B 1 Y X 3"]
    pieces: tuple[UInt8[np.ndarray, "B F Y X 3"], ...]
    anchor_noise: tuple[float, float]
    ring_noise: tuple[float, float]
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
    request: Request,
    *,
    image: Any = None,
    video: Any = None,
    image_noise: Sequence[float] = NOISE,
    video_noise: Sequence[float] = NOISE,
    image_history: str = "still",
) -> Conditioning | None:
    """What a request starts from, checked; None if from text alone.

    Args:
      request: the video to be made.
      image: [B, height, width, 3] uint8, one for each video or one for all of them.
      video: [B, F, height, width, 3] uint8; frames before the last ``frames_per_chunk * k`` have no
        effect, save the first, the anchor.
      image_noise: least and largest sigma of the anchor, of an image and of a video.
      video_noise: the same of the frames of the ring, the still's too.
      image_history: see the module.

    Raises:
      RequestError: naming what does not fit.
    """
    for name, sigmas in (("image_noise", image_noise), ("video_noise", video_noise)):
        if np.shape(sigmas) != (2,) or not 0 <= sigmas[0] <= sigmas[1] <= 1:
            raise RequestError(f"{name}={sigmas} must be two numbers, 0 <= least <= largest <= 1")
    length, T, window = (
        request.frames_per_chunk,
        request.latent_shape[0],
        sum(request.plan.history_sizes),
    )
    filled = {"still": 1, "window": T, "anchor": 0}
    if image_history not in filled:
        raise RequestError(f"image_history={image_history!r} must be one of {', '.join(filled)}")
    if image is not None and video is not None:
        raise RequestError(
            "an image and a video are given; give the one that the new video shall start from"
        )
    if image is not None:
        image = _check("image", image, (request.height, request.width, 3), request.batch)
        still = np.broadcast_to(image[:, None], (len(image), length, *image.shape[1:]))
        frames = filled[image_history]
        return Conditioning(
            still[:, :1], (still,) if frames else (), image_noise, video_noise, frames, 1
        )
    if video is not None:
        video = _check("video", video, (None, request.height, request.width, 3), request.batch)
        if video.shape[1] < length:
            raise RequestError(
                f"video of {video.shape[1]} frames is too short: at least one chunk, {length} frames, is needed"
            )
        count = min(video.shape[1] // length, math.ceil(window / T))
        pieces = np.split(video[:, video.shape[1] - count * length :], count, axis=1)
        return Conditioning(
            video[:, :1], tuple(pieces), image_noise, video_noise, count * T, count * T
        )
    return None


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


def start_state(
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
    clips = [
        encode_clip(vae, params, clip, noise.posterior)
        for clip, noise in zip(conditioning.pieces, draws.pieces, strict=True)
    ]
    anchor = encode_clip(vae, params, conditioning.anchor, draws.anchor.posterior)
    ranges = jnp.asarray([conditioning.anchor_noise, conditioning.ring_noise], jnp.float32)
    return _fill(state, anchor, clips, draws, ranges, conditioning.frames, conditioning.known)


def add_noise(
    latents: Float[Array, "B T H W C"], noise: ClipNoise, sigmas: Float[Array, "2"]
) -> Float[Array, "B T H W C"]:
    """``(1 - sigma) latents + sigma noise``, with a sigma for each frame between the two of
    ``sigmas``.
    """
    least, largest = sigmas
    sigma = (least + (largest - least) * noise.sigma)[:, :, None, None, None]
    return (1 - sigma) * latents + sigma * noise.noise


@functools.partial(jax.jit, static_argnums=2)
def _draw_clip(
    keys: Key[Array, "B"], clip: UInt32[Array, ""], shape: tuple[int, int, int, int]
) -> ClipNoise:
    """The draws of one clip of latents."""

    def draw(key):
        normal, uniform = jax.random.split(
            jax.random.fold_in(jax.random.fold_in(key, _BEFORE_CHUNKS), clip)
        )
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
    """The empty state with its anchor and the newest ``frames`` of its ring filled; of these the
    newest ``known`` show the clips.
    """
    ring = [state.ring]
    if frames:
        latents = jnp.concatenate(clips, axis=1)
        T = latents.shape[1]
        latents = jnp.where((jnp.arange(T) < T - known)[None, :, None, None, None], 0.0, latents)
        noise = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *draws.pieces)
        ring.append(add_noise(latents, noise, ranges[1])[:, T - frames :])
    ring = jnp.concatenate(ring, axis=1)[:, -state.ring.shape[1] :]
    return HistoryState(ring, add_noise(anchor, draws.anchor, ranges[0]), jnp.ones((), bool))


def _check(name: str, pixels: Any, shape: tuple[int | None, ...], batch: int) -> np.ndarray:
    """The pixels, if they are uint8, of the request's size, and one for all videos or one for each."""
    expected = (
        f"1 or {batch}" if batch > 1 else 1,
        *("frames" if size is None else size for size in shape),
    )
    fits = lambda actual: (
        len(actual) == len(expected)
        and actual[0] in (1, batch)
        and all(n in (None, m) for n, m in zip(shape, actual[1:]))
    )
    if (
        not isinstance(pixels, np.ndarray | jax.Array)
        or pixels.dtype != np.uint8
        or not fits(pixels.shape)
    ):
        found = (
            f"{pixels.dtype} {list(pixels.shape)}"
            if hasattr(pixels, "dtype")
            else type(pixels).__name__
        )
        raise RequestError(
            f"{name} must be an array of uint8 [{', '.join(map(str, expected))}], not {found}"
        )
    return np.asarray(pixels)

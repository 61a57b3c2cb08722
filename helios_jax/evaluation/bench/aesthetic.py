"""Aesthetic: LAION's rating of every frame, by CLIP's features; 0 to 1 for most pictures."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import cast

import jax
import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.batches import compute_dtype, in_batches
from helios_jax.evaluation.bench.networks.clip import AestheticHead, ImageEncoder
from helios_jax.evaluation.bench.networks.weights import read_aesthetic_head, read_clip
from helios_jax.evaluation.bench.preprocess import prepare
from helios_jax.evaluation.bench.video import Figures, Video
from helios_jax.evaluation.bench.windows import curve, window_length
from helios_jax.types import Array, DTypeLike, Float, Params

BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class AestheticModel:
    """Rates frames.

    Attributes:
      encoder: CLIP's.
      params: of the encoder and of LAION's head, by ``"encoder"`` and ``"head"``.
    """

    encoder: ImageEncoder
    params: dict[str, Params]

    @classmethod
    def read(
        cls,
        clip: str | os.PathLike,
        head: str | os.PathLike,
        dtype: DTypeLike | None = None,
    ) -> "AestheticModel":
        """Read the published files; computes in bfloat16 on an accelerator unless told otherwise.

        Raises:
          CheckpointError: if they are something else.
        """
        config, encoder = read_clip(clip)
        params = {"encoder": encoder, "head": read_aesthetic_head(head, config.features)}
        return cls(ImageEncoder(config, dtype or compute_dtype()), params)

    def rate(
        self, frames: UInt8[np.ndarray, "F Y X 3"], indices: Sequence[int]
    ) -> Float[np.ndarray, "n"]:
        """The rating of some frames, with memory for 32 of them on the device."""
        run = functools.partial(_rate, self.encoder, self.params)
        return in_batches(run, frames, np.asarray(indices), BATCH)

    def ratings(self, video: Video, indices: Sequence[int]) -> list[float]:
        """The ratings of frames of a video, each of which is rated once."""
        known = video.figures.setdefault("aesthetic", {})
        missing = [index for index in indices if index not in known]
        if missing:
            known |= zip(missing, self.rate(video.frames, missing).tolist())
        return [known[index] for index in indices]


def aesthetic(video: Video, model: AestheticModel) -> Figures:
    """The mean rating of all frames, and its curve over time."""
    ratings = model.ratings(video, range(len(video.frames)))
    return {"aesthetic_score": float(np.mean(ratings)), "curve": curve(dict(enumerate(ratings)))}


def aesthetic_drift(video: Video, model: AestheticModel) -> Figures:
    """The mean ratings of the first and of the last 15 % of frames, and their difference."""
    count = len(video.frames)
    length = window_length(count)
    start = float(np.mean(model.ratings(video, range(length))))
    end = float(np.mean(model.ratings(video, range(count - length, count))))
    return {
        "drift_aesthetic_score": abs(start - end),
        "start_aesthetic_score": start,
        "end_aesthetic_score": end,
        "signed_drift": end - start,
    }


@functools.partial(jax.jit, static_argnums=0)
def _rate(
    encoder: ImageEncoder, params: dict[str, Params], frames: UInt8[Array, "B Y X 3"]
) -> Float[Array, "B"]:
    images = prepare(frames, encoder.config.image_size)
    features = encoder.apply({"params": params["encoder"]}, images)
    return cast(Array, AestheticHead().apply({"params": params["head"]}, features))

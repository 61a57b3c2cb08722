"""Semantic: the cosine of ViCLIP's features of eight frames and of the prompt.

The prompt is cut to 30 tokens, a quarter of those of the benchmark; beside that figure stands the
mean over all of the prompt, 30 tokens at a time.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.batches import compute_dtype
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.networks.clip import normalized
from helios_jax.evaluation.bench.networks.tokenizer import ClipTokenizer
from helios_jax.evaluation.bench.networks.viclip import TextEncoder, VideoEncoder
from helios_jax.evaluation.bench.networks.weights import read_viclip
from helios_jax.evaluation.bench.preprocess import prepare
from helios_jax.evaluation.bench.video import Figures, Video
from helios_jax.evaluation.bench.windows import middle_frames, semantic_windows
from helios_jax.types import Array, DTypeLike, Float, Int, Params


@dataclasses.dataclass(frozen=True, eq=False)
class SemanticModel:
    """Compares frames with texts.

    Attributes:
      video_encoder, text_encoder: ViCLIP's.
      params: of both, by ``"video"`` and ``"text"``.
      tokenizer: of the text encoder.
    """

    video_encoder: VideoEncoder
    text_encoder: TextEncoder
    params: dict[str, Params]
    tokenizer: ClipTokenizer

    @classmethod
    def read(
        cls,
        viclip: str | os.PathLike,
        vocabulary: str | os.PathLike,
        dtype: DTypeLike | None = None,
    ) -> "SemanticModel":
        """Read the published files; computes in bfloat16 on an accelerator unless told otherwise.

        Raises:
          CheckpointError, BenchError: if they are something else.
        """
        vision, text, params = read_viclip(viclip)
        dtype = dtype or compute_dtype()
        tokenizer = ClipTokenizer.from_file(vocabulary)
        return cls(VideoEncoder(vision, dtype), TextEncoder(text, dtype), params, tokenizer)

    def similarity(
        self, video: Video, indices: Sequence[int], ids: Int[np.ndarray, "n S"]
    ) -> Float[np.ndarray, "n"]:
        """The cosine of frames of a video with each of some texts."""
        frames = _video_features(
            self.video_encoder, self.params["video"], jnp.asarray(video.frames[list(indices)])
        )
        texts = _text_features(self.text_encoder, self.params["text"], jnp.asarray(ids))
        return np.asarray(texts) @ np.asarray(frames)


def semantic(video: Video, model: SemanticModel) -> Figures:
    """The similarity of the middles of eight intervals with the prompt, and with all of it."""
    prompt = _prompt_of(video)
    ids = np.concatenate([model.tokenizer(prompt), model.tokenizer.windows(prompt)])
    count = model.video_encoder.config.frames
    found = model.similarity(video, middle_frames(len(video.frames), count), ids)
    return {
        "prompt": prompt,
        "semantic_score": float(found[0]),
        "whole_prompt_score": float(found[1:].mean()),
    }


def semantic_drift(video: Video, model: SemanticModel) -> Figures:
    """The similarities of the first and of the last 15 % of frames, and their difference."""
    prompt = _prompt_of(video)
    ids = model.tokenizer(prompt)
    windows = semantic_windows(len(video.frames), model.video_encoder.config.frames)
    start, end = (float(model.similarity(video, window, ids)[0]) for window in windows)
    return {
        "prompt": prompt,
        "drift_semantic_score": abs(start - end),
        "start_semantic_score": start,
        "end_semantic_score": end,
        "signed_drift": end - start,
    }


def _prompt_of(video: Video) -> str:
    if not video.prompt:
        raise BenchError(f"{video.path}: the semantic metrics need the prompt of the video")
    return video.prompt


@functools.partial(jax.jit, static_argnums=0)
def _video_features(
    encoder: VideoEncoder, params: Params, frames: UInt8[Array, "F Y X 3"]
) -> Float[Array, "C"]:
    images = prepare(frames, encoder.config.image_size, as_bytes=True)
    return normalized(cast(Array, encoder.apply({"params": params}, images[None])))[0]


@functools.partial(jax.jit, static_argnums=0)
def _text_features(
    encoder: TextEncoder, params: Params, ids: Int[Array, "n S"]
) -> Float[Array, "n C"]:
    return normalized(cast(Array, encoder.apply({"params": params}, ids)))

"""The chunk loop: each chunk continues the one before, and leaves while the next is made."""

import collections
import functools
import logging
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.drift import (
    DriftControl,
    DriftDecision,
    DriftStatistics,
    control_drift,
    draw_drift_noise,
)
from helios_jax.diffusion.history import HistoryState
from helios_jax.models.block import TextCache
from helios_jax.sampling.prompts import spread
from helios_jax.sampling.state import VideoState
from helios_jax.sampling.text import PromptTexts
from helios_jax.sampling.timing import Stopwatch
from helios_jax.types import Array, Bool, Float, Int, Key

Sent = str | Sequence[str] | None
"""What a stream can be sent: a prompt, or one for each video."""

_log = logging.getLogger(__name__)


class ChunkRecord(NamedTuple):
    """A chunk with all that is known of it, on the device.

    Attributes:
      index: in the video.
      latents: [B, T, H, W, C], in model space.
      frames: what the stream yields.
      drift: what was decided about its drift, where that is controlled.
      state: after the chunk; the video can be resumed from it.
    """

    index: int
    latents: Array
    frames: Array
    drift: DriftDecision | None
    state: VideoState


def run_chunks(
    state: VideoState,
    chunks: int,
    keys: Key[Array, "B"],
    texts: PromptTexts,
    sample: Callable[[int, HistoryState, TextCache], tuple[HistoryState, Array]],
    decode: Callable[[Array], Array],
    *,
    drift: DriftControl | None,
    blend: int,
    lookahead: int,
    on_chunk: Callable[[ChunkRecord], None] | None,
    stopwatch: Stopwatch,
) -> Generator[np.ndarray, Sent, None]:
    """Yield the chunks that follow ``state``; what is sent governs the first chunk that is not yet
    under way.

    Args:
      state: where to begin; its arrays are copied.
      chunks: of the whole video.
      keys: one a video.
      texts: keys and values of prompts.
      sample: the history after a chunk, and its latents, from the chunk's index, the history before
        it, which is donated, and its text.
      decode: what is yielded of latents.
      drift, blend, lookahead, on_chunk, stopwatch: as in ``HeliosPipeline.stream``.
    """
    history, prompts, statistics = (
        jax.tree.map(jnp.array, state.history),
        state.prompts,
        state.drift,
    )
    pending: collections.deque[ChunkRecord] = collections.deque()

    def leave() -> np.ndarray:
        record = pending.popleft()
        if record.drift is not None:
            _report(record.index, record.drift)
        if (
            on_chunk is not None
        ):  # prompts and rows as they were when the chunk after this one was begun, or will be
            now = dict(prompts=prompts.since(record.state.chunk), text_rows=texts.rows)
            on_chunk(record._replace(state=record.state._replace(**now)))
        return np.asarray(record.frames)

    for chunk in range(state.chunk, chunks):
        with stopwatch("text") as done:
            text = done(texts(prompts, chunk))
        with stopwatch("transformer") as done:
            history, latents = done(sample(chunk, history, text))
            decision = None
            if drift is not None:
                last = jnp.array(chunk == chunks - 1)
                statistics, history, latents, decision = _control_drift(
                    statistics, history, latents, keys, jnp.int32(chunk), last, drift
                )
        with stopwatch("vae") as done:
            frames = done(decode(latents))
        kept = (
            history if on_chunk is None else jax.tree.map(jnp.copy, history)
        )  # the next chunk consumes it
        after = state._replace(chunk=chunk + 1, history=kept, drift=statistics)
        pending.append(ChunkRecord(chunk, latents, frames, decision, after))
        if len(pending) > lookahead:
            sent = yield leave()
            if sent is not None:
                prompts = prompts.change(chunk + 1, spread(sent, keys.shape[0]), blend)
    while pending:
        yield leave()


@functools.partial(jax.jit, static_argnames="control", donate_argnames="history")
def _control_drift(
    statistics: DriftStatistics,
    history: HistoryState,
    latents: Float[Array, "B T H W C"],
    keys: Key[Array, "B"],
    chunk: Int[Array, ""],
    last: Bool[Array, ""],
    control: DriftControl,
) -> tuple[DriftStatistics, HistoryState, Float[Array, "B T H W C"], DriftDecision]:
    return control_drift(
        statistics,
        history,
        latents,
        draw_drift_noise(keys, chunk, latents.shape[1:]),
        ~last,
        control,
    )


def _report(chunk: int, decision: DriftDecision) -> None:
    """Log a decision."""
    for video, (mean, variance, corrupted) in enumerate(zip(*jax.device_get(decision))):
        verdict = "corrupted" if corrupted else "kept"
        _log.info(
            "video %d, chunk %d: drift of mean %.3f, of variance %.3f: %s",
            video,
            chunk,
            mean,
            variance,
            verdict,
        )

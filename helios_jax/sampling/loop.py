"""The chunk loop: each chunk continues the one before, and leaves while the next is made."""

import collections
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple, TypedDict, get_args

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax.diffusion.drift import (
    DriftControl,
    DriftDecision,
    DriftStatistics,
    control_drift,
    draw_drift_noise,
    start_drift,
)
from helios_jax.diffusion.history import HistoryState, release_anchor
from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise
from helios_jax.diffusion.solvers import needs_noise
from helios_jax.models.block import TextCache
from helios_jax.models.layer_stack import is_in_host_memory
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.vae import VAE
from helios_jax.sampling.chunk import (
    sample_chunk,
    sample_chunk_by_stages,
    sample_streamed_chunk,
)
from helios_jax.sampling.conditioning import (
    Conditioning,
    ConditioningNoise,
    draw_conditioning_noise,
    initial_history,
)
from helios_jax.sampling.decoding import Output, decode
from helios_jax.sampling.prompts import PromptSchedule, spread
from helios_jax.sampling.request import Request, RequestError
from helios_jax.sampling.state import VideoState
from helios_jax.sampling.text import PromptTexts
from helios_jax.sampling.timing import Stopwatch
from helios_jax.types import Array, Bool, Float, Int, Key, Params

SentPrompt = str | Sequence[str] | None
"""What a stream can be sent: a prompt, or one for each video."""

Noise = Callable[[int], ChunkNoise] | Sequence[ChunkNoise]
"""The noise of each chunk, by index."""

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


class StreamFields(TypedDict, total=False):
    """Names of :class:`StreamOptions`, for callers."""

    noise: Noise | None
    conditioning_noise: ConditioningNoise | None
    output: Output
    blend: int
    lookahead: int
    on_chunk: Callable[[ChunkRecord], object] | None
    stopwatch: Stopwatch | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream runs and what it hands over; what the video shows is the request's.

    Attributes:
      noise: of each chunk, in place of that drawn from the seed.
      conditioning_noise: the draws for an image or a video to start from, likewise.
      output: see :data:`~helios_jax.sampling.decoding.Output`.
      blend: over so many chunks a prompt that is sent takes over from the one before it; 0 is at
        once.
      lookahead: 1 begins each chunk before the one before it is copied to the host and yielded, so
        that the device does not wait for whoever writes or shows the frames; two chunks of frames
        are then held.
      on_chunk: is called with each chunk, its latents, and a state from which the video can be
        resumed, before the chunk is yielded.
      stopwatch: is told where the time goes; while it runs, a chunk is one program a stage rather
        than one in all, and nothing overlaps.

    Raises:
      RequestError: naming the option that cannot be.
    """

    noise: Noise | None = None
    conditioning_noise: ConditioningNoise | None = None
    output: str = "uint8"
    blend: int = 0
    lookahead: int = 0
    on_chunk: Callable[[ChunkRecord], object] | None = None
    stopwatch: Stopwatch | None = None

    def __post_init__(self):
        if self.output not in get_args(Output):
            known = ", ".join(get_args(Output))
            raise RequestError(f"output={self.output!r} must be one of {known}")
        if self.lookahead not in (0, 1):
            raise RequestError(f"lookahead={self.lookahead} must be 0 or 1")
        if self.blend < 0:
            raise RequestError(f"blend={self.blend} must be at least 0")

    def check_noise(self, chunks: int) -> None:
        """Refuse too few draws for a video of ``chunks``.

        Raises:
          RequestError: saying how many there are.
        """
        if isinstance(self.noise, Sequence) and len(self.noise) < chunks:
            raise RequestError(
                f"noise is given for {len(self.noise)} chunks, but the video has {chunks}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkLoop:
    """Makes the chunks of a video, one after another.

    Attributes:
      request: what is made.
      transformer, vae: the modules.
      params: theirs, by component.
      texts: keys and values of prompts.
      options: how the stream runs.
      stopwatch: is told where the time goes.
    """

    request: Request
    transformer: HeliosTransformer
    vae: VAE
    params: Mapping[str, Params]
    texts: PromptTexts
    options: StreamOptions
    stopwatch: Stopwatch

    @functools.cached_property
    def keys(self) -> Key[Array, "B"]:
        """One a video."""
        return video_keys(self.request)

    def start(
        self, prompts: PromptSchedule, conditioning: Conditioning | None
    ) -> Generator[np.ndarray, SentPrompt, None]:
        """Yield all chunks of a video from its beginning; see :meth:`run`."""
        request = self.request
        drift = None
        if request.drift is not None:
            drift = start_drift(request.batch, request.latent_shape[-1])
        state = VideoState(
            chunk=0,
            history=self.initial_history(conditioning),
            prompts=prompts,
            text_rows=0,
            drift=drift,
            request=request,
        )
        yield from self.run(state)

    def initial_history(self, conditioning: Conditioning | None) -> HistoryState:
        """The history before the first chunk."""

        def draw() -> ConditioningNoise:
            pieces = len(conditioning.pieces) if conditioning else 0
            given = self.options.conditioning_noise
            return given or draw_conditioning_noise(self.keys, pieces, self.request.latent_shape)

        with self.stopwatch("vae") as done:
            return done(
                initial_history(self.vae, self.params["vae"], self.request, conditioning, draw)
            )

    def run(self, state: VideoState) -> Generator[np.ndarray, SentPrompt, None]:
        """Yield the chunks that follow ``state``, whose arrays are copied; what is sent governs the
        first chunk that is not yet under way.
        """
        prompts = state.prompts
        statistics = state.drift
        history = jax.tree.map(jnp.array, state.history)
        pending: collections.deque[ChunkRecord] = collections.deque()
        for chunk in range(state.chunk, self.request.chunks):
            with self.stopwatch("text") as done:
                text = done(self.texts(prompts, chunk))
            with self.stopwatch("transformer") as done:
                history, latents = done(self.sample(chunk, history, text))
                statistics, history, latents, decision = self.control_drift(
                    statistics, history, latents, chunk
                )
            with self.stopwatch("vae") as done:
                frames = done(self.decode(latents))
            # The next chunk consumes the history.
            saved = history if self.options.on_chunk is None else jax.tree.map(jnp.copy, history)
            after = state._replace(chunk=chunk + 1, history=saved, drift=statistics)
            pending.append(ChunkRecord(chunk, latents, frames, decision, after))
            if len(pending) > self.options.lookahead:
                sent = yield self._hand_over(pending.popleft(), prompts)
                if sent is not None:
                    new = spread(sent, self.request.batch)
                    prompts = prompts.change(chunk + 1, new, self.options.blend)
        while pending:
            yield self._hand_over(pending.popleft(), prompts)

    def sample(
        self, chunk: int, history: HistoryState, text: TextCache
    ) -> tuple[HistoryState, Float[Array, "B T H W C"]]:
        """The history after a chunk, and its latents; the history before it is donated."""
        request = self.request
        if request.skip_first_chunk and chunk == 1:
            history = release_anchor(history)
        params = self.params["transformer"]
        sample = sample_chunk
        if is_in_host_memory(params["blocks"]):
            sample = sample_streamed_chunk
        if self.stopwatch.running:
            sample = functools.partial(sample_chunk_by_stages, timed=self.stopwatch)
        return sample(
            params,
            history,
            self.noise(chunk),
            text,
            jnp.float32(request.guidance_scale),
            model=self.transformer,
            scheduler=request.scheduler,
            plan=request.plan if chunk else request.first_plan,
        )

    def noise(self, chunk: int) -> ChunkNoise:
        """Of a chunk: what is given, or drawn from the seed."""
        given = self.options.noise
        if given is None:
            return draw_noise(self.request, self.keys, chunk)
        return given(chunk) if callable(given) else given[chunk]

    def control_drift(
        self,
        statistics: DriftStatistics | None,
        history: HistoryState,
        latents: Float[Array, "B T H W C"],
        chunk: int,
    ) -> tuple[DriftStatistics | None, HistoryState, Array, DriftDecision | None]:
        """Corrupt a chunk that has drifted, where that is asked for; the history is donated."""
        control = self.request.drift
        if control is None or statistics is None:
            return statistics, history, latents, None
        last = jnp.array(chunk == self.request.chunks - 1)
        return _control_drift(
            statistics, history, latents, self.keys, jnp.int32(chunk), last, control
        )

    def decode(self, latents: Float[Array, "B T H W C"]) -> Array:
        """What the stream yields of latents."""
        if self.options.output == "latent":
            return latents
        return decode(self.vae, self.params["vae"], latents, self.options.output)

    def _hand_over(self, record: ChunkRecord, prompts: PromptSchedule) -> np.ndarray:
        """Log the decision about a chunk, call ``on_chunk``, and copy what is yielded."""
        if record.drift is not None:
            _log_drift(record.index, record.drift)
        if self.options.on_chunk is not None:
            # The state has the prompts and the padding of the next chunk, so that a resumed video
            # continues identically.
            state = record.state._replace(
                prompts=prompts.since(record.state.chunk), text_rows=self.texts.rows
            )
            self.options.on_chunk(record._replace(state=state))
        return np.asarray(record.frames)


def video_keys(request: Request) -> Key[Array, "B"]:
    """One key for each video of a batch: that of ``seed + b``."""
    return jax.vmap(jax.random.key)(jnp.arange(request.batch) + request.seed)


def draw_noise(request: Request, keys: Key[Array, "B"], chunk: int) -> ChunkNoise:
    """All noise of a chunk, from the keys of :func:`video_keys`."""
    scheduler = request.scheduler
    plan = request.plan if chunk else request.first_plan
    steps = plan.steps if needs_noise(scheduler.solver) else ()
    shape = request.latent_shape
    return _draw(keys, jnp.int32(chunk), shape, scheduler.stages, scheduler.gamma, steps)


_draw = jax.jit(draw_chunk_noise, static_argnums=(2, 3, 4, 5))


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
    _, T, H, W, C = latents.shape
    noise = draw_drift_noise(keys, chunk, (T, H, W, C))
    return control_drift(statistics, history, latents, noise, ~last, control)


def _log_drift(chunk: int, decision: DriftDecision) -> None:
    """Log what was decided about a chunk of each video."""
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

"""From prompts to video: the user's API."""

import dataclasses
import difflib
import itertools
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from helios_jax.progress import track
from helios_jax.sampling.conditioning import make_conditioning
from helios_jax.sampling.geometry import check_adapters, check_model
from helios_jax.sampling.loop import (
    ChunkLoop,
    SentPrompt,
    StreamFields,
    StreamOptions,
)
from helios_jax.sampling.model import Model
from helios_jax.sampling.pixels import ImageSources, VideoSource
from helios_jax.sampling.prompts import Prompt, PromptSchedule
from helios_jax.sampling.request import (
    Request,
    RequestError,
    RequestFields,
    request_fields,
    request_for_prompt,
)
from helios_jax.sampling.state import VideoState
from helios_jax.sampling.timing import Stopwatch

_log = logging.getLogger(__name__)


class Options(StreamFields, RequestFields, total=False):
    """What :meth:`HeliosPipeline.stream` takes by name: fields of
    :class:`~helios_jax.sampling.request.Request` and of
    :class:`~helios_jax.sampling.loop.StreamOptions`.
    """


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HeliosPipeline(Model):
    """Text, image or video to video.

    A pipeline is never changed: what changes a model returns another pipeline. Example::

        pipeline = HeliosPipeline.from_checkpoint("checkpoints/helios-distilled")
        frames = pipeline.generate("a red ball rolls over grass", num_frames=99)

    Attributes are those of :class:`~helios_jax.sampling.model.Model`.
    """

    def generate(
        self,
        prompt: Prompt,
        request: Request | None = None,
        *,
        image: ImageSources | None = None,
        video: VideoSource | None = None,
        show_progress: bool = False,
        **options: Unpack[Options],
    ) -> np.ndarray:
        """Make whole videos.

        Args:
          prompt, request, image, video, options: of :meth:`stream`.
          show_progress: say how many chunks are made: a bar on a terminal and in a notebook, a line
            now and then elsewhere.

        Returns:
          Frames [B, num_frames, height, width, 3], exactly as many as were asked for, or the
          latents of all chunks [B, 9 chunks, H, W, C].
        """
        fields, _ = _split(options)
        _, asked = self._complete(prompt, request, fields)
        chunks: Iterable[np.ndarray] = self.stream(
            prompt, request, image=image, video=video, **options
        )
        if show_progress:
            chunks = track(chunks, "sampling", total=asked.chunks, unit="chunks")
        whole = np.concatenate(list(chunks), axis=1)
        if options.get("output") == "latent":
            return whole
        return whole[:, : asked.num_frames]

    def stream(
        self,
        prompt: Prompt,
        request: Request | None = None,
        *,
        image: ImageSources | None = None,
        video: VideoSource | None = None,
        **options: Unpack[Options],
    ) -> Generator[np.ndarray, SentPrompt, None]:
        """Yield the video chunk by chunk, each as soon as it is decoded; memory does not grow with
        the number of chunks.

        Between chunks a new prompt may be sent, ``chunk = stream.send("the ball turns blue")``: it
        governs the chunk that ``send`` returns, or with ``lookahead`` the one after that, which is
        under way by then. Sent when all chunks are under way, it has no effect.

        Args:
          prompt: one prompt, or one for each video of the batch, or a schedule of prompts.
          request: what is made, from :func:`~helios_jax.sampling.request.make_request`. Without
            one, the configuration's defaults, as many videos as prompts, and as many chunks as a
            schedule has.
          image: that the video starts from, one for each video or one for all: a file, an image
            of Pillow's, or uint8 [height, width, 3] or [B, height, width, 3]; another size is
            cropped and resized. What the stream yields begins after it. See
            :mod:`~helios_jax.sampling.conditioning`, also for what to do about a static start.
          video: that the video goes on from, at least one chunk of frames: a file, or uint8
            [F, height, width, 3] or [B, F, height, width, 3]. What the stream yields begins after
            it.
          options: fields of :class:`~helios_jax.sampling.request.Request`, which change those of
            ``request`` or the defaults, and of :class:`~helios_jax.sampling.loop.StreamOptions`.

        Yields:
          The whole chunk: frames [B, 33, height, width, 3] or latents [B, 9, H, W, C].

        Raises:
          RequestError: if the request cannot be served; by the call, before anything is computed.
            An empty prompt that is sent raises it too, and ends the stream.
        """
        fields, run = _split(options)
        schedule, request = self._complete(prompt, request, fields)
        run.check_noise(request.chunks)
        for line in request.advice:
            _log.warning(line)
        conditioning = make_conditioning(request, image=image, video=video)
        return self._loop(request, run).start(schedule, conditioning)

    def resume(
        self,
        state: VideoState,
        *,
        num_frames: int | None = None,
        **options: Unpack[StreamFields],
    ) -> Generator[np.ndarray, SentPrompt, None]:
        """Go on with a video: yield the chunks that would have followed, the same to the last bit
        on the same machine.

        Args:
          state: of a chunk, from ``on_chunk`` or :func:`~helios_jax.sampling.state.load_state`. Its
            request and its prompts are what is made.
          num_frames: of the whole video, those made before included; by default as many as were
            asked for then.
          options: of :class:`~helios_jax.sampling.loop.StreamOptions`.

        Raises:
          RequestError: if the state is that of another model, or the video is complete.
        """
        _, run = _split(options, request=False)
        check_model(state.request.config, self.config, "the state to resume")
        check_adapters(state.request.adapters, self.adapters, "the state to resume")
        request = state.request
        if num_frames is not None:
            request = dataclasses.replace(request, num_frames=num_frames)
        if state.chunk >= request.chunks:
            raise RequestError(
                f"all {state.chunk} chunks of num_frames={request.num_frames} are made: ask for "
                "more frames to go on"
            )
        run.check_noise(request.chunks)
        loop = self._loop(request, run, rows=state.text_rows)
        return loop.run(state._replace(request=request))

    def warmup(
        self,
        prompts: Sequence[str],
        request: Request | None = None,
        *,
        image: ImageSources | None = None,
        video: VideoSource | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Compile, and run once, every program that requests like these need, so that they begin at
        full speed.

        It takes the time of the chunks it makes and drops: the first one, and one more where the
        first has steps of its own.

        Args:
          prompts: programs differ with the room a prompt needs (64, 128, 256 or 512 tokens); one
            prompt of each kind among these is run.
          request, image, video, options: of :meth:`stream`.
        """
        of_each_size = {self.encode_prompt(prompt)[0].shape[1]: prompt for prompt in prompts}
        fields, _ = _split(options)
        for prompt in of_each_size.values():
            _, asked = self._complete(prompt, request, fields)
            chunks = self.stream(prompt, request, image=image, video=video, **options)
            for _ in itertools.islice(chunks, 1 if asked.first_plan == asked.plan else 2):
                pass

    def _complete(
        self, prompt: Prompt, request: Request | None, fields: RequestFields
    ) -> tuple[PromptSchedule, Request]:
        """The schedule of prompts, with one for each video everywhere, and the request with
        ``fields`` changed.
        """
        changed: dict[str, Any] = {
            name: value for name, value in fields.items() if value is not None
        }
        config = self.config
        if request is not None:
            check_model(request.config, config)
            config = request.config
            changed = request.arguments() | changed
        # A request that names no adapters is for the model as it is.
        adapters = tuple(changed.get("adapters", ())) or self.adapters
        check_adapters(adapters, self.adapters, "the request")
        return request_for_prompt(config, prompt, changed | {"adapters": adapters})

    def _loop(self, request: Request, run: StreamOptions, rows: int = 0) -> ChunkLoop:
        """The loop that makes a request's chunks."""
        negatives = [request.negative_prompt] * request.batch if request.plan.guided else []
        return ChunkLoop(
            request=request,
            transformer=self.transformer,
            vae=self.vae,
            params=self.params,
            texts=self.prompt_texts(negatives, rows),
            options=run,
            stopwatch=run.stopwatch or Stopwatch(),
        )


def _split(options: Mapping[str, Any], request: bool = True) -> tuple[RequestFields, StreamOptions]:
    """Fields of the request, and how the stream runs.

    Args:
      options: by name.
      request: whether fields of the request may be among them.

    Raises:
      RequestError: naming an option that there is not.
    """
    stream = {field.name for field in dataclasses.fields(StreamOptions)}
    names = stream | {field.name for field in request_fields() if request}
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            advice = f"did you mean {near[0]}? " if near else ""
            raise RequestError(
                f"there is no option {name}; {advice}known here: {', '.join(sorted(names))}"
            )
    run = {name: value for name, value in options.items() if name in stream}
    fields = {name: value for name, value in options.items() if name not in stream}
    return RequestFields(**fields), StreamOptions(**run)

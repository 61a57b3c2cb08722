"""Writing a video while it is made: frames or latents, and what is needed to go on with it later.

A live video that can be resumed, in five lines::

    request = make_request(pipeline.config, num_frames=1440)
    with StreamWriter(StreamFiles("boat.mp4", live=True), request) as writer:
        for frames in pipeline.stream("a sailing boat", request, on_chunk=writer.write):
            pass
    # later: StreamWriter(files, request, start=state), with state = load_state("boat.mp4.state")
"""

import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from helios_jax import media
from helios_jax.checkpoint.finite import is_finite
from helios_jax.errors import HeliosError
from helios_jax.locks import only_writer
from helios_jax.media.output import staged
from helios_jax.sampling.curves import save_curves
from helios_jax.sampling.decoding import Output
from helios_jax.sampling.kept_latents import FIRST_CHUNK, check_latents, first_chunk
from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.request import Request, RequestError
from helios_jax.sampling.state import VideoState, save_state
from helios_jax.sampling.statistics import Row, chunk_rows, load_statistics, save_statistics
from helios_jax.writers import WriteError, writing


@dataclasses.dataclass(frozen=True)
class StreamFiles:
    """Where a stream goes.

    Attributes:
      videos: an .mp4, a .gif, a folder for PNG images, .safetensors for latents, or ``-`` for
        standard output; one for each video of a batch, or one from which theirs are numbered.
      live: write the mp4 in place, playable after each chunk, with the state to resume from beside
        it; always so for a named pipe or standard output, without the state.
      fps: frames per second; by default the configuration's.
      overwrite: let a folder of images take the place of an older one.
      verify: refuse chunks with NaN or infinite values, which would be grey frames.
      latents: a .safetensors file for the latents of every chunk.
      statistics: a .csv file for the statistics of every chunk.
      curves: an .svg file that shows these.
    """

    videos: str | Sequence[str]
    _: dataclasses.KW_ONLY
    live: bool = False
    fps: int | None = None
    overwrite: bool = False
    verify: bool = True
    latents: str | None = None
    statistics: str | None = None
    curves: str | None = None


class StreamWriter:
    """Writes each chunk of a stream in a thread of its own, while the next is made.

    A context manager, whose :meth:`write` is the stream's ``on_chunk``. When its block ends all is
    written. When the block fails, files that are not written live are removed, and the others hold
    all chunks up to the last that was written. Meanwhile nobody else may write the files.

    What belongs to a chunk is written in one order, and its state last: videos, latents,
    statistics, curves, state. Whatever a process that was killed has written beyond its last state
    is cut off when the video is resumed.

    Where the latents', the statistics' or the curves' disk is full, a video that cannot be resumed
    is still made to its end, and the error raised then.

    Attributes:
      paths: of the videos.
      frames: number of frames of each video that are written.
      rows: statistics of the chunks, where they are asked for.
    """

    paths: list[str]
    frames: int
    rows: list[Row]

    def __init__(
        self,
        files: StreamFiles,
        request: Request,
        *,
        start: VideoState | None = None,
        prompt: str | None = None,
    ):
        """Prepare to write; files are opened by the ``with`` statement.

        Args:
          files: where the stream goes.
          request: what is made.
          start: the state from which the video is resumed; its files are cut back to it.
          prompt: kept with latents.
        """
        if isinstance(files.videos, str):
            self.paths = media.numbered(files.videos, request.batch)
        else:
            self.paths = list(files.videos)
        self.frames = start.chunk * request.frames_per_chunk if start else 0
        self.rows = []
        self._files = files
        self._request = request
        self._start = start
        self._live = files.live or start is not None or media.is_pipe(self.paths[0])
        self._metadata = {"seed": str(request.seed)} | ({"prompt": prompt} if prompt else {})
        self._stack = contextlib.ExitStack()
        self._locked = False
        self._latents: media.LatentsWriter | None = None
        self._pending: concurrent.futures.Future[None] | None = None
        self._failures: dict[str, HeliosError] = {}

    @property
    def output(self) -> Output:
        """What the stream should yield: where latents are written, nothing need be decoded."""
        return "latent" if media.output_kind(self.paths[0]) == ".safetensors" else "uint8"

    @property
    def state_path(self) -> str | None:
        """Where the state is kept from which the video can be resumed, if it is."""
        if not self._live or media.is_pipe(self.paths[0]):
            return None
        return state_path(self.paths[0])

    @contextlib.contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Be the only writer of the files, from before anything heavy is loaded for them; the
        ``with`` statement of the writer itself does no more then.

        Raises:
          LockedError: if another process, or another writer of this one, has one of them.
          RequestError: if one of them is named twice.
          MediaError: if one of them cannot be written.
        """
        with contextlib.ExitStack() as stack:
            known: set[str] = set()
            for path, beside in self._own_files():
                for own in (path, *beside):
                    name = os.path.realpath(own)
                    if name in known:
                        raise RequestError(
                            f"{own} is named twice: every output has a file of its own"
                        )
                    known.add(name)
                stack.enter_context(only_writer(path, beside=beside))
            self._locked = True
            stack.callback(setattr, self, "_locked", False)
            yield

    def __enter__(self) -> "StreamWriter":
        with contextlib.ExitStack() as stack:
            if not self._locked:
                stack.enter_context(self.lock())
            self._thread = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
            self._writers = [stack.enter_context(self._open(path)) for path in self.paths]
            self._latents = self._open_latents()
            self._read_statistics()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # A chunk that is being written is still whole, unless its writing fails, too.
            with contextlib.suppress(Exception):
                self._wait()
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._wait()
            if self._latents is not None and self._latents.frames:
                with self._going_on(self._files.latents):
                    self._latents.finish()
        if self._failures:
            told = "; ".join(map(str, self._failures.values()))
            raise WriteError(f"{told}; written in full: {', '.join(self.paths)}")

    def write(self, record: ChunkRecord) -> None:
        """Write a chunk when the one before it is written, for which this waits.

        Raises:
          MediaError, WriteError: if the chunk before it could not be written.
        """
        self._wait()
        self._pending = self._thread.submit(self._write, record)

    def describe(self) -> list[str]:
        """What is left of the video if it is interrupted now: "66 frames in a.mp4"."""
        found = []
        if self._live and self.frames and self.output != "latent":
            found += [f"{self.frames} frames in {path}" for path in self.paths if path != "-"]
        if self._latents is not None and self._latents.frames:
            found.append(f"{self._latents.frames} latent frames in {self._files.latents}")
        if self._files.statistics and self.rows:
            found.append(f"statistics in {self._files.statistics}")
        return found

    def _wait(self) -> None:
        """Wait for the chunk that is being written."""
        if self._pending is not None:
            self._pending.result()

    def _write(self, record: ChunkRecord) -> None:
        """Write a chunk everywhere, in the order that :meth:`__init__` can cut back."""
        # Copied to the host whole: an index into an array on the device would compile a program.
        latents = np.asarray(record.latents)
        if self._files.verify and not is_finite(latents):
            raise WriteError(
                f"chunk {record.index} has NaN or infinite values: the weights, an adapter or a "
                "setting of the sampler broke it; --noverify (verify=False) goes on all the same"
            )
        if self.state_path and not self.frames:
            # That of an older video, which is replaced now, must not go on with this one.
            with writing(self.state_path):
                Path(self.state_path).unlink(missing_ok=True)
        left = self._request.num_frames - self.frames
        whole = left >= self._request.frames_per_chunk
        frames = None if self.output == "latent" else np.asarray(record.frames)
        for number, writer in enumerate(self._writers):
            if isinstance(writer, media.LatentsWriter):
                writer.write(latents[number : number + 1])
            elif frames is not None:
                writer.write(frames[number][:left])
        if self._latents is not None:
            with self._going_on(self._files.latents):
                self._latents.write(latents)
        # a chunk that the end of the video cuts to one frame is measured with the next, for motion
        self._measure(record, None if frames is None else frames[:, : max(left, 2)])
        # Last: what the state says is there, is there. A video goes on before a chunk that was cut.
        if self.state_path and whole:
            save_state(self.state_path, record.state)
        self.frames += min(left, self._request.frames_per_chunk)

    def _measure(self, record: ChunkRecord, frames: np.ndarray | None) -> None:
        """Add the chunk's statistics to their files."""
        if not (self._files.statistics or self._files.curves):
            return
        self.rows += chunk_rows(record.index, record.latents, frames, record.drift)
        if self._files.statistics:
            with self._going_on(self._files.statistics):
                save_statistics(self._files.statistics, self.rows)
        if self._files.curves:
            with self._going_on(self._files.curves):
                save_curves(self._files.curves, self.rows)

    @contextlib.contextmanager
    def _going_on(self, path: str | None) -> Generator[None, None, None]:
        """Go on with the video where a file beside it cannot be written, unless it can be resumed
        once there is room.
        """
        try:
            yield
        except HeliosError as error:
            if self.state_path or path is None:
                raise
            self._failures.setdefault(path, error)
            if path == self._files.latents:
                self._latents = None  # a gap would be worse than an end

    def _own_files(self) -> Iterator[tuple[str, list[str]]]:
        """Each file that is written, with what is written beside it."""
        for number, path in enumerate(self.paths):
            if not media.is_pipe(path):
                media.check_output(path, self._files.overwrite)
                yield path, [self.state_path] if self.state_path and not number else []
        for path in (self._files.latents, self._files.statistics, self._files.curves):
            if path:
                media.check_file(path)
                yield path, []

    def _open(
        self, path: str
    ) -> contextlib.AbstractContextManager[
        media.VideoWriter | media.LiveWriter | media.LatentsWriter
    ]:
        """The writer of one video."""
        fps = self._files.fps or self._request.config.sample.fps
        if self.output == "latent":
            return _open_whole_latents(path, self._request.chunks, self._metadata)
        if self._live:
            return media.open_live_writer(path, fps, keep_frames=self.frames)
        return media.open_video_writer(path, fps, overwrite=self._files.overwrite)

    def _open_latents(self) -> media.LatentsWriter | None:
        """The file that the latents of all videos are kept in, cut back to where the video
        stands.
        """
        path = self._files.latents
        if path is None:
            return None
        chunks = self._request.chunks
        if self._start is None:
            return media.LatentsWriter(path, chunks, self._metadata)
        if not os.path.exists(path):
            first = {FIRST_CHUNK: str(self._start.chunk)}
            return media.LatentsWriter(path, chunks, self._metadata | first)
        metadata = check_latents(path, self._start)
        frames = self._request.latent_shape[0] * (self._start.chunk - first_chunk(path, metadata))
        return media.LatentsWriter(path, chunks, metadata, keep_frames=frames)

    def _read_statistics(self) -> None:
        """The rows of the chunks before the start."""
        path = self._files.statistics
        if self._start is None or not path or not os.path.exists(path):
            return
        self.rows = [row for row in load_statistics(path) if row["chunk"] < self._start.chunk]


def state_path(path: str) -> str:
    """Where the state of a live video is kept."""
    return f"{path}.state"


@contextlib.contextmanager
def _open_whole_latents(
    path: str, chunks: int, metadata: dict[str, str]
) -> Generator[media.LatentsWriter, None, None]:
    """A file of latents that appears when the block ends, and not at all if it fails."""
    with staged(Path(os.path.abspath(path))) as partial:
        writer = media.LatentsWriter(partial, chunks, metadata)
        yield writer
        writer.finish()

"""The line of videos, and the two threads that make and write them with one model.

The first ``at_once`` videos of the line take turns, a chunk each; the others wait and know their
place. A chunk is encoded and written while the next is sampled. A video that ends, pauses, or whose
visitor is gone, leaves the line. Its states are on disk, so that it goes on, or branches, from any
of its chunks.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from helios_jax.demo.asked import Asked
from helios_jax.demo.options import BusyError, DemoError, DemoOptions, UnknownVideoError
from helios_jax.demo.video import DemoVideo
from helios_jax.errors import HeliosError
from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.prompts import PromptChange
from helios_jax.sampling.state import load_state

_log = logging.getLogger(__name__)


class Line:
    """Makes the videos of all visitors, one chunk after another::

        with Line(pipeline, DemoOptions()) as line:
            video = line.add(asked)
            line.wait(video, made=1)

    Its methods may be called by any thread; only one of the line's own uses the model, and only the
    other writes files.
    """

    def __init__(
        self, pipeline: HeliosPipeline, options: DemoOptions, folder: Path | None = None
    ) -> None:
        """Prepare; the ``with`` statement begins to make videos.

        Args:
          pipeline: the model.
          options: limits.
          folder: of the videos' files; by default one that is removed at the end.
        """
        self.pipeline = pipeline
        self.options = options
        self._given = folder
        self._videos: dict[str, DemoVideo] = {}
        self._line: list[DemoVideo] = []
        self._changed = threading.Condition()
        self._closed = False
        self._turn = 0
        self._writing: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> "Line":
        self._stack = contextlib.ExitStack()
        if self._given is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="helios-demo-"))
            self._folder = Path(folder)
        else:
            self._folder = self._given
        self._writer = self._stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        self._thread = threading.Thread(target=self._work, name="helios-demo", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._stack.close()

    def add(self, asked: Asked) -> DemoVideo:
        """Put a new video at the end of the line.

        Raises:
          BusyError: if the line is full.
        """
        with self._changed:
            self._check_room()
            video = DemoVideo(asked, self._folder)
            self._videos[video.name] = video
            self._enter(video)
            return video

    def find(self, name: str) -> DemoVideo:
        """The video of a name, whose visitor is there.

        Raises:
          UnknownVideoError: if there is none, or it is gone.
        """
        with self._changed:
            if name not in self._videos:
                raise UnknownVideoError("there is no such video, or it was not looked at for long")
            video = self._videos[name]
            video.seen = time.monotonic()
            return video

    def describe(self, video: DemoVideo) -> dict[str, Any]:
        """What the page shows of a video."""
        with self._changed:
            place = self._line.index(video) if video in self._line else None
            return video.describe(place)

    def wait(self, video: DemoVideo, made: int, timeout: float = 25.0) -> bool:
        """Wait until so many chunks can be watched, or the video has left the line.

        Returns:
          Whether the chunks are there.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while video.made < made and video.in_line and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                # Whoever waits is there.
                self._changed.wait(min(left, self.options.lease_s / 3))
                video.seen = time.monotonic()
            return video.made >= made

    def send(self, video: DemoVideo, prompt: str, blend: int) -> None:
        """Begin the next chunk that is not under way with another prompt.

        Raises:
          DemoError: if the video has ended, or its last chunk is sampled.
        """
        with self._changed:
            if video.status in ("done", "stopped", "failed"):
                raise DemoError(f"the video is {video.status}: branch from one of its chunks")
            if video.is_sampled:
                raise DemoError("the last chunk is made already: branch from one of the chunks")
            video.pending = (prompt, blend)

    def pause(self, video: DemoVideo) -> None:
        """Take a video out of the line, to go on later."""
        with self._changed:
            if video.in_line:
                self._leave(video, "paused")

    def go_on(self, video: DemoVideo) -> None:
        """Put a paused video at the end of the line.

        Raises:
          DemoError: if it is not paused.
          BusyError: if the line is full.
        """
        with self._changed:
            if video.status != "paused":
                raise DemoError(f"the video is {video.status}, not paused")
            self._check_room()
            self._enter(video)

    def stop(self, video: DemoVideo) -> None:
        """End a video where it stands."""
        with self._changed:
            if video.in_line or video.status == "paused":
                self._leave(video, "stopped")

    def branch(
        self, video: DemoVideo, chunk: int, change: PromptChange | None, chunks: int
    ) -> DemoVideo:
        """Another video with the first chunks of this one, which goes on otherwise.

        Args:
          video: whose chunks they are.
          chunk: how many of them are kept.
          change: the prompt that follows; None keeps to what was said there.
          chunks: of the new video.

        Raises:
          DemoError: if those chunks are not there, or none would follow.
          BusyError: if the line is full.
        """
        with self._changed:
            if not 1 <= chunk <= video.made:
                raise DemoError(f"chunk must be from 1 to {video.made}, of those that are made")
            if not chunk < chunks <= self.options.chunks:
                raise DemoError(
                    f"chunks must be more than {chunk} and at most {self.options.chunks}"
                )
            self._check_room()
        count = chunks * video.asked.request.frames_per_chunk
        request = dataclasses.replace(video.asked.request, num_frames=count)
        other = DemoVideo(dataclasses.replace(video.asked, request=request), self._folder)
        with video.files:
            for number in range(1, chunk + 1):
                shutil.copy(video.state_path(number), other.state_path(number))
            shutil.copy(video.path, other.path)
            shutil.copy(video.latents_path, other.latents_path)
        with self._changed:
            other.sampled = chunk
            other.made = chunk
            other.rows = video.rows[:chunk]
            other.seconds = video.seconds[:chunk]
            other.changes = [each for each in video.changes if each.chunk < chunk]
            if change is not None:
                other.pending = (change.prompts[0], change.blend)
            self._videos[other.name] = other
            self._enter(other)
            return other

    def _enter(self, video: DemoVideo) -> None:
        video.status = "waiting"
        self._line.append(video)
        self._changed.notify_all()

    def _leave(self, video: DemoVideo, status: Any) -> None:
        video.status = status
        if status != "paused":
            video.pending = None
        if video in self._line:
            self._line.remove(video)
        self._changed.notify_all()

    def _check_room(self) -> None:
        if len(self._line) >= self.options.waiting or len(self._videos) >= self.options.videos:
            raise BusyError("too many videos are waiting: come back in a minute")

    def _work(self) -> None:
        """Make chunk after chunk until the line is closed."""
        while (video := self._next()) is not None:
            try:
                self._make_chunk(video)
            except Exception as error:
                self._fail(video, error)

    def _next(self) -> DemoVideo | None:
        """The video whose turn it is; waits for one, and None at the end."""
        with self._changed:
            while not self._closed:
                self._forget()
                unfinished = [each for each in self._line if not each.is_sampled]
                if active := unfinished[: self.options.at_once]:
                    self._turn += 1
                    video = active[self._turn % len(active)]
                    for each in active:
                        each.status = "making"
                    return video
                self._changed.wait(1.0)
        return None

    def _fail(self, video: DemoVideo, error: Exception) -> None:
        """End a video, with a message for its visitor."""
        known = isinstance(error, HeliosError)
        if not known:
            _log.error("a video failed", exc_info=error)
        with self._changed:
            video.message = str(error) if known else "the server failed to make this video"
            self._leave(video, "failed")

    def _forget(self) -> None:
        """Stop videos whose visitors are gone, and remove those that nobody looks at."""
        now = time.monotonic()
        for video in list(self._line):
            if now - video.seen > self.options.lease_s:
                self._leave(video, "stopped")
        for name, video in list(self._videos.items()):
            if not video.in_line and now - video.seen > self.options.keep_s:
                del self._videos[name]
                shutil.rmtree(video.folder, ignore_errors=True)

    def _make_chunk(self, video: DemoVideo) -> None:
        """Sample the next chunk, and hand it to the thread that writes.

        The frames of one chunk wait at most: the chunk before it is written first.
        """
        began = time.perf_counter()
        if video.stream is None or video.pending:
            video.stream = self._open_stream(video)
        next(video.stream)
        record = video.record
        assert record is not None  # the stream has called on_chunk
        with self._changed:
            video.sampled = record.index + 1
            video.record = None
            if video.in_line and not video.is_sampled:
                video.state = record.state
            else:  # what it holds of the model's memory is let go
                video.stream = None
                video.state = None
        self._wait_for_writer()
        self._writing = self._writer.submit(self._write, video, record, began)

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _open_stream(self, video: DemoVideo) -> Iterator[np.ndarray]:
        """What makes the chunks that follow, by the prompt that was sent last."""
        with self._changed:
            pending = video.pending
            video.pending = None
            chunk = video.sampled
            if pending:
                change = PromptChange(chunk, (pending[0],), pending[1] if chunk else 0)
                video.changes = [each for each in video.changes if each.chunk < chunk]
                video.changes.append(change)
        asked = video.asked

        def keep(record: ChunkRecord) -> None:
            video.record = record

        if not chunk:
            return self.pipeline.stream(
                video.schedule, asked.request, image=asked.image, video=asked.video, on_chunk=keep
            )
        state = video.state
        if state is None:
            self._wait_for_writer()  # whose state it may be
            state = load_state(video.state_path(chunk))
        if pending:
            changed = state.prompts.change(chunk, (pending[0],), pending[1])
            state = state._replace(prompts=changed)
        return self.pipeline.resume(
            state._replace(request=asked.request),
            num_frames=asked.request.num_frames,
            on_chunk=keep,
        )

    def _write(self, video: DemoVideo, record: ChunkRecord, began: float) -> None:
        """Write a chunk, which can be watched then; a chunk after one that failed is dropped."""
        if video.status == "failed":
            return
        try:
            with video.files:
                row = video.write(record)
        except Exception as error:
            self._fail(video, error)
            return
        with self._changed:
            now = time.perf_counter()
            video.rows = [*video.rows[: record.index], row]
            video.seconds.append(round(now - max(began, video.ready), 3))
            video.ready = now
            video.made = record.index + 1
            complete = video.made >= video.asked.request.chunks
            if complete and video.status not in ("stopped", "failed"):
                self._leave(video, "done")
            self._changed.notify_all()

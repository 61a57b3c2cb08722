"""One visitor's video: where it stands, and its files on disk."""

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helios_jax.demo.asked import Asked
from helios_jax.media import LatentsWriter, open_live_writer, read_live_chunks
from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.prompts import PromptChange, PromptSchedule
from helios_jax.sampling.state import VideoState, save_state
from helios_jax.sampling.statistics import Row, chunk_rows

Status = Literal["waiting", "making", "paused", "done", "stopped", "failed"]
"""Waiting and making are in line; a paused video can go on; the others have ended."""


class DemoVideo:
    """A video of a visitor, who alone knows its name.

    Attributes:
      name: 128 random bits.
      asked: what it was begun with.
      folder: of its files.
      changes: the prompts so far, by the chunks that they begin at.
      status: where it stands.
      message: why it failed.
      sampled: chunks that are sampled; the last of them may not be written yet.
      made: chunks that are written, and can be watched.
      rows: statistics of each.
      seconds: that each took: from the chunk before it, or from when its turn began.
      ready: when the last chunk was written.
      pending: a prompt that the next chunk begins with, and its blend.
      state: after the last chunk that is sampled, while it is in line; else it is read from disk.
      stream: makes the next chunk.
      record: the chunk that the stream has just made.
      files: held by whoever writes them, or reads more of them than whole chunks of the mp4.
      seen: when the visitor last asked for anything.
    """

    def __init__(self, asked: Asked, folder: Path):
        self.name = secrets.token_urlsafe(16)
        self.asked = asked
        self.folder = folder / self.name
        self.changes = [PromptChange(0, (asked.prompt,))]
        self.status: Status = "waiting"
        self.message = ""
        self.sampled = 0
        self.made = 0
        self.rows: list[Row] = []
        self.seconds: list[float] = []
        self.ready = 0.0
        self.pending: tuple[str, int] | None = None
        self.state: VideoState | None = None
        self.stream: Iterator[np.ndarray] | None = None
        self.record: ChunkRecord | None = None
        self.files = threading.Lock()
        self.seen = time.monotonic()
        self._latents: LatentsWriter | None = None
        self.folder.mkdir(parents=True)

    @property
    def in_line(self) -> bool:
        """Whether it waits for its turn, or has it."""
        return self.status in ("waiting", "making")

    @property
    def is_sampled(self) -> bool:
        """Whether all of its chunks are."""
        return self.sampled >= self.asked.request.chunks

    @property
    def path(self) -> Path:
        """The growing mp4."""
        return self.folder / "video.mp4"

    @property
    def latents_path(self) -> Path:
        """The growing latents."""
        return self.folder / "latents.safetensors"

    def state_path(self, chunks: int) -> Path:
        """The state after so many chunks, from which the video can go on or branch."""
        return self.folder / f"state_{chunks:05d}.safetensors"

    @property
    def schedule(self) -> PromptSchedule:
        """The prompts so far."""
        return PromptSchedule(tuple(self.changes))

    def header(self) -> bytes:
        """What a player needs before the first chunk."""
        return read_live_chunks(self.path)[0]

    def chunk(self, number: int) -> bytes:
        """A chunk as a fragment of mp4."""
        header, chunks = read_live_chunks(self.path)
        start = chunks[number - 1][1] if number else len(header)
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(chunks[number][1] - start)

    def latents(self) -> bytes:
        """The file of the latents as far as they are written."""
        with self.files:
            return self.latents_path.read_bytes()

    def write(self, record: ChunkRecord) -> Row:
        """Append a chunk to the files, the state after it last; its statistics."""
        request = self.asked.request
        frames = np.asarray(record.frames)[0]
        latents = np.asarray(record.latents)
        before = record.index * request.frames_per_chunk
        fps = request.config.sample.fps
        with open_live_writer(self.path, fps, keep_frames=before) as writer:
            writer.write(frames)
        if self._latents is None:
            self._latents = LatentsWriter(
                self.latents_path,
                request.chunks,
                {"seed": str(request.seed)},
                keep_frames=record.index * latents.shape[1],
            )
        self._latents.write(latents)
        save_state(self.state_path(record.index + 1), record.state)
        [row] = chunk_rows(record.index, latents, None, record.drift)
        row["brightness"] = float(frames.mean() / 255)
        row["saturation"] = _saturation(frames)
        return row

    def describe(self, place: int | None) -> dict[str, Any]:
        """All that the page shows, ready for JSON.

        Args:
          place: in line; 0 is its turn.
        """
        request = self.asked.request
        prompts = []
        for change in self.changes:
            prompts.append(
                {"chunk": change.chunk, "prompt": change.prompts[0], "blend": change.blend}
            )
        return {
            "id": self.name,
            "status": self.status,
            "message": self.message,
            "place": place,
            "made": self.made,
            "chunks": request.chunks,
            "frames_per_chunk": request.frames_per_chunk,
            "fps": request.config.sample.fps,
            "width": request.width,
            "height": request.height,
            "prompts": prompts,
            "pending": self.pending[0] if self.pending else None,
            "seconds": self.seconds,
            "statistics": self.rows,
        }


def _saturation(frames: np.ndarray) -> float:
    """The mean saturation of HSV, (max - min) / max of the three colours."""
    top = frames.max(-1).astype(np.float32)
    return float(((top - frames.min(-1)) / np.maximum(top, 1.0)).mean())

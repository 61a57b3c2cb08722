"""One visitor's video: where it stands, and its files on disk."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helios_jax.demo.asked import Asked
from helios_jax.media import read_live_chunks
from helios_jax.sampling.prompts import PromptChange, PromptSchedule
from helios_jax.sampling.state import VideoState
from helios_jax.sampling.statistics import Row

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
      made: chunks that can be watched.
      rows: statistics of each.
      seconds: that each took.
      pending: a prompt that the next chunk begins with, and its blend.
      state: after the last chunk, while it is in line; else it is read from disk.
      stream: makes the next chunk.
      seen: when the visitor last asked for anything.
    """

    def __init__(self, asked: Asked, folder: Path):
        self.name = secrets.token_urlsafe(16)
        self.asked = asked
        self.folder = folder / self.name
        self.changes = [PromptChange(0, (asked.prompt,))]
        self.status: Status = "waiting"
        self.message = ""
        self.made = 0
        self.rows: list[Row] = []
        self.seconds: list[float] = []
        self.pending: tuple[str, int] | None = None
        self.state: VideoState | None = None
        self.stream: Iterator[np.ndarray] | None = None
        self.seen = time.monotonic()
        self.folder.mkdir(parents=True)

    @property
    def in_line(self) -> bool:
        """Whether it waits for its turn, or has it."""
        return self.status in ("waiting", "making")

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

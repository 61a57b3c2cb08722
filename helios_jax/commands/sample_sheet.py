"""The contact sheet of the videos that ``helios-jax sample`` makes."""

import numpy as np

from helios_jax import media
from helios_jax.sampling.prompts import Prompt, to_schedule
from helios_jax.sampling.request import Request

FRAMES = 5
"""Of each video."""


class Sheet:
    """Keeps the frames of videos that a contact sheet shows, and no others."""

    def __init__(self) -> None:
        self._videos: list[np.ndarray] = []
        self._captions: list[str] = []

    def add(self, prompt: Prompt, request: Request) -> None:
        """Begin the next videos, those of a request."""
        self._first = len(self._videos)
        self._made = 0
        self._kept = np.linspace(0, request.num_frames - 1, FRAMES).round().astype(int)
        for caption in to_schedule(prompt, request.batch).changes[0].prompts:
            shape = (FRAMES, request.height, request.width, 3)
            self._videos.append(np.zeros(shape, np.uint8))
            self._captions.append(caption)

    def take(self, frames: np.ndarray) -> None:
        """Take what is shown of a chunk ``[B, F, height, width, 3]``."""
        count = frames.shape[1]
        for place, index in enumerate(self._kept - self._made):
            if 0 <= index < count:
                for video, clip in enumerate(frames):
                    self._videos[self._first + video][place] = clip[index]
        self._made += count

    def save(self, path: str) -> None:
        """Write the sheet."""
        media.save_contact_sheet(path, self._videos, self._captions, frames=FRAMES)

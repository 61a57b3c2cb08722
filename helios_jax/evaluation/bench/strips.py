"""Strips of frames: what a video shows, at a glance, in a few kilobytes."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from helios_jax.writers import write_whole, writing

FRAMES = 8
HEIGHT = 90
"""Pixels of a frame in a strip, at most."""
QUALITY = 72
"""Of WebP."""


class StripMaker:
    """Keeps some evenly spaced frames of a video that comes piece by piece, in small."""

    def __init__(self, frames: int = FRAMES, height: int = HEIGHT):
        self._count = frames
        self._height = height
        self._stride = 1
        self._seen = 0
        self._kept: list[tuple[int, Image.Image]] = []
        self._last: Image.Image | None = None

    def add(self, frames: np.ndarray) -> None:
        """Look at the next frames, uint8 [F, Y, X, 3]."""
        for frame in frames:
            if self._seen % self._stride == 0:
                self._kept.append((self._seen, self._small(frame)))
            if len(self._kept) >= 8 * self._count:  # half of them are enough again
                self._kept = self._kept[::2]
                self._stride *= 2
            self._seen += 1
        if len(frames):
            self._last = self._small(frames[-1])

    def strip(self) -> Image.Image | None:
        """The frames side by side, the first and the last among them; None of no frames."""
        if self._last is None:
            return None
        frames = [*self._kept, (self._seen - 1, self._last)]
        numbers = np.array([number for number, _ in frames])
        wanted = np.linspace(0, self._seen - 1, min(self._count, self._seen))
        chosen = [frames[int(np.abs(numbers - number).argmin())][1] for number in wanted]
        width, height = chosen[0].size
        gap = max(height // 30, 1)
        strip = Image.new("RGBA", (len(chosen) * (width + gap) - gap, height))
        for place, image in enumerate(chosen):
            strip.paste(image, (place * (width + gap), 0))
        return strip

    def _small(self, frame: np.ndarray) -> Image.Image:
        image = Image.fromarray(frame)
        height = min(self._height, image.height)
        width = max(round(image.width * height / image.height), 1)
        return image.resize((width, height), Image.Resampling.BOX)


def save_strip(path: Path, maker: StripMaker) -> None:
    """Write the strip as WebP, whole or not at all."""
    strip = maker.strip()
    if strip is None:
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    strip.save(content, "WEBP", quality=QUALITY, method=6)
    write_whole(path, content.getvalue())

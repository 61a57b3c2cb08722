"""Decoded frames as pictures: upright, with square pixels, in 8-bit RGB, on white."""

import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from av.buffer import Buffer
from av.filter import Graph
from av.video.frame import VideoFrame
from PIL import Image

from helios_jax.media.containers import naming
from helios_jax.media.decoding import Contents
from helios_jax.media.excerpts import outside_error
from helios_jax.media.images import lay_on_white
from helios_jax.media.tone_mapping import PEAK, tone_map

EXACT = "flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
"""How YCbCr becomes RGB: without the shortcuts that are off by a few levels. FFmpeg's ``scale``
knows where the chroma samples lie, which :meth:`av.VideoFrame.reformat` does not (2 levels on
average on a test picture).
"""


Crop = tuple[int, int, int, int]
"""Left, right, top and bottom pixel, of the upright frame as it is stored."""


class Converter:
    """Turns the frames of one video into pictures.

    The matrix and the range are those that the file names; BT.601 where it names none, as FFmpeg
    takes it. Pixels that are not square are made so, since a fit is chosen by what is seen.
    """

    def __init__(self, path: str | os.PathLike, contents: Contents, crop: Crop | None = None):
        self._path = path
        self._contents = contents
        self._crop = crop
        self._graph: Graph | None = None
        self._peak = PEAK

    def __call__(self, frame: VideoFrame) -> Image.Image:
        """The picture of a frame.

        Args:
          frame: of the same size and format as the first.

        Raises:
          MediaError: if it cannot be converted, or the crop lies outside of it.
        """
        with naming(self._path):
            if self._graph is None:
                # Once: side data and its frame refer to each other, and stay until a collection.
                self._peak = _light_peak(frame)
                self._graph = self._make_graph(frame)
            self._graph.vpush(frame)
            pixels = self._graph.vpull().to_ndarray()
        if self._contents.high_range:
            pixels = tone_map(pixels, self._contents.high_range, self._peak)
        return lay_on_white(Image.fromarray(pixels)).convert("RGB")

    def _make_graph(self, frame: VideoFrame) -> Graph:
        """The conversion of frames like this one."""
        filters = upright(frame)
        size = (frame.width, frame.height)
        aspect = self._contents.aspect
        if any(name == "transpose" for name, _ in filters):
            size = size[::-1]
            aspect = 1 / aspect
        if self._crop:
            left, right, top, bottom = self._crop
            if right > size[0] or bottom > size[1]:
                raise outside_error(self._path)
            size = (right - left, bottom - top)
            filters.append(("crop", f"{size[0]}:{size[1]}:{left}:{top}:exact=1"))
        scale = f"w={int(size[0] * aspect)}:h={size[1]}:{EXACT}"
        pixels = "rgba" if self._contents.transparent else "rgb24"
        if self._contents.high_range:
            scale += ":in_color_matrix=bt2020"
            pixels = "rgb48le"
        filters += [("scale", scale), ("format", pixels)]
        return make_graph(frame, self._contents.unit, filters)


def make_graph(frame: VideoFrame, unit: Fraction, filters: Sequence[tuple[str, str]]) -> Graph:
    """FFmpeg's filters, by name and options, one after another.

    Args:
      frame: the first of those that will be pushed.
      unit: seconds that a frame's time counts.
      filters: in their order.
    """
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=unit
    )
    between = [graph.add(name, options) for name, options in filters]
    graph.link_nodes(source, *between, graph.add("buffersink")).configure()
    return graph


def upright(frame: VideoFrame) -> list[tuple[str, str]]:
    """Filters, with their options, that turn and mirror a frame as its display matrix says, to the
    nearest right angle.

    The matrix takes column p and row q to (a p + c q, b p + d q).
    """
    matrix = _side_data(frame, "DISPLAYMATRIX", np.int32)
    if matrix is None:
        return []
    a, b, _, c, d = matrix[:5]
    if abs(a) + abs(d) < abs(b) + abs(c):
        return [("transpose", str((c < 0) + 2 * (b < 0)))]
    mirrors = {"hflip": a < 0, "vflip": d < 0}
    return [(name, "") for name, needed in mirrors.items() if needed]


def _light_peak(frame: VideoFrame) -> float:
    """How bright a video of high dynamic range gets, in hundreds of nits, as FFmpeg's ``tonemap``
    takes it: by its content light level (CTA-861.3), else by the display that it was made on (SMPTE
    ST 2086), else :data:`PEAK`.
    """
    level = _side_data(frame, "CONTENT_LIGHT_LEVEL", np.uint32)
    if level and level[0]:
        return level[0] / 100
    display = _side_data(frame, "MASTERING_DISPLAY_METADATA", np.int32)
    if display:
        numerator, denominator = display[18:20]
        is_known = display[21]
        if is_known and denominator:
            return numerator / denominator / 100
    return PEAK


def _side_data(frame: VideoFrame, name: str, dtype: type[np.integer]) -> list[int] | None:
    """A table that comes with a frame, by FFmpeg's name for it."""
    table = frame.side_data.get(name)
    return np.frombuffer(bytes(table), dtype).tolist() if isinstance(table, Buffer) else None

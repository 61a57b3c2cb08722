"""Naturalness from the answers of a judge, a model that is shown frames and asked how real they
are.

A judge answers 1 (surely generated) to 5 (surely real); the value is ``(answer - 1) / 4``. Answers
of different judges are not comparable: name the judge wherever the value stands.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.video import Figures, Video
from helios_jax.evaluation.bench.windows import strided_frames, window_length

NUM_FRAMES = 16
LOWEST = 1.0
HIGHEST = 5.0

Judge = Callable[[Sequence[UInt8[np.ndarray, "Y X 3"]]], str]
"""Shows frames to a model and returns its answer as text."""


def value_of(answer: str) -> float:
    """The value, 0 to 1, of an answer; a number beyond 1..5 counts as the nearest of the two.

    The original takes a bare number and nothing else; we take the first number of an answer too,
    so that "4." or "Rating: 4" are not lost.

    Raises:
      BenchError: if there is no number in it.
    """
    number = re.search(r"-?\d+(\.\d+)?", answer)
    if number is None:
        raise BenchError(f"the judge's answer has no number in it: {answer[:80]!r}")
    score = min(max(float(number[0]), LOWEST), HIGHEST)
    return (score - LOWEST) / (HIGHEST - LOWEST)


def judged(video: Video, judge: Judge) -> Figures:
    """The value of a whole video, from 16 frames, and the answer it comes from."""
    answer = judge(video.judged_frames(strided_frames(0, video.num_frames, NUM_FRAMES)))
    return {"naturalness_score": value_of(answer), "raw_score": answer}


def judged_drift(video: Video, judge: Judge) -> Figures:
    """The values of the first and of the last 15 % of a video, and their difference."""
    count = video.num_frames
    length = window_length(count)
    first = judge(video.judged_frames(strided_frames(0, length, NUM_FRAMES)))
    last = judge(video.judged_frames(strided_frames(count - length, count, NUM_FRAMES)))
    start = value_of(first)
    end = value_of(last)
    return {
        "drift_naturalness_score": abs(start - end),
        "start_naturalness_score": start,
        "end_naturalness_score": end,
        "start_raw_score": first,
        "end_raw_score": last,
        "signed_drift": end - start,
    }

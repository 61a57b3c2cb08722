"""A judge's answers become values between 0 and 1."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="OpenCV, of the extra bench, is not installed")

from helios_jax.evaluation.bench import METRICS, BenchError, FrameVideo, Models
from helios_jax.evaluation.bench.naturalness import value_of


def gray_ramp(count):
    """Frames of 1024x512 pixels that get brighter by one level a frame."""
    levels = np.arange(count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 512, 1024, 3))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1", 0.0),
        ("4", 0.75),
        ("5", 1.0),
        ("7", 1.0),
        ("0", 0.0),
        ("2.5", 0.375),
        ("Score: 3.", 0.5),
    ],
)
def test_an_answer_of_1_to_5_is_a_value_of_0_to_1(answer, value):
    assert value_of(answer) == value


def test_an_answer_without_a_number_is_refused_and_quoted():
    with pytest.raises(BenchError, match="has no number in it: 'I cannot tell'"):
        value_of("I cannot tell")


def test_the_judge_sees_sixteen_frames_of_512_pixels():
    seen = []

    def judge(frames):
        seen.extend(frames)
        return "4"

    found = METRICS["naturalness"].score(FrameVideo(gray_ramp(81)), Models(judge=judge))
    assert found == {"naturalness_score": 0.75, "raw_score": "4"}
    assert {frame.shape for frame in seen} == {(256, 512, 3)}
    assert [int(frame[0, 0, 0]) for frame in seen] == [*range(0, 80, 5)]


def test_drift_asks_twice_and_keeps_both_answers():
    def judge(frames):
        return "4" if frames[0][0, 0, 0] == 0 else "2"

    found = METRICS["drifting_naturalness"].score(FrameVideo(gray_ramp(81)), Models(judge=judge))
    assert found == {
        "drift_naturalness_score": 0.5,
        "start_naturalness_score": 0.75,
        "end_naturalness_score": 0.25,
        "start_raw_score": "4",
        "end_raw_score": "2",
        "signed_drift": -0.5,
    }


def test_without_a_judge_the_metric_says_why_it_is_skipped():
    assert METRICS["naturalness"].reason_to_skip(Models(), None) == "no judge was named"

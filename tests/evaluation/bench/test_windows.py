"""Each metric looks at the frames that the original looks at."""

import pytest

from helios_jax.evaluation.bench.windows import (
    curve,
    middle_frames,
    semantic_windows,
    strided_frames,
    window_length,
)

# What the original's functions give for these numbers of frames.
FRAMES = {
    33: ([1, 5, 9, 13, 17, 21, 25, 30], [*range(8)], [*range(25, 33)]),
    81: (
        [4, 14, 24, 34, 44, 54, 64, 75],
        [0, 1, 3, 4, 6, 7, 9, 10],
        [68, 69, 71, 72, 74, 76, 77, 79],
    ),
    129: (
        [7, 23, 39, 55, 71, 87, 103, 120],
        [0, 2, 4, 7, 9, 11, 14, 16],
        [109, 111, 114, 116, 119, 121, 124, 126],
    ),
    240: (
        [14, 44, 74, 104, 134, 164, 194, 224],
        [0, 4, 9, 13, 18, 22, 27, 31],
        [204, 208, 213, 217, 222, 226, 231, 235],
    ),
    1440: (
        [89, 269, 449, 629, 809, 989, 1169, 1349],
        [0, 27, 54, 81, 108, 135, 162, 189],
        [1224, 1251, 1278, 1305, 1332, 1359, 1386, 1413],
    ),
}


@pytest.mark.parametrize("num_frames", FRAMES)
def test_semantic_frames_are_the_originals(num_frames):
    middle, first, last = FRAMES[num_frames]
    assert middle_frames(num_frames) == middle
    assert semantic_windows(num_frames) == (first, last)


def test_a_video_of_fewer_frames_repeats_its_last():
    assert middle_frames(3) == [0, 1, 2, 2, 2, 2, 2, 2]


def test_a_judge_sees_sixteen_frames_in_whole_strides():
    assert strided_frames(0, 81) == [*range(0, 80, 5)]
    assert strided_frames(1224, 1440) == [*range(1224, 1432, 13)]


def test_a_judge_sees_all_of_a_window_of_fewer_frames():
    assert strided_frames(0, 12) == [*range(12)]


def test_windows_are_15_percent_rounded_down():
    assert [window_length(frames) for frames in (3, 81, 1440)] == [1, 12, 216]
    assert window_length(20, least=4) == 4


def test_a_curve_has_the_mean_of_each_chunk_and_leaves_out_a_last_frame():
    assert curve({frame: float(frame) for frame in range(8)}, chunk=4) == [1.5, 5.5]
    assert curve({frame: float(frame) for frame in range(9)}, chunk=4) == [1.5, 5.5]
    assert curve({0: 2.0, 2: 4.0, 4: 1.0, 6: 3.0}, chunk=4) == [3.0, 2.0]
    assert curve({0: 7.0}, chunk=4) == [7.0]

"""Motion amplitude is the original's to the last bit; the sample clips' to what readers differ."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="OpenCV, of the extra bench, is not installed")

from helios_jax.evaluation.bench import METRICS, BenchError, FrameVideo, Models, Video

SAMPLES = "HELIOS_BENCH_SAMPLES"
"""Names the folder with the two clips that the authors publish in eval/playground/toy-video."""

PUBLISHED = {"2_240_ori81": 0.19912056624889374, "239_120_ori129": 0.05887579917907715}


def waves(count=4):
    """Two waves that move by (3, -2) pixels a frame."""
    y, x = np.mgrid[0:96, 0:160]
    frames = []
    for t in range(count):
        wave = 60 * np.sin(0.11 * (x - 3 * t)) + 40 * np.cos(0.07 * (y + 2 * t) + 0.05 * x)
        gray = np.clip(np.round(128 + wave), 0, 255).astype(np.uint8)
        frames.append(np.repeat(gray[..., None], 3, axis=-1))
    return np.stack(frames)


def score(frames):
    return METRICS["motion_amplitude"].score(FrameVideo(frames), Models())


def test_moving_waves_score_what_the_original_gives_to_the_last_bit():
    assert score(waves())["motion_fb"] == 0.09932565689086914


def test_the_mean_length_is_what_the_signed_mean_hides():
    assert score(waves())["mean_flow_length"] == pytest.approx(0.97826982, abs=1e-8)


def test_a_still_video_does_not_move():
    still = np.repeat(waves(1), 3, axis=0)
    assert all(value < 1e-3 for value in score(still).values())


def test_one_frame_is_too_few():
    with pytest.raises(BenchError, match="motion amplitude needs at least 2 frames"):
        score(waves(1))


@pytest.mark.skipif(SAMPLES not in os.environ, reason=f"${SAMPLES} names no folder of sample clips")
@pytest.mark.parametrize("clip", PUBLISHED)
def test_the_published_amplitude_of_the_sample_clips_is_reproduced(clip):
    video = Video(Path(os.environ[SAMPLES]) / f"{clip}.mp4")
    figures = METRICS["motion_amplitude"].score(video, Models())
    assert figures["motion_fb"] == pytest.approx(PUBLISHED[clip], abs=1e-3)

"""Measures without weights, on videos whose answers are known."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from helios_jax.evaluation.bench import flow
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.free import ABOUT, FreeMeter, measure_free
from helios_jax.evaluation.bench.similarity import compare_videos, ssim

SIZE = (96, 128)


def texture(seed: int = 0, height: int = 96, width: int = 400) -> np.ndarray:
    """A soft random picture, with detail everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    soft = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))
    values = np.asarray(soft, np.float32) - 127
    return np.clip(127 + 4 * values, 0, 255).astype(np.uint8)


def pan(frames: int, step: int, picture: np.ndarray | None = None) -> np.ndarray:
    """A window that moves to the right over a picture: what is seen moves to the left."""
    picture = texture() if picture is None else picture
    return np.stack([picture[:, step * t : step * t + SIZE[1]] for t in range(frames)])


def test_the_flow_of_a_pan_is_its_step():
    found = measure_free([pan(6, 3)]).values
    assert found["motion_length"] == pytest.approx(3, rel=0.03)
    assert found["motion_amplitude"] == pytest.approx(1.5, rel=0.03)  # x and y together


def test_lengths_are_pixels_of_the_given_picture_however_large():
    large = pan(4, 3).repeat(4, 1).repeat(4, 2)
    assert measure_free([large]).values["motion_length"] == pytest.approx(12, rel=0.05)


def test_the_plain_method_follows_opencv():
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(1)
    picture = texture(1)[..., 0]
    first, second = picture[:, 10:138], picture[1:, 12:140]
    second = np.pad(second, ((0, 1), (0, 0)), "edge")
    ours, theirs = flow.plain_flow(first, second), flow.farneback(first, second)
    np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_noise_on_a_flat_picture_is_no_motion():
    rng = np.random.default_rng(0)
    flat = np.clip(128 + rng.normal(size=(4, *SIZE, 3)), 0, 255).astype(np.uint8)
    found = measure_free([flat]).values
    assert found["motion_length"] < 0.02
    assert found["sharpness"] < 0.02


def test_pieces_of_any_length_give_the_same_measures():
    video = pan(40, 2)
    whole, pieces = measure_free([video]), measure_free([video[:1], video[1:17], video[17:]])
    assert whole == pieces


def test_brightness_that_goes_to_and_fro_flickers_and_a_steady_fade_does_not():
    picture = texture()[:, : SIZE[1]].astype(np.float32)
    flickering = np.stack([picture * (0.7 if t % 2 else 0.8) for t in range(12)])
    fading = np.stack([picture * (0.8 - 0.01 * t) for t in range(12)])
    found = [measure_free([v.astype(np.uint8)]).values["flicker"] for v in (flickering, fading)]
    assert found[0] == pytest.approx(0.1 * picture.mean() / 255, rel=0.05)
    assert found[1] < found[0] / 20


def test_a_video_that_loses_its_colour_drifts_in_saturation_alone():
    grey = texture()[:, : SIZE[1]].mean(-1, keepdims=True)
    share = np.linspace(0, 1, 40)[:, None, None, None]
    tint = np.array([0, 60, 120.0])
    video = np.clip(grey * 0.4 + 20 + (1 - share) * tint, 0, 255).astype(np.uint8)
    found = measure_free([video]).values
    assert found["drift_saturation"] < -0.4
    assert abs(found["drift_sharpness"]) < 0.01


def test_a_jump_between_chunks_is_a_seam():
    first, second = pan(33, 1), pan(33, 1, texture(5))
    found = measure_free([first, second]).values
    assert found["seam"] > 3
    assert measure_free([pan(66, 1)]).values["seam"] == pytest.approx(1, abs=0.2)


def test_a_still_video_is_static_and_no_loop():
    found = measure_free([np.repeat(pan(1, 0), 40, 0)]).values
    assert (found["static"], found["still"], found["loop_period"]) == (1, 1, 0)
    assert found["motion_length"] < 1e-3


def test_a_video_that_returns_has_its_period():
    there_and_back = np.concatenate([pan(12, 8), pan(12, 8)[::-1]])
    assert measure_free([there_and_back] * 3).values["loop_period"] == 24
    assert measure_free([pan(34, 8)]).values["loop_period"] == 0


def test_every_figure_is_explained():
    found = measure_free([pan(70, 1)])
    assert set(found.values) | {"psnr", "ssim"} == set(ABOUT)


def test_a_single_frame_has_no_motion_to_report():
    found = measure_free([pan(1, 0)])
    assert "motion_length" not in found.values
    assert found.curves["change"] == []


def test_curves_have_a_point_for_each_chunk():
    curves = measure_free([pan(70, 1)]).curves
    assert {len(curve) for curve in curves.values()} == {3}


def test_a_step_from_chunk_to_chunk_is_a_seam_and_in_no_chunk():
    still = np.concatenate([np.repeat(pan(1, 0), 33, 0), np.repeat(pan(1, 0) // 2, 33, 0)])
    found = measure_free([still])
    assert found.curves["change"] == [0, 0]
    assert found.values["seam"] > 10


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((2, 8, 8), np.uint8), "uint8"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "without frames"),
    ],
)
def test_what_is_no_video_is_refused(frames, reason):
    with pytest.raises(BenchError, match=reason):
        measure_free([frames])


def test_an_unknown_flow_is_refused():
    with pytest.raises(BenchError, match="must be one of farneback, plain"):
        FreeMeter("raft")


def test_equal_videos_are_alike_and_noise_lowers_both_measures():
    video = pan(3, 2)
    noise = np.random.default_rng(0).normal(0, 8, video.shape)
    noisy = np.clip(video + noise, 0, 255).astype(np.uint8)
    assert compare_videos([video], [video]) == {"psnr": 100, "ssim": pytest.approx(1, abs=1e-5)}
    found = compare_videos([noisy], [video[:1], video[1:]])
    assert found["psnr"] == pytest.approx(20 * np.log10(255 / 8), abs=0.5)
    assert 0.5 < found["ssim"] < 0.99


def test_ssim_of_flat_frames_is_the_comparison_of_brightness():
    one, two = (np.full((16, 16, 3), value, np.uint8) for value in (51, 102))
    assert float(ssim(one, two)) == pytest.approx((2 * 0.08 + 1e-4) / (0.2 + 1e-4), rel=1e-3)


@pytest.mark.parametrize(
    ("other", "reason"),
    [(pan(2, 2), "share 2 frames"), (pan(3, 2)[:, :64], "frames are 128x96")],
)
def test_videos_that_cannot_be_compared_are_named(other, reason):
    with pytest.raises(BenchError, match=reason):
        compare_videos([pan(3, 2)], [other])

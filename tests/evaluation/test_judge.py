"""The judge reads true clips rightly, and sees when a clip shows something else than asked for."""

import numpy as np
import pytest

from helios_jax.evaluation.judge import ATTRIBUTES, accuracy, read_clip, score
from helios_jax.world import render, sample_scene
from helios_jax.world.scenes import (
    DIRECTIONS,
    EDITIONS,
    MOTIONS,
    SHAPES,
    Background,
    Object,
    Scene,
    can_spin,
)

SIZE = 64, 128
CHECKER = Background("checker", ("black", "teal"), "", 0.2)
SCENE = Scene(
    (
        Object("triangle", "yellow", "small", "down", "fast", (0.25, 0.3), 0.0),
        Object("cross", "pink", "large", "clockwise", "slow", (0.65, 0.5), 0.1),
    ),
    CHECKER,
    "left",
)


def wrong(reading, scene):
    return [name for name, rights in score(reading, scene).items() if not all(rights)]


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("index", range(8))
def test_true_clips_are_read_rightly(index, edition):
    """Every attribute, anywhere in a long video; half of the clips have held-out objects."""
    scene = sample_scene(100, index, ("train", "heldout")[index % 2], edition)
    assert not wrong(read_clip(render(scene, 33, *SIZE, start=171 * index), edition=edition), scene)


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("i", range(len(MOTIONS)))
def test_every_motion_and_shape_is_read_rightly(i, edition):
    """Each motion, with a shape that can have it, in a square frame and at another rate."""
    shape = SHAPES[i % len(SHAPES)] if can_spin(SHAPES[i % len(SHAPES)]) else "star"
    thing = Object(
        shape, "white", "small", MOTIONS[i], ("slow", "fast")[i % 2], (0.5, 0.4), 0.3, edition
    )
    scene = Scene((thing,), Background("gradient", ("navy", "maroon"), "y", 0.0), "still")
    assert not wrong(read_clip(render(scene, 30, 64, 64, fps=20), 20, edition), scene)


def test_large_frames_are_read_as_small_ones():
    assert not wrong(read_clip(render(SCENE, 33, 192, 384)), SCENE)


def test_noise_does_not_matter_nor_do_pixels_from_0_to_1():
    """Noise of a tenth of the range, in either floating-point dtype."""
    clip = render(SCENE, 33, *SIZE) / 255
    noisy = np.clip(clip + 0.1 * np.random.default_rng(0).standard_normal(clip.shape), 0, 1)
    assert not wrong(read_clip(noisy), SCENE)
    assert read_clip(noisy.astype(np.float32)) == read_clip(noisy)


def test_a_clip_played_backward_is_read_backward():
    """Directions, spins and pans are the opposite ones, and nothing else changes."""
    seen = read_clip(render(SCENE, 33, *SIZE)[::-1])
    assert sorted(wrong(seen, SCENE)) == ["camera", "motion"]
    assert {thing.motion for thing in seen.objects} == {"up", "counterclockwise"}
    assert seen.camera == "right"


def test_a_still_picture_has_no_motion():
    """The rest is right."""
    seen = read_clip(np.repeat(render(SCENE, 1, *SIZE), 33, axis=0))
    assert [thing.motion for thing in seen.objects] == ["still", "still"]
    assert sorted(wrong(seen, SCENE)) == ["camera", "motion", "speed"]


def test_a_missing_object_is_wrong_throughout_and_one_too_many_in_the_count():
    one = SCENE._replace(objects=SCENE.objects[:1])
    seen = read_clip(render(one, 33, *SIZE))
    rights = score(seen, SCENE)
    assert rights["shape"] == (True, False)
    assert rights["count"] == (False,)
    assert wrong(read_clip(render(SCENE, 33, *SIZE)), one) == ["count"]
    assert read_clip(render(SCENE._replace(objects=()), 33, *SIZE)).objects == ()


def test_noise_alone_is_read_without_an_error_and_scores_little():
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 64, 3), np.uint8)
    assert accuracy([score(read_clip(clip), SCENE)])["all"][0] <= 4


def test_the_order_in_which_objects_are_read_does_not_matter():
    """Each object that was read is matched with one that was asked for, and no more."""
    turned = SCENE._replace(objects=SCENE.objects[::-1])
    assert not wrong(turned, SCENE)
    twice = SCENE._replace(objects=SCENE.objects[:1] * 2)
    assert score(twice, SCENE)["color"] == (True, False)


def test_accuracy_counts_by_attribute_and_in_all():
    right, total = accuracy([score(SCENE, SCENE)] * 3)["all"]
    assert right == total == 3 * (5 * 2 + 4)
    other = SCENE._replace(camera="right")
    counts = accuracy([score(SCENE, SCENE), score(other, SCENE)])
    assert counts["camera"] == (1, 2)
    assert counts["motion"] == (4, 4)
    assert set(counts) == {*ATTRIBUTES, "all"}


def test_directions_are_not_confused_by_the_camera():
    """Under a pan, objects keep the directions that they are asked for."""
    for camera in ("left", "up"):
        axis = "x" if camera == "left" else "y"
        for motion in list(DIRECTIONS)[1:4]:
            thing = Object("ring", "white", "small", motion, "slow", (0.5, 0.5), 0.0)
            scene = Scene((thing,), Background("stripes", ("gray", "black"), axis, 0.6), camera)
            assert not wrong(read_clip(render(scene, 33, *SIZE)), scene)

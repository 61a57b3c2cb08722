"""Metrics that need networks: what each one does with the frames, on small random networks."""

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from helios_jax.checkpoint.layout import Slot
from helios_jax.evaluation.bench import METRICS, BenchError, FrameVideo, Models, find_metrics
from helios_jax.evaluation.bench.batches import in_batches
from helios_jax.evaluation.bench.networks import names
from helios_jax.evaluation.bench.preprocess import MEAN, STD
from tests.evaluation.bench import torch_networks, toy_weights
from tests.evaluation.bench.test_tokenizer import PROMPT
from tests.evaluation.bench.toy_weights import VISION, clip_state


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.save(clip_state(), folder / "clip.pth")
    return Models(
        {
            "clip": folder / "clip.pth",
            "aesthetic_head": toy_weights.write_head(folder / "head.pth"),
            "viclip": toy_weights.write_viclip(folder / "viclip.pth"),
            "viclip_vocabulary": toy_weights.write_vocabulary(folder / "merges.txt"),
            "amt": toy_weights.write_amt(folder / "amt.pth"),
        }
    )


def moving(count, height=96, width=128):
    """Soft colours that change from frame to frame."""
    t, y, x, c = np.ogrid[0:count, 0:height, 0:width, 0:3]
    wave = np.sin(0.11 * (x - 2 * t) + c) + np.cos(0.07 * y + 0.05 * t * (c + 1))
    return np.clip(np.round(128 + 60 * wave), 0, 255).astype(np.uint8)


def score(name, video, models):
    return METRICS[name].score(video, models)


def transformers_clip():
    """The toy encoder in transformers; it holds what OpenAI's names say by another table."""
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=VISION.image_size,
            patch_size=VISION.patch_size,
            hidden_size=VISION.width,
            intermediate_size=4 * VISION.width,
            num_hidden_layers=VISION.layers,
            num_attention_heads=VISION.heads,
            projection_dim=VISION.features,
            hidden_act="quick_gelu",
        )
    ).eval()
    ours = {slot.name: slot for slot in names.clip_slots(VISION)}
    state = {name.removeprefix("visual."): array for name, array in clip_state().items()}
    leaves: dict[str, np.ndarray] = {}
    for name, slot in ours.items():
        leaf = leaves.setdefault(slot.path, np.zeros(slot.leaf_shape, np.float32))
        leaf[slot.index] = slot.to_jax(state[name].numpy())

    def back(slot: Slot):
        return torch.from_numpy(slot.to_torch(leaves[slot.path][slot.index]).copy())

    theirs = {slot.name: back(slot) for slot in names.clip_hf_slots(VISION)}
    model.load_state_dict(theirs, strict=False)
    return model


def test_aesthetic_is_what_pytorch_makes_of_the_same_frames(models):
    frames = moving(5)
    pixels = torch.from_numpy(np.moveaxis(frames, -1, 1)).float()
    resized = torch.nn.functional.interpolate(pixels, (56, 74), mode="bicubic")
    cropped = resized[..., 9:65]
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    head = torch.load(models.weights["aesthetic_head"])
    with torch.no_grad():
        features = transformers_clip()((cropped / 255 - mean) / std).image_embeds
        unit = features / features.norm(dim=-1, keepdim=True)
        expected = (unit @ head["weight"].T + head["bias"]).mean() / 10
    found = score("aesthetic", FrameVideo(frames), models)
    assert found["aesthetic_score"] == pytest.approx(float(expected), abs=1e-5)
    assert found["curve"] == [pytest.approx(found["aesthetic_score"])]


def test_aesthetic_drift_compares_the_means_of_both_ends(models):
    frames = moving(20)
    video = FrameVideo(frames)
    found = score("drifting_aesthetic", video, models)
    start, end = (models.aesthetic.rate(frames, part) for part in (range(3), range(17, 20)))
    assert found["start_aesthetic_score"] == pytest.approx(start.mean(), abs=1e-6)
    assert found["end_aesthetic_score"] == pytest.approx(end.mean(), abs=1e-6)
    assert found["drift_aesthetic_score"] == abs(found["signed_drift"])
    assert [*video.figures["aesthetic"]] == [0, 1, 2, 17, 18, 19]


def test_semantic_compares_eight_frames_with_thirty_tokens_and_with_all(models):
    found = score("semantic", FrameVideo(moving(9), PROMPT), models)
    longer = score("semantic", FrameVideo(moving(9), PROMPT + " and a cat's 3 dogs"), models)
    assert -1 <= found["semantic_score"] <= 1
    assert found["semantic_score"] == longer["semantic_score"]
    assert found["whole_prompt_score"] != longer["whole_prompt_score"]
    assert found["prompt"] == PROMPT


def test_a_short_prompt_is_the_whole_prompt(models):
    found = score("semantic", FrameVideo(moving(9), "A cat"), models)
    assert found["semantic_score"] == found["whole_prompt_score"]


def test_semantic_drift_compares_both_ends_with_the_prompt(models):
    frames = moving(40)
    found = score("drifting_semantic", FrameVideo(frames, "A cat"), models)
    first = score("semantic", FrameVideo(frames[:8], "A cat"), models)
    last = score("semantic", FrameVideo(frames[-8:], "A cat"), models)
    assert found["start_semantic_score"] == pytest.approx(first["semantic_score"], abs=1e-6)
    assert found["end_semantic_score"] == pytest.approx(last["semantic_score"], abs=1e-6)
    assert found["drift_semantic_score"] == abs(found["signed_drift"])


def test_semantic_without_a_prompt_says_so(models):
    assert METRICS["semantic"].reason_to_skip(models, None).startswith("needs the prompt")
    with pytest.raises(BenchError, match="semantic metrics need the prompt"):
        score("semantic", FrameVideo(moving(9)), models)


def test_smoothness_pads_and_runs_each_pair_once_for_the_whole_and_both_ends(models):
    frames = moving(9, 113, 130)  # padded to 128x144, an odd pixel more below
    video = FrameVideo(frames)
    whole = score("motion_smoothness", video, models)
    assert 0 < whole["motion_smoothness_score"] < 1
    assert [*video.figures["smoothness"]] == [0, 2, 4, 6]
    deviations = models.smoothness.deviations(frames, [0, 2, 4, 6])
    assert whole["motion_smoothness_score"] == pytest.approx(1 - deviations.mean() / 255)
    steps = np.abs(np.diff(frames.astype(int), axis=0))
    assert whole["temporal_flicker"] == pytest.approx(steps.mean() / 255)
    drift = score("drifting_motion_smoothness", video, models)
    assert [*video.figures["smoothness"]] == [0, 2, 4, 6, 5]
    assert drift["start_motion_smoothness_score"] == pytest.approx(1 - deviations[0] / 255)


def test_smoothness_is_what_pytorch_makes_of_padded_frames_cut_to_bytes(models):
    frames = moving(3, 113, 130)
    network = torch_networks.AMT().eval()
    network.load_state_dict(torch.load(models.weights["amt"])["state_dict"])
    pixels = torch.from_numpy(np.moveaxis(frames, -1, 1)).float()
    padded = torch.nn.functional.pad(pixels / 255, (7, 7, 7, 8), mode="replicate")
    with torch.no_grad():
        made = network(padded[:1], padded[2:])[..., 7:120, 7:137]
    deviation = (pixels[1:2] - (made * 255).clamp(0, 255).floor()).abs().mean()
    found = models.smoothness.deviations(frames, [0])
    assert found[0] == pytest.approx(float(deviation), abs=1e-3)


@pytest.mark.parametrize(
    ("frames", "metric", "message"),
    [
        (moving(9, 96, 200), "motion_smoothness", "at least 128 pixels each way, not 96x200"),
        (moving(2, 128, 128), "motion_smoothness", "needs 3 frames, not 2"),
        (moving(3, 128, 128), "drifting_motion_smoothness", "needs 4 frames, not 3"),
    ],
)
def test_frames_that_smoothness_cannot_take_are_named(models, frames, metric, message):
    with pytest.raises(BenchError, match=message):
        score(metric, FrameVideo(frames), models)


@pytest.mark.parametrize(("cores", "batches"), [(1, [24] * 3), (2, [18] * 4), (99, [1] * 70)])
def test_batches_are_of_one_size_and_give_what_one_batch_gives(cores, batches, monkeypatch):
    """A CPU computes one on each core."""
    monkeypatch.setattr("helios_jax.evaluation.bench.batches.cpu_cores", lambda: cores)
    sizes = []

    def brightest(batch):
        sizes.append(len(batch))
        return batch.max(axis=(1, 2, 3))

    frames = moving(70, 4, 4)
    expected = frames.max(axis=(1, 2, 3))
    found = in_batches(brightest, frames, np.arange(70), 32)
    np.testing.assert_array_equal(found, expected)
    assert sizes == batches
    np.testing.assert_array_equal(in_batches(brightest, frames, np.array([7]), 32), expected[7:8])


def test_an_unknown_metric_is_named():
    with pytest.raises(BenchError, match="there is no metric blur; there are aesthetic, motion"):
        find_metrics(["blur"])

"""Scoring folders of videos."""

import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from helios_jax.evaluation.bench import files, models, score
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.prompts import BenchPrompt, WorldScene
from helios_jax.evaluation.bench.score import Entry, ScoreOptions, find_videos, score_videos
from helios_jax.locks import only_writer
from helios_jax.media import open_video_writer
from helios_jax.world.drawing import render

WORLD = WorldScene(5, 3)
PROMPTS = [BenchPrompt(number, "a cross", 40, WORLD) for number in (1, 2)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of one scene: as it is, and upside down."""
    folder = tmp_path_factory.mktemp("videos")
    frames = render(WORLD.scene(), 40, 64, 128)
    for name, video in (("1_40_ori40.mp4", frames), ("2_40_ori40.mp4", frames[:, ::-1])):
        with open_video_writer(folder / name, 24) as writer:
            writer.write(np.ascontiguousarray(video))
    return folder


def run(videos, out, *metrics, judge=None, **options):
    judges = models.Models(judge=judge, judge_name=judge and "seer")
    entries = find_videos(videos, PROMPTS)
    return score_videos(entries, out, judges, ScoreOptions(metrics, **options))


def test_free_measures_and_a_strip_are_kept_for_each_video(videos, tmp_path):
    assert run(videos, tmp_path, "free") == {}
    content = json.loads((tmp_path / score.FREE_FILE).read_text())
    assert [row["id"] for row in content["per_video_results"]] == [1, 2]
    row = content["per_video_results"][0]
    assert (row["num_frames"], row["height"], row["width"], row["flow"]) == (40, 64, 128, "plain")
    assert row["fps"] == 24
    assert row["values"]["motion_length"] > 0
    assert (tmp_path / "strips" / "2.webp").stat().st_size > 500


def test_the_world_is_read_as_it_was_asked_for(videos, tmp_path):
    run(videos, tmp_path, "world")
    rows = files.read_results(tmp_path / "world_results.json").videos
    assert rows[0]["world_score"] > 0.9
    assert rows[1]["world_score"] < rows[0]["world_score"]


def test_a_second_run_measures_nothing_again(videos, tmp_path, monkeypatch):
    run(videos, tmp_path, "world")
    before = (tmp_path / "world_results.json").read_bytes()
    monkeypatch.setattr(score, "score_world", None)  # would fail if it were called
    run(videos, tmp_path, "world")
    assert (tmp_path / "world_results.json").read_bytes() == before


def test_a_run_goes_on_where_it_was_stopped(videos, tmp_path):
    answers = iter(["4"])
    with pytest.raises(StopIteration):
        run(videos, tmp_path, "naturalness", judge=lambda frames: next(answers))
    assert len(files.read_results(tmp_path / "naturalness_results.json").videos) == 1
    answers = iter(["2"])
    run(videos, tmp_path, "naturalness", judge=lambda frames: next(answers))
    results = files.read_results(tmp_path / "naturalness_results.json")
    assert [row["raw_score"] for row in results.videos] == ["4", "2"]
    assert (results.mean, results.judge, results.frames_per_video) == (0.5, "seer", 16)


def test_every_device_scores_videos_with_a_judge_that_all_share(videos, tmp_path):
    meeting = threading.Barrier(2, timeout=20)

    def judge(frames):
        meeting.wait()  # neither answers before both are asked
        return "4"

    judges = models.Models(judge=judge, judge_name="seer")
    devices = [jax.devices()[0]] * 2
    chosen = ScoreOptions(("naturalness",))
    score_videos(find_videos(videos, PROMPTS), tmp_path, judges, chosen, devices)
    rows = files.read_results(tmp_path / "naturalness_results.json").videos
    assert [row["id"] for row in rows] == [1, 2]


def test_a_video_that_changed_is_measured_again(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    first = folder / "1_40_ori40.mp4"
    first.write_bytes((videos / "1_40_ori40.mp4").read_bytes())
    run(folder, tmp_path / "out", "world")
    first.write_bytes((videos / "2_40_ori40.mp4").read_bytes())
    run(folder, tmp_path / "out", "world")
    (row,) = files.read_results(tmp_path / "out" / "world_results.json").videos
    assert row["world_score"] < 0.9


def test_a_damaged_video_is_named_and_the_others_are_measured(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "1_40_ori40.mp4").write_bytes((videos / "1_40_ori40.mp4").read_bytes())
    (folder / "2_40_ori40.mp4").write_bytes((videos / "1_40_ori40.mp4").read_bytes()[:400])
    run(folder, tmp_path / "out", "free")
    content = json.loads((tmp_path / "out" / score.FREE_FILE).read_text())
    assert [row["id"] for row in content["per_video_results"]] == [1]
    assert "damaged" in content["failed_videos"][0]["error"]


def test_metrics_without_what_they_need_are_skipped_with_the_reason(videos, tmp_path):
    skipped = run(videos, tmp_path, "naturalness", "world")
    assert skipped == {"naturalness": "no judge was named"}
    conditions = json.loads((tmp_path / score.CONDITIONS).read_text())
    assert conditions["skipped"] == skipped
    assert conditions["metrics"] == ["world"]


def test_answers_of_two_judges_are_not_mixed(videos, tmp_path):
    run(videos, tmp_path, "naturalness", judge=lambda frames: "3")
    judges = models.Models(judge=lambda frames: "3", judge_name="oracle")
    with pytest.raises(BenchError, match="answers of seer, not of oracle"):
        score_videos(find_videos(videos), tmp_path, judges, ScoreOptions(("naturalness",)))


def test_other_conditions_need_another_folder(videos, tmp_path):
    run(videos, tmp_path, "free")
    with pytest.raises(BenchError, match="all frames a video"):
        run(videos, tmp_path, "free", most=20)
    with pytest.raises(BenchError, match="flow=plain"):
        run(videos, tmp_path, "free", flow="farneback")


def test_a_short_video_is_the_beginning_of_a_long_one(videos, tmp_path):
    run(videos, tmp_path, "free", most=20)
    content = json.loads((tmp_path / score.FREE_FILE).read_text())
    assert {row["num_frames"] for row in content["per_video_results"]} == {20}


def test_a_video_is_compared_with_the_one_it_should_equal(videos, tmp_path):
    entries = find_videos(videos, truth=videos)
    score_videos(entries[:1], tmp_path, models.Models(), ScoreOptions(("free",)))
    content = json.loads((tmp_path / score.FREE_FILE).read_text())
    assert content["per_video_results"][0]["values"]["psnr"] == 100


def test_an_unknown_metric_is_named_with_those_there_are(videos, tmp_path):
    with pytest.raises(BenchError, match=r"no metric beauty; there are .*world, free"):
        run(videos, tmp_path, "beauty")


def test_names_of_the_benchmark_are_preferred_and_others_numbered(tmp_path):
    for name in ("12_240_ori81.mp4", "3_240_ori81.mp4", "preview.mp4"):
        (tmp_path / name).touch()
    assert [entry.number for entry in find_videos(tmp_path)] == [3, 12]
    for name in ("12_240_ori81.mp4", "3_240_ori81.mp4"):
        (tmp_path / name).unlink()
    (tmp_path / "alpha.webm").touch()
    still = Image.new("RGB", (8, 8))
    still.save(tmp_path / "cover.webp")
    moving = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    still.save(tmp_path / "moving.webp", save_all=True, append_images=moving)
    found = find_videos(tmp_path)
    assert [(entry.number, entry.path.name) for entry in found] == [
        (1, "alpha.webm"),
        (2, "moving.webp"),
        (3, "preview.mp4"),
    ]


def test_folders_that_cannot_be_scored_are_named(tmp_path, videos):
    with pytest.raises(BenchError, match="no such folder"):
        find_videos(tmp_path / "none")
    with pytest.raises(BenchError, match="holds no video"):
        find_videos(tmp_path)
    with pytest.raises(BenchError, match=r"has no 1_40_ori40\.mp4"):
        find_videos(videos, truth=tmp_path)
    for name in ("1.mp4", "1.webm"):
        (tmp_path / name).touch()
    with pytest.raises(BenchError, match="same number 1"):
        find_videos(tmp_path)


def test_a_digest_changes_with_the_file(videos):
    first, second = find_videos(videos)
    assert first.digest() != second.digest()
    assert first.digest() == Entry(9, first.path).digest()


@pytest.mark.parametrize("value", [float("nan"), [0.5, float("inf")], {"a": {"b": float("nan")}}])
def test_a_measure_that_is_no_number_is_a_failure_and_not_the_end(tmp_path, value):
    """JSON has no word for NaN."""
    ledger = score.Ledger.open(tmp_path, "aesthetic", models.Models())
    ledger.take(Entry(1, tmp_path / "a.mp4"), "d", lambda: {"aesthetic_score": value})
    [row] = score.failed_rows(tmp_path, "aesthetic")
    assert "aesthetic of a.mp4 is not a finite number" in row["error"]


def test_what_a_killed_run_has_left_is_known_by_its_name(videos, tmp_path):
    """Of the table, a metric's file, and a strip."""
    entries = find_videos(videos, PROMPTS)
    names = ["prompts.csv", "aesthetic_results.json", "strips/1.webp", "merged_results.json"]
    known = score.result_files(tmp_path, entries)
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        assert path in known
        path.with_name(f".{path.name}.partial-7").touch()
    with only_writer(tmp_path, beside=known):
        assert not list(tmp_path.rglob(".*partial*"))

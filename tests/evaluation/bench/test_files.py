"""The original's scripts read our files, and we read theirs."""

import json

import pytest

from helios_jax.evaluation.bench import BenchError, MetricResults, merge, read_folder, write_results
from helios_jax.evaluation.bench.files import (
    merge_models,
    read_free,
    read_merged,
    read_results,
    write_json,
)
from tests.evaluation.bench.test_ratings import SAMPLE, SAMPLE_RATINGS

SCORES = {"aesthetic": "aesthetic_score", "motion_amplitude": "motion_fb"}


def videos(key, *values):
    return tuple({"id": i, "video_name": f"{i}_240_ori81.mp4", key: value} for i, value in values)


def test_a_result_file_has_the_names_and_keys_of_the_original(tmp_path):
    rows = videos("motion_fb", (2, 0.25), (239, 0.5))
    path = write_results(tmp_path, MetricResults("motion_amplitude", rows))
    assert path.name == "motion_amplitude_results.json"
    assert json.loads(path.read_text()) == {
        "metric": "motion_fb",
        "average_score": 0.375,
        "num_videos": 2,
        "per_video_results": [
            {"id": 2, "video_name": "2_240_ori81.mp4", "motion_fb": 0.25},
            {"id": 239, "video_name": "239_240_ori81.mp4", "motion_fb": 0.5},
        ],
    }


def test_a_drift_file_has_its_own_average_and_description(tmp_path):
    rows = videos("drift_motion_smoothness_score", (1, 0.0))
    path = write_results(tmp_path, MetricResults("drifting_motion_smoothness", rows))
    content = json.loads(path.read_text())
    assert content["average_drift_score"] == 0.0
    assert "average_score" not in content
    assert content["description"] == (
        "Start-end contrast of motion smoothness (first/last 15% frames)"
    )


def test_failed_videos_are_told_and_not_averaged(tmp_path):
    failed = ({"id": 7, "video_name": "7_240_ori81.mp4", "error": "damaged"},)
    rows = videos("aesthetic_score", (1, 0.5))
    results = MetricResults("aesthetic", rows, failed)
    assert read_results(write_results(tmp_path, results)) == MetricResults(
        "aesthetic", rows, failed, average=0.5
    )


def test_the_judge_is_named_in_its_file(tmp_path):
    rows = videos("naturalness_score", (1, 0.25))
    results = MetricResults("naturalness", rows, judge="some-model", frames_per_video=16)
    content = json.loads(write_results(tmp_path, results).read_text())
    assert (content["model_name"], content["num_frames_per_video"]) == ("some-model", 16)


def test_without_videos_there_is_no_mean(tmp_path):
    results = MetricResults("semantic", ())
    assert results.mean is None
    assert read_results(write_results(tmp_path, results)).mean is None
    assert merge({"semantic": results})["missing"][0] == "aesthetic"


def sample(folder):
    """The result files of the authors' two sample clips, means alone."""
    for metric, mean in SAMPLE.items():
        key = "average_drift_score" if metric.startswith("drifting") else "average_score"
        content = {"metric": metric, key: mean, "num_videos": 2, "per_video_results": []}
        write_json(folder / f"{metric}_results.json", content)


def test_the_original_files_are_merged_to_the_published_summary(tmp_path):
    sample(tmp_path)
    merged = merge(read_folder(tmp_path))
    summary = merged["summary"]
    assert summary["total_weighted_rating"] == 8.247
    assert [*summary["non_drifting"], *summary["drifting"]] == [*SAMPLE]
    rows = {**summary["non_drifting"], **summary["drifting"]}
    assert tuple(row["rating"] for row in rows.values()) == SAMPLE_RATINGS
    assert rows["motion_smoothness"]["name"] == "Motion Smoothness"
    assert rows["motion_smoothness"]["raw_score"] == SAMPLE["motion_smoothness"]
    assert merge(read_folder(tmp_path), long=False)["summary"]["total_weighted_rating"] == 7.45


def test_the_merge_says_which_metrics_are_missing_and_what_they_weigh(tmp_path):
    sample(tmp_path)
    for metric in ("naturalness", "drifting_naturalness"):
        (tmp_path / f"{metric}_results.json").unlink()
    merged = merge(read_folder(tmp_path))
    assert merged["summary"]["total_weighted_rating"] == 5.472
    assert merged["possible_rating"] == 6.42
    assert merged["missing"] == ["naturalness", "drifting_naturalness"]


def test_models_are_merged_side_by_side(tmp_path):
    sample(tmp_path / "one")
    path = write_json(
        tmp_path / "one" / "merged_results.json", merge(read_folder(tmp_path / "one"))
    )
    both = merge_models({"one": read_merged(path), "two": read_merged(path)}, "raw")
    assert both["num_models"] == 2
    assert both["metrics"] == [*sorted(SAMPLE), "total_weighted_rating"]
    assert both["models"]["two"] == {**SAMPLE, "total_weighted_rating": 8.247}


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "does not hold a JSON object"), ("{", "is not JSON"), ("{}", "is not a result file")],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, message):
    path = tmp_path / "aesthetic_results.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=rf"aesthetic_results\.json {message}"):
        read_results(path)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(BenchError, match=r"has no \*_results\.json"):
        read_folder(tmp_path)


ROW = '{"id": 1, "video_name": "a.mp4", "motion_fb": 0.5}'


@pytest.mark.parametrize(
    "rows",
    ["5", "[5]", "[{}]", '[{"id": "1"}]', ROW, f'[{ROW.replace("0.5", "NaN")}]',
     f'[{ROW.replace("0.5", "[]")}]', f'[{ROW.replace("0.5", "1" + "0" * 400)}]', "[" * 10**5],
)  # fmt: skip
def test_rows_that_are_none_are_one_line(tmp_path, rows):
    path = tmp_path / "motion_amplitude_results.json"
    path.write_text(f'{{"per_video_results": {rows}{"]" * 10**5 if len(rows) > 10**4 else ""}}}')
    with pytest.raises(BenchError):
        read_results(path)


@pytest.mark.parametrize(
    "row",
    ['{"id": 1}', '{"id": 1, "values": 5, "curves": {}}', '{"id": 1, "values": {}, "curves": []}',
     '{"id": 1, "values": {"a": "b"}, "curves": {}}',
     '{"id": 1, "values": {"a": NaN}, "curves": {}}',
     '{"id": 1, "values": {}, "curves": {"a": [1, Infinity]}}', '{"values": {}, "curves": {}}'],
)  # fmt: skip
def test_free_measures_that_are_none_are_one_line(tmp_path, row):
    (tmp_path / "free_measures.json").write_text(f'{{"per_video_results": [{row}]}}')
    with pytest.raises(BenchError):
        read_free(tmp_path / "free_measures.json")


@pytest.mark.parametrize("average", ["NaN", "Infinity", "1" + "0" * 400, '"x"', "[]"])
def test_an_average_that_is_no_number_is_one_line(tmp_path, average):
    path = tmp_path / "motion_amplitude_results.json"
    path.write_text(f'{{"per_video_results": [{ROW}], "average_score": {average}}}')
    with pytest.raises(BenchError):
        read_results(path)

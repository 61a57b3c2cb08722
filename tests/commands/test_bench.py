"""``helios-jax bench``, run in this process."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from helios_jax import nano
from helios_jax.checkpoint import load_config
from helios_jax.commands import bench, main
from helios_jax.evaluation.bench.files import MetricResults, write_results
from helios_jax.evaluation.bench.maker import request_conditions
from helios_jax.locks import lock
from helios_jax.media import open_video_writer
from helios_jax.sampling.request import make_request
from helios_jax.world.drawing import render
from helios_jax.world.scenes import sample_scene

DOCS = Path(__file__).parents[2] / "docs" / "bench.md"
ROWS = [{"id": 2, "video_name": "2_240_ori81.mp4", "motion_fb": 0.2}]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with one video of the world, 40 frames."""
    folder = tmp_path_factory.mktemp("clips")
    with open_video_writer(folder / "1_40_ori40.mp4", 24) as writer:
        writer.write(np.ascontiguousarray(render(sample_scene(1, 1), 40, 64, 128)))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, clips):
    """A working folder with ``clips``, tables of prompts, and results of two models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(clips)
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.csv").write_text("id,words\n1,a dog\n")
    (tmp_path / "short.csv").write_text("id,prompt\n1,a dog\n")
    for name in ("base", "mid"):
        write_results(tmp_path / "results" / name, MetricResults("motion_amplitude", tuple(ROWS)))
    return tmp_path


def run(text, *more):
    return main(["helios-jax", "bench", *text.split(), *more])


def test_free_measures_of_a_folder_end_in_a_table(here, capsys):
    assert run("score --videos=clips --out=out/mine --metrics=free --compile_cache=") == 0
    said = capsys.readouterr().out
    assert "| mine |" in said
    assert (here / "out/mine/free_measures.json").exists()
    assert (here / "out/mine/strips/1.webp").exists()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(here, capsys):
    server = "--judge=http://127.0.0.1:1/v1 --judge_model=seer"
    assert run(f"score --videos=clips --out=out/mine --dry_run {server}") == 0
    said = capsys.readouterr().out
    assert "seer at http://127.0.0.1:1/v1/chat/completions, naturalness: 1 calls with 16" in said
    assert "skipped: aesthetic, drifting_aesthetic: no weights of CLIP" in said
    assert not (here / "out").exists()


def test_models_are_compared_by_their_folders(here, capsys):
    note = "--note=Made on a laptop."
    assert run("compare results/base results/mid --out=out/report --title=Two", note) == 0
    page = (here / "out/report.html").read_text()
    assert "<h1>Two</h1>" in page
    assert "2 models" in page
    assert "Made on a laptop." in page
    assert sorted(file.suffix for file in (here / "out").iterdir()) == [".csv", ".html", ".md"]


def test_a_folder_of_models_counts_as_all_of_them(here, capsys):
    assert run("merge results --out=out") == 0
    merged = json.loads((here / "out/all_models_merged.json").read_text())
    assert list(merged["models"]) == ["base", "mid"]
    one = json.loads((here / "results/base/merged_results.json").read_text())
    assert one["summary"]["total_weighted_rating"] == pytest.approx(0.15)
    assert "without aesthetic" in capsys.readouterr().out


def test_a_second_run_into_one_folder_is_told_who_has_it(here, capsys):
    (here / "out").mkdir()
    with lock(here / "out/mine", "the results"):
        assert run("score --videos=clips --out=out/mine --metrics=free --compile_cache=") == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_any_setting_of_a_request_can_be_asked_for_and_is_noted():
    request = make_request(load_config(nano.CHECKPOINT), solver="dpmpp_2m", steps=[3], seed=7)
    conditions = request_conditions(nano.CHECKPOINT, request)
    assert conditions["steps"] == [3]
    assert (conditions["solver"], conditions["seed"]) == ("dpmpp_2m", 7)
    assert {"checkpoint", "weights", "height", "width", "guidance_scale"} <= conditions.keys()


@pytest.mark.slow
def test_helios_nano_goes_from_captions_to_a_report(here, capsys):
    cache = "--compile_cache="
    assert run(f"generate --world=2 --durations=33 --steps=1 --out=videos/nano {cache}") == 0
    assert run(f"score --videos=videos/nano --out=out/nano --metrics=world,free {cache}") == 0
    assert run("compare out/nano --out=out/report") == 0
    page = (here / "out/report.html").read_text()
    assert "<h2>What the captions ask for</h2>" in page
    assert page.count("data:image/webp") == 2
    assert "made with checkpoint nano" in page


def test_the_overview_and_every_command_have_a_help_text(capsys):
    assert run("--help") == 0
    assert "compare results/base" in capsys.readouterr().out
    for name in bench.COMMANDS:
        assert run(f"{name} --help") == 0
        assert "Flags:" in capsys.readouterr().out


def test_without_opencv_a_line_names_the_extra_and_the_rest_is_measured(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    assert run("score --videos=clips --out=out --metrics=motion_amplitude --compile_cache=") == 2
    assert "motion_amplitude: needs OpenCV: pip install" in capsys.readouterr().err
    assert run("score --videos=clips --out=out --metrics=free --flow=farneback") == 2
    assert "flow=farneback needs OpenCV: pip install" in capsys.readouterr().err
    assert not (here / "out").exists()
    chosen = "--metrics=motion_amplitude,free --compile_cache="
    assert run(f"score --videos=clips --out=out {chosen}") == 0
    assert "skipped: motion_amplitude: needs OpenCV" in capsys.readouterr().out
    assert (here / "out/free_measures.json").exists()


def test_what_could_not_be_measured_is_said_once_a_video(here, capsys):
    (here / "broken").mkdir()
    whole = (here / "clips/1_40_ori40.mp4").read_bytes()
    (here / "broken/1_40_ori40.mp4").write_bytes(whole)
    (here / "broken/2_40_ori40.mp4").write_bytes(whole[:400])
    assert run("score --videos=broken --out=out --metrics=free --compile_cache=") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not measured" in line]
    assert len(lines) == 1
    assert "free: " in lines[0]
    assert "2_40_ori40.mp4: damaged" in lines[0]


BAD = (
    "judge everything",
    "generate --out=v",
    "generate --out=v --prompts=none.csv",
    "generate --out=v --prompts=words.csv",
    "generate --out=v --prompts=short.csv",
    "generate --out=v --world=2 --durations=33,x",
    "generate --out=v --world=1 --checkpoint=empty",
    "score --videos=none --out=out",
    "score --videos=empty --out=out",
    "score --videos=clips --out=out --metrics=beauty",
    "score --videos=clips --out=out --weights=none",
    "score --videos=clips --out=out --weight=clip",
    "score --videos=clips --out=out --weight=raft=raft.pth",
    "score --videos=clips --out=out --judge_model=seer",
    "score --videos=clips --out=out --judge=http://127.0.0.1:1",
    "score --videos=clips --out=out --judge=127.0.0.1:1 --judge_model=seer",
    "score --videos=clips --out=out --truth=empty",
    "score --videos=clips --out=out --metrics=world",
    "score --videos=clips --out=out --metrics=semantic,aesthetic",
    "score --videos=clips --out=out extra",
    "merge none",
    "merge empty",
    "compare empty",
    "compare",
)
"""Commands that cannot be carried out; docs/bench.md has what each says."""


def complaint(text, capsys):
    """The line that a command ends with."""
    status = run(text)
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    return re.sub(r"^helios-jax bench\S*( \w+)?: ", "", said.strip())


@pytest.mark.parametrize("text", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(here, capsys, text):
    assert complaint(text, capsys)
    assert not (here / "out").exists()
    assert not [file for file in here.glob("v/*") if file.suffix == ".mp4"]


def test_the_table_of_bad_input_in_the_docs_is_what_is_said(here, capsys):
    rows = []
    for text in BAD:
        line = complaint(text, capsys).replace("|", "\\|")
        rows.append(f"| `bench {text}` | {line} |")
    table = "\n".join(["| command | line |", "|---|---|", *rows])
    assert table in DOCS.read_text(encoding="utf-8"), f"paste this into docs/bench.md:\n{table}"

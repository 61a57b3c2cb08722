"""helios-jax world: the clips and captions that it writes, and what it refuses."""

import json

import pytest

from helios_jax.commands import world
from helios_jax.world import caption, sample_scene

SMALL = ["--frames=5", "--height=32", "--width=48"]


def run(*arguments):
    return world.main(["helios-jax world", *arguments])


def read(folder):
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_it_writes_clips_and_captions(tmp_path):
    """As many as asked for, and a line with the caption of each."""
    assert run(f"--out={tmp_path / 'a'}", "--clips=3", *SMALL) == 0
    lines = read(tmp_path / "a")
    names = ["00000.mp4", "00001.mp4", "00002.mp4"]
    assert [line["path"] for line in lines] == names
    assert all((tmp_path / "a" / name).stat().st_size > 500 for name in names)
    assert lines[2]["caption"] == caption(sample_scene(0, 2), 2)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [*names, "captions.jsonl"]


def test_a_second_part_of_a_series_begins_where_the_first_ended(tmp_path):
    run(f"--out={tmp_path / 'a'}", "--clips=3", *SMALL)
    run(f"--out={tmp_path / 'b'}", "--clips=1", "--start=2", *SMALL)
    assert read(tmp_path / "b") == read(tmp_path / "a")[2:]
    assert (tmp_path / "b/00002.mp4").read_bytes() == (tmp_path / "a/00002.mp4").read_bytes()


@pytest.mark.parametrize("flag", ["clips=0", "height=33", "width=8", "seed=-1", "edition=3"])
def test_it_refuses_in_one_line_before_a_folder_is_made(tmp_path, capsys, flag):
    assert run(f"--out={tmp_path / 'clips'}", f"--{flag}") == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"--{flag}" in said.err
    assert not (tmp_path / "clips").exists()


def test_it_keeps_the_captions_of_a_folder(tmp_path, capsys):
    (tmp_path / "captions.jsonl").touch()
    assert run(f"--out={tmp_path}") == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["captions.jsonl"]

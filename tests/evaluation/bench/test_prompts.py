"""Tables of prompts."""

import time

import pytest

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.prompts import (
    BenchPrompt,
    choose_prompts,
    read_prompts,
    unread_columns,
    world_prompts,
    write_prompts,
)


def table(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_columns_of_the_benchmark_are_read(tmp_path):
    path = table(tmp_path, 'id,prompt,duration\n7,"a dog, running",240\n9,ein Café,120\n')
    assert read_prompts(path) == [
        BenchPrompt(7, "a dog, running", 240),
        BenchPrompt(9, "ein Café", 120),
    ]
    assert read_prompts(path)[0].video_name == "7_240_ori240.mp4"


def test_a_table_of_captions_alone_is_numbered(tmp_path):
    path = table(tmp_path, "caption,style\na dog,plain\na cat,plain\n")
    assert read_prompts(path) == [BenchPrompt(1, "a dog"), BenchPrompt(2, "a cat")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,words\n1,a dog\n", "no column prompt or caption or text; its columns are id, words"),
        ("", "it is empty"),
        ("id,prompt\n", "it has no rows"),
        ("id,prompt\n1,a\n1,b\n", "more than one prompt has the id 1"),
        ("id,prompt\nx,a\n", "row 1: id 'x' is not a whole number"),
        ("id,prompt\n1,a\n2,\n", "row 2: the prompt is empty"),
        ("id,prompt,duration\n1,a,0\n", "row 1: duration '0' is not a whole number from 1"),
        ("prompt,scene_seed\na,1\n", "row 1: scene_number ''"),
        ("prompt,scene_seed,scene_number,scene_split\na,1,2,test\n", "no such scene"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, text, reason):
    with pytest.raises(BenchError, match=reason):
        read_prompts(table(tmp_path, text))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(BenchError, match="No such file"):
        read_prompts(tmp_path / "none.csv")


def test_scenes_of_the_world_come_back_from_the_table(tmp_path):
    prompts = world_prompts(3, [33, 66])
    write_prompts(tmp_path / "prompts.csv", prompts)
    assert read_prompts(tmp_path / "prompts.csv") == prompts
    assert [prompt.frames for prompt in prompts] == [33, 66, 33]


def test_prompts_are_chosen_by_length():
    prompts = [BenchPrompt(i, "a dog", frames) for i, frames in enumerate([120, 240, 120, 120])]
    assert [p.number for p in choose_prompts(prompts, [120], limit=2)] == [0, 2]
    assert [p.number for p in choose_prompts(prompts, limit=1)] == [0, 1]
    chosen = choose_prompts(prompts, num_frames=33, limit=3)
    assert [p.video_name for p in chosen] == ["0_33_ori33.mp4", "1_33_ori33.mp4", "2_33_ori33.mp4"]
    with pytest.raises(BenchError, match="no prompt is 720"):
        choose_prompts(prompts, [720])
    with pytest.raises(BenchError, match="--num_frames"):
        choose_prompts([BenchPrompt(1, "a dog")])


def test_columns_that_are_passed_over_are_named(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("id,style,prompt,num_frames,seed\n1,oil,a dog,33,7\n")
    assert unread_columns(path) == ["style", "seed"]
    write_prompts(path, world_prompts(1, [33]))
    assert unread_columns(path) == []


@pytest.mark.parametrize(
    "text",
    ["id,prompt\n" + "9" * 5000 + ",a\n", "prompt\n" + "a\n" * 100_001, "prompt\n" + "a" * 2**24,
     "prompt,prompt\na,b\n", "prompt\n\"a" + "b" * 200_000 + "\n", "prompt,duration\na,1e9\n"],
)  # fmt: skip
def test_tables_beyond_the_limits_are_one_line_within_a_second(tmp_path, text):
    began = time.process_time()
    with pytest.raises(BenchError) as error:
        read_prompts(table(tmp_path, text))
    assert time.process_time() - began < 1
    assert len(str(error.value)) < 500

"""Making the videos of a benchmark."""

import json
import threading
import time

import jax
import numpy as np
import pytest

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.generate import generate_videos
from helios_jax.evaluation.bench.pieces import read_pieces
from helios_jax.evaluation.bench.prompts import BenchPrompt, read_prompts

PROMPTS = [BenchPrompt(number, f"prompt {number}", 40) for number in (1, 2, 3)]
CONDITIONS = {"checkpoint": "grey", "steps": [2, 2, 2]}


def make(prompt):
    """Frames as bright as the prompt's number, in two pieces."""
    for count in (33, prompt.frames - 33):
        yield np.full((count, 16, 16, 3), 40 * prompt.number, np.uint8)


def brightness(path):
    return np.concatenate(list(read_pieces(path))).mean()


def test_a_video_of_each_prompt_is_made_under_the_benchmarks_name(tmp_path):
    paths = generate_videos(PROMPTS, tmp_path, lambda: make, CONDITIONS)
    assert [path.name for path in paths] == [f"{n}_40_ori40.mp4" for n in (1, 2, 3)]
    assert brightness(paths[1]) == pytest.approx(80, abs=2)
    assert sum(len(piece) for piece in read_pieces(paths[0])) == 40
    assert read_prompts(tmp_path / "prompts.csv") == PROMPTS


def test_what_is_there_is_not_made_again(tmp_path):
    generate_videos(PROMPTS[:2], tmp_path, lambda: make, CONDITIONS)
    (first, second, _) = (tmp_path / prompt.video_name for prompt in PROMPTS)
    second.unlink()
    asked = []

    def again(prompt):
        asked.append(prompt.number)
        return make(prompt)

    before = first.stat().st_mtime_ns
    generate_videos(PROMPTS, tmp_path, lambda: again, CONDITIONS)
    assert sorted(asked) == [2, 3]
    assert first.stat().st_mtime_ns == before


def test_nothing_is_loaded_when_everything_is_there(tmp_path):
    generate_videos(PROMPTS[:1], tmp_path, lambda: make, CONDITIONS)
    generate_videos(PROMPTS[:1], tmp_path, lambda: pytest.fail("loaded"), CONDITIONS)


def test_a_video_that_fails_leaves_nothing_behind(tmp_path):
    def failing(prompt):
        yield from make(prompt)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        generate_videos(PROMPTS[:1], tmp_path, lambda: failing, CONDITIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.csv"]


def test_a_video_of_the_wrong_length_is_refused(tmp_path):
    long = [PROMPTS[0]._replace(frames=50)]
    with pytest.raises(BenchError, match="40 frames came, not 50"):
        generate_videos(
            long, tmp_path, lambda: lambda prompt: make(prompt._replace(frames=40)), CONDITIONS
        )


def test_speed_is_that_of_videos_whose_programs_were_compiled(tmp_path):
    waits = iter([0.5, 0.05])

    def slow(prompt):
        time.sleep(next(waits))
        yield from make(prompt)

    generate_videos(PROMPTS[:2], tmp_path, lambda: slow, CONDITIONS)
    content = json.loads((tmp_path / "generation.json").read_text())
    cold, warm = content["made"]
    assert (cold["warm"], warm["warm"]) == (False, True)
    assert content["frames per second"] == pytest.approx(40 / warm["seconds"], abs=1e-3)


def test_videos_of_two_kinds_do_not_share_a_folder(tmp_path):
    generate_videos(PROMPTS[:1], tmp_path, lambda: make, CONDITIONS)
    other = CONDITIONS | {"steps": [1, 1, 1]}
    with pytest.raises(BenchError, match="another steps"):
        generate_videos(PROMPTS, tmp_path, lambda: make, other)
    with pytest.raises(BenchError, match="another prompt 1"):
        generate_videos([PROMPTS[0]._replace(text="a cat")], tmp_path, lambda: make, CONDITIONS)


def test_every_device_has_a_pipeline_and_the_work_is_shared(tmp_path):
    meeting, seen = threading.Barrier(2, timeout=20), set()

    def load():
        seen.add(threading.get_ident())
        meeting.wait()  # neither begins before both have loaded
        return make

    devices = [jax.devices()[0]] * 2
    generate_videos(PROMPTS, tmp_path, load, CONDITIONS, devices=devices)
    assert len(seen) == 2
    assert all((tmp_path / prompt.video_name).exists() for prompt in PROMPTS)


def test_a_failure_on_one_device_ends_the_run(tmp_path):
    def failing(prompt):
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        generate_videos(
            PROMPTS, tmp_path, lambda: failing, CONDITIONS, devices=[jax.devices()[0]] * 2
        )

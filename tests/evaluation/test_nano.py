"""The evaluation runs on any checkpoint, keeps what it has found, and measures what it says."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax import checkpoint
from helios_jax.checkpoint.params import random_params
from helios_jax.commands import evaluate
from helios_jax.config import TextEncoderConfig
from helios_jax.evaluation.judge import ATTRIBUTES, interval
from helios_jax.evaluation.measures import frame_difference, psnr, statistics
from helios_jax.evaluation.nano import judge_clips
from helios_jax.evaluation.report import EvaluationError, load_results, table
from helios_jax.world import render
from helios_jax.world.readings import world_tokenizer
from helios_jax.world.scenes import Background, Object, Scene
from tests.toys import toy_config


def test_statistics_are_those_of_the_pictures():
    """Pure red is saturated and flat; stripes of one pixel are as sharp as can be."""
    red = np.zeros((2, 4, 6, 3), np.uint8)
    red[..., 0] = 255
    found = statistics(red)
    assert found["saturation"] == found["red mean"] == 1
    assert found["red deviation"] == found["green mean"] == found["sharpness"] == 0
    stripes = np.zeros((2, 4, 6, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert statistics(stripes)["sharpness"] == pytest.approx(1, rel=2e-7)  # float32
    assert frame_difference(stripes[0], red[0]) == pytest.approx(255 / 2)
    assert psnr(red, red - np.uint8(0)) > 100
    ten, twelve = (np.full((1, 2, 2, 3), level, np.uint8) for level in (10, 12))
    assert psnr(ten, twelve) == pytest.approx(20 * np.log10(255 / 2))


def test_intervals_are_wilsons():
    """0 of 10 and 10 of 10 mirror one another, and 60 of 64 is 85 to 98 %."""
    assert interval(0, 10)[0] == 0
    assert interval(10, 10)[1] == 1
    assert interval(0, 10)[1] == pytest.approx(1 - interval(10, 10)[0])
    assert interval(60, 64) == pytest.approx((0.850, 0.975), abs=1e-3)


def test_motions_are_counted_by_their_kind():
    """True clips are read rightly throughout; with their captions exchanged, motions are wrong, and
    each is counted under the kind that was asked for.
    """
    way = Scene(
        (Object("square", "white", "large", "right", "fast", (0.3, 0.5), 0.0),),
        Background("plain", ("navy",), "", 0.0),
        "still",
    )
    bounce = way._replace(objects=(way.objects[0]._replace(motion="bounce vertically"),))
    clips = [(scene, render(scene, 33, 64, 128)) for scene in (way, bounce)]
    assert judge_clips(clips)["motions"] == {
        "direction": (1, 1),
        "bounce": (1, 1),
        "spin": (0, 0),
        "pulse": (0, 0),
    }
    exchanged = judge_clips([(way, clips[1][1]), (way, clips[0][1]), (bounce, clips[0][1])])
    assert exchanged["motions"] == {
        "direction": (1, 2),
        "bounce": (0, 1),
        "spin": (0, 0),
        "pulse": (0, 0),
    }
    assert exchanged["attributes"]["motion"] == (1, 3)
    line = "* text: motions by kind: direction 50.0%, bounce 0.0%, spin -, pulse -"
    assert line in table({"text": exchanged})


def run(*arguments):
    return evaluate.main(["helios-jax evaluate", *arguments])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--parts=text,sound", "--parts: there is no sound, only vae, text"),
        ("--steps=2,two", "--steps takes whole numbers, not 'two'"),
        ("--checkpoint=nowhere", "nowhere is not a directory"),
        ("--prompts=0", "--prompts=0"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(tmp_path, capsys, flag, message):
    assert run(f"--out={tmp_path / 'found'}", flag) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"conditions": 1, "results": {}}', "[" * 10000]
)
def test_a_damaged_result_file_is_refused(tmp_path, content):
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"found\.json cannot be read"):
        load_results(tmp_path / "found", {"seed": 0}, overwrite=False)
    assert load_results(tmp_path / "found", {"seed": 0}, overwrite=True).parts == {}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of random weights that knows the words of the world."""
    config = toy_config().model
    text = TextEncoderConfig(vocab_size=256, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config = dataclasses.replace(config, text_encoder=text)
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = folder / "tokenizer.json"
    world_tokenizer().save(tokenizer)
    params = random_params(config, 0, jnp.float32)
    checkpoint.save(folder / "model", config, params, tokenizer=tokenizer)
    return folder / "model"


@pytest.mark.slow
def test_the_command_evaluates_a_model_and_goes_on_with_its_results(tmp_path, model, capsys):
    """Results of random weights: there, counted in full, and not made again; other conditions are
    refused.
    """
    arguments = [
        f"--checkpoint={model}",
        f"--out={tmp_path / 'found'}",
        "--prompts=2",
        "--frames=33",
        "--batch=2",
        "--parts=vae,text,long,speed",
        "--long=1",
        "--long_frames=231",
    ]
    assert run(*arguments) == 0
    assert "| text |" in capsys.readouterr().out
    before = (tmp_path / "found.json").read_text()
    found = json.loads(before)["results"]
    assert found.keys() == {"vae", "text", "long", "speed"}
    transformer = found["speed"]["seconds a chunk, transformer"]
    assert 0 < transformer < found["speed"]["seconds a chunk, all"]
    assert [row["chunk"] for row in found["long"]["rows"]] == list(range(7))
    # A curve of each of eight statistics, and of what is read rightly.
    assert (tmp_path / "found_long.svg").read_text().count("<polyline") == 9
    assert 0 < found["vae"]["psnr"] < 20
    for part in (found["vae"], found["text"]):
        assert part["attributes"].keys() == {*ATTRIBUTES, "all"}
        assert part["attributes"]["count"][1] == 2
    assert run(*arguments) == 0
    assert (tmp_path / "found.json").read_text() == before
    capsys.readouterr()
    assert run(*arguments, "--seed=1") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "made under other conditions" in said

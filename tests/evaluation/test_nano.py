"""The evaluation runs on any checkpoint, keeps what it has found, and measures what it says."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax import checkpoint
from helios_jax.checkpoint.params import random_params
from helios_jax.evaluation import nano
from helios_jax.evaluation.judge import ATTRIBUTES, interval
from helios_jax.world import render
from helios_jax.world.readings import world_tokenizer
from helios_jax.world.scenes import Background, Object, Scene

from ..training.toy import toy_config


def test_statistics_are_those_of_the_pictures():
    """Pure red is saturated and flat; stripes of one pixel are as sharp as can be."""
    red = np.zeros((2, 4, 6, 3), np.uint8)
    red[..., 0] = 255
    found = nano.statistics(red)
    assert (
        found["saturation"],
        found["red mean"],
        found["red deviation"],
        found["green mean"],
        found["sharpness"],
    ) == (1, 1, 0, 0, 0)
    stripes = np.zeros((2, 4, 6, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert nano.statistics(stripes)["sharpness"] == 1
    assert nano.difference(stripes[0], red[0]) == pytest.approx(255 / 2)
    assert nano.psnr(red, red - np.uint8(0)) > 100
    assert nano.psnr(
        np.full((1, 2, 2, 3), 10, np.uint8), np.full((1, 2, 2, 3), 12, np.uint8)
    ) == pytest.approx(20 * np.log10(255 / 2))


def test_intervals_are_wilsons():
    """0 of 10 and 10 of 10 mirror one another, and 60 of 64 is 85 to 98 %."""
    assert interval(0, 10)[0] == 0
    assert interval(10, 10)[1] == 1
    assert interval(0, 10)[1] == pytest.approx(1 - interval(10, 10)[0])
    assert interval(60, 64) == pytest.approx((0.850, 0.975), abs=1e-3)


def test_motions_are_counted_by_their_kind():
    """True clips are read rightly throughout; their captions exchanged, motions are wrong, each
    counted where it was asked for.
    """
    way = Scene(
        (Object("square", "white", "large", "right", "fast", (0.3, 0.5), 0.0),),
        Background("plain", ("navy",), "", 0.0),
        "still",
    )
    bounce = way._replace(objects=(way.objects[0]._replace(motion="bounce vertically"),))
    clips = [(scene, render(scene, 33, 64, 128)) for scene in (way, bounce)]
    assert nano.judged(clips)["motions"] == {
        "direction": (1, 1),
        "bounce": (1, 1),
        "spin": (0, 0),
        "pulse": (0, 0),
    }
    exchanged = nano.judged([(way, clips[1][1]), (way, clips[0][1]), (bounce, clips[0][1])])
    assert exchanged["motions"] == {
        "direction": (1, 2),
        "bounce": (0, 1),
        "spin": (0, 0),
        "pulse": (0, 0),
    }
    assert exchanged["attributes"]["motion"] == (1, 3)
    assert "* text: motions by kind: direction 50.0%, bounce 0.0%, spin -, pulse -" in nano.table(
        {"text": exchanged}
    )


@pytest.mark.slow
def test_the_command_looks_at_a_model_and_goes_on_where_it_was(tmp_path):
    """Results of random weights: there, counted in full, and not made again; other conditions are
    refused.
    """
    config = toy_config().model
    text = config.text_encoder.__class__(
        vocab_size=256, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    config = config.__class__(**{**config.__dict__, "text_encoder": text})
    world_tokenizer().save(tmp_path / "tokenizer.json")
    checkpoint.save(
        tmp_path / "model",
        config,
        random_params(config, 0, jnp.float32),
        tokenizer=tmp_path / "tokenizer.json",
    )
    command = [
        sys.executable,
        "-m",
        "helios_jax.evaluation.nano",
        f"--checkpoint={tmp_path / 'model'}",
        f"--out={tmp_path / 'found'}",
    ]
    command += [
        "--prompts=2",
        "--frames=33",
        "--batch=2",
        "--parts=vae,text,long,speed",
        "--long=1",
        "--long_frames=231",
    ]

    def run(*more):
        return subprocess.run([*command, *more], capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["results"].keys() == {"vae", "text", "long", "speed"}
    assert (
        0
        < found["results"]["speed"]["seconds a chunk, transformer"]
        < found["results"]["speed"]["seconds a chunk, all"]
    )
    assert [row["chunk"] for row in found["results"]["long"].pop("rows")] == list(range(7))
    assert (tmp_path / "found_long.svg").read_text().count(
        "<polyline"
    ) == 9  # a curve of each statistic, and of what is right
    assert 0 < found["results"]["vae"]["psnr"] < 20
    for part in (found["results"]["vae"], found["results"]["text"]):
        assert part["attributes"].keys() == {*ATTRIBUTES, "all"}
        assert part["attributes"]["count"][1] == 2
    assert "| text |" in done.stdout
    before = (tmp_path / "found.json").read_text()
    assert run().returncode == 0
    assert (tmp_path / "found.json").read_text() == before
    other = run("--seed=1")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "made under other conditions" in other.stderr

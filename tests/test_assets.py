"""What ships with the package: helios-nano."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import ModelCard

from helios_jax import nano
from helios_jax.checkpoint import load_config, load_params, load_tokenizer
from helios_jax.checkpoint.directory import open_checkpoint
from helios_jax.models.vae import VAE
from helios_jax.training.reconstruction import psnr, to_pixels
from helios_jax.world import render, sample_scene
from helios_jax.world.captions import caption
from helios_jax.world.readings import world_tokenizer

NANO = nano.ASSETS / "nano"
"""Distilled, which has the files of the parts that all three share."""


def test_the_vae_shows_held_out_clips_as_they_were():
    """Of 33 frames; its files have their digests, and its latents mean 0 and deviation 1."""
    config = load_config(NANO)
    params = load_params(NANO, "vae", lambda path: jnp.float32)
    vae = VAE(config.vae)

    @jax.jit
    def measure(frames):
        mean, logvar = vae.apply({"params": params}, to_pixels(frames), method="encode")
        decoded = vae.apply({"params": params}, mean, method="decode")
        deviation = jnp.sqrt(mean.var() + jnp.exp(logvar).mean())
        return psnr(decoded[0], frames[0]), mean.mean(), deviation

    found = []
    for number in range(3):
        clip = render(sample_scene(2000, number, "heldout"), 33, 64, 128, start=number)
        found.append(measure(clip[None]))
    quality, mean, deviation = np.mean(found, axis=0)
    assert quality > 27
    np.testing.assert_allclose([mean, deviation], [0, 1], atol=0.2)


def test_the_text_encoder_and_its_tokenizer_are_there():
    words = caption(sample_scene(0, 5))
    found, _ = load_tokenizer(NANO)([words], 64)
    expected, _ = world_tokenizer()([words], 64)
    np.testing.assert_array_equal(found, expected)
    text_encoder = load_params(NANO, "text_encoder", lambda path: jnp.float32)
    assert text_encoder["token_embedding"]["embedding"].shape == (512, 128)


@pytest.mark.parametrize(("folder", "steps"), [("nano-base", 1), ("nano-mid", 3), ("nano", 3)])
def test_every_stage_is_there(folder, steps):
    """Whole and unaltered, with the VAE and the text encoder that all share."""
    checkpoint = open_checkpoint(nano.ASSETS / folder)
    checkpoint.files.check()
    assert len(checkpoint.config.sample.steps) == steps
    for part in ("vae", "text_encoder", "tokenizer"):
        assert checkpoint.files.path(part).resolve() == NANO / part


def test_the_assets_are_few_files_and_no_links():
    files = [path for path in nano.ASSETS.rglob("*") if not path.is_dir()]
    assert len(files) <= 20
    assert not any(path.is_symlink() for path in nano.ASSETS.rglob("*"))
    assert sum(path.stat().st_size for path in files) < 35e6


def test_the_default_is_base_and_any_of_the_three_is_known_as_nano():
    """Base draws what its prompt says best; advice is given for each of the three."""
    assert load_config(nano.CHECKPOINT).sample.steps == (30,)
    assert all(nano.is_nano(nano.ASSETS / name) for name in ("nano", "nano-base", "nano-mid"))
    assert not nano.is_nano("checkpoints/nano-base")


def test_it_says_what_it_knows_to_who_asks_for_more():
    """Words that its captions never had are named, each once; of those in its examples and captions
    there are none.
    """
    tokenizer = load_tokenizer(NANO)
    told = nano.advice(
        ["A red ball rolls (slowly) over green grass, to the RIGHT!", "a tiny ball"], tokenizer
    )
    assert told.startswith("helios-nano does not know these words: ball, rolls, grass. ")
    assert all(example in told for example in nano.EXAMPLES)
    captions = [caption(sample_scene(1, number), number) for number in range(100)]
    assert nano.advice([*nano.EXAMPLES, *captions], tokenizer) == ""


@pytest.mark.parametrize(
    ("name", "result"),
    [("nano-base", "nano_base_128"), ("nano-mid", "nano_mid"), ("nano", "nano_distilled_128")],
)
def test_a_model_card_is_the_hubs_and_has_the_measured_score(name, result):
    """The Hub's own reader takes its header; the score is that of the results."""
    card = ModelCard.load(nano.ASSETS / name / "README.md")
    data = card.data
    assert (data.license, data.library_name) == ("apache-2.0", "helios-jax")
    assert data.pipeline_tag == "text-to-video"
    [measured] = data.eval_results
    file = Path(__file__).parents[1] / "benchmarks" / "results" / f"{result}.json"
    right, total = json.loads(file.read_text())["results"]["text"]["attributes"]["all"]
    assert measured.metric_value == round(right / total, 3)
    [said] = re.findall(r"a judge reads\s+([\d.]+)\s+%", card.text)
    assert abs(float(said) - 100 * right / total) < 0.5

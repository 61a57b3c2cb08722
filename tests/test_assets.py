"""What ships with the package: helios-nano."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax import nano
from helios_jax.checkpoint import load_config, load_params
from helios_jax.checkpoint.files import check_digests, read_digests
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.models.vae import VAE
from helios_jax.training.reconstruction import psnr, to_pixels
from helios_jax.world import render, sample_scene
from helios_jax.world.captions import caption
from helios_jax.world.readings import world_tokenizer

NANO = nano.CHECKPOINT


def test_the_vae_shows_held_out_clips_as_they_were():
    """Of 33 frames; its files have their digests, and its latents mean 0 and deviation 1."""
    config, params = load_config(NANO), load_params(NANO, "vae", lambda path: jnp.float32)
    vae = VAE(config.vae)

    @jax.jit
    def look(frames):
        mean, logvar = vae.apply({"params": params}, to_pixels(frames), method="encode")
        return (
            psnr(vae.apply({"params": params}, mean, method="decode")[0], frames[0]),
            mean.mean(),
            jnp.sqrt(mean.var() + jnp.exp(logvar).mean()),
        )

    clips = [
        render(sample_scene(2000, number, "heldout"), 33, 64, 128, start=number)
        for number in range(3)
    ]
    seen = np.mean([look(clip[None]) for clip in clips], axis=0)
    assert seen[0] > 27
    np.testing.assert_allclose(seen[1:], [0, 1], atol=0.2)


def test_the_text_encoder_and_its_tokenizer_are_there():
    tokenizer, words = Tokenizer.from_file(NANO / "tokenizer"), caption(sample_scene(0, 5))
    np.testing.assert_array_equal(tokenizer([words], 64)[0], world_tokenizer()([words], 64)[0])
    assert load_params(NANO, "text_encoder", lambda path: jnp.float32)["token_embedding"][
        "embedding"
    ].shape == (512, 128)


@pytest.mark.parametrize(("folder", "steps"), [("nano-base", 1), ("nano-mid", 3), ("nano", 3)])
def test_every_stage_is_there(folder, steps):
    """Whole and unaltered, with the VAE and the text encoder that all share."""
    there = nano.ASSETS / folder
    digests = read_digests(there)
    check_digests(there, digests, digests)
    assert len(load_config(there).sample.steps) == steps
    assert (there / "vae").resolve() == NANO / "vae"


def test_it_says_what_it_knows_to_who_asks_for_more():
    """Words that its captions never had are named, each once; of those in its examples and captions
    there are none.
    """
    tokenizer = Tokenizer.from_file(NANO / "tokenizer")
    told = nano.advice(
        ["A red ball rolls (slowly) over green grass, to the RIGHT!", "a tiny ball"], tokenizer
    )
    assert told.startswith("helios-nano has never seen ball, rolls, grass: ")
    assert all(example in told for example in nano.EXAMPLES)
    captions = [caption(sample_scene(1, number), number) for number in range(100)]
    assert nano.advice([*nano.EXAMPLES, *captions], tokenizer) == ""


def test_all_of_it_is_small():
    assert sum(file.stat().st_size for file in NANO.parent.rglob("*") if file.is_file()) < 40e6

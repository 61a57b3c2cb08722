"""The VAE learns from clips of the world, and its run becomes a checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint import load_config, load_params
from helios_jax.checkpoint.params import random_params
from helios_jax.config import ConfigError
from helios_jax.data.batches import DataConfig
from helios_jax.diffusion.pyramid import downsample
from helios_jax.models.vae import VAE
from helios_jax.training.config import TrainableConfig, ValidationConfig
from helios_jax.training.export import export_merged
from helios_jax.training.objectives import OBJECTIVES, load_data
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.reconstruction import (
    init_params,
    make_loss,
    psnr,
    standardized,
    to_pixels,
)
from helios_jax.training.step import init_state
from helios_jax.world.clips import ClipConfig
from tests.toys import toy_config


def vae_run(**changes):
    values = dict(
        clips=ClipConfig(frames=5, window=(16, 24), validation_frames=9),
        trainable=TrainableConfig(rank=0, full=".*"),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        data=DataConfig(batch_size=2, read_threads=0),
        validation=ValidationConfig(every=1, batches=2),
    )
    return toy_config("reconstruction", **(values | changes))


@pytest.fixture(scope="module")
def run():
    config = vae_run()
    return config, random_params(config.model, 0, jnp.float32)["vae"], *load_data(config)


@pytest.mark.slow
def test_the_loss_falls_and_the_pictures_come_nearer(run):
    """A few steps on the same two clips."""
    config, params, batches, validation = run
    objective = OBJECTIVES["reconstruction"]
    step = jax.jit(objective.make_step(config))
    state = init_state(config, params)
    batch = next(batches)
    losses = []
    for _ in range(12):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    validate = objective.make_validation(config)
    before = validate(params, {}, validation)
    after = validate(state.trainable, {}, validation)
    assert after["validation_psnr"] > before["validation_psnr"] + 1


def test_equivariance_adds_the_distance_of_half_size_clips():
    """Decoded from the means of 2 x 2 latents."""
    clips = ClipConfig(frames=1, window=(16, 32), validation_frames=1)
    plain = vae_run(clips=clips)
    equivariant = vae_run(clips=clips, equivariance_weight=0.5)
    params = random_params(plain.model, 0, jnp.float32)["vae"]
    batch = next(load_data(plain)[0])
    losses = []
    for config in (plain, equivariant):
        outcome = jax.jit(make_loss(config))(params, {}, batch)
        losses.append(float(outcome[0]))
    vae = VAE(plain.model.vae)
    encode = jax.jit(functools.partial(vae.apply, method="encode"))
    decode = jax.jit(functools.partial(vae.apply, method="decode_unclipped"))
    pixels = to_pixels(batch.frames)
    mean, logvar = encode({"params": params}, pixels)
    keys = [jax.random.fold_in(jax.random.key(plain.seed), number) for _, number in batch.sample]
    noise = jnp.stack([jax.random.normal(key, mean.shape[1:]) for key in keys])
    latents = downsample(mean + jnp.exp(0.5 * logvar) * noise)
    error = decode({"params": params}, latents) - downsample(pixels)
    expected = 0.5 * float(jnp.mean(jnp.abs(error) + error**2))
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)


def test_what_has_learned_pictures_alone_shows_every_fourth_frame_of_a_clip(run):
    """A VAE at its beginning, or after training on single frames, which touches nothing that looks
    back in time.
    """
    config, params, _, validation = run
    begun = init_params(params)
    show = jax.jit(lambda params, x: VAE(config.model.vae).apply({"params": params}, x))
    clip = to_pixels(validation[0].frames)
    pictures = [show(begun, clip[:, t : t + 1]) for t in (0, 4, 8)]
    expected = jnp.concatenate([pictures[0], *([pictures[1]] * 4), *([pictures[2]] * 4)], axis=1)
    np.testing.assert_allclose(
        show(begun, clip), expected, atol=2e-5
    )  # Winograd's sums are not those of pictures
    assert float(jnp.abs(show(params, clip) - expected).max()) > 0.1


def test_psnr_is_that_of_bytes():
    """An error of 2 levels of 255 everywhere is 42.11 dB, and the fractions of a level that bytes
    cannot hold do not count.
    """
    frames = np.full((2, 4, 4, 3), 100, np.uint8)
    pixels = to_pixels(jnp.asarray(frames)[None])[0] + (2.3 / 127.5)
    assert float(psnr(pixels, frames)) == pytest.approx(20 * np.log10(255 / 2), abs=1e-3)


def test_a_standardized_vae_decodes_the_same_from_latents_of_mean_0_and_deviation_1(run):
    """Latents are standardized channel by channel, the posterior's noise included, and the decoder
    takes it back.
    """
    config, params, _, validation = run
    standard = standardized(config, params, validation)
    vae = VAE(config.model.vae)
    encode = jax.jit(lambda params, x: vae.apply({"params": params}, x, method="encode"))
    decode = jax.jit(lambda params, x: vae.apply({"params": params}, x, method="decode_unclipped"))
    ours, theirs = (
        [encode(p, to_pixels(batch.frames)) for batch in validation] for p in (standard, params)
    )
    mean, logvar = (np.concatenate([part[i].reshape(-1, 4) for part in ours]) for i in range(2))
    np.testing.assert_allclose(mean.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(mean.var(0) + np.exp(logvar).mean(0), 1, rtol=1e-5)
    np.testing.assert_allclose(
        decode(standard, ours[0][0]), decode(params, theirs[0][0]), atol=1e-4
    )


@pytest.mark.slow
def test_a_run_becomes_a_checkpoint_of_the_vae_alone_or_with_the_rest_of_another(run, tmp_path):
    """The VAE is the run's, standardized; other parts come from --base, untouched."""
    config, params, _, validation = run
    export_merged(config, params, tmp_path / "vae")
    assert load_config(tmp_path / "vae") == config.model
    assert sorted(path.name for path in (tmp_path / "vae").iterdir() if path.is_dir()) == ["vae"]
    found = load_params(tmp_path / "vae", "vae")
    mean, logvar = VAE(config.model.vae).apply(
        {"params": found}, to_pixels(jnp.asarray(validation[0].frames)), method="encode"
    )
    assert float(jnp.abs(mean.mean())) < 0.2
    assert 0.8 < float(jnp.sqrt(mean.var() + jnp.exp(logvar).mean())) < 1.2
    export_merged(config, params, tmp_path / "half", base=str(tmp_path / "vae"), dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(load_params(tmp_path / "half", "vae"))} == {
        "bfloat16"
    }
    export_merged(config, params, tmp_path / "both", base=str(tmp_path / "vae"))
    assert (
        float(
            jnp.abs(
                load_params(tmp_path / "both", "vae")["quant_conv"]["bias"]
                - found["quant_conv"]["bias"]
            ).max()
        )
        == 0
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            dict(clips=ClipConfig(window=(128, 24))),
            r"window=\(128, 24\) is larger than the frames of 64x128",
        ),
        (
            dict(trainable=TrainableConfig(rank=4, full=".*")),
            "trainable.rank.* the objective is 'reconstruction'",
        ),
    ],
)
def test_runs_that_cannot_be_are_refused(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        load_data(vae_run(**changes))


def test_clips_follow_from_the_step_alone():
    """Every process draws its own rows, a resumed run the same ones, and no scene comes twice."""
    config = vae_run()
    load = OBJECTIVES["reconstruction"].load
    whole = load(config, "train", config.data.loader())
    parts = [load(config, "train", config.data.loader(i, 2)) for i in range(2)]
    batches = [next(whole) for _ in range(3)]
    for batch, *shares in zip(batches, *parts):
        np.testing.assert_array_equal(
            batch.frames, np.concatenate([share.frames for share in shares])
        )
    assert [list(batch.sample[:, 1]) for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    assert batches[0].frames.shape == (2, 5, 16, 24, 3)
    resumed = load(config, "train", config.data.loader())
    next(whole)
    resumed.set_state(whole.get_state())
    np.testing.assert_array_equal(next(whole).frames, next(resumed).frames)
    for data in (whole, resumed, *parts):
        data.close()

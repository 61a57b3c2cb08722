"""The text encoder learns to tell what captions say, and its run becomes a checkpoint with its
tokenizer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.checkpoint import load_params
from helios_jax.checkpoint.params import random_params
from helios_jax.config import ConfigError
from helios_jax.data.batches import DataConfig
from helios_jax.data.errors import DataError
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.training.config import TrainableConfig, ValidationConfig
from helios_jax.training.export import export_merged
from helios_jax.training.objectives import OBJECTIVES, find_objective, load_data
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.reading import READER, make_loss
from helios_jax.training.step import init_state
from helios_jax.world.captions import caption
from helios_jax.world.readings import OBJECT_QUESTIONS, SCENE_QUESTIONS, answers, world_tokenizer
from helios_jax.world.scenes import COLORS, MOTIONS, SHAPES, sample_scene
from tests.toys import toy_config

OBJECTIVE = OBJECTIVES["reading"]


def text_run(vocab_size=256, **changes):
    model = toy_config().model
    text = model.text_encoder.__class__(
        vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    values = dict(
        model=model.__class__(**{**model.__dict__, "text_encoder": text}),
        trainable=TrainableConfig(rank=0, full=".*"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        data=DataConfig(batch_size=4, text_rows=64, read_threads=0),
        validation=ValidationConfig(every=1, batches=2),
    )
    return toy_config("reading", **(values | changes))


@pytest.fixture(scope="module")
def run():
    config = text_run()
    params = random_params(config.model, 0, jnp.float32)["text_encoder"] | OBJECTIVE.extra_params(
        config
    )
    return config, params, *load_data(config)


def test_answers_are_those_of_the_scene():
    """Every object under its colour, nothing under the others, and the caption names what is
    answered.
    """
    for number in range(20):
        scene = sample_scene(3, number)
        of_colors, of_scene = answers(scene)
        there = {list(COLORS)[row]: values for row, values in enumerate(of_colors) if values[0]}
        assert there.keys() == {thing.color for thing in scene.objects}
        for thing in scene.objects:
            _, shape, _, motion, _ = there[thing.color]
            assert (SHAPES[shape], MOTIONS[motion]) == (thing.shape, thing.motion)
        absent = of_colors[of_colors[:, 0] == 0]
        assert (absent[:, 1:] == -1).all()
        assert (of_scene >= 0).all()


def test_the_tokenizer_knows_every_word_of_the_world_in_small_letters_and_capitals():
    """One token a word, however it is written, and no word is unknown that can be typed."""
    tokenizer = world_tokenizer()
    ids, [length] = tokenizer([caption(sample_scene(1, 3), 3)], 80)
    assert (
        length
        == len(caption(sample_scene(1, 3), 3).replace(".", " .").replace(",", " ,").split()) + 1
    )
    np.testing.assert_array_equal(tokenizer([caption(sample_scene(1, 3), 3).upper()], 80)[0], ids)
    strange, [length] = tokenizer(["A zebra!"], 80)
    assert (strange[0, :length] > 0).all()
    assert 2 not in strange[0, :length]


@pytest.mark.slow
def test_the_loss_falls_and_more_is_read(run):
    config, params, batches, _ = run
    step = jax.jit(OBJECTIVE.make_step(config))
    state = init_state(config, params)
    batch = next(batches)
    losses = []
    for _ in range(30):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]
    shares = OBJECTIVE.make_validation(config)(state.trainable, {}, [batch])
    assert shares.keys() == {
        f"validation_{name}" for name in (*OBJECT_QUESTIONS, "pattern", "camera", "behind")
    }
    assert shares["validation_behind"] > 0.8
    assert len(SCENE_QUESTIONS) == batch.scene.shape[1]


def test_what_is_not_asked_does_not_count(run):
    """Attributes of objects that are not there change nothing, right and wrong answers alike."""
    config, params, batches, _ = run
    loss = jax.jit(make_loss(config))
    batch = next(batches)
    value = loss(params, {}, batch)
    unasked = np.where(batch.objects < 0, -7, batch.objects).astype(np.int32)
    np.testing.assert_array_equal(loss(params, {}, batch._replace(objects=unasked)), value)
    other = batch.objects.copy()
    other[:, :, 0] = 1 - other[:, :, 0]
    assert abs(float(loss(params, {}, batch._replace(objects=other))[0] - value[0])) > 1e-3


def test_a_run_becomes_a_checkpoint_with_its_tokenizer_and_without_the_reader(run, tmp_path):
    config, params, _, _ = run
    export_merged(config, params, tmp_path / "text")
    found = load_params(tmp_path / "text", "text_encoder")
    assert READER not in found
    np.testing.assert_array_equal(
        found["token_embedding"]["embedding"], params["token_embedding"]["embedding"]
    )
    tokenizer = Tokenizer.from_file(tmp_path / "text" / "tokenizer")
    np.testing.assert_array_equal(
        tokenizer(["a small red star"], 8)[0], world_tokenizer()(["a small red star"], 8)[0]
    )


def test_runs_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="vocab_size=64 must be at least"):
        load_data(text_run(vocab_size=64))
    with pytest.raises(ConfigError, match="the objective is 'reading'"):
        find_objective(text_run(offload=True))

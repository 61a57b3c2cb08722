"""What a step does with a loss, whatever network it comes from: skip, count, accumulate, average;
and what recipes train.
"""

import contextlib
import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint.params import abstract_params
from helios_jax.config import ConfigError
from helios_jax.data.batches import DataConfig
from helios_jax.data.errors import DataError
from helios_jax.models.layers import Projection
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training.abstract import abstract_run
from helios_jax.training.config import (
    AdversarialConfig,
    DistillationConfig,
    EMAConfig,
    TrainableConfig,
)
from helios_jax.training.denoising import denoising_batch, draw_denoising, make_denoising_loss
from helios_jax.training.flow import sample_targets
from helios_jax.training.objectives import OBJECTIVES, find_objective, load_data
from helios_jax.training.optimizer import OptimizerConfig, make_optimizer
from helios_jax.training.step import init_state, make_step
from helios_jax.training.targets import TimestepConfig
from helios_jax.training.trainable import count, frozen, init_trainable
from tests.toys import ONE_STAGE, TRANSFORMER, toy_batch, toy_config, write_records


class Linear(HeliosTransformer):
    """A network in the transformer's place, linear in all it is given: it compiles in a second."""

    def setup(self):
        self.proj_out, self.patch_short, self.text_embedder = (
            Projection((self.config.out_channels,)) for _ in range(3)
        )

    def embed_text(self, text, lengths, total):
        return self.text_embedder(text.sum(1) / total)

    def embed_history(self, history, frames):
        return self.patch_short(sum(part.mean((1, 2, 3)) for part in history))

    def embed_time(self, timestep):
        return timestep / 1000

    def denoise(self, latents, time, text, history, frames, hooks=None):
        return self.proj_out(latents) + (text + history + time[:, None])[:, None, None, None]


def linear_run(objective="flow", **changes):
    """A run that trains all kinds of leaves of the linear network: its model, configuration, and
    parameters.
    """
    options = dict(
        trainable=TrainableConfig(rank=2, lora="proj_out", full="(patch_short|text_embedder)/.*"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        ema=EMAConfig(decay=0.9, start=1),
    )
    config = toy_config(objective, **(options | changes))
    ins = {"proj_out": 4, "patch_short": 4, "text_embedder": 16}
    rng = np.random.default_rng(0)
    params = {
        name: {
            "kernel": jnp.asarray(rng.standard_normal((size, 4), np.float32)) * 0.3,
            "bias": jnp.zeros(4),
        }
        for name, size in ins.items()
    }
    return Linear(TRANSFORMER), config, params


def linear_loss(model, config):
    """The denoising loss of the linear network."""
    return make_denoising_loss(OBJECTIVES[config.objective].make_targets, config, model)


def program(objective="flow", **changes):
    """``step(state, batch)``, the state it starts from, and the run."""
    model, config, params = linear_run(objective, **changes)
    base = frozen(params, config.trainable)
    step = jax.jit(make_step(linear_loss(model, config), config))
    # Placed, as what comes out of a step is: else the second step would compile anew.
    state = jax.device_put(init_state(config, params), jax.devices()[0])
    return lambda state, batch: step(state, base, batch), state, (model, config, params)


@pytest.fixture(scope="module")
def flow():
    return program()


def spoiled(batch):
    """A batch with one value that is no number."""
    target = np.array(batch.target)
    target[1, 0, 0, 0, 0] = np.nan
    return batch._replace(target=target)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
    """Trees equal to 1e-5 of each leaf's norm."""
    for path, leaf in flatten_dict(expected, sep="/").items():
        difference = np.linalg.norm(
            np.asarray(flatten_dict(found, sep="/")[path]) - np.asarray(leaf)
        )
        assert difference <= 1e-5 * np.linalg.norm(leaf) + 1e-12, path


def moments(state):
    """AdamW's first moments, which are linear in the gradient."""
    return optax.tree_utils.tree_get(state.optimizer, "mu")


def test_a_step_is_one_of_the_optimiser_with_the_losses_gradient(flow):
    """The loss is the items' mean, and the norm is that of the gradient before it is clipped."""
    step, state, (model, config, params) = flow
    batch = toy_batch(config)
    base = frozen(params, config.trainable)
    loss = linear_loss(model, config)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda trainable: loss(trainable, base, batch).mean())
    )(state.trainable)
    after, metrics = step(state, batch)
    updates, _ = make_optimizer(config.optimizer).update(gradient, state.optimizer, state.trainable)
    assert_close(after.trainable, optax.apply_updates(state.trainable, updates))
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-6)
    assert float(metrics["gradient_norm"]) == pytest.approx(
        np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient))), rel=1e-5
    )
    assert flatten_dict(after.trainable, sep="/").keys() == {
        *(
            f"{name}/{leaf}"
            for name in ("patch_short", "text_embedder")
            for leaf in ("kernel", "bias")
        ),
        "proj_out/lora_a",
        "proj_out/lora_b",
    }


@pytest.mark.parametrize("objective", ["flow", "pyramid"])
def test_steps_on_one_batch_reduce_its_loss(objective, flow):
    """A batch has the same draws at every step, so that its loss goes down; a pyramid has a metric
    for each item.
    """
    step, state, (_, config, _) = flow if objective == "flow" else program(objective)
    batch = toy_batch(config)
    seen = []
    for _ in range(20):
        state, metrics = step(state, batch)
        seen.append(float(metrics["loss"]))
    assert np.all(np.diff(seen) < 0)
    assert seen[-1] < 0.9 * seen[0]
    items = [float(metrics[name]) for name in sorted(metrics) if name.startswith("loss_")]
    assert len(items) == (0 if objective == "flow" else 4)
    assert objective == "flow" or np.mean(items) == pytest.approx(seen[-1], rel=1e-6)
    assert state.step == 20


def test_a_step_without_a_finite_loss_changes_nothing_but_the_counts(flow):
    """One bad sample spoils its step and no other: it is counted, in all and in a row, and the next
    good step begins a new row.
    """
    step, state, (_, config, _) = flow
    good = toy_batch(config)
    before, _ = step(state, good)
    once, metrics = step(before, spoiled(good))
    assert not np.isfinite(metrics["loss"])
    for part in ("trainable", "optimizer", "ema"):
        assert_equal(getattr(once, part), getattr(before, part))
    assert (int(once.step), once.skipped.tolist()) == (2, [1, 1])
    twice, metrics = step(once, spoiled(good))
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 2)
    after, metrics = step(twice, good)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
    unspoiled, _ = step(before, good)
    assert_equal(
        (after.trainable, after.optimizer, after.ema),
        (unspoiled.trainable, unspoiled.optimizer, unspoiled.ema),
    )


def test_the_average_copies_then_follows_and_skipped_steps_do_not_count(flow):
    """With start 1 it is a copy through update 2; then it keeps min((1 + s) / (10 + s), .9) with s
    = n - 2 of itself at update n.
    """
    step, state, (_, config, _) = flow
    average = state.trainable
    batch = toy_batch(config)
    n = 0
    for bad in (False, False, True, False, False):
        state, _ = step(state, spoiled(batch) if bad else batch)
        if not bad:
            n += 1
            keep = min((n - 1) / (n + 8), 0.9) if n > 2 else 0.0
            average = jax.tree.map(
                lambda e, p, keep=keep: keep * e + (1 - keep) * p, average, state.trainable
            )
        assert_close(state.ema, average)
    assert any(
        np.any(e != p) for e, p in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.trainable))
    )


def test_a_batch_in_parts_is_the_batch_at_once(flow):
    """Loss, gradient (by AdamW's first moment) and updated weights to 1e-5."""
    step, state, (_, config, _) = flow
    in_parts, _, _ = program(accumulate=2)
    (once, alone), (parts, summed) = (take(state, toy_batch(config)) for take in (step, in_parts))
    assert float(summed["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-5)
    assert float(summed["gradient_norm"]) == pytest.approx(float(alone["gradient_norm"]), rel=1e-5)
    assert_close(moments(parts), moments(once))
    assert_close(parts.trainable, once.trainable)


def test_draws_of_a_sample_do_not_depend_on_the_batch_it_is_in():
    """Only on the seed, the epoch and the record."""
    config = toy_config("pyramid", data=dataclasses.replace(toy_config().data, batch_size=3))
    draw = jax.jit(lambda batch: draw_denoising(config, batch, items=4))
    batch = toy_batch(config)
    draws = draw(batch)
    others = draw(batch._replace(sample=np.array([[7, 7], [0, 2], [1, 2]], np.uint32)))
    jax.tree.map(
        lambda here, there: np.testing.assert_array_equal(here[2], there[1]), draws, others
    )
    noise = np.concatenate([draws.flow.noise, others.flow.noise])
    assert len(np.unique(noise[:, 0, 0, 0, 0])) == 5
    assert len(np.unique(draws.flow.index)) == 12


def test_dropped_captions_are_no_text_at_all():
    """As often as asked for; neither features nor length are left, and samples beside one that lost
    its caption keep theirs.
    """
    config = toy_config(caption_dropout=0.25)
    batch = toy_batch(config)
    sample = np.stack([np.zeros(2000), np.arange(2000)], axis=1).astype(np.uint32)
    many = batch._replace(target=np.zeros((2000, 2, 2, 2, 4), np.float32), sample=sample)
    keeps = jax.jit(lambda batch: draw_denoising(config, batch, items=1).text)(many)
    share = 1 - np.asarray(keeps).mean()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)

    @jax.jit
    def conditioning(batch, text):
        draws = draw_denoising(config, batch, items=1)._replace(text=text)
        return denoising_batch(batch, draws, config, sample_targets).conditioning

    shown = conditioning(batch, jnp.array([False, True]))
    assert not np.any(shown.text[0])
    np.testing.assert_array_equal(shown.text[1], batch.text[1])
    assert shown.length.tolist() == [0, int(batch.length[1])]


def read_recipe(name, *variant):
    """A recipe of configs/train/."""
    return importlib.import_module(f"helios_jax.configs.train.{name}").recipe(*variant)


RECIPES = {
    "stage1_init": (647_756_800, 11_040),
    "stage1_post": (647_756_800, 11_040),
    "stage2_init": (1_246_314_496, 23_100),
    "stage2_post": (1_252_769_792, 18_540),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_recipes_train_the_published_numbers_of_parameters_and_tokens(name, variant):
    """And freeze the rest: the 14 billion, and the history patches where they do not train; tokens
    are those of every sample at 384 x 640.
    """
    config = read_recipe(name, variant)
    state, base, batch = abstract_run(config)
    parameters, tokens = RECIPES[name]
    assert count(state.trainable) == parameters
    assert batch.target.shape[1:4] == (9, 48, 80)
    assert find_objective(config).cost(config, state.trainable, batch).tokens == tokens
    assert count(base) == 14_288_491_584 + (0 if config.trainable.full else 23_936_000)


@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_the_third_stage_trains_the_published_numbers_of_parameters(variant):
    """The student's adapters are those of its beginning; the critic's on the linear layers alone,
    beside its heads; both stand on whole models.
    """
    state, base, batch = abstract_run(read_recipe("stage3_ode"))
    assert (count(state.trainable), count(base)) == (1_251_442_688, 14_312_427_584)
    assert [point.shape for point in batch.points] == [
        (1, 9, 12, 20, 16),
        (1, 9, 24, 40, 16),
        (1, 9, 48, 80, 16),
    ]
    state, base, _ = abstract_run(read_recipe("stage3_post", variant))
    assert (count(state.trainable["student"]), count(state.trainable["critic"])) == (
        1_251_442_688,
        1_246_314_496,
    )
    assert count(base["student"]) == count(base["teacher"]) == 14_312_427_584
    assert count(state.ema) == 1_251_442_688
    state, _, _ = abstract_run(read_recipe("stage3_gan"))
    assert {name: count(tree) for name, tree in state.trainable["critic"].items()} == {
        "network": 1_246_314_496,
        "heads": 988_359_941,
    }


def test_what_trains_and_what_is_frozen_are_together_the_model():
    """Nothing is in both; adapters are added; leaves that train are float32 whatever they were."""
    config = toy_config()
    params = abstract_params(config.model, jnp.bfloat16)["transformer"]
    split = lambda params: (
        init_trainable(params, config.trainable, jax.random.key(0)),
        frozen(params, config.trainable),
    )
    trainable, base = jax.eval_shape(split, params)
    of = lambda tree: {path for path in flatten_dict(tree, sep="/") if "lora_" not in path}
    assert of(trainable) == {
        f"patch_{name}/{leaf}" for name in ("short", "mid", "long") for leaf in ("kernel", "bias")
    }
    assert of(trainable).isdisjoint(of(base))
    assert of(trainable) | of(base) == of(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainable)} == {np.dtype(np.float32)}


BAD_TRAINABLES = {
    "no module": (dict(lora="attn9"), "trainable.lora: no module matches 'attn9'"),
    "no parameter": (dict(full="head/.*"), "trainable.full='head/.*' matches no parameter"),
    "twice": (
        dict(lora="proj_out", full="proj_out/kernel"),
        "proj_out would train in full and have an adapter",
    ),
}


@pytest.mark.parametrize("case", BAD_TRAINABLES)
def test_expressions_that_fit_nothing_or_too_much_are_refused(case):
    changes, says = BAD_TRAINABLES[case]
    params = abstract_params(toy_config().model, jnp.float32)["transformer"]
    with pytest.raises(ConfigError, match=says):
        jax.eval_shape(
            lambda params: init_trainable(
                params, TrainableConfig(rank=2, **changes), jax.random.key(0)
            ),
            params,
        )


UNSHIFTED = dataclasses.replace(
    toy_config().model, scheduler=dataclasses.replace(ONE_STAGE, use_dynamic_shifting=False)
)
BAD_RUNS = {
    "several resolutions of a flow": (
        "flow",
        dict(model=toy_config("pyramid").model),
        "the objective 'flow' trains one resolution, but model.scheduler.stages is 3",
    ),
    "a student of another solver": (
        "ode",
        dict(model=toy_config("pyramid").model),
        "a student's model.scheduler.solver is 'dmd', not 'unipc'",
    ),
    "a distillation in parts": (
        "distillation",
        dict(accumulate=2),
        "accumulate is not for the objective 'distillation'",
    ),
    "hooks in blocks that are not there": (
        "distillation",
        dict(
            distillation=DistillationConfig(adversarial=AdversarialConfig(width=32, hooks=(0, 1)))
        ),
        r"hooks=\(0, 1\) must be among the blocks 0 to 0",
    ),
    "items for each level": (
        "pyramid",
        dict(pyramid_items=(1, 1)),
        "pyramid_items needs a number for each of the 3 stages",
    ),
    "items that are none": (
        "pyramid",
        dict(pyramid_items=(0, 0, 0)),
        "must be whole numbers that are not all 0",
    ),
    "items below none": (
        "pyramid",
        dict(pyramid_items=(1, -1, 1)),
        "must be whole numbers that are not all 0",
    ),
    "a shifted pyramid": (
        "pyramid",
        dict(timesteps=TimestepConfig(dynamic_shift=True)),
        "dynamic_shift is for the objective 'flow'",
    ),
    "a shift of nothing": (
        "flow",
        dict(timesteps=TimestepConfig(dynamic_shift=True), model=UNSHIFTED),
        "needs model.scheduler.use_dynamic_shifting",
    ),
    "parts": ("flow", dict(accumulate=3), "batch_size=2 does not divide into accumulate=3 parts"),
    "nothing trains": ("flow", dict(trainable=TrainableConfig(rank=0)), "nothing trains"),
    "no steps": ("flow", dict(steps=0), "steps=0 must be at least 1"),
    "all captions": (
        "flow",
        dict(caption_dropout=1.0),
        "caption_dropout=1.0 must be less than 1",
    ),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_run_that_makes_no_sense_is_refused_in_one_line(case):
    objective, changes, says = BAD_RUNS[case]
    with pytest.raises(ConfigError, match=says):
        find_objective(toy_config(objective, **changes))


def test_without_a_past_records_may_be_of_what_is_learned_alone(tmp_path):
    """Stills to learn from, whole sections to validate with; a model that continues its past needs
    whole sections.
    """
    stills = write_records(tmp_path / "stills", 2, frames=1)
    sections = write_records(tmp_path / "sections", 2)
    data = DataConfig(
        train=(str(stills),), validation=(str(sections),), batch_size=2, section_frames=1
    )
    batches, validation = load_data(toy_config(history=False, data=data))
    with contextlib.closing(batches):
        assert {batch.target.shape[1] for batch in (next(batches), *validation)} == {1}
    with pytest.raises(DataError, match="section_frames: there 1, here 9"):
        load_data(toy_config(data=data))

"""Staged backward simulation: values and gradients against brute force in float64, and against the
sampler.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.diffusion.history import HistoryState, split_history
from helios_jax.diffusion.noise import ChunkNoise, stage_start
from helios_jax.diffusion.schedules import make_noise_schedule, shift_tokens
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.sampling.chunk import ChunkPlan, sample_chunk
from helios_jax.training.denoising import Conditioning, velocity_fn
from helios_jax.training.rollout import RolloutDraws, draw_rollout, rollout, step_tables
from tests.toys import STUDENT, toy_batch, toy_config, toy_params

SHAPE = (1, 4, 8, 2)
STEPS = (2, 2, 2)
TOKENS = [2, 8, 32]


def bind(params):
    """A network of three numbers that knows time, and mixes neighbouring cells so that stages
    differ.
    """

    def network(x, timestep):
        time = jnp.sin(timestep / 300)[:, None, None, None, None]
        return (
            params["a"] * jnp.tanh(x)
            + params["b"] * time * x
            + params["c"] * jnp.roll(x, 1, axis=3)
        )

    return network


def three_numbers():
    return {name: jnp.asarray(value) for name, value in (("a", 0.7), ("b", -0.4), ("c", 0.3))}


def draws(batch=2, seed=0, exits=None):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal((batch, *shape)))
    T, H, W, C = SHAPE
    noise = ChunkNoise(normal(*SHAPE), (normal(T, H // 2, W // 2, C), normal(*SHAPE)))
    return RolloutDraws(noise, jnp.asarray(exits, jnp.int32))


def brute_force(params, draws, counts):
    """One sample at a time, one step after another in Python; the parameters of steps before an
    exit are constants, and so is what they give.
    """
    finals = []
    for b in range(draws.exits.shape[0]):
        noise = jax.tree.map(lambda x, b=b: x[b : b + 1], draws.noise)
        data = None
        for stage in range(3):
            start = stage_start(data, noise, STUDENT, stage)
            schedule = make_noise_schedule(
                STUDENT, stage, counts[b][stage], shift_tokens(STUDENT, stage, TOKENS)
            )
            x = start
            leave = int(draws.exits[b, stage])
            for i in range(leave + 1):
                own = params if i == leave else jax.lax.stop_gradient(params)
                data = x - schedule.sigmas[i] * bind(own)(
                    x, jnp.full(1, schedule.timesteps[i], x.dtype)
                )
                if i < leave:
                    onward = schedule.sigmas[i + 1]
                    x = jax.lax.stop_gradient((1 - onward) * data + onward * start)
        finals.append(data)
    return jnp.concatenate(finals)


def gradients(function, params):
    weights = jnp.asarray(np.random.default_rng(9).standard_normal((2, *SHAPE)))
    value, gradient = jax.value_and_grad(lambda params: jnp.sum(weights * function(params)))(params)
    return {"value": value, **gradient}


EXITS = [
    [[0, 0, 0], [0, 0, 0]],
    [[1, 0, 0], [0, 0, 0]],
    [[0, 1, 0], [1, 1, 1]],
    [[1, 1, 0], [0, 0, 1]],
    [[1, 0, 1], [1, 1, 1]],
]


def test_values_and_gradients_are_those_of_python_at_all_exits_by_one_program():
    """To float64's precision: the exit step of each stage and the links between first steps have a
    gradient, nothing else has.
    """
    with jax.enable_x64():
        values = three_numbers()
        tables = step_tables(STUDENT, STEPS, TOKENS)
        plain = jnp.zeros(2, bool)
        ours = jax.jit(
            lambda params, draws: gradients(
                lambda params: rollout(bind, params, draws, plain, tables, STUDENT), params
            )
        )
        for seed, exits in enumerate(EXITS):
            drawn = draws(seed=seed, exits=exits)
            expected = gradients(
                lambda params, drawn=drawn: brute_force(params, drawn, [STEPS, STEPS]), values
            )
            for name, value in ours(values, drawn).items():
                np.testing.assert_allclose(
                    value, expected[name], rtol=1e-12, err_msg=f"{name} at exits {exits}"
                )
        assert ours._cache_size() == 1


def test_a_sample_without_a_past_takes_twice_the_steps_beside_one_that_has_one():
    with jax.enable_x64():
        values = three_numbers()
        tables = step_tables(STUDENT, STEPS, TOKENS)
        drawn = draws(exits=[[3, 0, 2], [1, 1, 0]])
        ours = gradients(
            lambda params: rollout(bind, params, drawn, jnp.array([True, False]), tables, STUDENT),
            values,
        )
        expected = gradients(lambda params: brute_force(params, drawn, [(4, 4, 4), STEPS]), values)
        for name, value in ours.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("exits", "reached"),
    [
        ([0, 0, 0], [1, 1, 1]),
        ([1, 0, 0], [1, 1, 1]),
        ([0, 1, 0], [0, 1, 1]),
        ([0, 0, 1], [0, 0, 1]),
    ],
)
def test_a_stage_has_a_gradient_while_the_stages_after_it_leave_at_once(exits, reached):
    """Stage 2 always, stage 1 if stage 2 leaves at its first step, stage 0 if both do."""
    tables = step_tables(STUDENT, STEPS, TOKENS)
    drawn = jax.tree.map(lambda x: x.astype(jnp.float32), draws(1, exits=[exits]))
    drawn = drawn._replace(exits=jnp.asarray([exits]))
    sizes = {2: 0, 4: 1, 8: 2}

    def of_stages(params):
        return lambda x, timestep: params["stages"][sizes[x.shape[3]]] * x

    loss = lambda params: jnp.sum(
        rollout(of_stages, params, drawn, jnp.zeros(1, bool), tables, STUDENT) ** 2
    )
    gradient = jax.grad(loss)({"stages": jnp.ones(3)})["stages"]
    assert [bool(value) for value in gradient] == [bool(value) for value in reached]


@pytest.mark.slow
def test_a_rollout_to_the_last_steps_is_what_the_sampler_makes():
    """The same student, history, text and noise: training sees the timesteps of inference."""
    config = toy_config("ode")
    params = toy_params(config)
    batch = jax.tree.map(jnp.asarray, toy_batch(config))
    model = HeliosTransformer(config.model.transformer)
    T, H, W, C = batch.target.shape[1:]
    state = HistoryState(batch.history, batch.anchor, jnp.ones((), bool))
    sizes = config.model.sample.history_sizes
    conditioning = Conditioning(split_history(state, sizes), batch.text, batch.length)
    exits = lambda key: draw_rollout(
        key, (T, H, W, C), STUDENT, STEPS, jnp.zeros((), bool), last_step_only=True
    )
    drawn = jax.vmap(exits)(jax.random.split(jax.random.key(3), 2))
    tables = step_tables(
        STUDENT, STEPS, [T * (H >> level) * (W >> level) // 4 for level in (2, 1, 0)]
    )
    bind = lambda params: velocity_fn(params, conditioning, model, config, T)
    ours = jax.jit(
        lambda params: rollout(bind, params, drawn, jnp.zeros(2, bool), tables, STUDENT)
    )(params)
    rows = config.model.text_encoder.max_sequence_length
    text = jax.jit(
        lambda params: model.apply(
            {"params": params}, batch.text, batch.length, rows, method="embed_text"
        )
    )(params)
    sampled = sample_chunk(
        params,
        state,
        drawn.noise,
        text,
        jnp.float32(1),
        model=model,
        scheduler=STUDENT,
        plan=ChunkPlan(STEPS, False, history_sizes=sizes),
    )[1]
    np.testing.assert_allclose(ours, sampled, atol=2e-5)


def test_steps_are_the_published_ones_of_a_stages_own_grid():
    """384 x 640: whole timesteps, as the sampler is given them. With the grid before a stage's own,
    the second stage would see 512, not 547.
    """
    own = dataclasses.replace(STUDENT, shift_tokens="own_stage")
    tables, others = (
        step_tables(scheduler, STEPS, [540, 2160, 8640]) for scheduler in (own, STUDENT)
    )
    two = [[998.5342, 833.9636], [742.8216, 547.1926], [385.4137, 253.9905]]
    four = [
        [998.5342, 902.2183, 833.9636, 783.066],
        [742.8216, 640.0038, 547.1926, 462.9951],
        [385.4137, 328.6249, 253.9905, 151.5308],
    ]
    sigmas = [[0.998177, 0.354035, 0], [0.998784, 0.45124, 0], [0.999479, 0.657436, 0]]
    for table, few, many, levels in zip(tables, two, four, sigmas):
        np.testing.assert_array_equal(table.timestep, [np.trunc([*few, 0, 0]), np.trunc(many)])
        np.testing.assert_allclose(table.sigma[0, :3], levels, atol=1e-6)
    assert others[1].timestep[0, 1] == 512


def test_exits_are_uniform_over_the_steps_there_are():
    """Four a stage where the sample is amplified, two where it is not, and the last where that is
    asked for.
    """
    keys = jax.random.split(jax.random.key(0), 400)
    draw = lambda amplified, last: jax.vmap(
        lambda key: (
            draw_rollout(
                key, SHAPE, STUDENT, STEPS, jnp.asarray(amplified), last_step_only=last
            ).exits
        )
    )(keys)
    for amplified, count in ((False, 2), (True, 4)):
        shares = np.stack(
            [
                np.bincount(column, minlength=count)
                for column in np.asarray(draw(amplified, False)).T
            ]
        ) / len(keys)
        assert shares.shape == (3, count)
        np.testing.assert_allclose(shares, 1 / count, atol=0.1)
        assert np.all(np.asarray(draw(amplified, True)) == count - 1)

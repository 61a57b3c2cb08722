"""A teacher's trajectories: made by the sampler, kept in files, and learned from by a student."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.config import SchedulerConfig
from helios_jax.data.errors import DataError
from helios_jax.data.loading import LoaderOptions
from helios_jax.data.trajectories import (
    SUFFIX,
    StagePath,
    Trajectory,
    load_trajectories,
    load_trajectory,
    save_trajectory,
)
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.diffusion.schedules import make_noise_schedule
from helios_jax.sampling.ode_pairs import make_trajectory, schedules
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import make_request
from helios_jax.training.ode import make_targets
from tests.toys import STUDENT, toy_config

LINEAR = SchedulerConfig(time_shift_type="linear")
TOKENS = [540, 2160, 8640]


def a_trajectory(seed=0, sections=3, counts=(4, 2, 2)):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    stages = lambda n: [
        StagePath(
            normal(n + 1, 9, 2 * 2**k, 4 * 2**k, 4),
            np.linspace(1, 0.3, n, dtype=np.float32),
            normal(n),
        )
        for k in range(3)
    ]
    return Trajectory([stages(n) for n in counts[:sections]], normal(2 + seed, 16))


@pytest.mark.parametrize(("student", "steps"), [((4, 4, 4), 23), ((2, 2, 2), 21)])
def test_a_teachers_steps_hold_the_students_exactly(student, steps):
    """20 steps a stage become 23 or 21, the first being shared."""
    for stage, (schedule, at) in enumerate(schedules(LINEAR, (20, 20, 20), student, TOKENS)):
        few = make_noise_schedule(STUDENT, stage, student[stage], TOKENS[max(stage - 1, 0)])
        assert len(schedule.timesteps) == steps
        assert np.all(np.diff(schedule.sigmas) < 0)
        np.testing.assert_allclose(schedule.sigmas[at], few.sigmas[:-1], rtol=1e-12)
        np.testing.assert_array_equal(schedule.timesteps[at], few.timesteps)


def load(folders, batch_size=1):
    options = LoaderOptions(batch_size=batch_size, threads=0)
    return load_trajectories(folders, options, seed=0, text_rows=8)


def test_a_file_comes_back_as_it_was_and_another_is_refused(tmp_path):
    trajectory = a_trajectory()
    path = tmp_path / f"0{SUFFIX}"
    save_trajectory(path, trajectory, {"prompt": "a ball"})
    jax.tree.map(np.testing.assert_array_equal, load_trajectory(path), trajectory)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is no trajectory"):
        load_trajectory(path)
    with pytest.raises(DataError, match="no trajectories in"):
        load((str(tmp_path / "nowhere"),))


def test_batches_show_a_point_of_each_stage_after_the_teachers_own_past(tmp_path):
    """Each epoch has every file once; history and anchor are the ends of the sections before; a
    resumed run sees the same.
    """
    for number in range(2):
        save_trajectory(tmp_path / f"{number}{SUFFIX}", a_trajectory(number), {})
    folders = (str(tmp_path),)
    batches = load(folders, 2)
    seen = set()
    for step in range(16):
        batch = next(batches)
        assert sorted(batch.sample[:, 1]) == [0, 1]
        for row, (epoch, number) in enumerate(batch.sample):
            assert epoch == step
            trajectory = a_trajectory(int(number))
            ends = np.stack([stages[-1].path[-1] for stages in trajectory.sections])
            section = next(s for s in range(3) if np.array_equal(ends[s], batch.ends[2][row]))
            past = np.concatenate(
                [
                    np.zeros((19, *ends.shape[2:]), np.float32),
                    ends[:section].reshape(-1, *ends.shape[2:]),
                ]
            )[-19:]
            np.testing.assert_array_equal(batch.history[row], past)
            np.testing.assert_array_equal(batch.anchor[row], ends[0, :1] * (section > 0))
            for k, stage in enumerate(trajectory.sections[section]):
                i = int(np.flatnonzero(stage.sigma == batch.sigma[k][row])[0])
                np.testing.assert_array_equal(batch.points[k][row], stage.path[i])
                seen.add((section, k, i))
            assert batch.length[row] == len(trajectory.text)
    assert len(seen) >= 22  # of 24
    resumed = load(folders, 2)
    batches = load(folders, 2)
    next(batches)
    resumed.set_state(batches.get_state())
    jax.tree.map(np.testing.assert_array_equal, next(resumed), next(batches))


def test_the_target_is_where_the_stage_ends(tmp_path):
    """Whatever the network predicts, the flow matching loss is ``weight / 2 mean((y - sigma v -
    end)^2)``.
    """
    save_trajectory(tmp_path / f"0{SUFFIX}", a_trajectory(), {})
    config = toy_config("ode")
    batches = load((str(tmp_path),))
    batch = jax.tree.map(jnp.asarray, next(batches))
    targets = make_targets(batch, config).targets
    for target, y, end, sigma in zip(targets, batch.points, batch.ends, batch.sigma, strict=True):
        velocity = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), jnp.float32)
        expected = 80 / 2 * jnp.mean((y - sigma[0] * velocity - end) ** 2)
        loss = target.weight[0] * jnp.mean((velocity - target.velocity) ** 2)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_a_trajectory_ends_where_the_sampler_does():
    """Three steps hold those of a student of one, so nothing joins them: the same video, chunk by
    chunk; no negative prompt is one, too.
    """
    config = toy_config("pyramid").model
    sample = dataclasses.replace(
        config.sample, steps=(3, 3, 3), guidance_scale=5.0, negative_prompt=""
    )
    pipeline = HeliosPipeline.random(dataclasses.replace(config, sample=sample))
    key = jax.random.key(5)
    request = make_request(pipeline.config)
    made = make_trajectory(pipeline, "a red ball", request, key, sections=2, student=(1, 1, 1))
    noise = [
        draw_chunk_noise(key[None], section, (9, 8, 16, 4), 3, config.scheduler.gamma)
        for section in range(2)
    ]
    video = pipeline.generate("a red ball", num_frames=66, noise=noise, output="latent")
    ends = np.concatenate([stages[-1].path[-1] for stages in made.sections])
    np.testing.assert_allclose(ends, video[0], atol=1e-5)
    assert [[len(stage.sigma) for stage in stages] for stages in made.sections] == [
        [2, 2, 2],
        [1, 1, 1],
    ]

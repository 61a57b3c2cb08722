"""A run's checkpoints: every bit comes back, damage is found, another run's are refused, a killed
run goes on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.sharded_digests import named_leaves
from helios_jax.training.checkpoints import Checkpoints

SIGNATURE = {"stage": "base", "config": {"rank": 4, "steps": 10, "shape": (1, 2)}}


class State(NamedTuple):
    step: jax.Array
    trainable: dict
    optimizer: optax.OptState
    key: jax.Array
    epochs: int = 0


def make_state(seed=0):
    """A state with every kind of leaf a run has, moved off its initial values."""
    generator = np.random.default_rng(seed)
    trainable = {
        "blocks": {"lora_a": jnp.asarray(generator.standard_normal((4, 6)), jnp.float32)},
        "patch": {"kernel": jnp.asarray(generator.standard_normal((3, 2)), jnp.bfloat16)},
    }
    with jax.numpy_dtype_promotion("standard"):
        adamw = optax.adamw(1e-2)
        _, optimizer = adamw.update(trainable, adamw.init(trainable), trainable)
    return State(
        jnp.int32(seed), trainable, optimizer, jax.random.key_data(jax.random.key(seed)), seed
    )


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "run", SIGNATURE, free=["config.steps"], keep=2)
    yield made
    made.close()


@pytest.fixture
def reopen(tmp_path):
    """Opens the folder anew, as another process would."""
    opened = []

    def open_again(signature=SIGNATURE, **options):
        opened.append(Checkpoints(tmp_path / "run", signature, **options))
        return opened[-1]

    yield open_again
    for made in opened:
        made.close()


def save_all(checkpoints, *steps):
    for step in steps:
        checkpoints.save(step, make_state(step), {"record": step})
    checkpoints.wait()


def assert_equal_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for name, leaf in named_leaves(expected).items():
        other = named_leaves(found)[name]
        assert type(other) is type(leaf), name
        assert np.asarray(other).dtype == np.asarray(leaf).dtype, name
        np.testing.assert_array_equal(
            np.asarray(other).reshape(-1).view(np.uint8),
            np.asarray(leaf).reshape(-1).view(np.uint8),
            name,
        )


def flip_a_bit(step_folder):
    """Damage the middle of the largest file of the arrays."""
    file = max(
        (file for file in (step_folder / "state").rglob("*") if file.is_file()),
        key=lambda file: file.stat().st_size,
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_every_bit_of_every_kind_of_leaf_comes_back(checkpoints, reopen):
    save_all(checkpoints, 7)
    restored = reopen().restore_latest(make_state())
    assert restored.step == 7
    assert restored.data_state == {"record": 7}
    assert restored.skipped == []
    assert_equal_bits(restored.state, make_state(7))


def test_a_tree_of_shapes_is_enough_to_restore(checkpoints, reopen):
    save_all(checkpoints, 7)
    shapes = jax.eval_shape(lambda: make_state(1)[:-1])
    restored = reopen().restore_latest(State(*shapes, 0))
    assert_equal_bits(restored.state, make_state(7))


def test_the_state_may_be_donated_as_soon_as_save_returns(checkpoints, reopen):
    value = jnp.arange(2**20, dtype=jnp.float32)
    expected = np.array(value)
    step = jax.jit(lambda a: a + 1, donate_argnums=0)
    for number in range(3):
        checkpoints.save(number, {"a": value})
        value = step(value)
    checkpoints.wait()
    np.testing.assert_array_equal(reopen().restore_latest({"a": value}).state["a"], expected + 2)


def test_the_newest_are_kept_and_every_nth(tmp_path, reopen):
    made = Checkpoints(tmp_path / "run", SIGNATURE, keep=2, keep_every=4)
    save_all(made, 2, 4, 6, 7, 8, 9)
    made.close()
    assert sorted(int(entry.name) for entry in (tmp_path / "run").iterdir()) == [4, 8, 9]


def test_where_nothing_was_saved_there_is_nothing_to_restore(checkpoints):
    assert checkpoints.restore_latest(make_state()) is None


def test_a_flipped_bit_is_found_and_the_step_before_is_used(checkpoints, reopen, tmp_path, caplog):
    save_all(checkpoints, 1, 2)
    flip_a_bit(tmp_path / "run/2")
    again = reopen()
    restored = again.restore_latest(make_state())
    assert restored.step == 1
    assert_equal_bits(restored.state, make_state(1))
    (line,) = restored.skipped
    assert line.startswith(f"{tmp_path / 'run/2'}: ")
    assert line in caplog.text
    save_all(again, 2)  # the damaged step is in the way, and is kept for who wants to look
    assert (tmp_path / "run/2.aside-0").is_dir()
    assert reopen().restore_latest(make_state()).step == 2


def test_a_leaf_that_reads_well_but_has_other_values_is_found(checkpoints, reopen, tmp_path):
    """Files of another step, intact in themselves, stand in for damage that compression and
    checksums do not notice.
    """
    save_all(checkpoints, 1, 2)
    (tmp_path / "run/2/state").rename(tmp_path / "gone")
    os.symlink(tmp_path / "run/1/state", tmp_path / "run/2/state")
    restored = reopen().restore_latest(make_state())
    assert restored.step == 1
    assert (
        "9 of 10 leaves are altered: epochs, key, optimizer/0/mu/blocks/lora_a, "
        in restored.skipped[0]
    )


def test_altered_metadata_is_found(checkpoints, reopen, tmp_path):
    save_all(checkpoints, 1, 2)
    (file,) = (
        file for file in (tmp_path / "run/2/meta").rglob("*") if b'"record"' in file.read_bytes()
    )
    file.write_bytes(file.read_bytes().replace(b'"record": 2', b'"record": 3'))
    restored = reopen().restore_latest(make_state())
    assert (restored.step, restored.data_state) == (1, {"record": 1})
    assert "metadata is altered" in restored.skipped[0]


def test_if_no_step_verifies_the_run_does_not_begin_anew_unasked(checkpoints, reopen, tmp_path):
    save_all(checkpoints, 1)
    flip_a_bit(tmp_path / "run/1")
    with pytest.raises(
        CheckpointError, match=r"no step in .* verifies: .*run/1: .* Move them away"
    ) as error:
        reopen().restore_latest(make_state())
    assert "\n" not in str(error.value)


def test_stray_entries_are_passed_over_and_named(checkpoints, reopen, tmp_path):
    save_all(checkpoints, 5)
    run = tmp_path / "run"
    (run / "notes.txt").write_text("mine")
    (run / "old").mkdir()
    (run / "9").mkdir()
    (run / "8.orbax-checkpoint-tmp-3").mkdir()
    restored = reopen(read_only=True).restore_latest(make_state())
    assert restored.step == 5
    told = " ".join(restored.skipped)
    assert all(
        f"{run / name}: " in told for name in ("notes.txt", "old", "9", "8.orbax-checkpoint-tmp-3")
    )
    assert (run / "notes.txt").read_text() == "mine"


def test_another_runs_checkpoint_is_refused_with_every_difference(checkpoints, reopen):
    save_all(checkpoints, 1)
    other = {"stage": "mid", "config": {"rank": 8, "steps": 99, "shape": [1, 2], "new": None}}
    free = {"free": ["config.steps"]}
    says = (
        "config.new: there absent, here null; config.rank: there 4, here 8; "
        r'stage: there "base", here "mid"\. Use'
    )
    for act in (lambda run: run.check(), lambda run: run.restore_latest(make_state())):
        with pytest.raises(CheckpointError, match=says) as error:
            act(reopen(other, **free))
        assert "steps" not in str(error.value)
        assert "shape" not in str(error.value)
    reopen(SIGNATURE | {"config": "other"}, free=["config"]).check()


def test_another_geometry_is_refused_with_every_difference(checkpoints, reopen):
    save_all(checkpoints, 1)
    state = make_state()
    other = state._replace(
        trainable={
            "blocks": {"lora_a": jnp.zeros((4, 8))},
            "patch": state.trainable["patch"] | {"bias": jnp.zeros(2)},
        }
    )
    says = (
        r"trainable/blocks/lora_a: there float32\[4, 6\], here float32\[4, 8\]; "
        r"trainable/patch/bias: there absent, here float32\[2\]\. "
    )
    with pytest.raises(CheckpointError, match=says):
        reopen().restore_latest(other)


def test_a_step_can_be_read_without_knowing_its_tree(checkpoints, reopen, tmp_path):
    save_all(checkpoints, 1, 2)
    step, leaves = reopen({}, read_only=True).read()
    assert step == 2
    expected = named_leaves(make_state(2))
    assert leaves.keys() == expected.keys()
    assert all(np.array_equal(leaves[name], expected[name]) for name in expected)
    assert reopen({}, read_only=True).read(1)[0] == 1
    _, part = reopen({}, read_only=True).read(prefix="trainable/")
    assert sorted(part) == ["trainable/blocks/lora_a", "trainable/patch/kernel"]
    assert all(np.array_equal(part[name], expected[name]) for name in part)
    assert reopen({}, read_only=True).read(prefix="ema/") == (2, {})
    flip_a_bit(tmp_path / "run/2")
    assert reopen({}, read_only=True).read()[0] == 1
    with pytest.raises(CheckpointError, match=r"has no step 3; it has \[2, 1\]"):
        reopen({}, read_only=True).read(3)


def run_script(body, devices=1):
    """Run Python in a fresh process that sees ``devices`` devices; returns what it printed."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", body], env=environment, capture_output=True, text=True, timeout=1000
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ON_FOUR = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from helios_jax.training.checkpoints import Checkpoints

values = {
    "split": jnp.arange(32.0).reshape(8, 4),
    "whole": jnp.arange(3),
    "columns": jnp.arange(16.0, dtype=jnp.bfloat16).reshape(4, 4) / 3,
}

def placed(devices):
    mesh = jax.make_mesh((devices,), ("fsdp",), devices=jax.devices()[:devices])
    specs = {"split": P("fsdp"), "whole": P(), "columns": P(None, "fsdp")}
    place = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))
    return {name: place(leaf, specs[name]) for name, leaf in values.items()}

run = Checkpoints(FOLDER, {})
run.save(3, placed(4))
run.wait()
for devices in (4, 2):
    expected = placed(devices)
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    found = run.restore_latest({name: shape(leaf) for name, leaf in expected.items()})
    for name, leaf in found.state.items():
        assert leaf.sharding == expected[name].sharding, name
        assert np.asarray(leaf).tobytes() == np.asarray(values[name]).tobytes(), name
run.close()
"""


def test_a_checkpoint_of_four_devices_is_restored_on_four_two_and_one_bit_for_bit(tmp_path, reopen):
    run_script(f"FOLDER = {str(tmp_path / 'run')!r}\n{ON_FOUR}", devices=4)
    leaves = json.loads((tmp_path / "run/3/meta/metadata").read_text())["content"]["leaves"]
    assert sorted(leaves["split"]["sha256"]) == ["0:2,0:4", "2:4,0:4", "4:6,0:4", "6:8,0:4"]
    state = {
        "split": jnp.zeros((8, 4)),
        "whole": jnp.zeros(3, jnp.int32),
        "columns": jnp.zeros((4, 4), jnp.bfloat16),
    }
    found = reopen({}).restore_latest(state)
    np.testing.assert_array_equal(found.state["split"], jnp.arange(32.0).reshape(8, 4))


KILLED = """
import logging, os, random, signal, time
import jax, jax.numpy as jnp
from helios_jax.training.checkpoints import Checkpoints

def child(folder, report):
    state = {"a": jnp.zeros(2**19), "n": jnp.int32(0)}
    run = Checkpoints(folder, {}, keep=2)
    found = run.restore_latest(state)
    start, state = (0, state) if found is None else (found.step, found.state)
    assert int(state["n"]) == start and float(state["a"].sum()) == start * 2**19, start
    os.write(report, f"{start}\\n".encode())
    for step in range(start + 1, start + 10**6):
        state = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), state)
        run.save(step, state, {"record": step})
        os.write(report, b"saving\\n")

random.seed(int(time.time()))
for trial in range(6):  # forked before this process has a backend: six starts for the price of one
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            child(FOLDER, write)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as told:
        print(told.readline(), flush=True)
        # After a second save the first is on disk.
        for _ in range(random.randint(1, 5) if trial else 2):
            assert told.readline() == "saving\\n", "the child failed"
        time.sleep(random.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


@pytest.mark.slow
def test_a_run_killed_at_random_moments_of_saving_goes_on_from_a_step_that_verifies(tmp_path):
    starts = [
        int(word) for word in run_script(f"FOLDER = {str(tmp_path / 'run')!r}\n{KILLED}").split()
    ]
    assert len(starts) == 6
    assert starts == sorted(starts)
    assert starts[-1] > 0
    assert len([entry for entry in Path(tmp_path / "run").iterdir() if entry.name.isdigit()]) <= 4


def test_a_field_that_came_later_was_its_default(checkpoints, reopen):
    """A run goes on under a signature with one more field, if that is what runs were without it,
    and only then.
    """
    save_all(checkpoints, 1)
    later = SIGNATURE | {"later": {"field": 2}}
    reopen(later, defaults={"later": {"field": 2}}).check()
    with pytest.raises(CheckpointError, match=r"later\.field: there 3, here 2"):
        reopen(later, defaults={"later": {"field": 3}}).check()
    with pytest.raises(CheckpointError, match=r"later\.field: there absent, here 2"):
        reopen(later).check()

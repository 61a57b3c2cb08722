"""helios-jax ode-pairs: trajectories of a teacher, a file a prompt."""

import time

import pytest

from helios_jax.checkpoint import save
from helios_jax.commands.ode_pairs import main
from helios_jax.data.trajectories import SUFFIX, load_trajectory
from helios_jax.locks import lock
from helios_jax.sampling.pipeline import HeliosPipeline
from tests.killing import start_command
from tests.toys import toy_model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A checkpoint of a toy with a pyramid."""
    folder = tmp_path_factory.mktemp("teacher") / "checkpoint"
    pipeline = HeliosPipeline.random(toy_model("pyramid"))
    tokenizer = folder.with_name("tokenizer.json")
    pipeline.tokenizer.save(tokenizer)
    save(folder, pipeline.config, pipeline.params, tokenizer)
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give prompts: one of --prompt_file and --world"),
        (["--world=1", "--prompt_file=x"], "give prompts: one of --prompt_file and --world"),
        (["--prompt_file=/nowhere"], "--prompt_file=/nowhere cannot be read"),
        (["--world=0"], "--world=0"),
        (["--world=1", "--student_steps=2,2"], "must be 3 positive numbers"),
        (["--world=1", "--student_steps=2,2,x"], "must be 3 positive numbers"),
    ],
)
def test_bad_input_is_one_line(teacher, tmp_path, capsys, arguments, says):
    command = ["helios-jax ode-pairs", f"--checkpoint={teacher}", f"--out={tmp_path / 'out'}"]
    assert main([*command, *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_and_gone_on_with_it_makes_the_same_files(teacher, tmp_path):
    """Byte for byte: killed while its second file is made, in a process of its own."""
    arguments = [
        f"--checkpoint={teacher}", "--world=3", "--sections=1", "--student_steps=1,1,1",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["helios-jax ode-pairs", f"--out={whole}", *arguments]) == 0
    process = start_command(["ode-pairs", f"--out={killed}", *arguments], tmp_path / "log")
    while process.is_alive() and not list(killed.glob(f"*{SUFFIX}")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(list(killed.glob(f"*{SUFFIX}"))) < 3, "the machine is too fast for this test"
    assert main(["helios-jax ode-pairs", f"--out={killed}", *arguments]) == 0
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_each_prompt_has_a_file_and_the_same_command_goes_on(teacher, tmp_path, capsys):
    command = [
        "helios-jax ode-pairs",
        f"--checkpoint={teacher}",
        f"--out={tmp_path}",
        "--world=2",
        "--sections=1",
        "--student_steps=1,1,1",
    ]
    assert main([*command, "--shard=1", "--of=2"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"000001{SUFFIX}"]
    before = (tmp_path / f"000001{SUFFIX}").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / f"000001{SUFFIX}").stat().st_mtime_ns == before
    trajectory = load_trajectory(tmp_path / f"000000{SUFFIX}")
    assert [len(stage.sigma) for stage in trajectory.sections[0]] == [2, 2, 2]
    assert main([*command, "--seed=1"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "000000.trajectory.safetensors was made otherwise (prompt, seed differ)" in err
    with lock(tmp_path / f"000000{SUFFIX}"):
        assert main(command) == 2
    assert "is being written by process" in capsys.readouterr().err

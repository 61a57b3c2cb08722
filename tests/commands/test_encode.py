"""helios-jax encode: what it says, and how it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from helios_jax.commands import encode
from helios_jax.data.shards import read_skipped
from helios_jax.data.source import RecordSource

# ml_collections reads recipes with a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")

COMMAND = [sys.executable, "-m", "helios_jax", "encode"]
TINY = ["--world=6", "--world_frames=99", "--height=32", "--width=32", "--config=tiny"]


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, **options
    )


def contents(folder):
    """Every file of a dataset, byte for byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world=2"], "name what to encode with: --checkpoint, or"),
        (["--config=tiny"], "name what to encode: one of --captions, --world and --torch_latents"),
        (["--config=tiny", "--world=0"], "--world=0 must be at least 1"),
        (["--config=tiny", "--world=2147483648"], "--world=2147483648 must be at most 1,000,000"),
        (
            ["--config=tiny", "--world=2", "--height=20"],
            "height=20 and width=192 must be multiples",
        ),
        (["--config=tiny", "--captions=nowhere.csv"], "nowhere.csv cannot be read: No such file"),
        (["--torch_latents=nowhere"], "nowhere has no .pt files of latents"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(tmp_path, capsys, arguments, message):
    out = tmp_path / "records"
    assert encode.main(["helios-jax encode", f"--out={out}", *arguments]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("helios-jax encode: ")
    assert message in said.err
    assert not out.exists()


@pytest.mark.parametrize("package", ["array_record", "grain"])
def test_without_the_extras_help_is_there_and_the_command_says_what_to_install(
    tmp_path, capsys, monkeypatch, package
):
    """Only records need the packages of the extra ``train``."""
    monkeypatch.setitem(sys.modules, package, None)
    assert encode.main(["helios-jax encode", "--help"]) == 0
    assert "--captions" in capsys.readouterr().out
    if package == "array_record":
        out = tmp_path / "records"
        assert encode.main(["helios-jax encode", f"--out={out}", *TINY]) == 2
        message = "helios-jax encode: training data need the package array_record"
        assert capsys.readouterr().err.startswith(message)
        assert not out.exists()


@pytest.mark.slow
def test_killed_outright_the_command_goes_on(tmp_path):
    """SIGKILL while a shard is written: what is there is whole, and the same command ends with the
    files that an undisturbed one makes.
    """
    arguments = [*TINY, "--clips_per_shard=1"]
    straight = run(*arguments, f"--out={tmp_path / 'straight'}")
    assert "6 clips in 6 of 6 shards; none skipped" in straight.stdout
    out = tmp_path / "killed"
    command = [*COMMAND, *arguments, f"--out={out}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "clips-00001.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    source = RecordSource([out])
    sources = [source.read(i).metadata["source"] for i in range(2)]
    assert sources == ["world/train/0/0", "world/train/0/1"]
    again = run(*arguments, f"--out={out}")
    assert again.returncode == 0, again.stderr
    assert "of 6 shards are finished and kept" in again.stderr + again.stdout
    assert contents(out) == contents(tmp_path / "straight")


def test_the_command_converts_torch_latents(tmp_path, capsys):
    """Files in folders become records; one that is no such file is left out and named."""
    import torch

    from tests.data.test_torch_latents import content

    latents = tmp_path / "latents"
    (latents / "more").mkdir(parents=True)
    (latents / "0.pt").write_bytes(b"PK")
    torch.save(content(), latents / "a_140_32_48.pt")
    torch.save(content(prompt_raw="a dog"), latents / "more" / "b_140_32_48.pt")
    out = tmp_path / "out"
    flags = [f"--torch_latents={latents}", f"--out={out}", "--dtype=bfloat16"]
    assert encode.main(["helios-jax encode", *flags]) == 0
    assert "2 clips in 1 of 1 shards; 1 skipped (1 unusable record)" in capsys.readouterr().out
    source = RecordSource([out])
    assert [(entry.prompt, entry.source, entry.frames) for entry in source.entries] == [
        ("a cat", "a_140_32_48.pt", 140),
        ("a dog", "b_140_32_48.pt", 140),
    ]
    assert source.read(0).latents.dtype.name == "bfloat16"
    assert [line["source"] for line in read_skipped(out)] == ["0.pt"]


@pytest.mark.slow
def test_two_encoders_at_once_spoil_nothing(tmp_path):
    """Started together on the same shards: each ends well or in one line that names the other, and
    what one of them leaves undone, the same command finishes.
    """
    arguments = [*TINY, "--clips_per_shard=2"]
    run(*arguments, f"--out={tmp_path / 'straight'}")
    out = tmp_path / "raced"
    command = [*COMMAND, *arguments, f"--out={out}"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=300)
        last = error.splitlines()[-1] if error else ""
        assert process.returncode == 0 or "is being written by process" in last, error
    assert run(*arguments, f"--out={out}").returncode == 0
    assert contents(out) == contents(tmp_path / "straight")

"""A writer that is killed between any two lines of its code: what is gone on with equals what was
never disturbed, byte for byte.
"""

import logging
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.request import make_request
from helios_jax.sampling.state import load_state, save_state
from helios_jax.sampling.writing import StreamFiles, StreamWriter
from tests.killing import die_at_line, start

from .conftest import TOY

CODE = ("media/latents.py", "media/live.py", "media/output.py", "sampling/writing.py", "writers.py")
"""What writes."""

REQUEST = make_request(TOY, num_frames=99, height=64, width=64)
NAMES = ("a.csv", "a.mp4", "a.mp4.state", "a.safetensors", "a.svg")


def write_records(source: Path, folder: Path, kill_at: int = 0) -> None:
    """Write what is left of the video of ``source`` to ``folder``, in whatever process this is."""
    files = StreamFiles(
        str(folder / "a.mp4"),
        live=True,
        latents=str(folder / "a.safetensors"),
        statistics=str(folder / "a.csv"),
        curves=str(folder / "a.svg"),
    )
    state = None
    if (folder / "a.mp4.state").exists():
        state = load_state(folder / "a.mp4.state")
    first = state.chunk if state else 0
    arrays = np.load(source / "chunks.npz")
    if kill_at:
        die_at_line(kill_at, CODE)
    with StreamWriter(files, REQUEST, start=state) as writer:
        for chunk in range(first, 3):
            after = load_state(source / f"{chunk}.state")
            latents = jnp.asarray(arrays[f"latents{chunk}"])
            frames = jnp.asarray(arrays[f"frames{chunk}"])
            writer.write(ChunkRecord(chunk, latents, frames, None, after))


@pytest.fixture(scope="module")
def source(pipeline, tmp_path_factory):
    """The chunks of a video, and the files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("source")
    arrays = {}

    def keep(record):
        arrays[f"latents{record.index}"] = np.asarray(record.latents)
        arrays[f"frames{record.index}"] = np.asarray(record.frames)
        save_state(folder / f"{record.index}.state", record.state)

    list(pipeline.stream("a red ball", REQUEST, on_chunk=keep))
    np.savez(folder / "chunks.npz", **arrays)
    write_records(folder, folder)
    return folder


def kill_and_go_on(source: Path, folder: Path, moments: range) -> int:
    """How many of the moments came before the end."""
    killed = 0
    for moment in moments:
        run = folder / str(moment)
        run.mkdir()
        process = start(write_records, source, run, moment)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), moment
        killed += process.exitcode != 0
        write_records(source, run)
        assert sorted(path.name for path in run.iterdir()) == sorted(NAMES), moment
        for name in NAMES:
            assert (run / name).read_bytes() == (source / name).read_bytes(), (moment, name)
    return killed


def test_killed_at_some_lines_it_goes_on_as_if_it_never_had_been(
    source, tmp_path, caplog, record_property
):
    caplog.set_level(logging.ERROR)
    killed = kill_and_go_on(source, tmp_path, range(40, 700, 131))
    record_property("cases", killed)
    assert killed >= 4


@pytest.mark.slow
def test_killed_at_any_line_it_goes_on_as_if_it_never_had_been(
    source, tmp_path, caplog, record_property
):
    caplog.set_level(logging.ERROR)
    killed = kill_and_go_on(source, tmp_path, range(3, 700, 7))
    record_property("cases", killed)
    assert killed >= 60

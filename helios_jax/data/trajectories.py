"""Trajectories of a teacher: the points at which a few-step student will stand, and where each
stage ends, in a file a video.

A file holds, for each section s and each stage k, ``path/s/k`` [n + 1, T, h, w, C], the teacher's
samples at the student's n noise levels and at the end of the stage, ``sigma/s/k`` and
``timestep/s/k`` [n], and ``text`` [tokens, E].
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from helios_jax.data.batches import HISTORY_FRAMES, Batches, endless_batches
from helios_jax.data.records import DataError
from helios_jax.types import Float, Int

SUFFIX = ".trajectory.safetensors"
_ORDER, _POINT = 1, 2  # keep the draws for different ends apart


class StagePath(NamedTuple):
    """A stage of one section: the teacher's samples, the last of them the stage's end, and the
    student's noise levels and timesteps.
    """

    path: Float[np.ndarray, "n1 T _ _ C"]
    sigma: Float[np.ndarray, "n"]
    timestep: Float[np.ndarray, "n"]


class Trajectory(NamedTuple):
    """A video: the stages of each section, and the features of its prompt."""

    sections: list[list[StagePath]]
    text: Float[np.ndarray, "tokens E"]


class TrajectoryBatch(NamedTuple):
    """This process's rows of a batch, in numpy: one point of each stage of one section a row.

    Attributes:
      points: of each stage, where the student stands.
      ends: of each stage, what it is to predict there.
      sigma, timestep: of each stage.
      history, anchor: the frames before the section, and the video's first.
      text, length: features of the prompts, and their tokens.
      sample: (epoch, number of the file).
    """

    points: tuple[Float[np.ndarray, "B T _ _ C"], ...]
    ends: tuple[Float[np.ndarray, "B T _ _ C"], ...]
    sigma: tuple[Float[np.ndarray, "B"], ...]
    timestep: tuple[Float[np.ndarray, "B"], ...]
    history: Float[np.ndarray, "B h H W C"]
    anchor: Float[np.ndarray, "B 1 H W C"]
    text: Float[np.ndarray, "B S E"]
    length: Int[np.ndarray, "B"]
    sample: Int[np.ndarray, "B 2"]


def save_trajectory(path: Path, trajectory: Trajectory, metadata: dict[str, str]) -> None:
    """Write a file, which is there, whole, or not at all."""
    tensors = {"text": trajectory.text}
    for s, stages in enumerate(trajectory.sections):
        for k, stage in enumerate(stages):
            tensors |= {
                f"{name}/{s}/{k}": np.ascontiguousarray(value)
                for name, value in stage._asdict().items()
            }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(safetensors.numpy.save(tensors, metadata))
    partial.rename(path)


def load_trajectory(path: Path) -> Trajectory:
    """The inverse of :func:`save_trajectory`.

    Raises:
      DataError: if it is no such file.
    """
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
        names = [name.split("/") for name in tensors if name.startswith("path/")]
        count, stages = (1 + max(int(name[axis]) for name in names) for axis in (1, 2))
        stage = lambda s, k: StagePath(*(tensors[f"{name}/{s}/{k}"] for name in StagePath._fields))
        return Trajectory(
            [[stage(s, k) for k in range(stages)] for s in range(count)], tensors["text"]
        )
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise DataError(f"{path} is no trajectory: {type(error).__name__}: {error}") from error


def load_trajectories(
    folders: tuple[str, ...],
    *,
    seed: int,
    text_rows: int,
    batch_size: int,
    read_threads: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches of trajectories without end: every epoch in an order of its own, a section of each
    and a point of each stage drawn anew.

    Args:
      folders: with the files.
      seed: of order, sections and points.
      text_rows: S, rows of text features.
      batch_size: files of a step, of all processes together.
      read_threads: that read ahead.
      process_index, process_count: which rows are this process's.

    Raises:
      DataError: if there is none, or a prompt has more than S tokens.
    """
    files = sorted(path for folder in folders for path in Path(folder).glob(f"*{SUFFIX}"))
    if not files:
        raise DataError(
            f"no trajectories in {', '.join(folders) or 'no folder: name some'}; make some with helios-jax ode-pairs"
        )

    def row(number: int) -> tuple:
        epoch, place = divmod(number, len(files))
        index = int(np.random.default_rng([_ORDER, seed, epoch]).permutation(len(files))[place])
        rng, trajectory = (
            np.random.default_rng([_POINT, seed, epoch, index]),
            load_trajectory(files[index]),
        )
        section = int(rng.integers(len(trajectory.sections)))
        stages = trajectory.sections[section]
        at = [int(rng.integers(len(stage.sigma))) for stage in stages]
        finals = np.stack([stages[-1].path[-1] for stages in trajectory.sections])
        past = finals[:section].reshape(-1, *finals.shape[2:])[-HISTORY_FRAMES:]
        history = np.zeros((HISTORY_FRAMES, *finals.shape[2:]), np.float32)
        history[HISTORY_FRAMES - len(past) :] = past
        if len(trajectory.text) > text_rows:
            raise DataError(
                f"the prompt of {files[index]} has {len(trajectory.text)} tokens and text_rows={text_rows}: raise data.text_rows"
            )
        text = np.zeros((text_rows, trajectory.text.shape[1]), trajectory.text.dtype)
        text[: len(trajectory.text)] = trajectory.text
        return (
            tuple(stage.path[i] for stage, i in zip(stages, at)),
            tuple(stage.path[-1] for stage in stages),
            tuple(np.float32(stage.sigma[i]) for stage, i in zip(stages, at)),
            tuple(np.float32(stage.timestep[i]) for stage, i in zip(stages, at)),
            history,
            finals[0, :1] if section else np.zeros_like(finals[0, :1]),
            text,
            np.int32(len(trajectory.text)),
            np.asarray((epoch, index), np.uint32),
        )

    def make(numbers: list[int]) -> TrajectoryBatch:
        stack = lambda column: (
            tuple(map(np.stack, zip(*column))) if isinstance(column[0], tuple) else np.stack(column)
        )
        return TrajectoryBatch(*map(stack, zip(*map(row, numbers))))

    facts = [seed, text_rows, [path.name for path in files]]
    options = dict(
        batch_size=batch_size,
        read_threads=read_threads,
        process_index=process_index,
        process_count=process_count,
    )
    return endless_batches(make, facts, f"{len(files)} trajectories", **options)

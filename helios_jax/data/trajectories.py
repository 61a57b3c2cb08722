"""Trajectories of a teacher, a file a video: what a few-step student learns from first.

A file holds, for each section s and each stage k, ``path/s/k`` [n + 1, T, h, w, C], the teacher's
samples at the student's n noise levels and at the end of the stage, ``sigma/s/k`` and
``timestep/s/k`` [n], and ``text`` [tokens, E].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from helios_jax.data.errors import DataError
from helios_jax.data.loading import Batches, LoaderOptions, endless_batches
from helios_jax.data.sections import pad_text, section_window
from helios_jax.types import Float, Int
from helios_jax.writers import tensor_bytes, tensor_digest, write_whole

SUFFIX = ".trajectory.safetensors"
# First words of a draw's seed, so that draws of different kinds are independent.
_ORDER = 1
_POINT = 2


class StagePath(NamedTuple):
    """A stage of one section.

    Attributes:
      path: the teacher's samples at the student's noise levels, and the stage's end.
      sigma, timestep: the student's noise levels and timesteps.
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
      points: of each stage, the sample that the student starts from.
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
    """Write a file with its digest, which is there, whole, or not at all.

    Raises:
      WriteError: if it cannot be written.
    """
    tensors = {"text": trajectory.text}
    for s, stages in enumerate(trajectory.sections):
        for k, stage in enumerate(stages):
            for name, value in stage._asdict().items():
                tensors[f"{name}/{s}/{k}"] = np.ascontiguousarray(value)
    digest = tensor_digest(tensors, metadata)
    write_whole(path, tensor_bytes(tensors, {**metadata, "digest": digest}))


def check_metadata(path: Path, expected: Mapping[str, str]) -> None:
    """Refuse a file that was made otherwise than one that is made now would be.

    Args:
      path: of the file.
      expected: metadata of the latter; what an older file does not say is passed over.

    Raises:
      DataError: naming what differs, or if it is no such file.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            found = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path} is no trajectory: {error}") from error
    differ = [
        name for name in sorted(expected) if found.get(name, expected[name]) != expected[name]
    ]
    if differ:
        raise DataError(
            f"{path} was made otherwise ({', '.join(differ)} differ): name another folder, or "
            "remove it"
        )


def load_trajectory(path: Path) -> Trajectory:
    """The inverse of :func:`save_trajectory`.

    Raises:
      DataError: if it is no such file, or altered.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = metadata.pop("digest", None)
        if digest not in (None, tensor_digest(tensors, metadata)):
            raise ValueError("it is altered: its digest is not that of its content")
        names = [name.split("/") for name in tensors if name.startswith("path/")]
        sections = 1 + max(int(name[1]) for name in names)
        stages = 1 + max(int(name[2]) for name in names)
        paths = []
        for s in range(sections):
            paths.append([_stage_path(tensors, f"{s}/{k}") for k in range(stages)])
        trajectory = Trajectory(paths, tensors["text"])
        _check(trajectory)
    except (safetensors.SafetensorError, ValueError, TypeError, LookupError, OSError) as error:
        raise DataError(f"{path} is no trajectory: {type(error).__name__}: {error}") from error
    return trajectory


def load_trajectories(
    folders: tuple[str, ...], options: LoaderOptions, *, seed: int, text_rows: int
) -> Batches[TrajectoryBatch]:
    """Batches of trajectories without end.

    Every epoch has an order of its own, and draws a section of each file and a point of each stage
    anew.

    Args:
      folders: with the files.
      options: files of a step, threads, and which rows are this process's.
      seed: of order, sections and points.
      text_rows: S, rows of text features.

    Raises:
      DataError: if there is none, or a prompt has more than S tokens.
    """
    files = []
    for folder in folders:
        files += Path(folder).glob(f"*{SUFFIX}")
    files.sort()
    if not files:
        raise DataError(
            f"no trajectories in {', '.join(folders) or 'no folder: name some'}; make some with "
            "helios-jax ode-pairs"
        )

    def make(numbers: list[int]) -> TrajectoryBatch:
        rows = [_row(files, number, seed, text_rows) for number in numbers]
        return TrajectoryBatch(*(_stack(column) for column in zip(*rows)))

    determinants = [seed, text_rows, [path.name for path in files]]
    return endless_batches(make, determinants, f"{len(files)} trajectories", options)


def _stage_path(tensors: dict[str, np.ndarray], place: str) -> StagePath:
    return StagePath(*(tensors[f"{name}/{place}"] for name in StagePath._fields))


def _check(trajectory: Trajectory) -> None:
    """Refuse tensors that do not belong together.

    Raises:
      ValueError: saying which.
    """
    if trajectory.text.ndim != 2:
        raise ValueError(f"text has shape {list(trajectory.text.shape)}, not [tokens, E]")
    for k, stages in enumerate(zip(*trajectory.sections)):
        for stage in stages:
            levels = (len(stage.path) - 1,)
            if stage.path.ndim != 5 or stage.path.shape[1:] != stages[0].path.shape[1:]:
                raise ValueError(f"paths of stage {k} have different shapes, or other than 5 axes")
            if not levels[0] or stage.sigma.shape != levels or stage.timestep.shape != levels:
                raise ValueError(
                    f"stage {k} has not as many noise levels as samples before its end"
                )


def _row(files: Sequence[Path], number: int, seed: int, text_rows: int) -> tuple[Any, ...]:
    """Sample ``number`` of the endless series, in the order of :class:`TrajectoryBatch`."""
    epoch, place = divmod(number, len(files))
    index = int(np.random.default_rng([_ORDER, seed, epoch]).permutation(len(files))[place])
    rng = np.random.default_rng([_POINT, seed, epoch, index])
    trajectory = load_trajectory(files[index])
    section = int(rng.integers(len(trajectory.sections)))
    stages = trajectory.sections[section]
    points = [int(rng.integers(len(stage.sigma))) for stage in stages]
    finals = np.stack([stages[-1].path[-1] for stages in trajectory.sections])
    window = section_window(finals, section)
    return (
        tuple(stage.path[i] for stage, i in zip(stages, points)),
        tuple(stage.path[-1] for stage in stages),
        tuple(np.float32(stage.sigma[i]) for stage, i in zip(stages, points)),
        tuple(np.float32(stage.timestep[i]) for stage, i in zip(stages, points)),
        window.history,
        window.anchor,
        pad_text(trajectory.text, text_rows, str(files[index])),
        np.int32(len(trajectory.text)),
        np.asarray((epoch, index), np.uint32),
    )


def _stack(column: tuple[Any, ...]) -> Any:
    """Stack the rows of a field; of a field with a value a stage, those of each stage."""
    if isinstance(column[0], tuple):
        return tuple(np.stack(stage) for stage in zip(*column))
    return np.stack(column)

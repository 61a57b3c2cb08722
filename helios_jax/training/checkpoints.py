"""Checkpoints of a training run: written in the background, verified leaf by leaf when read.

::

    <folder>/<step>/state/    the arrays, by Orbax
    <folder>/<step>/meta/     JSON: the run's signature, the data iterator's state, and shape, dtype
                              and sha256 digests of each leaf

A step appears under its name when it is complete. The digests are of the values in host memory,
taken before Orbax sees them: one for each part of a leaf that the devices hold, so that each
process digests what it has.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.checkpoint.sharded_digests import altered_leaves, digests, named_leaves, sha256
from helios_jax.config import ABSENT, Difference, differences
from helios_jax.training.disk import check_room, saving, without_tracebacks
from helios_jax.writers import WriteError

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What :meth:`Checkpoints.restore_latest` found.

    ``skipped`` has one line for each entry of the folder that was passed over: the entry, and why.
    """

    step: int
    state: Any
    data_state: Any
    skipped: list[str]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where the steps lie.
      signature: what must be equal for a checkpoint to continue this run (its stage, geometry,
        configuration): nested dictionaries of what JSON can hold.
      defaults: values of fields that a checkpoint's signature lacks, because they were added after
        it was written.
      free: fields of the signature that may differ, keys joined with dots; a section frees all its
        fields.
      keep: how many of the newest steps are kept.
      keep_every: steps that are multiples of this are kept for good; 0 keeps none.
      read_only: change nothing in the folder, so that a run which is under way can be read.

    Raises:
      CheckpointError: if ``folder`` is to be read only and is not there.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        signature: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
        free: Collection[str] = (),
        keep: int = 3,
        keep_every: int = 0,
        read_only: bool = False,
    ):
        self.folder = Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is not a directory: no checkpoints there")
        self._signature, self._defaults = json.loads(json.dumps([signature, defaults or {}]))
        self._free = tuple(free)
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(keep)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                save_root_metadata=False,
            ),
        )
        self._saved: int | None = None
        self._read_only = read_only
        self._failed = False
        self._hook = contextlib.ExitStack()
        if not read_only:
            self._hook.enter_context(without_tracebacks())

    def save(self, step: int, state: Any, data_state: Any = None) -> None:
        """Copy and digest the state, then write it in the background; the state may be donated as
        soon as this returns.

        Steps at or past ``step`` that are there already, damaged or of a continuation that was
        given up, are renamed out of the way. A second save of the same step does nothing.

        Args:
          step: steps taken.
          state: any tree of arrays, on any mesh, and plain numbers.
          data_state: where the data iterator stands, as JSON; the same in all processes.

        Raises:
          WriteError: if this step, or the one before it, cannot be written.
        """
        if self._read_only:
            raise ValueError(f"{self.folder} was opened to be read only")
        if step == self._saved:
            return
        leaves = named_leaves(state)
        content = {
            "step": step,
            "signature": self._signature,
            "leaves": {
                name: {**_describe(leaf), "sha256": parts}
                for (name, leaf), parts in zip(leaves.items(), digests(leaves))
            },
            "data_state": data_state,
        }
        meta = {"sha256": sha256(_canonical(content)), "content": content}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), meta=ocp.args.JsonSave(meta)
        )
        with self._writing():
            self._set_aside(step)
            check_room(self.folder, leaves)
            self._manager.save(step, args=arguments, force=True)
        self._saved = step

    def wait(self) -> None:
        """Wait until what was saved is on disk; an error of the writing is raised here, or by the
        next save.

        Raises:
          WriteError: if it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and end the background threads.

        Raises:
          WriteError: as :meth:`wait`, where that has not said it.
        """
        if not self._failed:
            with self._hook, self._writing():
                self._manager.close()
            return
        # What failed once fails again, and its threads have more to say until the process ends.
        with contextlib.suppress(Exception):
            self._manager.close()
        self._remove_unfinished()

    @contextlib.contextmanager
    def _writing(self) -> Generator[None, None, None]:
        """Errors of the disk in one line; what an unfinished step has written is removed."""
        try:
            with saving(self.folder):
                yield
        except WriteError:
            self._failed = True
            self._remove_unfinished()
            raise

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)

    def check(self) -> None:
        """Compare the signature with that of the newest step that can be read, before anything
        heavy is done.

        Raises:
          CheckpointError: naming every field that differs.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                content = self._content(step)
            except Exception:  # restore_latest reports it
                continue
            return self._refuse_others(step, content)

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """The newest step whose every leaf has its digest, on the devices it should be on.

        Args:
          abstract_state: the tree to restore: arrays or ``jax.ShapeDtypeStruct`` whose shardings
            the result has (the default device where there is none), numpy arrays, plain numbers.

        Returns:
          The step, or None where there is none at all.

        Raises:
          CheckpointError: if a step is of another run, naming the fields and leaves that differ, or
            if there are steps and none verifies.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        skipped = self._strays(steps)
        restored = None
        for step in steps:
            try:
                content = self._agreed(self._content, step)
                self._refuse_others(step, content)
                self._refuse_other_leaves(step, content, abstract_state)
                state = self._agreed(self._read, step, content, abstract_state)
            except _DamagedError as error:
                skipped.append(f"{self.folder / str(step)}: {error}")
                continue
            self._saved = step
            restored = Restored(step, state, content["data_state"], skipped)
            break
        for line in skipped:
            log.warning("skipped %s", line)
        if steps and restored is None:
            raise CheckpointError(
                f"no step in {self.folder} verifies: {'; '.join(skipped)}. Move them away to start "
                "from the beginning"
            )
        return restored

    def read(self, step: int | None = None, prefix: str = "") -> tuple[int, dict[str, np.ndarray]]:
        """The leaves of a step by name (see
        :func:`~helios_jax.checkpoint.sharded_digests.named_leaves`), verified, in host memory.

        Args:
          step: which; None is the newest that verifies.
          prefix: read those leaves only whose names begin with it.

        Raises:
          CheckpointError: if there is no such step, or it does not verify.
        """
        there = sorted(self._manager.all_steps(), reverse=True)
        wanted = there if step is None else [step]
        if not wanted or step not in (None, *there):
            which = "" if step is None else f" {step}"
            raise CheckpointError(f"{self.folder} has no step{which}; it has {there or 'none'}")
        reasons = []
        for number in wanted:
            try:
                return number, self._read_named(number, prefix)
            except Exception as error:  # damaged files raise anything
                reasons.append(f"{self.folder / str(number)}: {_line(error)}")
        raise CheckpointError(f"no step verifies: {'; '.join(reasons)}")

    def _content(self, step: int) -> dict[str, Any]:
        arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = self._manager.restore(step, args=arguments)["meta"]
        if sha256(_canonical(meta["content"])) != meta["sha256"]:
            raise CheckpointError("its metadata is altered")
        return meta["content"]

    def _read(self, step: int, content: Mapping[str, Any], abstract_state: Any) -> Any:
        target = {name: _target(leaf) for name, leaf in named_leaves(abstract_state).items()}
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        leaves = self._manager.restore(step, args=arguments)["state"]
        _check_digests(leaves, content["leaves"])
        structure = jax.tree.structure(abstract_state)
        return jax.tree.unflatten(structure, [leaves[name] for name in target])

    def _read_named(self, step: int, prefix: str) -> dict[str, np.ndarray]:
        recorded = {
            name: leaf
            for name, leaf in self._content(step)["leaves"].items()
            if name.startswith(prefix)
        }
        if not recorded:
            return {}
        target = {name: np.empty(leaf["shape"], leaf["dtype"]) for name, leaf in recorded.items()}
        as_arrays = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in target}
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            arguments = ocp.args.PyTreeRestore(
                item=target, restore_args=as_arrays, partial_restore=True
            )
            leaves = reader.restore(self.folder / str(step) / "state", args=arguments)
        _check_digests(leaves, recorded)
        return leaves

    def _agreed(self, read: Callable[..., Any], *args: Any) -> Any:
        """``read(*args)``; any error of it, in any process, means that the step cannot be used:
        damaged files raise anything.
        """
        result = None
        problem = ""
        try:
            result = read(*args)
        except Exception as error:
            problem = _line(error)
        if jax.process_count() > 1:
            problems = multihost_utils.process_allgather(np.array(bool(problem)))
            if problems.any():
                problem = problem or "another process cannot read it"
        if problem:
            raise _DamagedError(problem)
        return result

    def _refuse_others(self, step: int, content: Mapping[str, Any]) -> None:
        there = _merged(self._defaults, content["signature"])
        found = differences(there, self._signature, ignore=self._free)
        self._refuse(step, found, show=json.dumps)

    def _refuse_other_leaves(
        self, step: int, content: Mapping[str, Any], abstract_state: Any
    ) -> None:
        leaves = named_leaves(abstract_state)
        there = {name: _shape(leaf) for name, leaf in content["leaves"].items()}
        here = {name: _shape(_describe(leaf)) for name, leaf in leaves.items()}
        self._refuse(step, differences(there, here), show=str)

    def _refuse(self, step: int, found: list[Difference], show: Callable[[Any], str]) -> None:
        if not found:
            return
        lines = []
        for name, *values in found:
            there, here = (str(value) if value is ABSENT else show(value) for value in values)
            lines.append(f"{name}: there {there}, here {here}")
        raise CheckpointError(
            f"{self.folder / str(step)} is a checkpoint of another run; {_shortened(lines, '; ')}. "
            "Use its configuration, or another folder"
        )

    def _strays(self, steps: Collection[int]) -> list[str]:
        known = {str(step) for step in steps}
        return [
            f"{entry}: not a finished step"
            for entry in sorted(self.folder.iterdir())
            if entry.name not in known
        ]

    def _set_aside(self, step: int) -> None:
        self.wait()
        later = [there for there in self._manager.all_steps() if there >= step]
        if not later:
            return
        if jax.process_index() == 0:
            for there in later:
                number = len(list(self.folder.glob(f"{there}.aside-*")))
                aside = self.folder / f"{there}.aside-{number}"
                message = "%s is renamed to %s: this run has not come from there"
                log.warning(message, self.folder / str(there), aside.name)
                (self.folder / str(there)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")
        self._manager.reload()


class _DamagedError(Exception):
    """A step that does not verify."""


def _check_digests(leaves: Mapping[str, Any], recorded: Mapping[str, Mapping[str, Any]]) -> None:
    altered = altered_leaves(leaves, {name: leaf["sha256"] for name, leaf in recorded.items()})
    if altered:
        raise CheckpointError(
            f"{len(altered)} of {len(leaves)} leaves are altered: {_shortened(altered)}"
        )


def _describe(leaf: Any) -> dict[str, Any]:
    """Shape and dtype; a plain number has those numpy gives it."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}


def _shape(description: Mapping[str, Any]) -> str:
    return f"{description['dtype']}{description['shape']}"


def _target(leaf: Any) -> Any:
    """What Orbax is asked for in place of a leaf."""
    if isinstance(leaf, jax.ShapeDtypeStruct | jax.Array):
        place = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    return leaf


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, ``values`` over ``defaults``."""
    merged = {**defaults, **values}
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping):
            merged[name] = _merged(defaults[name], value)
    return merged


def _shortened(lines: list[str], separator: str = ", ", most: int = 40) -> str:
    rest = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return separator.join([*lines[:most], *rest])


def _line(error: Exception) -> str:
    """An error in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."

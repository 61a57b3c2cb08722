"""Training from Python: :func:`train` sets a run up, :func:`train_loop` takes its steps."""

import contextlib
import dataclasses
import functools
import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from helios_jax.config import to_dict
from helios_jax.data.loading import Batch, Batches
from helios_jax.parallel.mesh import (
    describe,
    make_mesh,
    over_batch,
    place_batch,
    tree_shardings,
)
from helios_jax.progress import Progress
from helios_jax.training.abstract import abstract_run
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import TrainConfig
from helios_jax.training.loading import check_model, load_start
from helios_jax.training.metrics import Metrics
from helios_jax.training.objective import Objective
from helios_jax.training.objectives import find_objective, load_data
from helios_jax.training.progress import ProgressLogger, StepResult, say
from helios_jax.training.resume import only_trainer, open_checkpoints, restore
from helios_jax.training.step import Step, TrainState
from helios_jax.training.trainable import count
from helios_jax.types import Params
from helios_jax.writers import write_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a run is carried out, which does not change what is learned.

    Attributes:
      verify: compare the files of checkpoints with their digests.
      tensorboard: write TensorBoard's files, too.
      wandb: project of Weights & Biases to log to, too; empty for none.
      profile: steps that are traced, from the third one on.
    """

    verify: bool = True
    tensorboard: bool = False
    wandb: str = ""
    profile: int = 0


class Run(NamedTuple):
    """What stays the same from step to step.

    Attributes:
      config, objective: of the run.
      mesh: of its devices.
      frozen: parameters that steps read and do not change.
      batches: that it trains on.
      evaluations: see :class:`Evaluation`.
    """

    config: TrainConfig
    objective: Objective
    mesh: jax.sharding.Mesh
    frozen: Params
    batches: Batches
    evaluations: list["Evaluation"]

    def averaged(self, state: TrainState) -> Params:
        """What is evaluated and exported: the moving average, where there is one."""
        return self.objective.student(state.trainable) if state.ema is None else state.ema


class Evaluation(NamedTuple):
    """What is measured now and then.

    Attributes:
      every: steps between; 0 for never.
      measure: ``(run, state, steps taken) -> metrics``.
      at_start: whether it is measured before the first step, too.
    """

    every: int
    measure: Callable[[Run, TrainState, int], dict[str, Any]]
    at_start: bool = False

    def is_due(self, done: int, start: int) -> bool:
        """Whether it is measured after ``done`` steps of a run that went on from ``start``."""
        return _is_due(self.every, done) and (done > start or (self.at_start and done == 0))


def train(
    config: TrainConfig,
    folder: Path,
    options: TrainOptions = TrainOptions(),
    load_evaluations: Callable[[TrainConfig], list[Evaluation]] = lambda config: [],
) -> int:
    """Train from where the run in ``folder`` stands to ``config.steps``.

    All that can be wrong is checked before weights are loaded.

    Args:
      config: what is trained.
      folder: of the run; gets ``config.json``, ``metrics.jsonl`` and ``checkpoints/``.
      options: how it is carried out.
      load_evaluations: what is measured beside the validation data; called after the checks.

    Returns:
      Steps done: fewer than ``config.steps`` if the run was stopped by a signal, and saved.

    Raises:
      ConfigError, DataError, CheckpointError: if the run cannot begin.
      LockedError: if another run trains in the folder.
      WriteError: if its files cannot be written; what was saved before stays.
      DivergedError: if it cannot go on.
    """
    mesh = make_mesh(config.data_parallel, config.fsdp)
    objective = find_objective(config)
    check_model(config)
    abstract_run(config)  # raises where what is to train is not there
    batches, validation = load_data(config)
    with contextlib.ExitStack() as stack:
        stack.callback(batches.close)
        stack.enter_context(only_trainer(folder))
        checkpoints = open_checkpoints(config, folder)
        stack.callback(checkpoints.close)
        checkpoints.check()  # a run that is not this one is refused before weights are loaded
        evaluations = load_evaluations(config)
        if validation:
            evaluations.insert(0, _validation(config, objective, mesh, validation))
        params = load_start(config, mesh, options.verify)
        frozen = objective.frozen_params(config, params)
        run = Run(config, objective, mesh, frozen, batches, evaluations)
        state, start = restore(config, params, mesh, batches, checkpoints)
        del params
        if jax.process_index() == 0:
            text = json.dumps(to_dict(config), indent=2) + "\n"
            write_whole(folder / "config.json", text.encode())
        say(
            f"{count(state.trainable):,} parameters train, {count(frozen):,} are frozen; state "
            f"{describe(state, mesh)}"
        )
        say(f"{batches.description}; from step {start} to {config.steps}")
        wandb = {"project": options.wandb} if options.wandb else None
        metrics = Metrics(folder, start or -1, tensorboard=options.tensorboard, wandb=wandb)
        stack.callback(metrics.close)
        profiler = Profiler(folder / "profile", start + 2, options.profile)
        done = train_loop(run, state, start, checkpoints, metrics, profiler)
    if done < config.steps:
        saved = ", which are saved" if done else ""
        say(f"stopped after {done} of {config.steps} steps{saved}; the same command goes on")
    return done


def train_loop(
    run: Run,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    metrics: Metrics,
    profiler: "Profiler",
) -> int:
    """Step after step, with all that goes on beside it; returns the steps done.

    Args:
      run: what stays the same.
      state: after ``start`` steps; donated.
      start: steps that have been taken.
      checkpoints: where the state is saved, every ``save_every`` steps and at the end.
      metrics: where numbers are logged.
      profiler: traces some steps.
    """
    config = run.config
    step = _compile(run, state)
    stopped = stop_on_signal()
    saved = start
    pending = None
    hidden = jax.process_index() != 0
    with Progress(
        "training", total=config.steps, initial=start, unit="steps", hidden=hidden
    ) as shown:
        progress = ProgressLogger(config, state.trainable, run.batches, shown, metrics)
        for done in itertools.count(start):
            ending = done >= config.steps or stopped(done)
            saving = done > saved and (ending or _is_due(config.save_every, done))
            due = [each for each in run.evaluations if each.is_due(done, start)]
            if ending or saving or due:
                measures = [functools.partial(each.measure, run, state, done) for each in due]
                progress.log(done, pending, measures)
                pending = None
            if saving:
                checkpoints.save(done, state, run.batches.get_state())
                saved = done
            if ending:
                break
            profiler.before_step(done)
            batch = place_batch(next(run.batches), run.mesh)
            state, numbers = step(state, run.frozen, batch)
            profiler.after_step(done, state)
            progress.log(done, pending)  # of the step before, while this one runs
            pending = StepResult(numbers, jax.tree.map(jax.typeof, batch))
    checkpoints.wait()
    return done


class Profiler:
    """Traces ``steps`` steps, beginning with the one after ``first``, to a folder that TensorBoard
    and Perfetto show; 0 traces none.
    """

    def __init__(self, folder: Path, first: int, steps: int):
        self._folder = folder
        self._first = first
        self._steps = steps

    def before_step(self, done: int) -> None:
        """Begin where it is time; ``done`` steps have been taken."""
        if self._steps and done == self._first:
            jax.profiler.start_trace(str(self._folder))

    def after_step(self, done: int, state: TrainState) -> None:
        """End where it is time; ``done`` steps had been taken before this one."""
        if self._steps and done == self._first + self._steps - 1:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()


def stop_on_signal() -> Callable[[int], bool]:
    """A function of the steps done: whether SIGTERM, Ctrl-C or the end of the terminal has come,
    agreed upon by all processes.
    """
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point
    received = []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # under nohup it is ignored
    for number in numbers:
        signal.signal(number, lambda number, frame: received.append(number))
    return lambda done: bool(received)


def _is_due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0


def _everywhere(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _compile(run: Run, state: TrainState) -> Step:
    """The jitted step, which donates its state."""
    return jax.jit(
        over_batch(run.mesh, run.objective.make_step(run.config)),
        donate_argnums=0,
        out_shardings=(tree_shardings(state, run.mesh), _everywhere(run.mesh)),
    )


def _validation(
    config: TrainConfig, objective: Objective, mesh: jax.sharding.Mesh, batches: list[Batch]
) -> Evaluation:
    """The loss on validation batches."""
    validate = over_batch(mesh, objective.make_validation(config, _everywhere(mesh)))
    placed = [place_batch(batch, mesh) for batch in batches]

    def measure(run: Run, state: TrainState, done: int) -> dict[str, Any]:
        return validate(run.averaged(state), run.frozen, placed)

    return Evaluation(config.validation.every, measure, at_start=True)

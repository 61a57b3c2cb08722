"""Train Helios: history-conditioned flow matching (stage 1), the pyramid (stage 2), a few-step
student (stage 3); or, from nothing, a small one.

A recipe says what is trained and how; any field of it can be given on the command line. Data are
folders of records, made from videos with captions:

  helios-jax encode --captions clips/captions.jsonl --checkpoint checkpoints/wan2.1 --out data/clips
  python train.py --config configs/train/stage1_init.py --config.checkpoint=checkpoints/wan2.1 --config.data.train=data/clips

The same command goes on where it was stopped: SIGTERM and Ctrl-C save and leave with status 0. What
a step takes in memory, asked without a GPU:

  python train.py --config configs/train/stage2_init.py --plan=h100

What came out becomes a checkpoint that sample.py takes, and convert_torch_weights.py brings to
PyTorch:

  helios-jax export --run runs/stage1_init --out checkpoints/helios-base

On several machines, each runs the same command with --coordinator=HOST:PORT --process=I
--processes=N; batches are spread over all devices, and --config.fsdp=8 spreads parameters over
eight of them.

A run's folder has config.json, metrics.jsonl (a line a step), checkpoints/ and, where validation
samples them, videos/.

Exit status: 0 when all steps are done, or training was stopped and saved; 1 when it cannot go on
(loss not finite); 2 when it cannot begin (one line on stderr says why).
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags
from tqdm import tqdm

from helios_jax import checkpoint, media
from helios_jax.checkpoint.params import abstract_params, dtype_rules, random_params
from helios_jax.commands.legacy import complain, plan_flag, run_script
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import RUNTIME_FIELDS, ConfigError, from_dict, to_dict
from helios_jax.data.errors import DataError
from helios_jax.data.loading import Batch, Batches
from helios_jax.errors import HeliosError
from helios_jax.kernels.dispatch import UnsupportedError
from helios_jax.memory.compiler import TARGETS
from helios_jax.memory.report import GIB, PlanError
from helios_jax.memory.training import plan_step
from helios_jax.models.lora import combine
from helios_jax.models.tokenizer import TokenizerError
from helios_jax.parallel.mesh import describe, make_mesh, place_batch, tree_shardings
from helios_jax.parallel.start import start_processes
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.statistics import chunk_rows
from helios_jax.training.abstract import abstract_run, abstract_state
from helios_jax.training.checkpoints import Checkpoints
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import peak_operations
from helios_jax.training.metrics import Metrics
from helios_jax.training.objectives import OBJECTIVES, Objective, load_data
from helios_jax.training.step import TrainState
from helios_jax.training.trainable import count
from helios_jax.types import Params

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: a file of configs/train/ or configs/nano/."
)
RUN = flags.DEFINE_string(
    "run", None, "Folder of the run; made, or gone on with. By default runs/ and the recipe's name."
)
PLAN = flags.DEFINE_flag(
    plan_flag(
        "Print the memory that a step takes on this GPU, which need not be there, and train nothing."
    )
)
TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False, "Write TensorBoard's files, too, to RUN/tensorboard."
)
WANDB = flags.DEFINE_string("wandb", None, "Log to this project of Weights & Biases, too.")
PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Trace as many steps, from the third one on, to RUN/profile; TensorBoard or Perfetto shows it.",
)
COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    None,
    "Folder of compiled programs; empty for none. By default JAX_COMPILATION_CACHE_DIR, or one in the user's cache folder.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    'HOST:PORT of process 0 where several processes train as one, or "auto" where the cluster says.',
)
PROCESS = flags.DEFINE_integer("process", -1, "Number of this process, with --coordinator.")
PROCESSES = flags.DEFINE_integer("processes", 0, "How many there are, with --coordinator.")
VERIFY = flags.DEFINE_bool(
    "verify", True, "Compare the files of the checkpoint it starts from with their digests."
)

FREE = ("steps", "validation", "log_every", "save_every", "keep", "max_skipped", "data_parallel", "fsdp", "offload",
        "checkpoint", "critic.checkpoint", "data.train", "data.validation", "data.read_threads",
        *(f"model.transformer.{name}" for name in RUNTIME_FIELDS))  # fmt: skip
"""What may change when a run goes on: it does not change what is learned, or, as folders are, is
recognised by its contents.
"""


DEFAULTS = to_dict(TrainConfig(objective="pyramid"))
"""What a run means by fields that its configuration does not have, because it began before there
were such.
"""

SHIFT = ("shift_tokens", "base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
"""Fields of a scheduler that set its dynamic shift."""

ROOT = Path(__file__).parents[2]


class Run(NamedTuple):
    """What stays the same from step to step."""

    config: TrainConfig
    mesh: jax.sharding.Mesh
    objective: Objective
    base: Params
    batches: Batches
    validation: list[Batch]
    videos: HeliosPipeline | None


def _main() -> None:
    """Read the recipe; plan or train."""
    if CONFIG.value is None:
        recipes = sorted(
            str(path.relative_to(ROOT))
            for folder in ("train", "nano")
            for path in (ROOT / "configs" / folder).glob("[!_]*.py")
        )
        raise ConfigError(f"--config names the recipe: {', '.join(recipes)}, or a file like them")
    config = from_dict(TrainConfig, CONFIG.value)
    if PLAN.value is not None:
        show_plan(config)
        return
    start_processes(COORDINATOR.value, PROCESS.value, PROCESSES.value)
    use_compile_cache(COMPILE_CACHE.value)
    try:
        train(config, Path(RUN.value or f"runs/{recipe_name()}"))
    except DivergedError as error:
        complain(str(error))
        sys.exit(1)


def train(config: TrainConfig, folder: Path) -> None:
    """Train from where the run in ``folder`` stands to ``config.steps``."""
    mesh = make_mesh(config.data_parallel, config.fsdp)
    if mesh.size > 1:  # Triton and Mosaic kernels are programs of one device
        transformer = dataclasses.replace(config.model.transformer, kernels="xla")
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, transformer=transformer)
        )
    check_model(config)
    objective = OBJECTIVES[config.objective]
    abstract_run(config)  # what is to train is there
    batches, validation = load_data(config)
    with contextlib.ExitStack() as stack:
        stack.callback(batches.close)
        checkpoints = stack.enter_context(
            contextlib.closing(
                Checkpoints(
                    folder / "checkpoints",
                    to_dict(config),
                    defaults=DEFAULTS,
                    free=FREE,
                    keep=config.keep,
                )
            )
        )
        checkpoints.check()  # a run that is not this one is refused before weights are loaded
        videos = load_videos(config)
        params = load_run(config, mesh)
        run = Run(
            config, mesh, objective, objective.base(config, params), batches, validation, videos
        )
        state, start = restore(run, params, checkpoints)
        del params
        if jax.process_index() == 0:
            (folder / "config.json").write_text(json.dumps(to_dict(config), indent=2) + "\n")
        say(
            f"{count(state.trainable):,} parameters train, {count(run.base):,} are frozen; state {describe(state, mesh)}"
        )
        say(f"{batches.description}; from step {start} to {config.steps}")
        wandb = {"project": WANDB.value} if WANDB.value else None
        metrics = stack.enter_context(
            contextlib.closing(
                Metrics(folder, start or -1, tensorboard=TENSORBOARD.value, wandb=wandb)
            )
        )
        loop(run, folder, state, start, checkpoints, metrics)


def loop(
    run: Run,
    folder: Path,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    metrics: Metrics,
) -> None:
    """Step after step, with all that goes on beside it."""
    config, everywhere = run.config, NamedSharding(run.mesh, PartitionSpec())
    step = jax.jit(
        run.objective.make_step(config),
        donate_argnums=0,
        out_shardings=(tree_shardings(state, run.mesh), everywhere),
    )
    validate = run.objective.make_validation(config, everywhere)
    validation = [place_batch(batch, run.mesh) for batch in run.validation]
    stopped, saved, waiting = stop_on_signal(), start, None
    due = lambda every: every > 0 and done % every == 0
    with tqdm(
        total=config.steps,
        initial=start,
        unit="step",
        disable=True if jax.process_index() else None,
    ) as bar:
        report = Report(run, state, bar, metrics)
        for done in itertools.count(start):
            ending, saving, looks = (
                done >= config.steps or stopped(done),
                due(config.save_every) and done > saved,
                [],
            )
            if validation and due(config.validation.every) and (done > start or done == 0):
                looks.append(
                    functools.partial(validate, averaged(run, state), run.base, validation)
                )
            if run.videos is not None and due(config.validation.videos_every) and done > start:
                looks.append(functools.partial(sample_videos, run, state, folder / "videos", done))
            if ending or saving or looks:
                report(done, waiting, looks)
                waiting = None
            if saving or (ending and done > saved):
                checkpoints.save(done, state, run.batches.get_state())
                saved = done
            if ending:
                break
            if PROFILE.value and done == start + 2:
                jax.profiler.start_trace(str(folder / "profile"))
            batch = place_batch(next(run.batches), run.mesh)
            state, numbers = step(state, run.base, batch)
            if PROFILE.value and done == start + 1 + PROFILE.value:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
            report(done, waiting)  # of the step before, while this one runs
            waiting = Told(numbers, jax.tree.map(jax.typeof, batch))
    checkpoints.wait()
    if done < config.steps:
        say(
            f"stopped after {done} of {config.steps} steps{', which are saved' if done else ''}; the same command goes on"
        )


class Told(NamedTuple):
    """The numbers of a step that may still be running, and the shapes of its batch."""

    numbers: dict[str, jax.Array]
    batch: Batch


class Report:
    """Tells of steps, with the time they took: to the progress bar, and to the metrics."""

    def __init__(self, run: Run, state: TrainState, bar: tqdm, metrics: Metrics):
        self.run, self.bar, self.metrics = run, bar, metrics
        self.trainable, self.peak = jax.tree.map(jax.typeof, state.trainable), peak_operations()
        self._restart()

    def __call__(
        self, done: int, told: Told | None, looks: Sequence[Callable[[], dict[str, Any]]] = ()
    ) -> None:
        """Tell of the last of ``done`` steps, where that has not been done, and of what is looked
        at after it, whose time is not the step's.

        Raises:
          DivergedError: if too many steps, one after another, had no effect.
        """
        config, values = self.run.config, {}
        if told is not None:
            values = {name: value.item() for name, value in jax.device_get(told.numbers).items()}
            cost, samples = (
                self.run.objective.cost(config, self.trainable, told.batch),
                told.batch.sample.shape[0],
            )
            self.steps += 1
            self.tokens += samples * cost.tokens
            self.operations += samples * cost.operations
            self.bar.update()
        if values.get("skipped_in_a_row", 0) >= config.max_skipped:
            self.metrics.write(done, values)
            raise DivergedError(
                f"loss or gradient was not finite in {config.max_skipped} steps, one after another, up to step {done}"
            )
        if not looks and (told is None or done % config.log_every):
            return
        if self.steps:
            seconds = time.perf_counter() - self.began
            values |= {
                "step_seconds": seconds / self.steps,
                "tokens_per_second": self.tokens / seconds,
            }
            values |= {"replaced_records": self.run.batches.replaced}
            shown = f"loss {values['loss']:.4f}, {values['tokens_per_second']:.0f} tokens/s"
            if self.operations:
                values |= {"teraflops": self.operations / seconds / 1e12}
                shown += f", {values['teraflops']:.3g} TFLOP/s"
            if self.operations and self.peak:
                values |= {"utilisation": self.operations / seconds / self.peak}
                shown += f", {values['utilisation']:.1%} of peak"
            self.bar.set_postfix_str(shown)
        seen = {name: float(value) for look in looks for name, value in look().items()}
        if seen:
            self.bar.write(
                f"step {done}: " + ", ".join(f"{name} {value:.4f}" for name, value in seen.items()),
                file=sys.stderr,
            )
        self.metrics.write(done, values | seen)
        self._restart()

    def _restart(self) -> None:
        self.began, self.steps, self.tokens, self.operations = time.perf_counter(), 0, 0, 0


class DivergedError(HeliosError, RuntimeError):
    """Training cannot go on."""


def check_model(config: TrainConfig) -> None:
    """Refuse a checkpoint whose model is not the recipe's.

    Raises:
      CheckpointError: naming every field that differs.
    """
    sections = {
        name: to_dict(getattr(config.model, name))
        for name in ("transformer", "vae", "text_encoder")
    }
    student = dict(sections)
    if config.objective in (
        "ode",
        "distillation",
    ):  # what it learns and what it is asked later are steps of one table
        student["scheduler"] = {name: getattr(config.model.scheduler, name) for name in SHIFT}
    for path, here in ((config.checkpoint, student), (config.critic.checkpoint, sections)):
        there = to_dict(checkpoint.load_config(path)) if path else here
        wrong = [
            f"model.{section}.{name}: there {there[section][name]}, here {value}"
            for section, values in here.items()
            for name, value in values.items()
            if name not in RUNTIME_FIELDS and there[section][name] != value
        ]
        if wrong:
            raise checkpoint.CheckpointError(
                f"{path} is not the recipe's model: {'; '.join(wrong)}"
            )


def load_run(config: TrainConfig, mesh: jax.sharding.Mesh) -> Params:
    """All parameters that a run begins with: of what learns, and beside a student its teacher's and
    the negative prompt's features.
    """
    objective = OBJECTIVES[config.objective]
    params = load_params(config, config.checkpoint, mesh) | objective.head(config)
    if not objective.learner:
        return params
    features, length = encode_prompt(config, config.model.sample.negative_prompt)
    negative = {"text": features, "length": length}
    return {
        objective.learner: params,
        "critic": load_params(config, config.critic.checkpoint, mesh),
        "negative": negative,
    }


def encode_prompt(config: TrainConfig, prompt: str) -> tuple[jax.Array, jax.Array]:
    """Features of a prompt and the number of its tokens, by the checkpoint's text encoder, which is
    loaded for it and let go again.
    """
    return load_pipeline(config).encode_prompt(prompt)


def load_params(config: TrainConfig, path: str, mesh: jax.sharding.Mesh) -> Params:
    """The parameters of a transformer, or of what else learns, on the mesh: a checkpoint's, or
    random ones.
    """
    dtype, objective = jnp.dtype(config.dtype), OBJECTIVES[config.objective]
    component = objective.component
    rule = dtype_rules(dtype, dtype)[component]
    if not path:
        params = objective.begin(random_params(config.model, config.seed, dtype, dtype)[component])
        return jax.device_put(params, tree_shardings(params, mesh, offload_blocks=config.offload))
    shapes = abstract_params(config.model, dtype, dtype)[component]
    places = flatten_dict(tree_shardings(shapes, mesh, offload_blocks=config.offload), sep="/")
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    with tqdm(
        total=size, unit="B", unit_scale=True, desc="loading", disable=None, leave=False
    ) as bar:
        return checkpoint.load_params(
            path, component, rule, VERIFY.value, places.__getitem__, bar.update
        )


def restore(run: Run, params: Params, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state that the run left, or a new one, on the mesh; and the steps it has done. The
    batches go on from there.
    """
    config = run.config
    shapes = abstract_state(config, params)
    places = tree_shardings(shapes, run.mesh)
    there = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )
    if restored := checkpoints.restore_latest(there):
        run.batches.set_state(restored.data_state)
        return restored.state, restored.step
    return jax.jit(functools.partial(run.objective.start, config), out_shardings=places)(params), 0


def averaged(run: Run, state: TrainState) -> Params:
    """What is looked at: the moving average, where there is one."""
    return run.objective.learned(state.trainable) if state.ema is None else state.ema


def load_videos(config: TrainConfig) -> HeliosPipeline | None:
    """What samples videos for validation: prompts encoded and the text encoder gone, the VAE
    loaded, the transformer still to come.
    """
    look = config.validation
    if not look.videos_every or not look.prompts:
        return None
    if jax.process_count() > 1:
        raise ConfigError(
            "validation.videos_every: videos are sampled where one process trains; set it to 0"
        )
    pipeline, negative = load_pipeline(config), config.model.sample.negative_prompt
    pipeline.release_text_encoder([*look.prompts, negative])
    pipeline.params = {"vae": pipeline.params["vae"]}
    return pipeline


def load_pipeline(config: TrainConfig) -> HeliosPipeline:
    """The checkpoint's text encoder and VAE, or random ones, without a transformer."""
    dtype = jnp.dtype(config.dtype)
    if not config.checkpoint:
        return HeliosPipeline.random(config.model, config.seed, dtype=dtype)
    rules = dtype_rules(dtype, dtype)
    params = {
        part: checkpoint.load_params(config.checkpoint, part, rules[part], VERIFY.value)
        for part in ("text_encoder", "vae")
    }
    tokenizer = checkpoint.load_tokenizer(config.checkpoint, VERIFY.value)
    return HeliosPipeline(config.model, params, tokenizer, dtype=dtype, vae_dtype=dtype)


def sample_videos(run: Run, state: TrainState, folder: Path, done: int) -> dict[str, float]:
    """Sample the validation prompts' videos with the averaged weights, write them, and say how far
    each has drifted from first to last chunk.
    """
    pipeline, drifts = run.videos, []
    pipeline.params = {
        **pipeline.params,
        "transformer": combine(run.objective.learned(run.base), averaged(run, state)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    sample = run.config.model.sample
    for number, prompt in enumerate(run.config.validation.prompts):
        rows = []
        keep = lambda record, rows=rows: rows.extend(
            chunk_rows(record.index, record.latents, record.frames, record.drift)
        )
        left = sample.num_frames
        with media.open_video_writer(
            str(folder / f"step{done:07d}_{number}.mp4"), sample.fps, overwrite=True
        ) as writer:
            for [chunk] in pipeline.stream(prompt, seed=number, on_chunk=keep):
                writer.write(chunk[:left])
                left -= len(chunk)
        drifts.append(
            {
                name: rows[-1][name] - value
                for name, value in rows[0].items()
                if name not in ("chunk", "video")
            }
        )
    pipeline.params = {"vae": pipeline.params["vae"]}
    return {
        f"drift_{name}": float(np.mean([drift[name] for drift in drifts])) for name in drifts[0]
    }


def stop_on_signal() -> Callable[[int], bool]:
    """Whether SIGTERM or Ctrl-C has come, agreed upon by all processes; asked after each step."""
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point
    came = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: came.append(number))
    return lambda step: bool(came)


def show_plan(config: TrainConfig) -> None:
    """Print the memory that a step takes on the GPU of --plan, and refuse what does not fit."""
    if OBJECTIVES[config.objective].component != "transformer":
        raise ConfigError(
            f"--plan is for the transformer; the objective {config.objective!r} trains another part"
        )
    gpu, sample = TARGETS[PLAN.value], config.model.sample
    with tqdm(total=0, bar_format="{desc}", disable=None, leave=False) as line:
        plan = plan_step(config, PLAN.value, line.set_description_str)
    print(
        f"{config.data.batch_size} clip(s) of {sample.width}x{sample.height}, {config.dtype}, on one {gpu.name}"
    )
    print(plan)
    verdict = f"{plan.peak / GIB:.2f} GiB at once, of {gpu.memory / GIB:.2f} GiB"
    if plan.peak > 0.98 * gpu.memory:
        raise ConfigError(f"it does not fit: {verdict}")
    print(f"it fits: {verdict}")


def recipe_name() -> str:
    """What the recipe's file is called."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem


def say(text: str) -> None:
    """Print a line, once for all processes."""
    if jax.process_index() == 0:
        print(text, flush=True)


def main(argv=None) -> int:
    """Run the command."""
    errors = (
        ConfigError,
        DataError,
        PlanError,
        TokenizerError,
        UnsupportedError,
        checkpoint.CheckpointError,
        media.MediaError,
        OSError,
    )
    run_script(_main, errors)

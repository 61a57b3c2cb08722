"""Train or distil Helios by a recipe: history-conditioned flow matching (stage 1), the pyramid
(stage 2), a few-step student (stage 3); or a small model from nothing.

A recipe says what is trained and how; any field of it can be given on the command line. Data are
folders of records, made from videos with captions:

  helios-jax encode --captions clips/captions.jsonl --checkpoint checkpoints/wan2.1 --out data/clips
  helios-jax train --config train/stage1_init --config.checkpoint=checkpoints/wan2.1 \\
      --config.data.train=data/clips

The same command goes on where it was stopped: SIGTERM, Ctrl-C and the end of its terminal save and
exit with status 0. What a step takes in memory, without a GPU:

  helios-jax train --config train/stage2_init --plan=h100

A run becomes a checkpoint for `helios-jax sample`, which `helios-jax convert` brings to PyTorch:

  helios-jax export --run runs/stage1_init --out checkpoints/stage1_init

On several machines, each runs the same command with --coordinator=HOST:PORT --process=I
--processes=N; batches are spread over all devices, and --config.fsdp=8 spreads parameters over
eight of them.

A run's folder has config.json, metrics.jsonl (a line a step), checkpoints/ and, where validation
samples them, videos/.

Exit status: 0 when all steps are done, or training was stopped and saved; 1 when it cannot go on
(loss not finite); 2 when it cannot begin (one line on stderr says why).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from helios_jax import checkpoint, media, nano
from helios_jax.checkpoint.params import dtype_rules
from helios_jax.commands import cli
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import ConfigError, from_dict
from helios_jax.memory.compiler import TARGETS
from helios_jax.memory.report import GIB, time_report
from helios_jax.memory.training import plan_step, predicted_mfu
from helios_jax.models.lora import combine
from helios_jax.parallel.start import start_processes
from helios_jax.progress import Progress
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import make_request
from helios_jax.sampling.statistics import chunk_rows
from helios_jax.training.config import TrainConfig
from helios_jax.training.loop import Evaluation, Run, TrainOptions, train
from helios_jax.training.objectives import find_objective
from helios_jax.training.step import TrainState


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return cli.run_command(__doc__ or "", define_flags, run, argv)


def run(options: flags.FlagValues) -> None:
    """Plan or train as the flags say."""
    config = read_recipe(options)
    if options.plan is not None:
        show_plan(config, options.plan, options.json)
        return
    start_processes(options.coordinator, options.process, options.processes)
    use_compile_cache(options.compile_cache)
    settings = TrainOptions(
        verify=options.verify,
        tensorboard=options.tensorboard,
        wandb=options.wandb or "",
        profile=options.profile,
    )
    folder = Path(options.run or f"runs/{recipe_name(options)}")
    train(config, folder, settings, validation_videos(folder / "videos", options.verify))


def read_recipe(options: flags.FlagValues) -> TrainConfig:
    """The recipe of --config.

    Raises:
      ConfigError: if there is none, or it cannot be.
    """
    if options.config is None:
        names = ", ".join(cli.recipes("train", "nano"))
        raise ConfigError(f"--config names the recipe: {names}, or a file like them")
    if "objective" not in options.config:
        names = ", ".join(cli.recipes("train", "nano"))
        raise ConfigError(
            f"--config names a preset of sampling, and training takes a recipe: {names}"
        )
    config = from_dict(TrainConfig, options.config)
    if config.checkpoint:
        found = str(nano.find_checkpoint(config.checkpoint))
        config = dataclasses.replace(config, checkpoint=found)
    find_objective(config)
    return config


def recipe_name(options: flags.FlagValues) -> str:
    """The name of the recipe's file."""
    path, _, _ = config_flags.get_config_filename(options["config"]).partition(":")
    return Path(path).stem


def show_plan(config: TrainConfig, target: str, as_json: bool) -> None:
    """Print the memory that a step takes on a GPU, and the time that is predicted of it.

    Raises:
      ConfigError: if it does not fit, or the objective trains another part than the transformer.
    """
    if find_objective(config).component != "transformer":
        raise ConfigError(
            f"--plan is for the transformer; the objective {config.objective!r} trains another part"
        )
    gpu = TARGETS[target]
    sample = config.model.sample
    with Progress(f"compiling for {gpu.name}") as progress:
        plan = plan_step(config, target, progress.note)
    mfu = predicted_mfu(config, plan, target)
    verdict = f"{plan.peak / GIB:.2f} GiB at once, of {gpu.memory / GIB:.2f} GiB"
    fits = plan.peak <= 0.98 * gpu.memory
    if as_json:
        found = {"gpu": gpu.name, "fits": fits, "predicted_mfu": mfu}
        print(json.dumps(found | plan.as_dict() | {"rates": gpu.rates._asdict()}))
    else:
        size = f"{sample.width}x{sample.height}"
        print(f"{config.data.batch_size} clip(s) of {size}, {config.dtype}, on one {gpu.name}")
        print(plan)
        if plan.times:
            seconds = plan.times["training step"].seconds
            share = f", model FLOP utilisation {mfu:.1%}" if mfu else ""
            print(f"predicted, not measured: {seconds:.2f} s a step{share}")
            print(time_report(plan, gpu, ["training step"]))
    if not fits:
        raise ConfigError(f"it does not fit: {verdict}")
    if not as_json:
        print(f"it fits: {verdict}")


def validation_videos(folder: Path, verify: bool = True):
    """``config -> evaluations``: a run's validation videos, where it has prompts for them.

    Args:
      folder: of the videos.
      verify: compare the checkpoint's files with their digests.
    """

    def load(config: TrainConfig) -> list[Evaluation]:
        settings = config.validation
        if not settings.videos_every or not settings.prompts:
            return []
        if jax.process_count() > 1:
            raise ConfigError(
                "validation.videos_every: videos are sampled where one process trains; set it to 0"
            )
        pipeline = load_pipeline(config, verify)

        def measure(run: Run, state: TrainState, done: int) -> dict[str, float]:
            return sample_videos(pipeline, run, state, folder, done)

        return [Evaluation(settings.videos_every, measure)]

    return load


def load_pipeline(config: TrainConfig, verify: bool) -> HeliosPipeline:
    """What samples validation videos: their prompts encoded and the text encoder gone, the VAE
    loaded, the transformer still to come.
    """
    dtype = jnp.dtype(config.dtype)
    if config.checkpoint:
        rules = dtype_rules(dtype, dtype)
        params = {}
        for part in ("text_encoder", "vae"):
            params[part] = checkpoint.load_params(config.checkpoint, part, rules[part], verify)
        tokenizer = checkpoint.load_tokenizer(config.checkpoint, verify)
        pipeline = HeliosPipeline(config.model, params, tokenizer, dtype=dtype, vae_dtype=dtype)
    else:
        pipeline = HeliosPipeline.random(config.model, config.seed, dtype=dtype)
    prompts = [*config.validation.prompts, config.model.sample.negative_prompt]
    pipeline = pipeline.with_text_encoder_released(prompts)
    return pipeline.replace(params={"vae": pipeline.params["vae"]})


def sample_videos(
    pipeline: HeliosPipeline, run: Run, state: TrainState, folder: Path, done: int
) -> dict[str, float]:
    """Sample the validation prompts' videos with the averaged weights and write them.

    Returns:
      How far each statistic has drifted from the first to the last chunk, averaged over videos.
    """
    transformer = combine(run.objective.student(run.frozen), run.averaged(state))
    pipeline = pipeline.replace(params={**pipeline.params, "transformer": transformer})
    folder.mkdir(parents=True, exist_ok=True)
    drifts = []
    for number, prompt in enumerate(run.config.validation.prompts):
        path = folder / f"step{done:07d}_{number}.mp4"
        drifts.append(write_video(pipeline, prompt, number, path))
    means = {}
    for name in drifts[0]:
        means[f"drift_{name}"] = float(np.mean([drift[name] for drift in drifts]))
    return means


def write_video(pipeline: HeliosPipeline, prompt: str, seed: int, path: Path) -> dict[str, float]:
    """Sample and write one video; returns the drift of each statistic."""
    request = make_request(pipeline.config, seed=seed)
    rows = []

    def keep(record):
        rows.extend(chunk_rows(record.index, record.latents, record.frames, record.drift))

    left = request.num_frames
    with media.open_video_writer(str(path), request.sample.fps, overwrite=True) as writer:
        for [frames] in pipeline.stream(prompt, request, on_chunk=keep):
            writer.write(frames[:left])
            left -= len(frames)
    first = rows[0]
    last = rows[-1]
    return {name: last[name] - first[name] for name in first if name not in ("chunk", "video")}


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    cli.define_config(options, argv, "Recipe: a name like train/stage1_init, or a file like it.")
    flags.DEFINE_string(
        "run",
        None,
        "Folder of the run; made, or gone on with. By default runs/ and the recipe's name.",
        flag_values=options,
    )
    cli.define_plan(
        options,
        "Print the memory that a step takes on this GPU, which need not be there, and train "
        "nothing.",
    )
    flags.DEFINE_bool(
        "tensorboard",
        False,
        "Write TensorBoard's files, too, to RUN/tensorboard.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "wandb", None, "Log to this project of Weights & Biases, too.", flag_values=options
    )
    flags.DEFINE_integer(
        "profile",
        0,
        "Trace so many steps, from the third one on, to RUN/profile; TensorBoard and Perfetto show "
        "them.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "compile_cache",
        None,
        "Folder of compiled programs; empty for none. By default JAX_COMPILATION_CACHE_DIR, or one "
        "in the user's cache folder.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "coordinator",
        "",
        'HOST:PORT of process 0 where several processes train as one, or "auto" where the cluster '
        "says.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "process", -1, "Number of this process, with --coordinator.", flag_values=options
    )
    flags.DEFINE_integer(
        "processes", 0, "How many there are, with --coordinator.", flag_values=options
    )
    flags.DEFINE_bool(
        "verify",
        True,
        "Compare the files of the checkpoint it starts from with their digests, and refuse NaN and "
        "infinite values in weights.",
        flag_values=options,
    )

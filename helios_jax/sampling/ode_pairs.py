"""Trajectories of a teacher, for a few-step student to begin with: its samples at the student's
noise levels and at the end of each stage.

  python -m helios_jax.sampling.ode_pairs --checkpoint checkpoints/helios-mid --prompt_file prompts.txt --out data/ode
  python train.py --config configs/train/stage3_ode.py --config.checkpoint=checkpoints/helios-mid --config.data.train=data/ode

``--world=400`` takes captions of the procedural world in place of a file. Each prompt has a seed of
its own. The student's noise levels join the teacher's, so that its trajectory passes through them
exactly; the first section has those of an amplified first chunk. A file a prompt, whole or not
there: the same command goes on where it was, and --shard=I --of=N shares the work.

Exit status: 0 when all files are there, 2 when the input cannot be used (one line on stderr says
why).
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from helios_jax import checkpoint
from helios_jax.commands.legacy import run_script
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import SchedulerConfig
from helios_jax.data.trajectories import SUFFIX, StagePath, Trajectory, save_trajectory
from helios_jax.diffusion.history import append_chunk, start_history
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.diffusion.pyramid import stage_grids
from helios_jax.diffusion.schedules import Schedule, make_schedule, merge_schedules, shift_tokens
from helios_jax.models.tokenizer import TokenizerError
from helios_jax.sampling.chunk import embed_chunk_history, sample_stage
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.world.captions import caption
from helios_jax.world.scenes import sample_scene


def schedules(
    scheduler: SchedulerConfig,
    teacher: tuple[int, ...],
    student: tuple[int, ...],
    tokens: list[int],
) -> list[tuple[Schedule, np.ndarray]]:
    """For every stage the teacher's steps with the student's among them, and which of them are the
    student's.

    Args:
      scheduler: the teacher's; the student's is the same with the solver ``"dmd"``.
      teacher, student: steps of each stage.
      tokens: noisy tokens at each stage.
    """
    few = dataclasses.replace(scheduler, solver="dmd")
    pairs = []
    for stage, (many, own) in enumerate(zip(teacher, student)):
        shift = shift_tokens(scheduler, stage, tokens)
        pairs.append(
            merge_schedules(
                make_schedule(scheduler, stage, many, shift), make_schedule(few, stage, own, shift)
            )
        )
    return pairs


def make_trajectory(
    pipeline: HeliosPipeline, prompt: str, key: jax.Array, sections: int, student: tuple[int, ...]
) -> Trajectory:
    """The trajectory of one video.

    Args:
      pipeline: the teacher.
      prompt: what it shows.
      key: of all its noise.
      sections: how many chunks.
      student: the student's steps at each stage; at the first section it takes twice as many.
    """
    config = pipeline.config
    request, scheduler, model = (
        make_request(config, num_frames=1),
        config.scheduler,
        pipeline.transformer,
    )
    T, H, W, C = request.latent_shape
    _, ph, pw = config.transformer.patch_size
    tokens = [
        T * (rows // ph) * (columns // pw) for rows, columns in stage_grids(H, W, scheduler.stages)
    ]
    features, length = pipeline.encode_prompt(prompt)
    text = pipeline.encode_prompts(
        [prompt], [config.sample.negative_prompt] if request.plan.guided else []
    )
    params, state, found = (
        pipeline.params["transformer"],
        start_history((1, H, W, C), request.plan.history_sizes),
        [],
    )
    static = dict(model=model, plan=request.plan)
    for section in range(sections):
        noise = draw_chunk_noise(
            key[None], section, request.latent_shape, scheduler.stages, scheduler.gamma
        )
        history, sample, stages = _embed(params, state, T, **static), None, []
        own = schedules(
            scheduler, request.plan.steps, tuple(n * (1 if section else 2) for n in student), tokens
        )
        for stage, (schedule, at) in enumerate(own):
            frozen = (tuple(schedule.timesteps), tuple(schedule.sigmas))
            path = _trace(
                params,
                history,
                sample,
                noise,
                text,
                jnp.float32(request.guidance_scale),
                frozen,
                scheduler=scheduler,
                stage=stage,
                **static,
            )
            sample = path[-1]
            chosen = np.asarray(path[np.append(at, len(path) - 1), 0], np.float32)
            stages.append(
                StagePath(
                    chosen,
                    schedule.sigmas[at].astype(np.float32),
                    schedule.timesteps[at].astype(np.float32),
                )
            )
        state = append_chunk(state, sample)
        found.append(stages)
    return Trajectory(found, np.asarray(features[0, : int(length[0])]))


_embed = jax.jit(embed_chunk_history, static_argnames=("frames", "model", "plan"))


@functools.partial(jax.jit, static_argnames=("frozen", "model", "scheduler", "plan", "stage"))
def _trace(params, history, sample, noise, text, guidance_scale, frozen, **static):
    """The samples of a stage before each of its steps and after the last."""
    schedule = Schedule(*map(np.array, frozen))
    return sample_stage(
        params, history, sample, noise, text, guidance_scale, schedule=schedule, path=True, **static
    )


def read_prompts() -> list[str]:
    """Those of --prompt_file, or captions of --world."""
    file, world = flags.FLAGS.prompt_file, flags.FLAGS.world
    if (file is None) == (world is None):
        raise RequestError("give prompts: one of --prompt_file and --world")
    if world is not None:
        return [caption(sample_scene(flags.FLAGS.seed, number), number) for number in range(world)]
    try:
        prompts = [
            line.strip()
            for line in Path(file).read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--prompt_file={file} cannot be read: {error}") from error
    if not prompts:
        raise RequestError(f"--prompt_file={file} has no prompts")
    return prompts


def main() -> None:
    """Make what is not there yet."""
    values = flags.FLAGS
    use_compile_cache()
    prompts = read_prompts()
    pipeline = HeliosPipeline.from_checkpoint(values.checkpoint)
    linear = dataclasses.replace(
        pipeline.config.scheduler, time_shift_type="linear"
    )  # the student's, whatever the teacher's own
    pipeline.config = dataclasses.replace(pipeline.config, scheduler=linear)
    student = tuple(int(step) for step in values.student_steps)
    if len(student) != pipeline.config.scheduler.stages:
        raise RequestError(
            f"--student_steps={','.join(values.student_steps)}: the checkpoint has {pipeline.config.scheduler.stages} stages"
        )
    out, key = Path(values.out), jax.random.key(values.seed)
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(range(values.shard, len(prompts), values.of), unit="video", disable=None) as bar:
        for number in bar:
            path = out / f"{number:06d}{SUFFIX}"
            if not path.exists():
                made = make_trajectory(
                    pipeline,
                    prompts[number],
                    jax.random.fold_in(key, number),
                    values.sections,
                    student,
                )
                save_trajectory(path, made, {"prompt": prompts[number], "seed": str(values.seed)})


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", None, "The teacher: a checkpoint with a pyramid.", required=True
    )
    flags.DEFINE_string("prompt_file", None, "Text file with one prompt a line.")
    flags.DEFINE_integer(
        "world", None, "Take so many captions of the procedural world instead.", lower_bound=1
    )
    flags.DEFINE_string("out", None, "Folder of the files; made, or gone on with.", required=True)
    flags.DEFINE_integer("sections", 5, "Chunks of each video.", lower_bound=1)
    flags.DEFINE_list(
        "student_steps", ["2", "2", "2"], "The student's steps of each stage, coarsest first."
    )
    flags.DEFINE_integer("seed", 0, "From which, with its number, each video's own follows.")
    flags.DEFINE_integer(
        "shard",
        0,
        "Which part of the prompts this process takes, 0 to --of minus 1.",
        lower_bound=0,
    )
    flags.DEFINE_integer("of", 1, "How many processes share the work.", lower_bound=1)
    run_script(main, (RequestError, TokenizerError, checkpoint.CheckpointError, OSError))

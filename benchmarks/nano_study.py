"""What makes helios-nano learn faster: rows of equal processor time, each with one thing changed.

  python benchmarks/nano_study.py --checkpoint checkpoints/nano-parts --folder runs/nano-study
  python benchmarks/nano_study.py ... --rows control,narrow --minutes 10

Every row is a run of the recipe nano/t2i from nothing on the same stills, stopped when it has used
its minutes of processor time; compiling and the first steps do not count. Then it draws stills of
held-out captions (Euler steps, with guidance), and the judge reads them. A row that the result file
has is not run again. --checkpoint holds the text encoder and a VAE of 16 channels without
equivariance_weight, made by the recipe nano/vae_images in 1500 steps, and no transformer; the
folders beside it, whose names end in -8 and -eq, hold one of 8 channels after 450 of such steps,
and the first after 300 more with equivariance_weight=0.5 and a rate of 1e-3.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from helios_jax import checkpoint
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import HeliosConfig
from helios_jax.data.encoders import Encoders, encode_caption, load_encoders
from helios_jax.diffusion.pyramid import downsample
from helios_jax.diffusion.schedules import make_noise_schedule
from helios_jax.evaluation.judge import accuracy, interval, read_clip, score
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.vae import VAE, decode_latents
from helios_jax.training.reconstruction import to_pixels
from helios_jax.types import Array, Float, Params
from helios_jax.world.captions import caption
from helios_jax.world.drawing import render
from helios_jax.world.scenes import Scene, sample_scene

CHECKPOINT = flags.DEFINE_string("checkpoint", "checkpoints/nano-parts", "VAE and text encoder.")
FOLDER = flags.DEFINE_string("folder", "runs/nano-study", "Records and runs.")
OUT = flags.DEFINE_string(
    "out", str(Path(__file__).parent / "results/nano_study"), "Result files, without .json and .md."
)
ROWS = flags.DEFINE_list("rows", None, "Which; by default all.")
MINUTES = flags.DEFINE_float("minutes", 4.0, "Processor time of a row.", lower_bound=0.1)
STILLS = flags.DEFINE_integer("stills", 6144, "Stills to train on.")
PROMPTS = flags.DEFINE_integer("prompts", 96, "Held-out captions that are drawn and read.")
MACHINE = flags.DEFINE_string("machine", "nothing else running", "What the results say of it.")

EDITION = 2
SEEN = ("color", "shape", "size", "count", "background", "background colors")
"""What a still shows."""
MEASURED = ("VAE, dB", "minutes", "steps", "loss", "others' captions")
"""What stands before that in the table."""
STEPS, GUIDANCE = 20, 4.0
SEED = 2000


class Row(NamedTuple):
    """A run.

    Attributes:
      what: is changed, in words.
      changes: fields of the recipe.
      environment: of the process.
      vae: ending of the checkpoint's name.
    """

    what: str
    changes: Mapping[str, str]
    environment: Mapping[str, str]
    vae: str = ""


def channels(count: int) -> dict[str, str]:
    """Latents of so many channels."""
    return {
        "model.vae.z_dim": str(count),
        "model.vae.latents_mean": str((0.0,) * count),
        "model.vae.latents_std": str((1.0,) * count),
        "model.transformer.in_channels": str(count),
        "model.transformer.out_channels": str(count),
    }


COMMON = {
    "data.batch_size": "16",
    "optimizer.method": "adamw",
    "optimizer.learning_rate": "3e-3",
    "optimizer.schedule": "constant_with_warmup",
    "ema.decay": "0.99",
    "validation.every": "200",
    "validation.batches": "8",
    "steps": "1000000",
    "log_every": "10",
    "save_every": "1000000",
    **channels(16),
}
"""Of every row: AdamW at 3e-3 with batches of 16 was ahead of Muon with 64 at equal time."""
PRODUCTS = {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}


def width(heads: int) -> dict[str, str]:
    """A model of so many heads of 48 channels."""
    return {
        "model.transformer.num_attention_heads": str(heads),
        "model.transformer.ffn_dim": str(144 * heads),
    }


TABLE = {
    "control": Row(
        "AdamW 3e-3, batch 16, width 192, 6 blocks, bfloat16 products; latents of 16 channels, "
        "1500 steps of the VAE",
        {},
        PRODUCTS,
    ),
    "8 channels": Row(
        "latents of 8 channels; 450 steps of the VAE",
        channels(8),
        PRODUCTS,
        "-8",
    ),
    "equivariant": Row(
        "latents whose 2 x 2 means decode to the half-size picture: 300 more steps of the VAE",
        {},
        PRODUCTS,
        "-eq",
    ),
    "narrow": Row("width 144 instead of 192", width(3), PRODUCTS),
    "batch 8": Row("batches of 8", {"data.batch_size": "8"}, PRODUCTS),
    "float32": Row("products of float32 factors", {}, {}),
    "noisier": Row(
        "levels at logit_mean=-0.7: half of them below a noise level of 0.78 instead of 0.68",
        {"timesteps.logit_mean": "-0.7"},
        PRODUCTS,
    ),
    "shallow": Row("4 blocks instead of 6", {"model.transformer.num_layers": "4"}, PRODUCTS),
    "wide": Row("width 288, 4 blocks", width(6) | {"model.transformer.num_layers": "4"}, PRODUCTS),
    "rate 6e-3": Row("twice the learning rate", {"optimizer.learning_rate": "6e-3"}, PRODUCTS),
}


def encode(vae: str) -> Path:
    """The stills of a VAE, made where they are not there; their folder."""
    folder = Path(FOLDER.value, f"stills{vae}")
    splits = {"train": (1, STILLS.value), "heldout": (5, 256)}
    for split, (seed, count) in splits.items():
        run_helios(
            "encode",
            f"--checkpoint={CHECKPOINT.value}{vae}",
            f"--out={folder / split}",
            f"--world={count}",
            f"--world_split={split}",
            f"--world_edition={EDITION}",
            f"--world_uncaptioned={0.1 if split == 'train' else 0.0}",
            f"--seed={seed}",
            "--world_frames=1",
            "--frames=1",
            "--min_frames=1",
            "--clips_per_shard=512",
        )
    return folder


def run_helios(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "helios_jax", *arguments], check=True)


def train(name: str, row: Row, stills: Path) -> Path:
    """Run a row until its minutes are used; the run's folder."""
    run = Path(FOLDER.value, name.replace(" ", "_"))
    changes = {**COMMON, **row.changes}
    changes |= {"data.train": str(stills / "train"), "data.validation": str(stills / "heldout")}
    command = [sys.executable, "-m", "helios_jax", "train", "--config=nano/t2i", f"--run={run}"]
    command += [f"--config.{field}={value}" for field, value in changes.items()]
    process = subprocess.Popen(command, env={**os.environ, **row.environment})
    metrics, begun = run / "metrics.jsonl", None
    while process.poll() is None:
        time.sleep(0.5)
        if begun is None and metrics.exists() and '"loss"' in metrics.read_text():
            begun = processor_seconds(process.pid)
        if begun is not None and processor_seconds(process.pid) - begun > 60 * MINUTES.value:
            process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode:
        sys.exit(f"row {name!r} ended with status {process.returncode}")
    return run


def processor_seconds(pid: int) -> float:
    """Of a process with all its threads, so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def draw(
    config: HeliosConfig, params: Params, encoders: Encoders, prompts: list[str]
) -> Float[np.ndarray, "B Y X 3"]:
    """Stills of prompts, from 0 to 1."""
    rows = config.text_encoder.max_sequence_length
    text, length = stack([encode_caption(encoders, prompt) for prompt in prompts], rows)
    empty, none = stack([encode_caption(encoders, "")] * len(prompts), rows)
    sample, vae = config.sample, config.vae
    cells = (sample.height // vae.spatial_factor, sample.width // vae.spatial_factor)
    schedule = make_noise_schedule(config.scheduler, 0, STEPS, cells[0] * cells[1] // 4)
    model = HeliosTransformer(config.transformer, jnp.float32)

    def embed(text: Array, length: Array) -> Array:
        return model.apply({"params": params}, text, length, rows, method="embed_text")

    @jax.jit
    def velocity(x: Array, timestep: Array, text: Array, length: Array) -> Array:
        time = model.apply({"params": params}, timestep, method="embed_time")
        embedded = embed(text, length)
        return model.apply(
            {"params": params}, x, time, embedded, None, (0,), None, method="denoise"
        )

    shape = (len(prompts), 1, *cells, vae.z_dim)
    x = jnp.asarray(np.random.default_rng(SEED).standard_normal(shape), jnp.float32)
    for step in range(STEPS):
        timestep = jnp.full(len(prompts), schedule.timesteps[step], jnp.float32)
        told, untold = (
            velocity(x, timestep, text, length),
            velocity(x, timestep, empty, none),
        )
        pace = float(schedule.sigmas[step + 1] - schedule.sigmas[step])
        x = x + pace * (untold + GUIDANCE * (told - untold))
    decode = jax.jit(lambda latents: decode_latents(encoders.vae, encoders.vae_params, latents))
    return np.concatenate([np.asarray(decode(part)[:, 0]) for part in jnp.split(x, 8)]) / 2 + 0.5


def stack(features: list[np.ndarray], rows: int) -> tuple[Array, Array]:
    """Features of prompts as one array, filled up with zeros, and their lengths."""
    padded = [np.pad(each, [(0, rows - len(each)), (0, 0)]) for each in features]
    return jnp.asarray(np.stack(padded)), jnp.asarray([len(each) for each in features])


def look(run: Path, row: Row) -> dict[str, tuple[int, int]]:
    """What the judge reads rightly in stills of held-out captions."""
    out = run.with_name(f"{run.name}-checkpoint")
    base = f"{CHECKPOINT.value}{row.vae}"
    run_helios("export", f"--run={run}", f"--base={base}", f"--out={out}", "--overwrite")
    config = checkpoint.load_config(out)
    params = checkpoint.load_params(str(out), "transformer", lambda leaf: jnp.float32)
    scenes = [sample_scene(SEED, i, "heldout", EDITION) for i in range(PROMPTS.value)]
    prompts = [caption(scene, i) for i, scene in enumerate(scenes)]
    stills = draw(config, params, load_encoders(out), prompts)
    save_sheet(out.with_name(f"{run.name}.png"), stills)
    counts = accuracy([score(read_still(still), scene) for still, scene in zip(stills, scenes)])
    seen = {name: counts[name] for name in SEEN}
    return seen | {"all": tuple(map(sum, zip(*seen.values())))}


def read_still(still: Float[np.ndarray, "Y X 3"]) -> Scene:
    """What is seen in a clip that stands still."""
    return read_clip(np.repeat(still[None], 9, axis=0), edition=EDITION)


def save_sheet(path: Path, stills: Float[np.ndarray, "B Y X 3"]) -> None:
    """The first 24 stills, six in a row."""
    from PIL import Image

    rows = [np.concatenate(list(stills[i : i + 6]), axis=1) for i in range(0, 24, 6)]
    Image.fromarray(np.uint8(np.concatenate(rows).clip(0, 1) * 255)).save(path)


def look_at_vae(path: str) -> dict[str, float]:
    """PSNR of decoded pictures, and of half-size ones decoded from means of 2 x 2 latents; dB."""
    vae = VAE(checkpoint.load_config(path).vae)
    params = checkpoint.load_params(path, "vae", lambda leaf: jnp.float32)
    size = (1, 64, 128)
    scenes = [sample_scene(SEED, i, "heldout", EDITION) for i in range(32)]
    pixels = to_pixels(np.stack([render(scene, *size) for scene in scenes]))
    mean, _ = vae.apply({"params": params}, pixels, method="encode")
    found = {}
    for name in ("whole", "half", "quarter"):
        error = jnp.square(vae.apply({"params": params}, mean, method="decode") - pixels).mean()
        found[name] = round(float(10 * jnp.log10(4 / error)), 1)
        mean, pixels = downsample(mean), downsample(pixels)
    return found


def summary(run: Path) -> dict[str, Any]:
    """Steps and validation losses of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    looked = [line for line in lines if "validation_loss" in line]
    found = {"steps": lines[-1]["step"]}
    for name, field in (("losses", ""), ("losses_other_captions", "_other_captions")):
        found[name] = {line["step"]: round(line[f"validation_loss{field}"], 4) for line in looked}
    return found


def main(argv: list[str]) -> None:
    """Run the rows that are missing; write both files after each."""
    use_compile_cache()
    Path(FOLDER.value).mkdir(parents=True, exist_ok=True)
    path = Path(f"{OUT.value}.json")
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in ROWS.value or TABLE:
        if name in results:
            continue
        row = TABLE[name]
        run = train(name, row, encode(row.vae))
        results[name] = summary(run) | {"minutes": MINUTES.value, "read": look(run, row)}
        results[name]["vae"] = look_at_vae(f"{CHECKPOINT.value}{row.vae}")
        write(path, results)
    write(path, results)


def write(path: Path, results: dict) -> None:
    """Both result files."""
    conditions = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "stills": f"{STILLS.value} of the world's edition {EDITION}, 64x128",
        "read": f"{PROMPTS.value} held-out captions, {STEPS} Euler steps, guidance {GUIDANCE:g}",
        "machine": f"{platform.machine()}, {MACHINE.value}",
        **{package: importlib.metadata.version(package) for package in ("jax", "numpy")},
    }
    text = json.dumps({"conditions": conditions, "results": results}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    command = " ".join(f"--{flag.name}={flag.value:g}" for flag in (MINUTES, STILLS, PROMPTS))
    lines = ["# What makes helios-nano learn faster", ""]
    lines += [f"`python benchmarks/nano_study.py {command}`", ""]
    lines += [
        "Rows of equal processor time, from nothing; the share that the judge reads rightly in",
        "stills of held-out captions. Losses compare only between rows of one VAE and one density;",
        "beside the validation loss stands that with the captions of other stills.",
        "VAE: PSNR of pictures, and of half- and quarter-size ones decoded from means of latents.",
        "",
        f"| row | changed | {' | '.join(MEASURED)} | {' | '.join(SEEN)} | all | 95 % |",
        f"|---|---|{'---|' * (len(MEASURED) + len(SEEN))}---|---|",
    ]
    for name, row in TABLE.items():
        if name not in results:
            lines.append(
                f"| {name} | {row.what} | not measured |{' |' * (len(MEASURED) + len(SEEN) + 1)}"
            )
            continue
        found = results[name]
        shares = [f"{right / total:.0%}" for right, total in found["read"].values()]
        low, high = interval(*found["read"]["all"])
        losses = [list(found[name].values())[-1] for name in ("losses", "losses_other_captions")]
        lines.append(
            f"| {name} | {row.what} | {' / '.join(map(str, found['vae'].values()))} | "
            f"{found['minutes']:g} | {found['steps']} | {losses[0]:.3f} | {losses[1]:.3f} | "
            f"{' | '.join(shares)} | {low:.0%} to {high:.0%} |"
        )
    lines += [
        "",
        "No rows yet: several noise levels a caption, the share of stills against sections, and",
        "weights of the pyramid's levels.",
    ]
    lines += ["", "## Conditions", ""]
    for key, value in conditions.items():
        lines += textwrap.wrap(f"* {key}: {value}", 100, subsequent_indent="  ")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)

"""Time that the 14B model is predicted to take on a GPU, from programs compiled without one.

  python benchmarks/predicted.py                      # all rows: about ten minutes on two cores
  python benchmarks/predicted.py --rows=2-2-2,VAE     # those whose names have one of these words
  python benchmarks/predicted.py --out=benchmarks/results/predicted_before

Nothing runs on a GPU: kernels are counted in what XLA compiles, and each takes the longer of its
operations and its bytes at rates that helios_jax/cost/chips.py names with their source. Rows that
are not asked for stay as the file has them.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # the compiler wants no GPU, whatever the machine has

import jax
import jax.numpy as jnp
from absl import app, flags

from helios_jax.config import HeliosConfig, TransformerConfig
from helios_jax.cost.chips import CHIPS
from helios_jax.cost.graphs import Graphs
from helios_jax.cost.report import as_dict, assumptions, predict, table
from helios_jax.diffusion.history import frame_indices
from helios_jax.fields import from_dict
from helios_jax.memory import compiler
from helios_jax.memory.report import GIB, Program, measure
from helios_jax.memory.sampling import EVERYTHING, Placement, request_programs
from helios_jax.memory.training import step_programs
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.sampling.chunk import apply, embed_chunk_history
from helios_jax.sampling.request import make_request
from helios_jax.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/predicted_after"),
    "Result files, without .json and .md.",
)
ROWS = flags.DEFINE_list("rows", [], "Words of the rows that are wanted; all by default.")
TARGET = flags.DEFINE_enum("target", "h200", list(CHIPS), "The GPU that is compiled for.")
TOKENS = (2940, 4560, 11040)
"""Of a forward at each stage: 2400 of history, and the noisy ones."""

CHIP_NAMES = ("h200", "h100")
"""Whose rates the columns are of: one program serves both."""


Programs = Callable[[], dict[str, Program]]


def rows() -> dict[str, tuple[Programs, str]]:
    """For each row, what makes its programs, and the name of the one that is meant."""
    read = runpy.run_path(str(ROOT / "configs/helios_distilled.py"))["get_config"]
    config = from_dict(HeliosConfig, read())
    stage_1 = recipe("stage1_init")
    stage_3 = recipe("stage3_post")

    rounded = dataclasses.replace(config.transformer, round_activations=True)

    def request(
        steps: tuple[int, ...],
        placement: Placement = EVERYTHING,
        transformer: TransformerConfig = config.transformer,
    ) -> Programs:
        made = make_request(dataclasses.replace(config, transformer=transformer), steps=steps)
        return functools.partial(request_programs, made, "bfloat16", "bfloat16", placement)

    def forwards() -> dict[str, tuple[Programs, str]]:
        found = {}
        for stage, tokens in enumerate(TOKENS):
            make = functools.partial(forward_program, config, stage)
            found[f"forward, {tokens} tokens"] = (make, "forward")
        return found

    two = (2, 2, 2)
    fp8 = Placement(quantization="fp8")
    streamed = request(two, Placement(stream_blocks=True))
    return {
        "chunk 2-2-2": (request(two), "chunk"),
        "chunk 1-1-1": (request((1, 1, 1)), "chunk"),
        "VAE decoder, a chunk": (request(two), "VAE decoder"),
        **forwards(),
        "chunk 2-2-2, fp8 weights": (request(two, fp8), "chunk"),
        "chunk 2-2-2, fp8 weights and activations": (request(two, fp8, rounded), "chunk"),
        "chunk 2-2-2, blocks in host memory": (streamed, "chunk"),
        "training step, stage 1, LoRA 128, two clips": (
            functools.partial(step_programs, stage_1),
            "training step",
        ),
        "training step, stage 1, LoRA 128, two clips in turn, products kept": (
            functools.partial(step_programs, in_turn(stage_1)),
            "training step",
        ),
        "training step, stage 3, distribution matching, one clip, blocks in host memory": (
            functools.partial(step_programs, stage_3),
            "training step",
        ),
        "training step, stage 3, distribution matching, one clip, blocks on the GPU": (
            functools.partial(step_programs, dataclasses.replace(stage_3, offload=False)),
            "training step",
        ),
    }


def in_turn(config: TrainConfig) -> TrainConfig:
    """A run whose clips pass one after another, so that nothing but elementwise operations is
    computed again: 140 GB hold that.
    """
    transformer = dataclasses.replace(config.model.transformer, remat="products")
    model = dataclasses.replace(config.model, transformer=transformer)
    return dataclasses.replace(config, model=model, accumulate=config.data.batch_size)


def recipe(name: str) -> TrainConfig:
    """A recipe of ``configs/train``."""
    read = runpy.run_path(str(ROOT / f"configs/train/{name}.py"))["get_config"]
    return from_dict(TrainConfig, read())


def forward_program(config: HeliosConfig, stage: int) -> dict[str, Program]:
    """One forward of the transformer at a stage, history and text prepared."""
    made = make_request(config)
    chunk = request_programs(made, "bfloat16", "bfloat16")["chunk"]
    params, state, noise, text, _ = chunk.args
    model = HeliosTransformer(config.transformer, jnp.bfloat16)
    frames = made.latent_shape[0]
    prepare = functools.partial(embed_chunk_history, frames=frames, model=model, plan=made.plan)
    history = jax.eval_shape(prepare, params, state)
    time = jax.eval_shape(
        lambda params: apply(model, params, "embed_time", jnp.full((1,), 500.0)), params
    )
    _, T, H, W, C = noise.latents.shape
    latents = jax.ShapeDtypeStruct((1, T, H >> (2 - stage), W >> (2 - stage), C), jnp.float32)

    def forward(params, latents, time, text, history):
        positions = frame_indices(made.plan.history_sizes, frames).noisy
        return apply(model, params, "denoise", latents, time, text, history, positions)

    arguments = (params, latents, time, text, history)
    return {"forward": Program(jax.jit(forward), arguments)}


def main(_) -> None:
    path = Path(f"{OUT.value}.json")
    had = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name, (make, program) in rows().items():
        if ROWS.value and not any(word in name for word in ROWS.value):
            continue
        with compiler.tracing_for(TARGET.value):
            programs = make()
        began = time.process_time()
        memory = measure(programs[program], TARGET.value)
        seconds = time.process_time() - began
        prediction = predict(memory.kernels, CHIPS[TARGET.value])
        print(table(name, prediction), flush=True)
        had[name] = {
            "seconds": {chip: predict(memory.kernels, CHIPS[chip]).seconds for chip in CHIP_NAMES},
            "prediction": as_dict(prediction),
            "temporary_gib": memory.temporary / GIB,
            "compile_cpu_seconds": seconds,
        }
        report = {"conditions": conditions(), "rows": had}
        path.write_text(json.dumps(report, indent=1) + "\n")
        Path(f"{OUT.value}.md").write_text(markdown(report))


def conditions() -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": "no GPU: compiled on a CPU for a description of the chip",
        "compiled for": CHIPS[TARGET.value].name,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jax-triton")},
        "model": "Helios-Distilled 14B, 384 x 640, batch 1, no guidance, bfloat16",
        "not in it": "autotuning, cuDNN's engines, throttling of the clock, what the host does",
        "H200": assumptions(CHIPS["h200"]),
        "H100": assumptions(CHIPS["h100"]),
    }


def markdown(report: dict[str, Any]) -> str:
    """All rows as tables."""
    found = report["rows"]
    lines = [
        "# Predicted time on a GPU",
        "",
        "Predictions from compiled programs (`benchmarks/predicted.py`), **not measurements**: no",
        "program here has run on a GPU.",
        "",
        "| program | H200 | H100 | temporary memory | compiled in (CPU time) |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        times = " | ".join(f"{row['seconds'][chip] * 1e3:.0f} ms" for chip in CHIP_NAMES)
        compiled = f"{row['temporary_gib']:.2f} GiB | {row['compile_cpu_seconds']:.0f} s"
        lines.append(f"| {name} | {times} | {compiled} |")
    lines += ["", *frame_rates(found)]
    for name, row in found.items():
        lines += ["", f"## {name}, H200", "", *kernel_table(row["prediction"])]
    notes = [f"* {name}: {value}" for name, value in report["conditions"].items()]
    return "\n".join([*lines, "", "## Conditions", "", *notes, ""])


def frame_rates(found: dict[str, Any]) -> list[str]:
    """Frames a second of every kind of chunk, with the VAE."""
    vae = found.get("VAE decoder, a chunk")
    if not vae:
        return []
    lines = ["| frames/s, chunk and VAE | H200 | H100 |", "|---|---|---|"]
    for name, row in found.items():
        if name.startswith("chunk"):
            rates = []
            for chip in CHIP_NAMES:
                rates.append(f"{33 / (row['seconds'][chip] + vae['seconds'][chip]):.1f}")
            lines.append(f"| {name} | {' | '.join(rates)} |")
    return lines


def kernel_table(prediction: dict[str, Any]) -> list[str]:
    """Kernels of a program, and what is lost."""
    lines = ["| kernels | launches | GB | TFLOP | ms |", "|---|---|---|---|---|"]
    for line in prediction["kernels"]:
        lines.append(
            f"| {line['group']} | {line['launches']:.0f} | {line['bytes'] / 1e9:.1f} | "
            f"{line['operations'] / 1e12:.1f} | {line['seconds'] * 1e3:.1f} |"
        )
    lines.append(f"| gaps between kernels | | | | {prediction['gaps'] * 1e3:.1f} |")
    if prediction["host"]:
        lines.append(f"| host memory, beside it | | | | {prediction['host'] * 1e3:.1f} |")
    lost = [f"{words} {seconds * 1e3:.1f} ms" for words, seconds in prediction["wastes"].items()]
    lines += ["", f"Most is lost to {', '.join(lost[:3])}.", *prediction["notes"]]
    if graphs := prediction.get("graphs"):
        lines.append(f"{Graphs(**graphs)}.")
    return lines


if __name__ == "__main__":
    app.run(main)

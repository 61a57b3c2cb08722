"""How far eight-bit weights move the latents of a chunk, beside what bfloat16 itself does.

Random weights, a minute or two on a laptop; the released ones, on a GPU:

  python benchmarks/quantization.py
  python benchmarks/quantization.py --checkpoint=checkpoints/helios-distilled --height=384 \\
      --width=640

Each form makes the same chunk from the same noise and prompt. Deviations are root mean squares,
relative to that of the latents: from the chunk made in bfloat16, and for bfloat16 itself from the
one made in float32.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from helios_jax import HeliosPipeline
from helios_jax.config import (
    HeliosConfig,
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint directory; without one, random weights."
)
HEIGHT = flags.DEFINE_integer("height", 64, "Pixels.")
WIDTH = flags.DEFINE_integer("width", 128, "Pixels.")
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/quantization"),
    "Result files, without .json and .md.",
)

PROMPT = "a red ball rolls slowly over green grass while the camera follows it from the left"
CONFIG = HeliosConfig(
    transformer=TransformerConfig(num_attention_heads=4, num_layers=4, ffn_dim=1408, text_dim=64),
    vae=VAEConfig(base_dim=16, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
    text_encoder=TextEncoderConfig(
        vocab_size=256, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4
    ),
    scheduler=SchedulerConfig(solver="dmd", time_shift_type="linear"),
    sample=SampleConfig(num_frames=33, steps=(2, 2, 2), guidance_scale=1.0),
)
FORMS = {
    "int8 weights": ("int8", False),
    "int8 weights and activations": ("int8", True),
    "float8 weights": ("fp8", False),
    "float8 weights and activations": ("fp8", True),
}


def load(dtype: jnp.dtype) -> HeliosPipeline:
    return (
        HeliosPipeline.from_checkpoint(CHECKPOINT.value, dtype=dtype)
        if CHECKPOINT.value
        else HeliosPipeline.random(CONFIG, dtype=dtype)
    )


def latents(pipeline: HeliosPipeline) -> np.ndarray:
    """One chunk."""
    return next(
        pipeline.stream(
            PROMPT, num_frames=33, height=HEIGHT.value, width=WIDTH.value, output="latent"
        )
    )


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sqrt(np.square(ours - theirs).mean() / np.square(theirs).mean()))


def main(argv: list[str]) -> None:
    """Make the chunk in every form; write both files."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    pipeline = load(jnp.bfloat16)
    plain = latents(pipeline)
    results = {"bfloat16, from float32": deviation(plain, latents(load(jnp.float32)))}
    for name, (quantization, round_activations) in FORMS.items():
        rounded = pipeline.quantized(quantization, round_activations=round_activations)
        results[f"{name}, from bfloat16"] = deviation(latents(rounded), plain)
        print(name, results[f"{name}, from bfloat16"], flush=True)
    conditions = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "device": jax.local_devices()[0].device_kind,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("jax", "jaxlib")},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "weights": CHECKPOINT.value or "random",
        "transformer": dataclasses.asdict(pipeline.config.transformer),
        "size": f"{HEIGHT.value} x {WIDTH.value}, 33 frames, steps {pipeline.config.sample.steps}",
        "prompt": PROMPT,
    }
    command = " ".join(["python benchmarks/quantization.py", *sys.argv[1:]])
    rows = [f"| {name} | {value:.2%} |" for name, value in results.items()]
    lines = [
        "# Eight-bit weights: deviation of a chunk's latents",
        "",
        f"`{command}`",
        "",
        "| form | deviation |",
        "|---|---|",
        *rows,
        "",
    ]
    lines += [
        "## Conditions",
        "",
        *(f"* {name}: {value}" for name, value in conditions.items()),
        "",
    ]
    Path(f"{OUT.value}.json").write_text(
        json.dumps({"command": command, "conditions": conditions, "results": results}, indent=2)
        + "\n",
        encoding="utf-8",
    )
    Path(f"{OUT.value}.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)

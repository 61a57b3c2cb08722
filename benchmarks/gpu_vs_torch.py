"""PyTorch (diffusers) on one GPU beside what benchmarks/gpu.py has measured of helios-jax: random
weights of the released size, bfloat16.

  python benchmarks/gpu.py --rows=forward,vae,chunk
  python benchmarks/gpu_vs_torch.py             # needs torch with CUDA, and diffusers
  python benchmarks/gpu_vs_torch.py --size=toy  # on any device, to see that the script runs

Of the same shapes; each row is written as soon as it is measured:

  forward      one transformer call at a stage; PyTorch's with all 512 text rows, as its pipeline
               calls it
  vae          one chunk of latents to frames, ours in bfloat16; PyTorch's in float32, as its
               pipeline runs it (TF32 where torch allows it), and in bfloat16
  chunk        all forwards, the VAE and the copy to the host; PyTorch's has no solver and no
               pyramid in it, which is to its advantage
"""

import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
from absl import app, flags

SIZE = flags.DEFINE_enum(
    "size",
    "full",
    ["full", "toy"],
    "The released model at 384 x 640, or two blocks of the tiny one.",
)
REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Timed repeats of a row after one that warms up.", lower_bound=1
)
BUDGET = flags.DEFINE_float("budget_s", 540, "Seconds after which no further row begins.")
COMPILE = flags.DEFINE_bool("compile", False, "torch.compile the transformer and the VAE.")
OURS = flags.DEFINE_list(
    "ours",
    [str(Path(__file__).parent / "results/gpu.json")],
    "What benchmarks/gpu.py has measured, one file or several.",
)
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/gpu_vs_torch"),
    "Result files, without .json and .md.",
)

TINY = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    rope_dim=(12, 10, 10),
    ffn_dim=512,
    num_layers=2,
    text_dim=64,
)
SIZES = {
    "full": ({}, {}, (384, 640)),
    "toy": (TINY, dict(base_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1), (64, 64)),
}
BFLOAT16 = ", bfloat16"
"""Ends the name of a row that PyTorch has in two dtypes, and helios-jax in one."""
THEIRS = "PyTorch, "
"""Begins the names of PyTorch's rows."""
HISTORY = {"short": (0, 20), "mid": (17, 18), "long": range(1, 17)}
"""Positions in time of the history's frames, anchor first; the noisy frames follow."""


def torch_rows() -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Each row with diffusers, and what they run on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = torch.bfloat16 if device == "cuda" else torch.float32  # bfloat16 takes a CPU minutes
    torch.set_grad_enabled(False)
    transformer_config, vae_config, (height, width) = SIZES[SIZE.value]
    with torch.device("meta"):
        transformer = diffusers.HeliosTransformer3DModel(**transformer_config)
        vae = diffusers.AutoencoderKLWan(**vae_config)
    transformer = transformer.to(half).to_empty(device=device)
    vae = vae.to_empty(device=device)
    for model in (transformer, vae):
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    transformer.rope = type(transformer.rope)(*rope_arguments(transformer)).to(device)
    vae_bfloat16 = diffusers.AutoencoderKLWan(**vae_config).to(device, half)
    if COMPILE.value:
        transformer, vae, vae_bfloat16 = (
            torch.compile(model) for model in (transformer, vae, vae_bfloat16)
        )

    H = height // 8
    W = width // 8
    T = 9

    def draw(*shape: int, dtype: torch.dtype = half) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    def positions(frames: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(frames), device=device)[None]

    call = dict(
        timestep=torch.full((1,), 500, device=device),
        encoder_hidden_states=draw(1, 512, transformer_config.get("text_dim", 4096)),
        indices_hidden_states=positions(range(20, 20 + T)),
        return_dict=False,
        **{
            f"indices_latents_history_{name}": positions(frames) for name, frames in HISTORY.items()
        },
        **{
            f"latents_history_{name}": draw(1, 16, len(frames), H, W)
            for name, frames in HISTORY.items()
        },
    )
    stages = [draw(1, 16, T, H // factor, W // factor) for factor in (4, 2, 1)]
    latents = draw(1, 16, T, H, W, dtype=torch.float32)

    def decode() -> torch.Tensor:
        return vae.decode(latents, return_dict=False)[0].cpu()

    def chunk(steps: int):
        for stage in stages:
            for _ in range(steps):
                transformer(stage, **call)
        decode()

    cells = H * W // 4
    history = cells * 2 + -(-cells // 4) + 4 * -(-cells // 16)
    rows = {
        f"forward, {history + T * cells // 4 ** (2 - k)} tokens": lambda k=k: transformer(
            stages[k], **call
        )
        for k in range(3)
    }
    rows |= {"vae decode of a chunk": decode}
    if half is torch.bfloat16:
        rows |= {f"vae decode of a chunk{BFLOAT16}": lambda: vae_bfloat16.decode(latents.to(half))}
    rows |= {"chunk 1-1-1": lambda: chunk(1), "chunk 2-2-2": lambda: chunk(2)}
    conditions = {
        "PyTorch's device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "PyTorch's dtype": f"{half}".removeprefix("torch.")
        + "; VAE float32 where the row does not say otherwise",
    }
    return rows, conditions


def seconds(run: Callable[[], Any]) -> float:
    """Median seconds of a row."""
    samples = []
    for _ in range(1 + REPEATS.value):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        samples.append(time.perf_counter() - began)
    return statistics.median(samples[1:])


def rope_arguments(transformer) -> tuple:
    """Arguments of the rotary tables, which are made anew: on the meta device they hold nothing."""
    return transformer.config.rope_dim, transformer.config.rope_theta


def ours() -> dict[str, float]:
    """Median seconds of helios-jax's rows, of the files that are there."""
    found = {}
    for path in map(Path, OURS.value):
        for row in json.loads(path.read_text())["results"] if path.exists() else []:
            if "median_s" in row:
                found[row["row"]] = row["median_s"]
    return found


def markdown(report: dict[str, Any]) -> str:
    """The results as a table."""
    lines = [
        "# helios-jax and PyTorch (diffusers) on one GPU",
        "",
        f"`{report['command']}`; how to read a row: `--help`.",
        "",
        "| row | PyTorch ms | helios-jax ms | PyTorch / helios-jax |",
        "|---|---|---|---|",
    ]
    for row in report["results"]:
        name = row["row"].removeprefix(THEIRS)
        if "median_s" not in row:
            lines.append(f"| {name} | {row['not_measured']} | | |")
            continue
        theirs = row["median_s"]
        own = report["jax"].get(name.removesuffix(BFLOAT16))
        cells = ("", "") if own is None else (f"{own * 1e3:.4g}", f"{theirs / own:.2f}")
        lines.append(f"| {name} | {theirs * 1e3:.4g} | {cells[0]} | {cells[1]} |")
    lines += ["", "## Conditions", ""]
    lines += [f"* {name}: {value}" for name, value in report["conditions"].items()]
    return "\n".join([*lines, ""])


def main(argv: list[str]) -> None:
    """Measure row after row while there is time, and write both files after each."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    deadline = time.monotonic() + BUDGET.value
    rows, conditions = torch_rows()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}
    conditions |= versions | {"torch.compile": f"{COMPILE.value}"}
    results = []
    for name, run in rows.items():
        row: dict[str, Any] = {"row": THEIRS + name}
        if time.monotonic() > deadline:
            row["not_measured"] = "there was no time left for it"
        else:
            row["median_s"] = seconds(run)
        print(json.dumps(row), flush=True)
        results.append(row)
        report = {
            "command": " ".join(["python benchmarks/gpu_vs_torch.py", *sys.argv[1:]]),
            "conditions": conditions,
            "results": results,
            "jax": ours(),
        }
        Path(f"{OUT.value}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        Path(f"{OUT.value}.md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    app.run(main)

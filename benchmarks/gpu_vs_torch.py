"""helios-jax beside PyTorch (diffusers) on one GPU: random weights of the released size, bfloat16.

  python benchmarks/gpu_vs_torch.py             # needs torch with CUDA, and diffusers
  python benchmarks/gpu_vs_torch.py --size=toy  # on any device, to see that the script runs

PyTorch runs first, in a process of its own, then `benchmarks/gpu.py` with the rows that both have,
of the same shapes:

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import app, flags

SIZE = flags.DEFINE_enum(
    "size", "full", ["full", "toy"], "The released model at 384 x 640, or the tiny preset."
)
REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Timed repeats of a row after one that warms up.", lower_bound=1
)
BUDGET = flags.DEFINE_float(
    "budget_s", 540, "Seconds of helios-jax's part after which no further row of it begins."
)
COMPILE = flags.DEFINE_bool("compile", False, "torch.compile the transformer and the VAE.")
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/gpu_vs_torch"),
    "Result files, without .json and .md.",
)
WORKER = flags.DEFINE_bool("worker", False, "Internal: be PyTorch, and print the rows.")

TINY = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    rope_dim=(12, 10, 10),
    ffn_dim=512,
    num_layers=4,
    text_dim=64,
)
SIZES = {
    "full": ({}, {}, (384, 640)),
    "toy": (TINY, dict(base_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1), (128, 192)),
}
BFLOAT16 = ", bfloat16"
"""Ends the name of a row that PyTorch has in two dtypes, and helios-jax in one."""
HISTORY = {"short": (0, 20), "mid": (17, 18), "long": range(1, 17)}
"""Positions in time of the history's frames, anchor first; the noisy frames follow."""


def torch_rows() -> dict[str, dict]:
    """Median seconds of each row with diffusers, and what they were measured on."""
    import diffusers
    import torch

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

    def seconds(run: Callable) -> float:
        samples = []
        for _ in range(1 + REPEATS.value):
            began = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            samples.append(time.perf_counter() - began)
        return statistics.median(samples[1:])

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
    return {"rows": {name: seconds(run) for name, run in rows.items()}, "conditions": conditions}


def rope_arguments(transformer) -> tuple:
    """Arguments of the rotary tables, which are made anew: on the meta device they hold nothing."""
    return transformer.config.rope_dim, transformer.config.rope_theta


def markdown(report: dict) -> str:
    """The results as a table."""
    lines = [
        "# helios-jax and PyTorch (diffusers) on one GPU",
        "",
        f"`{report['command']}`; how to read a row: `--help`.",
        "",
    ]
    lines += ["| row | PyTorch ms | helios-jax ms | PyTorch / helios-jax |", "|---|---|---|---|"]
    for name, theirs in report["torch"].items():
        ours = report["jax"].get(name.removesuffix(BFLOAT16))
        cells = ("", "") if ours is None else (f"{ours * 1e3:.4g}", f"{theirs / ours:.2f}")
        lines.append(f"| {name} | {theirs * 1e3:.4g} | {cells[0]} | {cells[1]} |")
    return "\n".join(
        [
            *lines,
            "",
            "## Conditions",
            "",
            *(f"* {name}: {value}" for name, value in report["conditions"].items()),
            "",
        ]
    )


def main(argv: list[str]) -> None:
    """Run both systems, PyTorch first, and write both files."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: see --help")
    if WORKER.value:
        print(json.dumps(torch_rows()))
        return
    shared = [f"--size={SIZE.value}", f"--repeats={REPEATS.value}"]
    command = [sys.executable, __file__, "--worker", *shared, f"--compile={COMPILE.value}"]
    theirs = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[
            -1
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("gpu.py")
        command = [
            sys.executable,
            script,
            *shared,
            f"--budget_s={BUDGET.value}",
            "--rows=forward,vae,chunk",
            f"--out={folder}/gpu",
        ]
        subprocess.run(command, check=True)
        measured = json.loads(Path(folder, "gpu.json").read_text())
    ours = {row["row"]: row["median_s"] for row in measured["results"] if "median_s" in row}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}
    conditions = (
        measured["conditions"] | versions | theirs["conditions"] | {"torch.compile": COMPILE.value}
    )
    report = {
        "command": " ".join(["python benchmarks/gpu_vs_torch.py", *sys.argv[1:]]),
        "conditions": conditions,
        "torch": theirs["rows"],
        "jax": ours,
    }
    Path(f"{OUT.value}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    Path(f"{OUT.value}.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    app.run(main)

"""Memory of a training step of the 14B recipes on one H100, compiled on a machine without one.

python benchmarks/train_plan.py             # a few minutes a row; pip install -e '.[plan,train]'
python benchmarks/train_plan.py --rows=4,5  # some rows; the others stay as the file has them
"""

import dataclasses
import datetime
import importlib.metadata
import json
import runpy
import sys
import textwrap
from pathlib import Path

from absl import app, flags

from helios_jax.fields import from_dict
from helios_jax.memory.report import GIB
from helios_jax.memory.training import plan_step
from helios_jax.training.config import TrainConfig

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # recipes import one another

OUT = flags.DEFINE_string(
    "out", str(Path(__file__).parent / "results/train_plan"), "Result files, without .json and .md."
)
NUMBERS = flags.DEFINE_list(
    "rows", None, "Which rows, from 1, in the order in which they are measured; all by default."
)
TARGET = flags.DEFINE_enum("target", "h100", ["h100", "h200"], "The GPU.")

ROWS = (
    ("stage 1, LoRA 128", "stage1_init", {}),
    ("stage 2, LoRA 256, levels 1-2-1", "stage2_init", {}),
    (
        "stage 2, LoRA 256, levels 1-2-1, frozen blocks in host memory",
        "stage2_init",
        {"offload": True},
    ),
    ("stage 2, LoRA 256 with patches, levels 1-1-1", "stage2_post", {}),
    ("stage 3, trajectories, LoRA 256", "stage3_ode", {}),
    (
        "stage 3, distribution matching, LoRA 256 twice, frozen blocks in host memory",
        "stage3_post",
        {},
    ),
    ("stage 3, the same with a discriminator", "stage3_gan", {}),
)


def main(_) -> None:
    numbers = [
        int(number) if number.isdecimal() else 0
        for number in NUMBERS.value or map(str, range(1, len(ROWS) + 1))
    ]
    if not all(1 <= number <= len(ROWS) for number in numbers):
        raise app.UsageError(f"--rows: numbers from 1 to {len(ROWS)}")
    result = Path(OUT.value).with_suffix(".json")
    had = (
        json.loads(result.read_text())
        if NUMBERS.value and result.exists()
        else {"conditions": versions(), "rows": []}
    )
    if different := {
        name for name, version in versions().items() if had["conditions"].get(name) != version
    }:
        raise app.UsageError(
            f"{result} was made with other versions of {', '.join(sorted(different))}: measure all "
            "rows"
        )
    rows = {row["row"]: row for row in had["rows"]}
    for number in numbers:
        name, recipe, changes = ROWS[number - 1]
        config = from_dict(
            TrainConfig, runpy.run_path(str(ROOT / f"configs/train/{recipe}.py"))["get_config"]()
        )
        plan = plan_step(dataclasses.replace(config, **changes), TARGET.value, print)
        print(f"{name}\n{plan}\n", flush=True)
        row = {
            "resident": plan.resident,
            "working": plan.working,
            "host": plan.host,
            "peak": plan.peak,
        }
        rows[name] = {
            "row": name,
            "recipe": recipe,
            "batch": config.data.batch_size,
            **row,
            "source": plan.source,
            "unseen": plan.unseen,
        }
        write([rows[name] for name, _, _ in ROWS if name in rows])


def versions() -> dict[str, str]:
    """Of what the memory depends on."""
    return {
        package: importlib.metadata.version(package)
        for package in ("jax", "jaxlib", "jax-cuda13-plugin", "optax", "flax")
    }


def write(rows: list[dict]) -> None:
    """The table and the numbers, so far."""
    conditions = {
        "command": "python benchmarks/train_plan.py",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        **versions(),
        "size": "384x640 pixels, 33 frames, bfloat16, blocks computed again in the backward pass",
        "working memory": rows[0]["source"],
        "not seen": rows[0]["unseen"],
    }
    out = Path(OUT.value)
    out.with_suffix(".json").write_text(
        json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n"
    )
    lines = ["# Memory of a training step of the 14B model on one H100", ""]
    lines += [
        "| step | batch | held, GiB | while it runs, GiB | host, GiB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = sum(row["resident"].values()), row["peak"], sum(row["host"].values())
        cells = " | ".join(f"{size / GIB:.1f}" for size in sizes)
        lines.append(f"| {row['row']} | {row['batch']} | {cells} |")
    lines += [
        "",
        "## Conditions",
        "",
    ]
    for name, value in conditions.items():
        lines += textwrap.wrap(f"* {name}: {value}", 100, subsequent_indent="  ")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    app.run(main)

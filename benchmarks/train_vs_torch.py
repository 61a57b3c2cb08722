"""A training step of a 20 M-parameter transformer: helios-jax and PyTorch (diffusers, eager).

  python benchmarks/train_vs_torch.py                      # about five minutes on two cores
  python benchmarks/train_vs_torch.py --products=bfloat16  # factors of float32 products are rounded

Both train every parameter in float32 on the same batch, with the same random weights and noise:
forward, backward, AdamW. Each has a process of its own on the same machine, and they take turns.
Nothing else should run meanwhile; the column "others" shows what did. One step is compared by its
loss and gradient before any is timed.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from flax.traverse_util import flatten_dict, unflatten_dict

REPEATS = flags.DEFINE_integer("repeats", 5, "Times each step is run after the one that compiles.")
PRODUCTS = flags.DEFINE_enum(
    "products",
    "float32",
    ["float32", "bfloat16"],
    "What matrix products multiply; all else is float32.",
)
OUT = flags.DEFINE_string(
    "out",
    str(Path(__file__).parent / "results/train_vs_torch"),
    "Result files, without .json and .md.",
)
WORKER = flags.DEFINE_enum("worker", None, ["torch", "jax"], "Used by the script itself.")
FOLDER = flags.DEFINE_string("folder", None, "Used by the script itself.")

TORCH_FIELDS = (
    *("patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels"),
    *("text_dim", "freq_dim", "ffn_dim", "num_layers", "eps", "rope_dim", "rope_theta"),
    "guidance_cross_attn",
)
"""Fields of the transformer's configuration that diffusers takes."""
LATENT = (9, 16, 32, 16)
TEXT = 64


def run_config(objective: str):
    """The run whose step is timed."""
    from helios_jax.config import (
        HeliosConfig,
        SchedulerConfig,
        TextEncoderConfig,
        TransformerConfig,
    )
    from helios_jax.data.batches import DataConfig
    from helios_jax.training.config import TrainableConfig, TrainConfig
    from helios_jax.training.optimizer import OptimizerConfig

    one = SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
    transformer = TransformerConfig(
        num_attention_heads=6,
        attention_head_dim=64,
        rope_dim=(24, 20, 20),
        ffn_dim=1536,
        num_layers=8,
        text_dim=256,
        remat=None,
        unroll=True,
    )
    return TrainConfig(
        objective=objective,
        model=HeliosConfig(
            transformer=transformer,
            text_encoder=TextEncoderConfig(d_model=256, max_sequence_length=TEXT),
            scheduler=one if objective == "flow" else SchedulerConfig(),
        ),
        trainable=TrainableConfig(rank=0, full=".*"),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        data=DataConfig(batch_size=1, text_rows=TEXT),
        dtype="float32",
    )


def random_batch(config):
    """A batch of noise."""
    from helios_jax.data.batches import TrainBatch

    rng = np.random.default_rng(0)
    T, *cells = LATENT

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    text = normal(1, TEXT, config.model.text_encoder.d_model)
    length = np.array([TEXT], np.int32)
    return TrainBatch(
        normal(1, T, *cells),
        normal(1, 19, *cells),
        normal(1, 1, *cells),
        text,
        length,
        np.zeros((1, 2), np.uint32),
    )


def make_targets(config, batch):
    """The inputs and targets of both systems."""
    import jax

    from helios_jax.training.objectives import find_objective

    make = find_objective(config).make_targets
    return jax.jit(lambda batch: make(batch, config))(batch)


def jax_rows(folder: Path) -> dict:
    """Steps by objective."""
    import jax
    import jax.numpy as jnp

    from helios_jax.training.objectives import find_objective

    if PRODUCTS.value == "bfloat16":
        jax.config.update("jax_default_matmul_precision", "bfloat16")
    params = unflatten_dict(
        {name: jnp.asarray(leaf) for name, leaf in np.load(folder / "params.npz").items()}, sep="/"
    )

    def row(objective):
        config = run_config(objective)
        objective = find_objective(config)
        batch = random_batch(config)
        kept = {}
        place = jax.devices()[0]
        step = jax.jit(objective.make_step(config), donate_argnums=0)

        def once():
            if "state" not in kept:
                kept["state"] = jax.device_put(
                    jax.jit(functools.partial(objective.init_state, config))(params), place
                )
            kept["state"], numbers = step(kept["state"], {}, batch)
            jax.block_until_ready(kept["state"])
            return [float(numbers["loss"]), float(numbers["gradient_norm"])]

        return once

    return {objective: row(objective) for objective in ("flow", "pyramid")}


def torch_rows(folder: Path) -> dict:
    """Steps by objective."""
    import torch
    from diffusers import HeliosTransformer3DModel

    from helios_jax.diffusion.history import frame_indices
    from helios_jax.training.objectives import find_objective

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if PRODUCTS.value == "bfloat16":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"

    def load(config):
        """The model with the weights of both systems."""
        fields = {name: getattr(config.model.transformer, name) for name in TORCH_FIELDS}
        model = HeliosTransformer3DModel(**fields)
        weights = dict(np.load(folder / "torch.npz"))
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        model.load_state_dict(tensors, strict=True)
        return model

    def row(objective):
        config = run_config(objective)
        items = find_objective(config).items(config)
        frames = frame_indices(config.model.sample.history_sizes, LATENT[0])
        indices = [torch.tensor(index)[None] for index in frames]

        @functools.cache
        def start():
            model = load(config)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
            arrays = dict(np.load(folder / f"{objective}.npz"))
            return model, optimizer, {name: torch.from_numpy(x) for name, x in arrays.items()}

        def loss_of(model, inputs, item):
            velocity = model(
                hidden_states=inputs[f"latents{item}"],
                timestep=inputs[f"timestep{item}"],
                encoder_hidden_states=inputs["text"],
                indices_hidden_states=indices[0],
                indices_latents_history_short=indices[1],
                indices_latents_history_mid=indices[2],
                indices_latents_history_long=indices[3],
                latents_history_short=inputs["short"],
                latents_history_mid=inputs["mid"],
                latents_history_long=inputs["long"],
                return_dict=False,
            )[0]
            return torch.mean((velocity - inputs[f"velocity{item}"]) ** 2)

        def once():
            model, optimizer, inputs = start()
            loss = torch.stack([loss_of(model, inputs, item) for item in range(items)]).mean()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return [loss.item(), norm.item()]

        return once

    return {objective: row(objective) for objective in ("flow", "pyramid")}


def make_folder(folder: Path) -> int:
    """Save the weights of both, and the inputs of PyTorch; the number of parameters."""
    import jax.numpy as jnp

    from helios_jax.checkpoint.names import transformer_slots
    from helios_jax.checkpoint.params import random_params

    config = run_config("flow")
    flat = {
        name: np.asarray(leaf)
        for name, leaf in flatten_dict(
            random_params(config.model, 0, jnp.float32)["transformer"], sep="/"
        ).items()
    }
    np.savez(folder / "params.npz", **flat)
    np.savez(
        folder / "torch.npz",
        **{
            slot.name: slot.to_torch(flat[slot.path][slot.index])
            for slot in transformer_slots(config.model.transformer)
        },
    )

    def channels_first(array) -> np.ndarray:
        return np.moveaxis(np.asarray(array), -1, 1)

    for objective in ("flow", "pyramid"):
        config = run_config(objective)
        targets = make_targets(config, random_batch(config))
        arrays = {
            name: channels_first(part)
            for name, part in targets.conditioning.history._asdict().items()
        } | {"text": np.asarray(targets.conditioning.text)}
        for number, item in enumerate(targets.targets):
            arrays |= {
                f"latents{number}": channels_first(item.noisy),
                f"velocity{number}": channels_first(item.velocity),
            }
            arrays |= {f"timestep{number}": np.asarray(item.timestep)}
        np.savez(folder / f"{objective}.npz", **arrays)
    return sum(leaf.size for leaf in flat.values())


def worker(folder: Path) -> None:
    """Run each row that is asked for, and answer with its seconds and its result."""
    rows = (torch_rows if WORKER.value == "torch" else jax_rows)(folder)
    answers = sys.stdout
    sys.stdout = sys.stderr  # so that nothing else is printed among the answers
    for line in sys.stdin:
        began = time.perf_counter()
        result = rows[line.strip()]()
        answer = {
            "seconds": time.perf_counter() - began,
            "result": result,
            "cpu": time.process_time(),
        }
        print(json.dumps(answer), file=answers, flush=True)


class System:
    """A worker process."""

    def __init__(self, name: str, folder: str):
        command = [
            sys.executable,
            __file__,
            f"--worker={name}",
            f"--folder={folder}",
            f"--products={PRODUCTS.value}",
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, row: str) -> dict:
        """Seconds, result and CPU time so far of one step."""
        self.process.stdin.write(row + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a worker ended early; its message is above")
        return json.loads(line)


def busy_seconds() -> float:
    """CPU time that all processes of the machine have used."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split()[1:11]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def main(_) -> None:
    if WORKER.value:
        worker(Path(FOLDER.value))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_folder(Path(folder))
        systems = {name: System(name, folder) for name in ("torch", "jax")}
        for objective in ("flow", "pyramid"):
            first = {name: system.run(objective) for name, system in systems.items()}
            errors = [
                abs(theirs - ours) / abs(theirs)
                for theirs, ours in zip(first["torch"]["result"], first["jax"]["result"])
            ]
            times = {name: [] for name in systems}
            began = time.perf_counter()
            cpu = {name: answer["cpu"] for name, answer in first.items()}
            busy = busy_seconds()
            for _ in range(REPEATS.value):
                for name, system in systems.items():
                    time.sleep(0.5)  # the other's threads wait in a busy loop for a while
                    answer = system.run(objective)
                    times[name].append(answer["seconds"])
                    first[name]["cpu"] = answer["cpu"]
            own = sum(first[name]["cpu"] - cpu[name] for name in systems)
            others = max(0.0, busy_seconds() - busy - own) / (time.perf_counter() - began)
            medians = {name: statistics.median(seconds) for name, seconds in times.items()}
            rows.append(
                {
                    "step": objective,
                    "torch_over_jax": medians["torch"] / medians["jax"],
                    "seconds": times,
                    "median": medians,
                    "first_jax_step": first["jax"]["seconds"],
                    "loss_error": errors[0],
                    "gradient_norm_error": errors[1],
                    "cores_busy_with_others": others,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            write(rows, parameters)
        for system in systems.values():
            system.process.stdin.close()
            system.process.wait()


def write(rows: list[dict], parameters: int) -> None:
    """The table and the numbers, so far."""
    cpus = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    conditions = {
        "command": f"python benchmarks/train_vs_torch.py --repeats={REPEATS.value} "
        f"--products={PRODUCTS.value}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{len(cpus)} cores of {cpus[0]}",
        "python": platform.python_version(),
        **{
            package: importlib.metadata.version(package)
            for package in ("jax", "jaxlib", "torch", "diffusers", "numpy")
        },
        "parameters": f"{parameters:,}, all of them trained",
        "latents": "x".join(map(str, LATENT))
        + ", 19 + 1 frames of history, 64 text tokens, one clip",
        "dtype": "float32"
        if PRODUCTS.value == "float32"
        else "float32, matrix products of factors rounded to bfloat16",
        "statistic": f"median of {REPEATS.value} steps after one that compiles, taking turns",
    }
    out = Path(OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(
        json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n"
    )
    columns = (
        *("step", "PyTorch s", "helios-jax s", "PyTorch / helios-jax"),
        *("loss apart", "gradient norm apart", "others"),
    )
    lines = ["# A training step: helios-jax and PyTorch (diffusers, eager) on a CPU", ""]
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    names = {"flow": "stage 1", "pyramid": "stage 2, three levels"}
    for row in rows:
        lines.append(
            f"| {names[row['step']]} | {row['median']['torch']:.2f} | "
            f"{row['median']['jax']:.2f} | {row['torch_over_jax']:.2f} | "
            f"{row['loss_error']:.1e} | {row['gradient_norm_error']:.1e} | "
            f"{row['cores_busy_with_others']:.2f} |"
        )
    lines += [
        "",
        "Stage 2 of PyTorch runs a forward for each level and one backward pass through all.",
        "",
        "## Conditions",
        "",
    ]
    lines += [f"* {name}: {value}" for name, value in conditions.items()]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    app.run(main)

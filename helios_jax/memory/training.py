"""How much memory a training step needs: known by compiling it for a GPU that need not be there, or
estimated.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from helios_jax.config import to_dict
from helios_jax.memory import compiler as deviceless
from helios_jax.memory.report import CompilerAbsentError, Plan, program_memory
from helios_jax.training.abstract import abstract_run
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import level_tokens


def plan_step(
    config: TrainConfig, target: str, progress: Callable[[str], None] = lambda message: None
) -> Plan:
    """The plan of a step on one GPU, as compiled for it; without the compiler (the extra ``plan``),
    an estimate.

    Args:
      config: of the run; latents have the size that ``model.sample`` says.
      target: a key of :data:`helios_jax.memory.compiler.TARGETS`.
      progress: told what has been compiled.

    Raises:
      PlanError: if the compiler fails.
    """
    estimate = estimate_step(config)
    try:
        [(_, memory)] = program_memory(
            "helios_jax.training.abstract:step_program_from_json",
            {"config": to_dict(config)},
            target,
        )
    except CompilerAbsentError as error:
        return estimate._replace(
            source=f"{estimate.source} ({error}: pip install -e '.[plan]' for what the compiler says)"
        )
    progress(f"compiled the step for {target} in {memory.seconds:.0f} s")
    host = dict(estimate.host)
    if memory.host:
        host["activations that wait there"] = memory.host
    return estimate._replace(
        working={"training step": memory.working},
        host=host,
        source=f"as compiled for {deviceless.TARGETS[target].name}",
        unseen="workspace that cuDNN and cuBLAS ask for when they run, and what the allocator loses between arrays",
    )


def estimate_step(config: TrainConfig) -> Plan:
    """The plan by arithmetic: arrays are exact; working memory is gradients, the inputs of blocks,
    and one block's backward pass.
    """
    state, base, batch = abstract_run(config)
    cfg, sample, vae = config.model.transformer, config.model.sample, config.model.vae
    latent = (
        sample.latent_frames_per_chunk,
        sample.height // vae.spatial_factor,
        sample.width // vae.spatial_factor,
    )
    history, noisy = level_tokens(config, latent)
    size, samples = np.dtype(config.dtype).itemsize, config.data.batch_size // config.accumulate
    tokens = sum(history + n for n in noisy)
    inputs = samples * tokens * cfg.width * size * cfg.num_layers
    text = (
        samples * config.model.text_encoder.max_sequence_length * cfg.width * size * cfg.num_layers
    )
    block = samples * (history + max(noisy)) * (24 * cfg.width + 4 * cfg.ffn_dim) * size
    resident, host = {"frozen parameters": _bytes(base)}, {}
    if config.offload:
        host["frozen blocks"] = sum(
            _bytes(params["blocks"]) for params in (base, *base.values()) if "blocks" in params
        )
        resident["frozen parameters"] -= host["frozen blocks"]
    resident |= {
        "parameters that train": _bytes(state.trainable),
        "optimiser": _bytes(state.optimizer),
    }
    if state.ema is not None:
        resident["moving average"] = _bytes(state.ema)
    resident["batch"] = _bytes(batch)
    host["a checkpoint while it is written"] = sum(
        _bytes(part) for part in (state.trainable, state.optimizer, state.ema)
    )
    gradients = 1 if config.items == 1 else 3  # of all items so far, of one, and their sum
    working = gradients * _bytes(state.trainable) + text * 2 + block
    if cfg.remat == "offload":
        host["activations that wait there"] = inputs
    else:
        working += inputs
    return Plan(
        resident,
        {"training step": working},
        {},
        host,
        "estimated by arithmetic",
        "what XLA and its libraries need beside these arrays",
    )


def _bytes(tree: Any) -> int:
    """Size of all leaves."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

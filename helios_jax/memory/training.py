"""Memory of a training step: by compiling it for a GPU that need not be there, or estimated."""

from collections.abc import Callable

import jax
import numpy as np

from helios_jax.cost.report import predict
from helios_jax.memory.compiler import TARGETS
from helios_jax.memory.report import CompilerAbsentError, MemoryPlan, Program, program_memory
from helios_jax.training.abstract import abstract_run
from helios_jax.training.config import TrainConfig
from helios_jax.training.flops import level_tokens
from helios_jax.training.objectives import find_objective
from helios_jax.types import tree_bytes


def plan_step(
    config: TrainConfig, target: str, progress: Callable[[str], None] = lambda message: None
) -> MemoryPlan:
    """The plan of a step on one GPU, as compiled for it; without the compiler (the extra ``plan``),
    an estimate.

    Args:
      config: of the run; latents have the size that ``model.sample`` says.
      target: a key of :data:`helios_jax.memory.compiler.TARGETS`.
      progress: called with a line when the step has been compiled.

    Raises:
      ConfigError: if the run cannot be.
      PlanError: if the compiler fails.
    """
    estimate = estimate_step(config)
    try:
        [(_, memory)] = program_memory(step_programs, (config,), target)
    except CompilerAbsentError as error:
        advice = "pip install -e '.[plan]' for what the compiler says"
        return estimate._replace(source=f"{estimate.source} ({error}: {advice})")
    progress(f"compiled the step in {memory.seconds:.0f} s")
    host = dict(estimate.host)
    if memory.host:
        host["activations that wait there"] = memory.host
    return estimate._replace(
        working={"training step": memory.working},
        host=host,
        source=f"as compiled for {TARGETS[target].name}",
        unseen="workspace that cuDNN and cuBLAS ask for when they run, and what the allocator "
        "loses between arrays",
        times={"training step": predict(memory.kernels, TARGETS[target])},
    )


def predicted_mfu(config: TrainConfig, plan: MemoryPlan, target: str) -> float | None:
    """The share of the chip's peak that a step's own operations would be: model FLOP utilisation.

    None where nothing was compiled, or the objective does not count its operations.
    """
    if not plan.times:
        return None
    state, _, batch = abstract_run(config)
    samples = jax.tree.leaves(batch)[0].shape[0]
    cost = find_objective(config).cost(config, state.trainable, batch)
    operations = samples * cost.operations
    return operations / plan.times["training step"].seconds / TARGETS[target].peak or None


def step_program(config: TrainConfig) -> Program:
    """The step of a run on one device, jitted as it is when it trains."""
    step = find_objective(config).make_step(config)
    return Program(jax.jit(step, donate_argnums=0), abstract_run(config))


def step_programs(config: TrainConfig) -> dict[str, Program]:
    """:func:`step_program` by name, for the process that compiles."""
    return {"training step": step_program(config)}


def estimate_step(config: TrainConfig) -> MemoryPlan:
    """The plan by arithmetic: arrays are exact; working memory is gradients, the inputs of blocks,
    and one block's backward pass.
    """
    state, frozen, batch = abstract_run(config)
    objective = find_objective(config)
    transformer = config.model.transformer
    sample = config.model.sample
    vae = config.model.vae
    width = transformer.width
    latent = (
        sample.latent_frames_per_chunk,
        sample.height // vae.spatial_factor,
        sample.width // vae.spatial_factor,
    )
    history, noisy = level_tokens(config, latent, objective.levels(config))
    samples = config.data.batch_size // config.accumulate
    text_tokens = samples * config.model.text_encoder.max_sequence_length
    item_size = np.dtype(config.dtype).itemsize
    row = width * item_size * transformer.num_layers
    block_inputs = samples * sum(history + n for n in noisy) * row
    texts = text_tokens * row
    widest = samples * (history + max(noisy))
    block = widest * (24 * width + 4 * transformer.ffn_dim) * item_size

    resident = {"frozen parameters": tree_bytes(frozen)}
    host = {}
    if config.offload:
        networks = [frozen, *frozen.values()]
        blocks = [tree_bytes(params["blocks"]) for params in networks if "blocks" in params]
        host["frozen blocks"] = sum(blocks)
        resident["frozen parameters"] -= host["frozen blocks"]
    resident["parameters that train"] = tree_bytes(state.trainable)
    resident["optimiser"] = tree_bytes(state.optimizer)
    if state.ema is not None:
        resident["moving average"] = tree_bytes(state.ema)
    resident["batch"] = tree_bytes(batch)
    host["a checkpoint while it is written"] = tree_bytes(
        (state.trainable, state.optimizer, state.ema)
    )
    # One gradient; with several items that of all so far, that of one, and their sum.
    gradients = 1 if objective.items(config) == 1 else 3
    working = gradients * tree_bytes(state.trainable) + texts * 2 + block
    if transformer.remat == "offload":
        host["activations that wait there"] = block_inputs
    else:
        working += block_inputs
    # Beside the inputs: what both attentions and seven projections give, one of them F wide.
    columns = {"attention": width, "products": 9 * width + transformer.ffn_dim}
    working += block_inputs * columns.get(transformer.remat or "", 0) // width
    return MemoryPlan(
        resident,
        {"training step": working},
        {},
        host,
        "estimated by arithmetic",
        "what XLA and its libraries need beside these arrays",
    )

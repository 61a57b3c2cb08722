"""Arithmetic of a training step, counted from its shapes."""

import math
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from helios_jax.diffusion.pyramid import stage_tokens
from helios_jax.training.config import TrainConfig
from helios_jax.types import Params

PEAK = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}
"""Floating-point operations a second of dense bfloat16 products, by the name of the device, as its
maker states them.
"""


class StepCost(NamedTuple):
    """The cost of a sample.

    Attributes:
      tokens: that pass through the blocks.
      operations: of forward and backward; 0 where they are not counted.
    """

    tokens: int
    operations: int


def step_cost(
    config: TrainConfig, trainable: Params, latent: tuple[int, ...], levels: tuple[int, ...]
) -> StepCost:
    """The cost of a sample.

    Two operations for each multiplication of a matrix product and its addition; attention counted
    in full; what is computed again in the backward pass not counted. Backward costs as much as
    forward for the gradient of the activations and again for that of weights that train: twice
    forward in full training, once (and the adapters' own share) with adapters.

    Args:
      config: of the run.
      trainable: what trains.
      latent: (T, H, W) of the sample.
      levels: noisy inputs of the sample at each level of the pyramid, coarsest first.
    """
    cfg = config.model.transformer
    history, noisy = level_tokens(config, latent, levels)
    D = cfg.width
    F = cfg.ffn_dim
    L = cfg.num_layers
    flat: Any = flatten_dict(trainable, sep="/")
    adapters = {
        path: leaf.size // L
        for path, leaf in flat.items()
        if path.startswith("blocks/") and "lora_" in path
    }
    adapter = sum(adapters.values())
    shared = sum(size for path, size in adapters.items() if "attn2" not in path)
    full = any(path.startswith("blocks/") and path.endswith("kernel") for path in flat)
    operations = 0
    for n in noisy:
        N = history + n
        text = config.model.text_encoder.max_sequence_length
        products = 2 * (N * (4 * D * D + 2 * D * F) + n * 2 * D * D + text * 2 * D * D)
        scores = 4 * D * (N * N + n * text)
        factors = 2 * (N * shared + n * (adapter - shared))
        operations += L * (products * (3 if full else 2) + scores * 3 + factors * 3)
    return StepCost(sum(noisy) + history * len(noisy), operations)


def level_tokens(
    config: TrainConfig, latent: tuple[int, ...], levels: tuple[int, ...]
) -> tuple[int, list[int]]:
    """Tokens of a sample's history, and those of each of its noisy inputs.

    Args:
      config: of the run.
      latent: (T, H, W) of the sample.
      levels: noisy inputs at each level of the pyramid, coarsest first.

    Raises:
      ValueError: if ``levels`` has not one number for each stage of the scheduler.
    """
    transformer = config.model.transformer
    stages = config.model.scheduler.stages
    if len(levels) != stages:
        raise ValueError(f"levels={levels} must have a number for each of the {stages} stages")
    T, H, W = latent
    noisy = []
    for tokens, count in zip(stage_tokens((T, H, W), stages, transformer.patch_size), levels):
        noisy += [tokens] * count
    if not config.history:
        return 0, noisy
    long, mid, newest = config.model.sample.history_sizes
    _, rows, columns = transformer.patch_size

    def pooled(frames: int, factor: int) -> int:
        sizes = (frames, H // rows, W // columns)
        return math.prod(math.ceil(size / factor) for size in sizes)

    # The short part has the anchor beside the newest frames.
    return pooled(long, 4) + pooled(mid, 2) + pooled(newest + 1, 1), noisy


def peak_operations() -> float | None:
    """Operations a second that all devices could do, or None where their maker's figure is not
    known here.
    """
    peak = PEAK.get(jax.devices()[0].device_kind)
    return None if peak is None else peak * len(jax.devices())

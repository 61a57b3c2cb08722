"""Arithmetic of a training step, counted from its shapes."""

import math
from typing import NamedTuple

import jax
from flax.traverse_util import flatten_dict

from helios_jax.diffusion.pyramid import stage_grids
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
    """For every sample: tokens that pass through the blocks, and operations of forward and
    backward.
    """

    tokens: int
    operations: int


def step_cost(config: TrainConfig, trainable: Params, latent: tuple[int, int, int]) -> StepCost:
    """The cost of a sample with latents of (T, H, W).

    Two operations for each multiplication of a matrix product and its addition; attention counted
    in full; what is computed again in the backward pass not counted. Backward costs as much as
    forward for the gradient of the activations and again for that of weights that train: twice
    forward in full training, once (and the adapters' own share) with adapters.
    """
    cfg = config.model.transformer
    history, noisy = level_tokens(config, latent)
    D, F, L = cfg.width, cfg.ffn_dim, cfg.num_layers
    flat = flatten_dict(trainable, sep="/")
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


def level_tokens(config: TrainConfig, latent: tuple[int, int, int]) -> tuple[int, list[int]]:
    """Tokens of the history of a sample with latents of (T, H, W), and noisy tokens of each of its
    items.
    """
    cfg, (long, mid, newest) = config.model.transformer, config.model.sample.history_sizes
    T, H, W = latent

    def tokens(frames: int, rows: int, columns: int, factor: int) -> int:
        sizes = (frames, rows // cfg.patch_size[1], columns // cfg.patch_size[2])
        return math.prod(math.ceil(size / factor) for size in sizes)

    history = (
        tokens(long, H, W, 4) + tokens(mid, H, W, 2) + tokens(newest + 1, H, W, 1)
        if config.history
        else 0
    )
    grids = stage_grids(H, W, config.model.scheduler.stages)
    counts = {
        "pyramid": config.pyramid_items,
        "ode": (1,) * len(grids),
        "distillation": (1,) * len(grids),
    }.get(config.objective, (1,))
    return history, [
        tokens(T, *grid, 1) for grid, items in zip(grids, counts) for _ in range(items)
    ]


def peak_operations() -> float | None:
    """Operations a second that all devices could do, or None where their maker's figure is not
    known here.
    """
    peak = PEAK.get(jax.devices()[0].device_kind)
    return None if peak is None else peak * len(jax.devices())

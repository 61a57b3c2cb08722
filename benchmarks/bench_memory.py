"""What the networks of HeliosBench take beside their weights: XLA's temporary buffers, compiled for
a CPU, of frames of 384x640 in float32. Nothing is computed.

  python benchmarks/bench_memory.py
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).parents[1]))

from helios_jax.evaluation.bench import aesthetic, semantic, smoothness
from helios_jax.evaluation.bench.networks.amt import AMT
from helios_jax.evaluation.bench.networks.clip import AestheticHead, ImageEncoder
from helios_jax.evaluation.bench.networks.viclip import VideoEncoder


def parameters(network: Any, *shapes: tuple[int, ...]) -> Any:
    """The shapes of a network's parameters, for arguments of these shapes."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.eval_shape(network.init, jax.random.key(0), *arrays)["params"]


def show(name: str, program: Callable, network: Any, params: Any, *frames: int) -> None:
    """Compile a metric's program and print what it takes."""
    pixels = jax.ShapeDtypeStruct((*frames, 384, 640, 3), jnp.uint8)
    compiled = program.lower(network, params, pixels).compile()
    print(f"{name}: {compiled.memory_analysis().temp_size_in_bytes / 1e9:.2f} GB")


def main() -> None:
    """Print a line a network."""
    clip = ImageEncoder()
    both = {
        "encoder": parameters(clip, (1, 224, 224, 3)),
        "head": parameters(AestheticHead(), (1, 768)),
    }
    show("CLIP, 32 frames", aesthetic._rate, clip, both, 32)
    viclip = VideoEncoder()
    weights = parameters(viclip, (1, 8, 224, 224, 3))
    show("ViCLIP, 8 frames", semantic._video_features, viclip, weights, 8)
    amt = AMT()
    pair = (1, 384, 640, 3)
    show("AMT-S, a pair", smoothness._deviations, amt, parameters(amt, pair, pair), 1, 3)


if __name__ == "__main__":
    main()

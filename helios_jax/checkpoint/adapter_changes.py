"""What an adapter does to one tensor: a product of two factors, a difference, or a whole tensor.

With strength s, a LoRA adds ``s (alpha / r) B A`` to a weight, where ``A [r, in]`` and
``B [out, r]``; for a convolution ``A`` has the kernel's shape behind its ``r``. The bias that PEFT
trains with ``B`` is scaled like it. A difference ``D`` gives ``W + s D``, and a tensor ``V`` that
is stored whole ``W + s (V - W)``.
"""

import dataclasses
import math

import numpy as np

from helios_jax.checkpoint.layout import Shape
from helios_jax.checkpoint.safetensors_files import TorchTensor


@dataclasses.dataclass(frozen=True)
class LowRank:
    """``W + s (alpha / r) B A``."""

    down: TorchTensor
    up: TorchTensor
    scale: float

    def __str__(self) -> str:
        return f"{list(self.up.shape)} x {list(self.down.shape)}"

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.down.shape[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.up.shape[0], math.prod(self.down.shape[1:])

    def fits(self, shape: Shape) -> bool:
        """Whether this can be a change of a weight of a shape."""
        return len(shape) > 1 and self.sizes == (shape[0], math.prod(shape[1:]))

    def apply(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """The changed weight, in float32."""
        A = self.down.read().astype(np.float32)
        B = self.up.read().astype(np.float32)
        factor = np.float32(strength * self.scale)
        change = (factor * B.reshape(B.shape[0], -1)) @ A.reshape(A.shape[0], -1)
        return weight + change.reshape(weight.shape)


@dataclasses.dataclass(frozen=True)
class Difference:
    """``W + s scale D``."""

    value: TorchTensor
    scale: float = 1.0

    def __str__(self) -> str:
        return str(list(self.value.shape))

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return _sizes(self.value.shape)

    def fits(self, shape: Shape) -> bool:
        """Whether this can be a change of a tensor of a shape."""
        return self.value.shape == shape

    def apply(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """The changed tensor, in float32."""
        return weight + np.float32(strength * self.scale) * self.value.read().astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Whole:
    """``W + s (V - W)``."""

    value: TorchTensor

    def __str__(self) -> str:
        return str(list(self.value.shape))

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return _sizes(self.value.shape)

    def fits(self, shape: Shape) -> bool:
        """Whether this can be a change of a tensor of a shape."""
        return self.value.shape == shape

    def apply(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """The changed tensor, in float32."""
        value = self.value.read().astype(np.float32)
        return value if strength == 1 else weight + np.float32(strength) * (value - weight)


Change = LowRank | Difference | Whole


def _sizes(shape: Shape) -> tuple[int, int]:
    """Outputs and inputs of a weight, and of a bias with one input."""
    return (shape[0] if shape else 1, math.prod(shape[1:]))

"""What one call of the fused kernel computes.

``residual_norm(x, y, gate, scale, shift, fusion)`` of each kernel returns ``added`` and
``normed``, each None where it is not asked for. Its arrays:

* ``x``: [B, N, D], ``history`` history tokens, then the noisy ones.
* ``y``: [B, N, D], or [B, N - history, D] for noisy tokens only, where history tokens stay as they
  are. None: nothing is added. It, or ``x`` where there is no ``y``, may be a product without its
  scales and bias, which are applied first.
* ``gate``, ``scale``, ``shift``: [1 or B, 1 or 2, D], a row for history and one for noisy tokens,
  or one for both; None for 1, 1, 0.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """The layer norm that follows a sum.

    Attributes:
      eps: added to the variance.
      noisy_only: whether history tokens are left out.
    """

    eps: float
    noisy_only: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fusion:
    """The static part of a call.

    Attributes:
      history: number of history tokens.
      norm: None for no norm.
      eps: added to the variance.
      norm_from: the first token that is normed, 0 or ``history``.
      quantized: whether ``normed`` is rounded to float8, after the dtype of ``x``.
    """

    history: int = 0
    norm: Literal["layer", "rms"] | None = None
    eps: float = 0.0
    norm_from: int = 0
    quantized: bool = False

"""Attention, by whichever implementation serves best."""

from typing import Literal

from jaxtyping import Array, Float

from ..dispatch import Implementation, dispatch
from . import cudnn, pallas, reference

# cuDNN first: it is the fastest attention known on Hopper, and it runs on every GPU since Ampere.
IMPLEMENTATIONS = {
    "cudnn": Implementation(cudnn.attention, cudnn.refuses),
    "pallas": Implementation(pallas.attention, pallas.refuses),
    "xla": Implementation(reference.attention, lambda *_: None),
}


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    implementation: Literal["cudnn", "pallas", "xla"] | None = None,
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v; products in the arguments' dtype, logits, softmax and sums in float32.

    Args:
      query: any number of queries.
      key, value: of the tokens attended to, in the queries' dtype.
      bias: float32 offset of each key's logit; a large negative number hides the key. "cudnn" rounds it to the queries' dtype: an offset that
        must be exact there is a multiple of 1/32 below 8, as :func:`padding_bias` gives them.
      implementation: None for the first of "cudnn", "pallas" and "xla" that serves these arguments on this device. "xla" holds all ``N x S``
        logits of every head at once; the others never do.

    Returns:
      The attended values, in the values' dtype. Differentiable in query, key and value, and with "xla" in ``bias``.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    return dispatch("attention", IMPLEMENTATIONS, implementation, query, key, value, bias)

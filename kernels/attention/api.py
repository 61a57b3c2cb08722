"""Attention, by whichever implementation serves best."""

import importlib
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..dispatch import Implementation, Target, dispatch, target
from ..gradient import with_reference_gradient
from . import by_head, cudnn, reference


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    implementation: Literal["cudnn", "pallas", "by_head", "xla"] | None = None,
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v; products in the arguments' dtype, logits, softmax and sums in
    float32.

    Args:
      query: any number of queries.
      key, value: of the tokens attended to, in the queries' dtype.
      bias: float32 offset of each key's logit; a large negative number hides the key. "cudnn"
        rounds it to the queries' dtype, which :func:`padding_bias` is made for.
      implementation: None for the first of "cudnn", "pallas", "by_head" and "xla" that serves these
        arguments on this device. "by_head", for CPUs, multiplies in float32 and holds the logits of
        one head where all would be many, "xla" those of all heads at once, the others none.

    Returns:
      The attended values, in the values' dtype. Differentiable in all arrays; with a ``bias``, a
      GPU's backward pass holds all logits.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    return dispatch("attention", IMPLEMENTATIONS, implementation, query, key, value, bias)


def _cudnn(query, key, value, bias):
    # The backward pass of cuDNN's biased attention would give a gradient of one offset for each
    # query and key, and takes even sizes only.
    run = cudnn.attention if bias is None else _biased_cudnn
    return run(query, key, value, bias)


_biased_cudnn = with_reference_gradient(cudnn.attention, reference.attention)


def _pallas(*arrays, **static):
    """The kernel of this folder, imported when it is run: a CPU needs no Pallas."""
    return importlib.import_module(".pallas", __package__).attention(*arrays, **static)


def _by_head(query, key, value, bias):
    # Few logits stay near the cores all together, and operations on all heads at once begin fewer
    # times.
    (B, N, K, _), S = query.shape, key.shape[1]
    return (by_head.attention if 4 * B * K * N * S > FEW_BYTES else reference.attention)(
        query, key, value, bias
    )


FEW_BYTES = 2**24
"""Of the logits of all heads; about where the two meet on a CPU of two cores."""


def _without_logits(query, key, value, bias, **_):
    """What the Pallas kernel is differentiated as: cuDNN's attention where it serves."""
    serves = _refuses_cudnn(target(), query, key, value) is None
    return (_cudnn if serves else reference.attention)(query, key, value, bias)


def _refuses_cudnn(
    target: Target, query: Array, key: Array, value: Array, bias: Array | None = None
) -> str | None:
    channels = query.shape[-1]
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.platform}"
    if channels % 8 or channels > 128:
        return f"it takes heads of 8, 16, 24, ... up to 128 channels, not {channels}"
    return _refuses_dtype(query, key, value)


def _refuses_pallas(
    target: Target, query: Array, key: Array, value: Array, bias: Array | None = None
) -> str | None:
    channels = query.shape[-1]
    if not target.is_hopper:
        return f"it needs a Hopper GPU, not {target.kind}"
    if channels not in (64, 128):
        return f"it takes heads of 64 or 128 channels, not {channels}"
    return _refuses_dtype(query, key, value)


def _refuses_by_head(target: Target, *_: Array | None) -> str | None:
    return None if target.platform == "cpu" else f"it needs a CPU, not {target.platform}"


def _refuses_dtype(*arrays: Array) -> str | None:
    dtypes = {x.dtype for x in arrays}
    if dtypes != {jnp.dtype(jnp.bfloat16)} and dtypes != {jnp.dtype(jnp.float16)}:
        return f"it takes bfloat16 or float16, the same for all, not {' and '.join(sorted(map(str, dtypes)))}"
    return None


# Nothing here was timed. cuDNN's kernels are the fastest known on Hopper, and serve older chips, so
# they come first, with a bias too: it costs them a few MiB read through the cache.
IMPLEMENTATIONS = {
    "cudnn": Implementation(_cudnn, _refuses_cudnn),
    "pallas": Implementation(with_reference_gradient(_pallas, _without_logits), _refuses_pallas),
    "by_head": Implementation(_by_head, _refuses_by_head),
    "xla": Implementation(reference.attention, lambda *_: None),
}

"""Attention, by whichever implementation serves best."""

import importlib

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ..batch import on_each_device
from ..dispatch import Implementation, Target, check_name, dispatch, target
from ..gradient import with_plain_gradient
from . import by_head, cudnn, reference, xla

ATTENTION_OUTPUT = "attention output"
"""Name of the attended values and softmax sums, for a ``jax.checkpoint`` policy that keeps them, so
that the backward pass does not attend again.
"""

MAX_PLAIN_LOGITS = 2**24
"""Bytes of the logits of all heads up to which the plain version is the faster one on a CPU of two
cores.
"""


def attention(
    query: Float[Array, "B N K d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    bias: Float[Array, "B S"] | None = None,
    *,
    name: str = ATTENTION_OUTPUT,
    implementation: str | None = None,
) -> Float[Array, "B N K d"]:
    """softmax(q kᵀ / √d + bias) v.

    Products are in the arguments' dtype; logits, softmax and sums in float32.

    Args:
      query: any number of queries.
      key, value: of the tokens attended to, in the queries' dtype.
      bias: float32, added to each key's logits; a large negative number masks the key. "cudnn"
        rounds it to the queries' dtype, which :func:`padding_bias` allows for.
      name: of what the backward pass needs of the forward one, static. Where a policy keeps what
        has it, "cudnn" without a bias, "by_head" and "xla" do not attend again.
      implementation: a key of :data:`IMPLEMENTATIONS`; None for the first of them that serves these
        arguments on this device. "by_head", for CPUs, multiplies in float32 and holds the logits of
        one head where those of all would be large; "xla" holds those of all heads, the others none.

    Returns:
      The attended values, in the values' dtype. Differentiable in all arrays; with a ``bias``, a
      GPU's backward pass holds all logits.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    arrays = (query, key, value, bias)
    return dispatch("attention", IMPLEMENTATIONS, implementation, *arrays, name=name)


def check_implementation(name: str | None) -> None:
    """Raise ``UnsupportedError`` unless :func:`attention` has it or it is None."""
    check_name("attention", IMPLEMENTATIONS, name)


def _cudnn(query, key, value, bias, *, name=""):
    if bias is None:
        return cudnn.attention(query, key, value, name=name)
    # The backward pass of cuDNN's biased attention would give a gradient of one bias for each query
    # and key, and takes even sizes only.
    return _biased_cudnn(query, key, value, bias)


_biased_cudnn = with_plain_gradient(cudnn.attention, reference.attention)


def _pallas(*arrays, name=""):
    return checkpoint_name(_pallas_kernel(*arrays), name)


def _import_pallas(query, key, value, bias):
    """The kernel of this folder, imported when it is run: a CPU needs no Pallas."""
    kernel = importlib.import_module(".pallas", __package__).attention
    if bias is not None:
        bias = bias[:, None]

    def attend(query, key, value, bias):
        return kernel(query, key, value, None if bias is None else bias[:, 0])

    return on_each_device(attend, query, key, value, bias)


def _by_head(query, key, value, bias, *, name=""):
    # Small logits fit into the caches for all heads together, and fewer operations are started.
    B, N, K, _ = query.shape
    if 4 * B * K * N * key.shape[1] <= MAX_PLAIN_LOGITS:
        return reference.attention(query, key, value, bias)
    return by_head.attention(query, key, value, bias, name=name)


def _without_logits(query, key, value, bias):
    """What the Pallas kernel is differentiated as: cuDNN's attention where it serves."""
    if _refuses_cudnn(target(), query, key, value) is None:
        return _cudnn(query, key, value, bias)
    return reference.attention(query, key, value, bias)


_pallas_kernel = with_plain_gradient(_import_pallas, _without_logits)


def _refuses_cudnn(target: Target, query: Array, key: Array, value: Array, *_, **__) -> str | None:
    channels = query.shape[-1]
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.platform}"
    if channels % 8 or channels > 128:
        return f"it takes heads of 8, 16, 24, ... up to 128 channels, not {channels}"
    return _refuses_dtype(query, key, value)


def _refuses_pallas(target: Target, query: Array, key: Array, value: Array, *_, **__) -> str | None:
    channels = query.shape[-1]
    if not target.has_wgmma:
        return f"it needs a GPU of compute capability 9.0 (Hopper), not {target.kind}"
    if channels not in (64, 128):
        return f"it takes heads of 64 or 128 channels, not {channels}"
    return _refuses_dtype(query, key, value)


def _refuses_by_head(target: Target, *_, **__) -> str | None:
    return None if target.platform == "cpu" else f"it needs a CPU, not {target.platform}"


def _refuses_dtype(*arrays: Array) -> str | None:
    dtypes = {x.dtype for x in arrays}
    if dtypes != {jnp.dtype(jnp.bfloat16)} and dtypes != {jnp.dtype(jnp.float16)}:
        given = " and ".join(sorted(map(str, dtypes)))
        return f"it takes bfloat16 or float16, the same for all, not {given}"
    return None


# This order was not timed. cuDNN's kernels are the fastest known on Hopper and serve older GPUs, so
# they come first, with a bias too, which costs them a few MiB read through the cache.
IMPLEMENTATIONS = {
    "cudnn": Implementation(_cudnn, _refuses_cudnn),
    "pallas": Implementation(_pallas, _refuses_pallas),
    "by_head": Implementation(_by_head, _refuses_by_head),
    "xla": Implementation(xla.attention, lambda *_, **__: None),
}

"""Low-rank adapters (LoRA, Hu et al. 2021): ``x · (W + A B)`` with a frozen ``W`` and factors ``A``
and ``B`` of rank r.

The factors are leaves of the transformer's parameter tree, ``lora_a`` and ``lora_b`` beside
``kernel``; a projection that finds them adds ``(x · A) · B``. What trains is a small tree of its
own: :func:`combine` lays it over the frozen tree, :func:`merge` folds it into the kernels.
"""

import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.ad_checkpoint import checkpoint_name

from helios_jax.models.layer_stack import PRODUCT
from helios_jax.types import Array, DTypeLike, Float, Params, PRNGKeyArray


class Adaptable(NamedTuple):
    """A kind of kernel that can have an adapter.

    Attributes:
      module: regular expression of its path in the tree.
      inputs: number of its axes that are contracted, after that of the layers.
      parts: number of projections that the kernel joins in the next axis, each with a pair of
        factors of its own; 0 if it is only one.
    """

    module: str
    inputs: int
    parts: int


ADAPTABLE = (
    Adaptable(r"blocks/attn1/qkv", 1, 3),
    Adaptable(r"blocks/attn2/kv", 1, 2),
    Adaptable(r"blocks/attn2/q", 1, 0),
    Adaptable(r"blocks/attn[12]/out", 2, 0),
    Adaptable(r"blocks/ffn/(up|down)", 1, 0),
    Adaptable(r"(time|text)_embedder/linear_[12]", 1, 0),
    Adaptable(r"time_proj|proj_out", 1, 0),
    Adaptable(r"patch_(embedding|short|mid|long)", 4, 0),
)
LINEARS = r"blocks/.*|(time|text)_embedder/.*|time_proj|proj_out"
"""The modules whose kernels are matrices: 406 of the 14B model, counting q, k and v as three, as
PyTorch does.
"""


def adapter_shapes(
    module: str, kernel: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ``lora_a`` and ``lora_b`` beside a kernel: ``[*layers, *in, (parts,) r]`` and
    ``[*layers, (parts,) r, *out]``.
    """
    kind = _kind(module)
    lead = 1 if module.startswith("blocks/") else 0
    inputs = kernel[: lead + kind.inputs]
    outputs = kernel[lead + kind.inputs + bool(kind.parts) :]
    parts = (kind.parts,) if kind.parts else ()
    return (*inputs, *parts, rank), (*kernel[:lead], *parts, rank, *outputs)


def adaptable(params: Params, include: str, exclude: str = "") -> list[str]:
    """Paths of adaptable modules of ``params`` that fully match ``include`` and not ``exclude``.

    Raises:
      ValueError: if there is none.
    """
    paths = flatten_dict(params, sep="/")
    modules = [path.removesuffix("/kernel") for path in paths if path.endswith("/kernel")]
    chosen = []
    for module in modules:
        excluded = exclude and re.fullmatch(exclude, module)
        known = any(re.fullmatch(kind.module, module) for kind in ADAPTABLE)
        if known and not excluded and re.fullmatch(include, module):
            chosen.append(module)
    if not chosen:
        raise ValueError(
            f"no module matches {include!r} without {exclude!r}; there are {', '.join(modules)}"
        )
    return chosen


def init_adapters(key: PRNGKeyArray, params: Params, modules: Iterable[str], rank: int) -> Params:
    """Float32 factors of the given modules: ``A`` normal with deviation 1 / rank, ``B`` zero, so
    that the model's output is unchanged at first.

    Each module's factors depend on the key and its name only. ``params`` may be abstract.
    """
    kernels: Mapping[str, Any] = flatten_dict(params, sep="/")
    factors: dict[str, Array] = {}
    for module in modules:
        a, b = adapter_shapes(module, kernels[f"{module}/kernel"].shape, rank)
        own = jax.random.fold_in(key, zlib.crc32(module.encode()))
        factors[f"{module}/lora_a"] = jax.random.normal(own, a, jnp.float32) / rank
        factors[f"{module}/lora_b"] = jnp.zeros(b, jnp.float32)
    return unflatten_dict(factors, sep="/")


def combine(params: Params, trainable: Params) -> Params:
    """``params`` with every leaf of ``trainable`` added, or in place of the one that was there."""
    combined: dict[str, Any] = dict(params)
    for name, value in trainable.items():
        if isinstance(value, Mapping):
            value = combine(combined.get(name, {}), value)
        combined[name] = value
    return combined


def merge(params: Params, trainable: Params) -> Params:
    """``params`` with adapters folded into their kernels and whole leaves replaced.

    Sums are in float32, results in each leaf's own dtype.
    """

    def fold(node: Params, module: str) -> Params:
        folded: dict[str, Any] = {}
        for name, value in node.items():
            if isinstance(value, Mapping):
                folded[name] = fold(value, f"{module}/{name}" if module else name)
            elif name == "kernel" and "lora_a" in node:
                folded[name] = adapted(module, value, node["lora_a"], node["lora_b"])
            elif name not in ("lora_a", "lora_b"):
                folded[name] = value
        return folded

    merged = fold(combine(params, trainable), "")
    return jax.tree.map(lambda new, old: new.astype(old.dtype), merged, params)


def adapted(
    module: str, kernel: Float[Array, "..."], a: Float[Array, "..."], b: Float[Array, "..."]
) -> Float[Array, "..."]:
    """``W + A B`` of one module, in float32."""
    kind = _kind(module)
    layers = kernel.shape[:1] if module.startswith("blocks/") else ()
    parts = (kind.parts,) if kind.parts else ()
    rank = a.shape[-1]
    left = a.astype(jnp.float32).reshape(*layers, -1, *parts, rank)
    right = b.astype(jnp.float32).reshape(*layers, *parts, rank, -1)
    L = "l" * len(layers)
    P = "p" * len(parts)
    product = jnp.einsum(f"{L}i{P}r,{L}{P}ro->{L}i{P}o", left, right)
    return kernel.astype(jnp.float32) + product.reshape(kernel.shape)


def adapter_product(
    x: Float[Array, "*rows_and_inputs"],
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    inputs: int,
    dtype: DTypeLike,
) -> Float[Array, "*rows outputs"]:
    """``(x · A) · B`` in ``dtype``, all outputs in one axis.

    Of several parts one product gives all, in the layout of the kernel's own, to which it is added
    as it is computed: B has a block for each part and zeros beside them. A product a part would be
    transposed first, at 22080 tokens of the 14B model in twice the time of the zeros.
    """
    size = math.prod(a.shape[:inputs])
    rows = x.shape[: x.ndim - inputs]
    left = a.astype(dtype).reshape(size, -1)
    inner = jnp.tensordot(x.astype(dtype).reshape(*rows, size), left, 1)
    inner = checkpoint_name(inner, PRODUCT)
    right = b.astype(dtype)
    if a.ndim == inputs + 2:
        return _product_of_parts(inner, right.reshape(*right.shape[:2], -1))
    return jnp.tensordot(inner, right.reshape(inner.shape[-1], -1), 1)


@jax.custom_vjp
def _product_of_parts(
    inner: Float[Array, "*rows parts_and_r"], b: Float[Array, "parts r outputs"]
) -> Float[Array, "*rows parts_and_outputs"]:
    """Each part of ``inner`` times its own ``b``."""
    parts, rank, outputs = b.shape
    own = jnp.eye(parts, dtype=b.dtype)[:, None, :, None]
    blocks = b.reshape(parts, rank, 1, outputs) * own
    return jnp.tensordot(inner, blocks.reshape(parts * rank, parts * outputs), 1)


def _forward(inner, b):
    return _product_of_parts(inner, b), (inner, b)


def _backward(residuals, gradient):
    # The gradients are small, and a product a part multiplies no zeros.
    inner, b = residuals
    parts, rank, outputs = b.shape
    rows = inner.reshape(-1, parts, rank)
    outer = gradient.reshape(-1, parts, outputs)
    d_inner = jnp.einsum("npo,pro->npr", outer, b)
    return d_inner.reshape(inner.shape), jnp.einsum("npr,npo->pro", rows, outer)


_product_of_parts.defvjp(_forward, _backward)


def _kind(module: str) -> Adaptable:
    return next(kind for kind in ADAPTABLE if re.fullmatch(kind.module, module))

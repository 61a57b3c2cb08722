"""Low-rank adapters (LoRA, Hu et al. 2021): ``x · (W + A B)`` with ``A`` and ``B`` of rank r beside
a frozen ``W``.

The factors are leaves of the transformer's parameter tree, ``lora_a`` and ``lora_b`` beside
``kernel``, and a projection that finds them adds ``(x · A) · B``. So one tree serves the model with
adapters and without, and what trains is a small tree of its own: :func:`combine` lays it over the
frozen one, :func:`merge` folds it in.
"""

import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from helios_jax.types import Array, DTypeLike, Float, Params, PRNGKeyArray


class Adaptable(NamedTuple):
    """A kind of kernel that can have an adapter.

    Attributes:
      module: regular expression of its path in the tree.
      inputs: axes of the kernel that are contracted, behind the layers'.
      parts: how many projections the kernel joins in the axis that follows, each with a pair of
        factors of its own; 0 if it is one.
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
"""The modules whose kernels are matrices: 406 of the 14B model in PyTorch's count, where q, k and v
are three.
"""


def adapter_shapes(
    module: str, kernel: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ``lora_a`` and ``lora_b`` beside a kernel: ``[*layers, *in, (parts,) r]`` and
    ``[*layers, (parts,) r, *out]``.
    """
    kind = _kind(module)
    lead = 1 if module.startswith("blocks/") else 0
    inputs, outputs = kernel[: lead + kind.inputs], kernel[lead + kind.inputs + bool(kind.parts) :]
    parts = (kind.parts,) if kind.parts else ()
    return (*inputs, *parts, rank), (*kernel[:lead], *parts, rank, *outputs)


def adaptable(params: Params, include: str, exclude: str = "") -> list[str]:
    """Paths of the modules of ``params`` that ``include`` and not ``exclude`` match from beginning
    to end.

    Raises:
      ValueError: if there is none.
    """
    modules = [
        path.removesuffix("/kernel")
        for path in flatten_dict(params, sep="/")
        if path.endswith("/kernel")
    ]
    chosen = [
        m
        for m in modules
        if re.fullmatch(include, m) and not (exclude and re.fullmatch(exclude, m))
    ]
    chosen = [m for m in chosen if any(re.fullmatch(kind.module, m) for kind in ADAPTABLE)]
    if not chosen:
        raise ValueError(
            f"no module matches {include!r} without {exclude!r}; there are {', '.join(modules)}"
        )
    return chosen


def init_adapters(key: PRNGKeyArray, params: Params, modules: Iterable[str], rank: int) -> Params:
    """Factors of the given modules, float32: ``A`` normal with deviation 1 / rank, ``B`` zero, so
    that nothing changes at first.

    Each module's factors depend on the key and its name only. ``params`` may be abstract.
    """
    kernels, factors = flatten_dict(params, sep="/"), {}
    for module in modules:
        a, b = adapter_shapes(module, kernels[f"{module}/kernel"].shape, rank)
        own = jax.random.fold_in(key, zlib.crc32(module.encode()))
        factors[f"{module}/lora_a"] = jax.random.normal(own, a, jnp.float32) / rank
        factors[f"{module}/lora_b"] = jnp.zeros(b, jnp.float32)
    return unflatten_dict(factors, sep="/")


def combine(params: Params, trainable: Params) -> Params:
    """``params`` with every leaf of ``trainable`` in it, in the place of what was there or beside
    it.
    """
    combined = dict(params)
    for name, leaf in trainable.items():
        combined[name] = (
            combine(combined.get(name, {}), leaf) if isinstance(leaf, Mapping) else leaf
        )
    return combined


def merge(params: Params, trainable: Params) -> Params:
    """``params`` with adapters folded into their kernels and whole leaves replaced; in float32,
    then in each leaf's own dtype.
    """

    def fold(node: Params, module: str) -> Params:
        if "lora_a" in node:
            node = {
                **node,
                "kernel": adapted(module, node["kernel"], node["lora_a"], node["lora_b"]),
            }
        return {
            name: fold(child, f"{module}/{name}" if module else name)
            if isinstance(child, Mapping)
            else child
            for name, child in node.items()
            if name not in ("lora_a", "lora_b")
        }

    merged = fold(combine(params, trainable), "")
    return jax.tree.map(lambda new, old: new.astype(old.dtype), merged, params)


def adapted(
    module: str, kernel: Float[Array, "..."], a: Float[Array, "..."], b: Float[Array, "..."]
) -> Float[Array, "..."]:
    """``W + A B`` of one module, in float32."""
    kind, lead = _kind(module), 1 if module.startswith("blocks/") else 0
    layers, parts, rank = kernel.shape[:lead], (kind.parts,) if kind.parts else (), a.shape[-1]
    left = a.astype(jnp.float32).reshape(*layers, -1, *parts, rank)
    right = b.astype(jnp.float32).reshape(*layers, *parts, rank, -1)
    product = jnp.einsum(
        f"{'l' * lead}i{'p' * len(parts)}r,{'l' * lead}{'p' * len(parts)}ro->{'l' * lead}i{'p' * len(parts)}o",
        left,
        right,
    )
    return kernel.astype(jnp.float32) + product.reshape(kernel.shape)


def adapter_product(
    x: Float[Array, "*rows_and_inputs"],
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    inputs: int,
    dtype: DTypeLike,
):
    """``(x · A) · B`` in ``dtype``, with as many axes at the end as ``b`` has outputs."""
    axes = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    inner = jnp.tensordot(x.astype(dtype), a.astype(dtype), axes)
    joined = a.ndim == inputs + 2
    right = b.astype(dtype)
    if not joined:
        return jnp.tensordot(inner, right, 1)
    flat = right.reshape(*right.shape[:2], math.prod(right.shape[2:]))
    product = jnp.einsum("...pr,pro->...po", inner, flat)
    return product.reshape(*product.shape[:-1], *right.shape[2:])


def _kind(module: str) -> Adaptable:
    return next(kind for kind in ADAPTABLE if re.fullmatch(kind.module, module))

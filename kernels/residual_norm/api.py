"""The five operations, each by whichever implementation serves best.

Every one of them is a case of the fused kernel, ``residual_norm`` of :mod:`.triton` and
:mod:`.pallas` with its gradient of :mod:`.gradient`, and has its own plain version in
:mod:`.reference`.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..dispatch import Implementation, Target, dispatch
from ..gradient import with_plain_gradient
from ..quantize.api import refuses_float8
from ..quantize.types import Quantized, UnscaledProduct
from . import reference
from .fusion import Fusion, Norm
from .gradient import differentiable

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def layer_norm(
    x: Float[Array, "*axes D"],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    eps: float,
    implementation: str | None = None,
) -> Float[Array, "*axes D"]:
    """(x - mean) / √(variance + eps) · scale + bias over the last axis, in float32.

    Args:
      x: any number of tokens.
      scale, bias: weights, None for 1 and 0.
      eps: added to the variance.
      implementation: "triton", "pallas" or "xla"; None for the first of them that serves these
        arguments on this device.

    Returns:
      The result in ``x``'s dtype.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    return dispatch("layer_norm", LAYER_NORM, implementation, x, scale, bias, eps=eps)


def rms_norm(
    x: Float[Array, "*axes D"] | UnscaledProduct,
    scale: Float[Array, "D"],
    *,
    eps: float,
    implementation: str | None = None,
) -> Float[Array, "*axes D"]:
    """x / √(mean(x²) + eps) · scale over the last axis, in float32.

    Arguments, result and errors are those of :func:`layer_norm`. Of a product without scales and
    bias, these are applied first.
    """
    return dispatch("rms_norm", RMS_NORM, implementation, x, scale, eps=eps)


@overload
def modulated_layer_norm(
    x: Float[Array, "B N D"],
    shift: Float[Array, "#B 2 D"],
    scale: Float[Array, "#B 2 D"],
    *,
    history: int,
    eps: float,
    quantized: Literal[False] = False,
    implementation: str | None = None,
) -> Float[Array, "B N D"]: ...


@overload
def modulated_layer_norm(
    x: Float[Array, "B N D"],
    shift: Float[Array, "#B 2 D"],
    scale: Float[Array, "#B 2 D"],
    *,
    history: int,
    eps: float,
    quantized: bool,
    implementation: str | None = None,
) -> Float[Array, "B N D"] | Quantized: ...


def modulated_layer_norm(
    x: Float[Array, "B N D"],
    shift: Float[Array, "#B 2 D"],
    scale: Float[Array, "#B 2 D"],
    *,
    history: int,
    eps: float,
    quantized: bool = False,
    implementation: str | None = None,
) -> Float[Array, "B N D"] | Quantized:
    """LN(x) · (1 + scale) + shift without affine weights, in float32.

    Args:
      x: ``history`` history tokens, then the noisy ones.
      shift, scale: float32, a row for history and one for noisy tokens.
      history: number of history tokens, static.
      eps: added to the variance.
      quantized: round the result to float8 as well, as
        :func:`~helios_jax.kernels.quantize.quantize` does.
      implementation: as for :func:`layer_norm`.

    Returns:
      The result in ``x``'s dtype.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
    """
    arrays = (x, shift, scale)
    return dispatch(
        "modulated_layer_norm",
        MODULATED_LAYER_NORM,
        implementation,
        *arrays,
        history=history,
        eps=eps,
        quantized=quantized,
    )


def gated_residual(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"] | UnscaledProduct,
    gate: Float[Array, "#B #2 D"] | None,
    *,
    history: int,
    implementation: str | None = None,
) -> Float[Array, "B N D"]:
    """x + gate · y, in float32.

    Args:
      x: ``history`` history tokens, then the noisy ones.
      y: the term of every token, or of the noisy ones only; then history tokens stay as they are.
        Of a product without scales and bias, these are applied first.
      gate: a row for history and one for noisy tokens, or one for both; None for 1.
      history: number of history tokens, static.
      implementation: as for :func:`layer_norm`.

    Returns:
      The sum, in ``x``'s dtype.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
      ValueError: if ``y`` has neither as many tokens as ``x`` nor as many as are noisy.
    """
    _check(x, y, history)
    return dispatch("gated_residual", GATED_RESIDUAL, implementation, x, y, gate, history=history)


def gated_residual_norm(
    x: Float[Array, "B N D"],
    y: Float[Array, "B n_y D"] | UnscaledProduct,
    gate: Float[Array, "#B #2 D"] | None,
    affine: tuple[Float[Array, "#B #2 D"], Float[Array, "#B #2 D"]],
    *,
    history: int,
    norm: Norm,
    quantized: bool = False,
    implementation: str | None = None,
) -> tuple[Float[Array, "B N D"], Float[Array, "B n_normed D"] | Quantized]:
    """s = x + gate · y and LN(s) · scale + shift, in float32, without reading s back from memory.

    Args:
      x, y, gate, history, implementation: as for :func:`gated_residual`.
      affine: scale and shift, each a row for history and one for noisy tokens, or one for both:
        ``scale[None, None]``, ``shift[None, None]`` of an affine norm; ``1 + scale``, ``shift`` of
        a modulated one.
      norm: its ε, and whether it is of all tokens or of the noisy ones only.
      quantized: round the norm to float8 as well, as
        :func:`~helios_jax.kernels.quantize.quantize` does.

    Returns:
      The sum, and the norm of what it was rounded to; both in ``x``'s dtype. Where ``y`` is given
      for noisy tokens only, the Triton kernel writes the sum over ``x`` if nothing else needs
      ``x``.

    Raises:
      UnsupportedError: if the named implementation cannot serve, with the reason.
      ValueError: if ``y`` has neither as many tokens as ``x`` nor as many as are noisy.
    """
    _check(x, y, history)
    arrays = (x, y, gate, affine)
    static = dict(history=history, norm=norm, quantized=quantized)
    return dispatch("gated_residual_norm", GATED_RESIDUAL_NORM, implementation, *arrays, **static)


def _check(x: jax.Array, y: jax.Array | UnscaledProduct, history: int) -> None:
    noisy = x.shape[1] - history
    if y.shape[1] not in (x.shape[1], noisy):
        raise ValueError(
            f"y has {y.shape[1]} tokens, but x has {x.shape[1]}, of which {noisy} are noisy"
        )


# Each operation as a case of the fused kernel, which is the first argument.


def _layer_norm(kernel, x, scale, bias, *, eps):
    weights = (None, _shared(scale), _shared(bias))
    _, normed = kernel(_sequences(x), None, *weights, Fusion(norm="layer", eps=eps))
    return normed.reshape(x.shape)


def _rms_norm(kernel, x, scale, *, eps):
    weights = (None, _shared(scale), None)
    _, normed = kernel(_sequences(x), None, *weights, Fusion(norm="rms", eps=eps))
    return normed.reshape(x.shape)


def _modulated_layer_norm(kernel, x, shift, scale, *, history, eps, quantized=False):
    weights = (None, 1 + scale.astype(jnp.float32), shift)
    fusion = Fusion(history=history, norm="layer", eps=eps, quantized=quantized)
    _, normed = kernel(x, None, *weights, fusion)
    return normed


def _gated_residual(kernel, x, y, gate, *, history):
    added, _ = kernel(x, y, gate, None, None, Fusion(history=history))
    return added


def _gated_residual_norm(kernel, x, y, gate, affine, *, history, norm, quantized=False):
    fusion = Fusion(
        history=history,
        norm="layer",
        eps=norm.eps,
        norm_from=history if norm.noisy_only else 0,
        quantized=quantized,
    )
    return kernel(x, y, gate, *affine, fusion)


def _sequences(x: jax.Array | UnscaledProduct) -> jax.Array | UnscaledProduct:
    """All tokens as one sequence [1, N, D], or as those of several samples where they are."""
    if len(x.shape) == 3:
        return x
    if isinstance(x, UnscaledProduct):
        sums = x.sums.reshape(1, -1, x.shape[-1])
        return x._replace(sums=sums, token_scale=x.token_scale.reshape(1, -1))
    return x.reshape(1, -1, x.shape[-1])


def _shared(weight: jax.Array | None) -> jax.Array | None:
    """A weight [D] as [1, 1, D]: one row for all samples and both segments."""
    return None if weight is None else weight[None, None]


def _implementations(
    plain: Callable[..., Any], fused: Callable[..., Any], *, adds: bool = False
) -> dict[str, Implementation]:
    """The table of an operation, best first.

    Args:
      plain: the operation in plain JAX, of arrays by position and static values by name, the first
        array being ``x``.
      fused: the same by the fused kernel, which is its first argument.
      adds: whether the second array is added to the first.
    """

    def by_kernel(module: str, refuses_target, refuses_channels) -> Implementation:
        def forward(*arguments):
            # Imported when it is run: a CPU needs neither Triton nor Pallas.
            return importlib.import_module(f".{module}", __package__).residual_norm(*arguments)

        # Eight-bit numbers are for sampling: their gradient needs no kernel.
        of_float8 = with_plain_gradient(functools.partial(fused, forward), plain)
        of_others = functools.partial(fused, differentiable(module))

        def run(*arrays, **static):
            products = [array for array in arrays if isinstance(array, UnscaledProduct)]
            chosen = of_float8 if products or static.get("quantized") else of_others
            return chosen(*arrays, **static)

        def refuses(target, *arrays, quantized=False, **_):
            return (
                refuses_target(target)
                or (refuses_float8(target) if quantized else None)
                or _refuses_dtypes(arrays, adds)
                or refuses_channels(arrays[0].shape[-1])
            )

        return Implementation(run, refuses)

    return {
        "triton": by_kernel("triton", _refuses_triton, _refuses_triton_channels),
        "pallas": by_kernel("pallas", _refuses_pallas, _refuses_pallas_channels),
        "xla": Implementation(plain, lambda *_, **__: None),
    }


def _refuses_triton(target: Target) -> str | None:
    if target.platform != "cuda":
        return f"it needs an NVIDIA GPU, not {target.kind} ({target.platform})"
    return None if importlib.util.find_spec("jax_triton") else "jax-triton is not installed"


def _refuses_pallas(target: Target) -> str | None:
    if target.has_mosaic:
        return None
    return f"it needs a GPU of compute capability 9 or 10, not {target.kind} ({target.platform})"


def _refuses_dtypes(arrays: tuple[Any, ...], adds: bool) -> str | None:
    dtypes = {str(leaf.dtype): leaf.dtype for leaf in jax.tree.leaves(arrays)}
    if other := [name for name, dtype in dtypes.items() if dtype not in DTYPES]:
        return f"it takes bfloat16, float16 and float32, not {', '.join(other)}"
    if adds and arrays[0].dtype != arrays[1].dtype:
        return f"it adds arrays of one dtype, not {arrays[0].dtype} and {arrays[1].dtype}"
    return None


def _refuses_triton_channels(channels: int) -> str | None:
    from .triton import CHUNKS, chunk_size

    if channels // chunk_size(channels) <= CHUNKS:
        return None
    return (
        f"it takes tokens of up to {CHUNKS} times a power of two up to 1024,"
        f" not {channels} channels"
    )


def _refuses_pallas_channels(channels: int) -> str | None:
    from .pallas import CHANNELS

    if channels % 128 == 0 and channels <= CHANNELS:
        return None
    return f"it takes tokens of a multiple of 128 channels, up to {CHANNELS}, not {channels}"


LAYER_NORM = _implementations(reference.layer_norm, _layer_norm)
RMS_NORM = _implementations(reference.rms_norm, _rms_norm)
MODULATED_LAYER_NORM = _implementations(reference.modulated_layer_norm, _modulated_layer_norm)
GATED_RESIDUAL = _implementations(reference.gated_residual, _gated_residual, adds=True)
GATED_RESIDUAL_NORM = _implementations(
    reference.gated_residual_norm, _gated_residual_norm, adds=True
)

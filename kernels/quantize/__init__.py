"""Tokens rounded to float8 with one scale each, for products of eight-bit operands.

    x ≈ values · scale,  scale = max|x| / 448

A product of such tokens leaves its scales and its bias to the kernel that reads it
(:class:`UnscaledProduct`), so that nothing is read and written only to be multiplied.
"""

from .api import quantize
from .reference import round_to_8_bits
from .types import FLOAT8, Quantized, UnscaledProduct, scaled

__all__ = ["FLOAT8", "Quantized", "UnscaledProduct", "quantize", "round_to_8_bits", "scaled"]

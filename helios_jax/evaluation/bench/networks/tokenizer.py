"""CLIP's byte-pair encoding of lower-case text, as ViCLIP's text encoder takes it: 32 tokens.

All of the benchmark's 240 prompts are longer (84 to 205 tokens), so that a video is compared with
the first 30 tokens of its prompt, a quarter of it. :meth:`ClipTokenizer.windows` gives the rest.
"""

import gzip
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.models.tokenizer import clean_prompt
from helios_jax.types import Int

NUM_MERGES = 48894
START = 49406
END = 49407
CONTEXT = 32
"""Tokens of a text, start and end included."""

_END_OF_WORD = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Texts to token ids.

    Args:
      merges: pairs of symbols, most frequent first.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]):
        symbols = _byte_symbols()
        words = [*symbols, *(symbol + _END_OF_WORD for symbol in symbols)]
        words += [left + right for left, right in merges]
        vocabulary = {word: index for index, word in enumerate(words)}
        self._backend = tokenizers.Tokenizer(
            models.BPE(vocabulary, list(merges), end_of_word_suffix=_END_OF_WORD)
        )
        self._backend.normalizer = normalizers.Lowercase()
        split = pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True)
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "ClipTokenizer":
        """Read ``bpe_simple_vocab_16e6.txt.gz`` of CLIP, or ``merges.txt`` of Transformers.

        Raises:
          BenchError: if the file cannot be read or holds something else.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
            text = gzip.decompress(content) if path.suffix == ".gz" else content
            lines = text.decode("utf-8").split("\n")[1 : NUM_MERGES + 1]
        except (OSError, ValueError, EOFError) as error:
            raise BenchError(f"cannot read the BPE merges in {path}: {error}") from error
        merges = []
        for line in lines:
            left, space, right = line.partition(" ")
            if space:
                merges.append((left, right))
        if len(merges) != NUM_MERGES:
            raise BenchError(f"{path} does not hold the {NUM_MERGES} merges of CLIP's vocabulary")
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without start and end."""
        return self._backend.encode(clean_prompt(text), add_special_tokens=False).ids

    def __call__(self, text: str) -> Int[np.ndarray, "1 S"]:
        """Start, the first 30 tokens, end, and zeros up to 32."""
        return self._rows([self.encode(text)[: CONTEXT - 2]])

    def windows(self, text: str) -> Int[np.ndarray, "n S"]:
        """All tokens of a text, in the fewest rows of at most 30 and of nearly equal length."""
        tokens = self.encode(text)
        count = max(-(-len(tokens) // (CONTEXT - 2)), 1)
        edges = [round(index * len(tokens) / count) for index in range(count + 1)]
        return self._rows([tokens[edges[i] : edges[i + 1]] for i in range(count)])

    @staticmethod
    def _rows(parts: list[list[int]]) -> Int[np.ndarray, "n S"]:
        rows = np.zeros((len(parts), CONTEXT), np.int32)
        for row, part in zip(rows, parts):
            row[: len(part) + 2] = [START, *part, END]
        return rows


def _byte_symbols() -> list[str]:
    """A printable character for each byte, in the order in which CLIP numbers them.

    Bytes that print in Latin-1 come first and stand for themselves; the others are moved above 255.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = len(set(range(256)) - set(printable))
    return [chr(code) for code in (*printable, *range(256, 256 + others))]

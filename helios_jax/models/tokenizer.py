"""Prompts to token ids: cleaning, and a T5 tokenizer (SentencePiece unigram) read from
``tokenizer.json``.
"""

import html
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from helios_jax.errors import HeliosError
from helios_jax.types import Int
from helios_jax.writers import write_whole

PAD, EOS, UNKNOWN = range(3)
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")


QUOTED = 160
"""Letters of what is cut off a prompt that the warning quotes at most."""


class TruncatedPromptWarning(UserWarning):
    """A prompt has more tokens than the text encoder takes; the message quotes what is left out."""


class TokenizerError(HeliosError, ValueError):
    """A tokenizer that cannot be used; the message names the file and what to do."""


def clean_prompt(text: str) -> str:
    """A prompt as the model saw it in training: mojibake mended, HTML entities resolved (twice),
    every run of whitespace one space.
    """
    # References to no character, which Python does not read beyond 4,300 digits.
    text = re.sub(r"&#\d{100,};?", "\ufffd", ftfy.fix_text(text))
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(r"\s+", " ", text).strip()


class Tokenizer:
    """Texts to padded rows of token ids.

    Args:
      backend: tokenizer of the ``tokenizers`` library, in which ``<pad>`` is token 0 and ``</s>``
        token 1. Its own settings for padding, truncation and the end of a text are not used.

    Raises:
      TokenizerError: if ``<pad>`` or ``</s>`` is another token.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        for token, name in enumerate(SPECIAL_TOKENS[:2]):
            found = backend.token_to_id(name)
            if found != token:
                raise TokenizerError(
                    f"{name} is token {found}, not {token}: this is not a tokenizer of the T5"
                    " family"
                )
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read ``tokenizer.json``, from its own path or from its folder's.

        Raises:
          TokenizerError: if there is none, or it is not the file of a T5 tokenizer.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            hint = ""
            if (file.parent / "spiece.model").exists():
                hint = (
                    "; spiece.model beside it is not read, copy the tokenizer.json published with"
                    " google/umt5-xxl there"
                )
            raise TokenizerError(f"no tokenizer at {file}{hint}")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises nothing more specific
            raise TokenizerError(f"{file} cannot be read: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. The text encoder needs at least as many rows."""
        return self._backend.get_vocab_size()

    def __call__(
        self, prompts: Sequence[str], max_length: int
    ) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B"]]:
        """Tokenize prompts; each ends with ``</s>``, which stays when the prompt is cut.

        A cut is told by a :class:`TruncatedPromptWarning`.

        Args:
          prompts: B texts, cleaned by :func:`clean_prompt`.
          max_length: S, to which every row is cut or padded with token 0.

        Returns:
          Token ids, and the number of tokens of each prompt, ``</s>`` included; both int32.
        """
        ids = np.full((len(prompts), max_length), PAD, np.int32)
        lengths = np.zeros(len(prompts), np.int32)
        for i, prompt in enumerate(prompts):
            encoding = self._backend.encode(prompt, add_special_tokens=False)
            if len(encoding.ids) >= max_length:
                start, _ = encoding.offsets[max_length - 1]
                _warn_of_cut(prompt, start, len(encoding.ids) + 1, max_length)
            tokens = [*encoding.ids[: max_length - 1], EOS]
            ids[i, : len(tokens)] = tokens
            lengths[i] = len(tokens)
        return ids, lengths

    def words_in_pieces(self, prompt: str) -> list[str]:
        """The words of a prompt that have no token of their own, in their order.

        To a tokenizer of :func:`word_tokenizer` these are the words it was not made for.
        """
        unknown = []
        for word in re.findall(r"\w+", clean_prompt(prompt)):
            piece = self._backend.normalizer.normalize_str(word)
            if all(self._backend.token_to_id(whole) is None for whole in (piece, f"▁{piece}")):
                unknown.append(word)
        return unknown

    def save(self, path: str | os.PathLike) -> None:
        """Write ``tokenizer.json`` at ``path``, whole or not at all."""
        write_whole(path, self._backend.to_str(pretty=True).encode())


def _warn_of_cut(prompt: str, start: int, tokens: int, room: int) -> None:
    """Quote what is left out of a prompt from a letter on, its middle left out if it is long."""
    rest = prompt[start:].strip()
    if len(rest) > QUOTED:
        rest = f"{rest[: QUOTED // 2]} ... {rest[-QUOTED // 2 :]}"
    beginning = prompt[:40].strip()
    message = (
        f"the prompt {beginning!r}... has {tokens} tokens and the text encoder takes {room}: "
        f"left out are its last {len(prompt) - start} letters, {rest!r}"
    )
    warnings.warn(message, TruncatedPromptWarning, stacklevel=3)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A small tokenizer of UMT5's kind: unigram, NFKC, words marked by a leading ``▁``.

    The same texts always give the same tokenizer.

    Args:
      texts: the training corpus.
      vocab_size: most tokens, the three special ones included.
    """
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        unk_token=SPECIAL_TOKENS[UNKNOWN],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    backend.model = models.Unigram(_in_stable_order(vocab), unk_id=UNKNOWN)
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", EOS)]
    )
    return Tokenizer(backend)


def word_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A lower-case tokenizer of UMT5's kind with a token for every word of the texts and for every
    printable character of ASCII.

    Training would cut words into pieces that they share; of few words, each can have its own token.
    """
    normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    counts = Counter()
    for text in texts:
        pieces = split.pre_tokenize_str(normalizer.normalize_str(text))
        counts.update(piece for piece, _ in pieces)
    words = sorted(counts, key=lambda piece: (-counts[piece], piece))
    characters = ["▁", *(chr(code) for code in range(33, 127) if not chr(code).isupper())]
    scores = {piece: math.log(counts[piece] / counts.total()) for piece in words}
    least = min(scores.values()) - 10  # so that a word is never cheaper in characters
    vocab = [(token, 0.0) for token in SPECIAL_TOKENS]
    for piece in dict.fromkeys([*words, *characters]):
        vocab.append((piece, round(scores.get(piece, least), 6)))
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=UNKNOWN))
    backend.normalizer = normalizer
    backend.pre_tokenizer = split
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", EOS)]
    )
    return Tokenizer(backend)


def toy_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer for random weights, trained on a few words; always the same."""
    words = [
        "a red ball rolls over green grass",
        "the quick brown fox jumps over the lazy dog",
        "0123456789 .,;:!?'()-",
    ]
    return train_tokenizer(words, vocab_size)


def _in_stable_order(vocab: list[list]) -> list[tuple[str, float]]:
    """The trained pieces in an order that is the same in every run.

    The trainer walks hash tables: pieces of equal score come in any order, and scores differ in
    their last bits. The characters it adds for coverage get the lowest score plus 1e-4 for each one
    added before.
    """
    special = vocab[: len(SPECIAL_TOKENS)]
    pieces = vocab[len(SPECIAL_TOKENS) :]
    least = min(score for _, score in pieces)
    coverage = least + 1e-4 * len(pieces)
    scores = {}
    for piece, score in pieces:
        if len(piece) == 1 and score < coverage:
            score = least
        scores[piece] = round(score, 6)
    ordered = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
    return [tuple(entry) for entry in special] + ordered

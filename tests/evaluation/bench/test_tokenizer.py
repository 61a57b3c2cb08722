"""Texts become the tokens that CLIP's own tokenizer makes of them."""

import gzip

import numpy as np
import pytest

from helios_jax.evaluation.bench import BenchError
from helios_jax.evaluation.bench.networks.tokenizer import ClipTokenizer
from tests.evaluation.bench.merges import clip_tokenizer, merges
from tests.evaluation.bench.test_clip import PROMPT_2

PROMPT = (
    "A stunning mid-afternoon landscape photograph with a low camera angle, showcasing several"
    " giant wooly mammoths treading through a snowy meadow. Their long, wooly fur gently"
)
"""The beginning of the benchmark's second prompt."""

TOKENS = {
    "A cat's 3 dogs, don’t stop—ever!": [  # noqa: RUF001
        *[320, 2368, 568, 274, 3255, 267, 847, 713, 1691, 2005, 1247, 256]
    ],
    "  Café &amp; naïve  &lt;b&gt;  ": [15304, 261, 1097, 35689, 563, 283, 321, 285],
    "一只猫 😀": [19759, 222, 34517, 103, 163, 234, 360, 7334],
}


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


@pytest.mark.parametrize("text", TOKENS)
def test_texts_get_the_tokens_of_clip(tokenizer, text):
    assert tokenizer.encode(text) == TOKENS[text]


def test_a_long_prompt_is_cut_to_thirty_tokens_between_start_and_end(tokenizer):
    np.testing.assert_array_equal(tokenizer(PROMPT), [PROMPT_2])


def test_a_short_text_is_padded_with_zeros(tokenizer):
    np.testing.assert_array_equal(tokenizer("A cat"), [[49406, 320, 2368, 49407] + [0] * 28])


def test_windows_hold_the_whole_prompt_in_rows_of_nearly_equal_length(tokenizer):
    rows = tokenizer.windows(PROMPT)
    lengths = [int((row > 0).sum()) - 2 for row in rows]
    assert max(lengths) - min(lengths) <= 1
    tokens = [token for row in rows for token in row.tolist() if 0 < token < 49406]
    assert tokens == tokenizer.encode(PROMPT)


def test_an_empty_text_is_one_window_without_words(tokenizer):
    assert tokenizer.windows("")[0, :3].tolist() == [49406, 49407, 0]


def test_the_vocabulary_is_read_from_the_published_file(tmp_path):
    text = "a header\n" + "\n".join(" ".join(merge) for merge in merges()) + "\nnot used\n"
    (tmp_path / "vocab.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "merges.txt").write_text(text, encoding="utf-8")
    for name in ("vocab.txt.gz", "merges.txt"):
        assert ClipTokenizer.from_file(tmp_path / name).encode("A cat") == [320, 2368]


@pytest.mark.parametrize(
    "content", [b"nothing", gzip.compress(b"header\na b\n")], ids=["no gzip", "too short"]
)
def test_a_file_that_is_something_else_is_named(tmp_path, content):
    path = tmp_path / "vocab.txt.gz"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"vocab\.txt\.gz"):
        ClipTokenizer.from_file(path)

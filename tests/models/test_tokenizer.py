"""Prompt cleaning and the tokenizer's promises."""

import json
import re

import numpy as np
import pytest

from helios_jax.models.tokenizer import (
    Tokenizer,
    TokenizerError,
    TruncatedPromptWarning,
    clean_prompt,
    train_tokenizer,
)
from helios_jax.writers import WriteError

TEXTS = [
    "a red ball rolls over the green grass",
    "a blue cube spins slowly",
    "the camera follows a dog, with waves & wind, on the beach",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=60)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a\t red \n\n ball  ", "a red ball"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("<i> &amp;lt; Tom &amp;amp; Jerry", "<i> < Tom & Jerry"),
        ("schÃ¶n", "schön"),
        ("a&nbsp;b\u3000c", "a b c"),
        ("", ""),
    ],
)
def test_clean_prompt(text, clean):
    """Mojibake, entities escaped twice, and every kind of space."""
    assert clean_prompt(text) == clean


def test_rows_end_with_eos_and_are_padded(tokenizer):
    """Ids are int32, `</s>` closes each prompt and counts, `<pad>` fills up; an empty prompt is
    `</s>` alone.
    """
    ids, lengths = tokenizer(["a red ball", ""], max_length=20)
    assert ids.shape == (2, 20)
    assert ids.dtype == lengths.dtype == np.int32
    assert lengths[1] == 1
    for row, length in zip(ids, lengths):
        assert row[length - 1] == 1
        assert (row[: length - 1] > 2).all()
        assert not row[length:].any()


def test_cutting_keeps_eos(tokenizer):
    """A prompt too long keeps its beginning and ends with `</s>`."""
    whole, lengths = tokenizer([TEXTS[2]], max_length=100)
    with pytest.warns(TruncatedPromptWarning):
        ids, cut = tokenizer([TEXTS[2]], max_length=8)
    assert lengths > 8
    assert cut == 8
    assert ids[0].tolist() == [*whole[0, :7], 1]


def test_what_is_cut_off_a_prompt_is_quoted(tokenizer):
    """From the letter of the first token without room to the end; nothing is said of what fits."""
    words = " ".join(["a red ball"] * 40)
    _, lengths = tokenizer([words], max_length=400)
    kept = int(lengths[0]) - 6
    with pytest.warns(TruncatedPromptWarning) as told:
        ids, _ = tokenizer([words], kept)
    message = str(told[0].message)
    assert f"has {lengths[0]} tokens and the text encoder takes {kept}" in message
    rest = re.search(r"letters, '(.*)'", message)[1]
    assert words.endswith(rest)
    again, length = tokenizer([words.removesuffix(rest).strip()], max_length=400)
    assert again[0, : length[0]].tolist() == ids[0].tolist()
    with pytest.warns(
        TruncatedPromptWarning, match=r"left out are its last \d+ letters, .* \.\.\. "
    ):
        tokenizer([words], 9)


def test_unknown_characters(tokenizer):
    """A character never seen is one `<unk>`."""
    ids, lengths = tokenizer(["a 🎈"], max_length=10)
    assert ids[0, lengths[0] - 2] == 2


def test_vocab_size(tokenizer):
    """No more tokens than asked for, and every id below the size."""
    assert tokenizer.vocab_size <= 60
    assert tokenizer(TEXTS, 64)[0].max() < tokenizer.vocab_size


def test_save_and_read_back(tokenizer, tmp_path):
    """The same ids after a round trip, by file or by folder, and nothing else in the folder."""
    tokenizer.save(tmp_path / "tokenizer.json")
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        np.testing.assert_array_equal(
            Tokenizer.from_file(path)(TEXTS, 64)[0], tokenizer(TEXTS, 64)[0]
        )


def test_settings_of_the_file_do_not_pad_or_cut(tokenizer, tmp_path):
    """Padding and truncation stored in the file, as transformers stores them, change nothing."""
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
        "pad_to_multiple_of": None,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(
        Tokenizer.from_file(tmp_path)(TEXTS, 64)[0], tokenizer(TEXTS, 64)[0]
    )


def test_training_is_reproducible(tmp_path):
    """The same texts give the same file."""
    for i in range(3):
        train_tokenizer(TEXTS, vocab_size=60).save(tmp_path / f"{i}.json")
    assert len({file.read_text() for file in tmp_path.iterdir()}) == 1


def test_what_is_missing_is_said(tmp_path):
    """No file, only `spiece.model`, a broken file, a tokenizer of another family."""
    with pytest.raises(TokenizerError, match=r"no tokenizer at .*tokenizer\.json$"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "spiece.model").touch()
    with pytest.raises(
        TokenizerError, match=r"spiece\.model beside it is not read, copy the tokenizer\.json"
    ):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_file(tmp_path)
    words = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(TokenizerError, match="not a tokenizer of the T5 family"):
        Tokenizer.from_file(tmp_path)


def test_failed_save_leaves_nothing(tokenizer, tmp_path):
    """A target that cannot be replaced (a folder) leaves no partial file."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(WriteError, match="taken cannot be written"):
        tokenizer.save(tmp_path / "taken")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("digits", [100, 4_301, 50_000])
def test_a_reference_to_no_character_is_a_mark_of_replacement(digits):
    """Python reads no number of more than 4,300 digits."""
    assert clean_prompt(f"a &#{'9' * digits}; ball") == "a \ufffd ball"
    assert clean_prompt("a &#x41; &#66;") == "a A B"

"""Token ids are those of Transformers, cleaned prompts those of Diffusers."""

import io

import numpy as np
import pytest
import sentencepiece
from diffusers.pipelines.helios.pipeline_helios import prompt_clean
from transformers import PreTrainedTokenizerFast, T5TokenizerFast

from helios_jax.models.tokenizer import Tokenizer, clean_prompt, train_tokenizer

TEXTS = [
    "A red ball rolls over the green grass, then stops.",
    "The camera follows a small dog running along the beach at sunset; waves & wind.",
    "一只小猫在厨房里做饭,阳光照进窗户。",
    "Close-up: rain on a window, 35mm film, shallow depth of field.",
    "Ein schöner Wald im Nebel, ein Reh schaut auf.",
] * 8
AWKWARD = [
    "",
    " ",
    "a",
    "double  spaces   and\ttabs\nand lines ",
    "emoji 🎈🏳️‍🌈 and e\u0301 combining",
    "一只小猫 cat 在\u3000厨房里",
    "&lt;b&gt; &amp;amp; &nbsp;x",
    "<i> &amp;amp;lt; Tom &amp;amp; Jerry",
    "fullwidth ABC①, ligature fi, soft\u00adhyphen, zero\u200bwidth",
    "schÃ¶n, it\u2019s “quoted”",
    "literal </s> and <pad> inside, <extra_id_0> too",
    "the dog runs " * 60,
]


def spiece_tokenizer_json(folder):
    """A T5 tokenizer.json converted by transformers from a SentencePiece model trained here."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=200,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    T5TokenizerFast.from_pretrained(folder).save_pretrained(folder)


def trained_tokenizer_json(folder):
    """A tokenizer.json of our own."""
    train_tokenizer(TEXTS, vocab_size=200).save(folder / "tokenizer.json")


def whole_file(folder):
    """transformers' tokenizer that takes every setting from tokenizer.json."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (spiece_tokenizer_json, T5TokenizerFast.from_pretrained),
        (spiece_tokenizer_json, whole_file),
        (trained_tokenizer_json, whole_file),
    ],
    ids=["sentencepiece-T5TokenizerFast", "sentencepiece-tokenizer.json", "trained here"],
)
@pytest.mark.filterwarnings("ignore::helios_jax.models.tokenizer.TruncatedPromptWarning")
@pytest.mark.parametrize("max_length", [32, 226])
def test_ids_match_on_awkward_text(write, read, max_length, tmp_path):
    """Ids and lengths of raw and of cleaned prompts, padded and truncated."""
    write(tmp_path)
    prompts = [*AWKWARD, *map(clean_prompt, AWKWARD), *TEXTS[:5]]
    theirs = read(tmp_path)(
        prompts, padding="max_length", max_length=max_length, truncation=True, return_tensors="np"
    )
    ids, lengths = Tokenizer.from_file(tmp_path)(prompts, max_length)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(lengths, theirs["attention_mask"].sum(axis=1))


@pytest.mark.parametrize("text", AWKWARD)
def test_cleaning_matches(text):
    assert clean_prompt(text) == prompt_clean(text)

"""CLIP's vocabulary as far as the tests' texts need it."""

from pathlib import Path

from helios_jax.evaluation.bench.networks.tokenizer import NUM_MERGES, ClipTokenizer

NEEDED = Path(__file__).with_name("clip_merges.txt")
"""The merges that occur in the tests' texts, each after its number in the published file."""


def merges():
    """As many merges as CLIP has; in the place of those that are not needed, some that never occur.

    A symbol that ends a word is never followed by another.
    """
    unused = [(f"{chr(a)}</w>", chr(b)) for a in range(0x100, 0x144) for b in range(0x21, 0x7F)]
    unused += [(f"{chr(a)}</w>", chr(b)) for a in range(0xAE, 0x100) for b in range(0x21, 0x7F)]
    unused += [(f"{chr(a)}</w>", chr(b)) for a in range(0x21, 0x7F) for b in range(0xAE, 0x144)]
    unused += [(f"{chr(a)}</w>", chr(b)) for a in range(0xAE, 0x144) for b in range(0xAE, 0x144)]
    found = unused[:NUM_MERGES]
    for line in NEEDED.read_text(encoding="utf-8").splitlines():
        rank, left, right = line.split(" ")
        found[int(rank)] = (left, right)
    assert len(found) == NUM_MERGES
    return found


def clip_tokenizer():
    return ClipTokenizer(merges())

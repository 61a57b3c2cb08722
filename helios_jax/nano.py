"""helios-nano, the small Helios that ships with the package: where it lies, and what it knows."""

import os
from collections.abc import Iterable
from pathlib import Path

from helios_jax.models.tokenizer import Tokenizer
from helios_jax.world.captions import WORDS
from helios_jax.world.scenes import BACKGROUND_COLORS, COLORS, SHAPES

ASSETS = Path(__file__).parent / "assets"
CHECKPOINT = ASSETS / "nano-base"
"""Base, which draws what its prompt says best. Beside it are ``nano``, Distilled, which is much
faster, and ``nano-mid``; the three share a VAE, a text encoder and a tokenizer.
"""

EXAMPLES = (
    "A large red star glides slowly to the right, against a plain navy background. "
    "The camera stays still.",
    "A small yellow circle bounces up and down quickly and a big green ring spins clockwise, "
    "over a black and cream checkerboard. A static camera.",
    "There is a top-to-bottom gradient of teal and maroon. A huge white square pulses in size "
    "slowly. The camera pans left.",
)
"""Prompts in the words of its captions."""


def find_checkpoint(name: str | os.PathLike) -> Path:
    """The directory of a checkpoint: a path, or ``nano``, ``nano-base`` or ``nano-mid`` where there
    is no such path.
    """
    path = Path(name)
    shipped = ASSETS / path
    return shipped if len(path.parts) == 1 and shipped.is_dir() and not path.exists() else path


def short_name(path: str | os.PathLike) -> str:
    """What --checkpoint may say for a directory: the name alone of one that ships."""
    return Path(path).name if is_nano(path) else os.fspath(path)


def is_nano(path: str | os.PathLike) -> bool:
    """Whether a checkpoint directory is one of those that ship with the package."""
    return Path(path).resolve().parent == ASSETS.resolve()


def advice(prompts: Iterable[str], tokenizer: Tokenizer) -> str:
    """What to say of prompts with words that helios-nano does not know; empty if there are none."""
    unknown: dict[str, None] = {}
    for prompt in prompts:
        unknown |= dict.fromkeys(tokenizer.words_in_pieces(prompt))
    if not unknown:
        return ""
    lines = [
        f"helios-nano does not know these words: {', '.join(unknown)}. It draws the nearest thing "
        "that it knows.",
        f"It knows things of two sizes ({', '.join(WORDS['small'] + WORDS['large'])}), nine colors "
        f"({', '.join(COLORS)}) and seven shapes ({', '.join(SHAPES)}). They move in eight "
        "directions, bounce, spin or pulse, slowly or quickly, on plain, gradient, striped or "
        f"checkered backgrounds ({', '.join(BACKGROUND_COLORS)}), before a camera that stays or "
        "pans:",
    ]
    lines += [f'  "{example}"' for example in EXAMPLES]
    return "\n".join(lines)

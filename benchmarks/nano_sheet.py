"""The README's picture: clips of helios-nano above their prompts, none of them chosen.

  python benchmarks/nano_sheet.py
  python benchmarks/nano_sheet.py --checkpoint nano --out distilled.webp

The prompts are those that ``helios-jax sample`` suggests, with its default seed, and the first
held-out captions of a seed. Every second frame is shown, at half the rate.
"""

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

from helios_jax import HeliosPipeline, nano
from helios_jax.evaluation.nano import EvaluationConfig, held_out_scenes

CHECKPOINT = flags.DEFINE_string("checkpoint", "nano-base", "Checkpoint directory, or its name.")
OUT = flags.DEFINE_string("out", "docs/nano.webp", "The picture, an animated WebP.")
CLIPS = flags.DEFINE_integer("clips", 6, "Clips, three in a row.")
FRAMES = flags.DEFINE_integer("frames", 99, "Frames of each clip.")
SEED = flags.DEFINE_integer("seed", 2000, "Of held-out scenes and their noise.")
EDITION = flags.DEFINE_integer("edition", EvaluationConfig().edition, "Of the world.")

COLUMNS = 3
SCALE = 2  # pixels of the picture for each of a clip
GAP = 12
MARGIN = 8
LINES = 4  # of a caption
LINE = 15
CARD = "#24292f"  # dark, so that the picture suits light pages and dark ones
INK = "#e6edf3"


def main(argv: list[str]) -> None:
    """Make the clips and write them side by side."""
    pipeline = HeliosPipeline.from_checkpoint(CHECKPOINT.value)
    asked = [(prompt, 0) for prompt in nano.EXAMPLES[: CLIPS.value]]
    config = EvaluationConfig(seed=SEED.value, edition=EDITION.value)
    for number, _, caption in held_out_scenes(config, CLIPS.value - len(asked)):
        asked.append((caption, SEED.value + number))
    cards = []
    for prompt, seed in asked:
        print(prompt, flush=True)
        frames = pipeline.generate(prompt, num_frames=FRAMES.value, seed=seed)
        cards.append([card(frame, prompt) for frame in frames[0, ::2]])
    sheets = [sheet(moment) for moment in zip(*cards)]
    milliseconds = round(2000 / pipeline.config.sample.fps)
    sheets[0].save(
        OUT.value,
        save_all=True,
        append_images=sheets[1:],
        duration=milliseconds,
        loop=0,
        quality=70,
        method=6,
    )


def card(frame: np.ndarray, prompt: str) -> Image.Image:
    """A frame above its prompt, with round corners."""
    picture = Image.fromarray(frame)
    size = (picture.width * SCALE, picture.height * SCALE)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (size[0], size[1] + 2 * MARGIN + LINES * LINE), CARD)
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(12)
    lines = [""]
    for word in prompt.split():
        if draw.textlength(f"{lines[-1]} {word}", font) > size[0] - 2 * MARGIN:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) > LINES:
        lines[LINES - 1] = f"{lines[LINES - 1].rpartition(' ')[0]} ..."
    for number, line in enumerate(lines[:LINES]):
        draw.text((MARGIN, size[1] + MARGIN + number * LINE), line, INK, font)
    mask = Image.new("L", whole.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, whole.width - 1, whole.height - 1), 8, 255)
    whole.putalpha(mask)
    return whole


def sheet(cards: tuple[Image.Image, ...]) -> Image.Image:
    """Cards in rows, with nothing between them."""
    width, height = cards[0].size
    rows = -(-len(cards) // COLUMNS)
    size = (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    whole = Image.new("RGBA", size, (0, 0, 0, 0))
    for number, each in enumerate(cards):
        row, column = divmod(number, COLUMNS)
        whole.paste(each, (column * (width + GAP), row * (height + GAP)))
    return whole


if __name__ == "__main__":
    app.run(main)

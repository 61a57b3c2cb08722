"""Pictures of helios-nano without choosing: the first held-out captions of a seed, as one GIF.

  python benchmarks/nano_sheet.py
  python benchmarks/nano_sheet.py --checkpoint helios_jax/assets/nano --out distilled.gif

The captions are printed, row by row. Every second frame is shown, at half the rate.
"""

import numpy as np
from absl import app, flags

from helios_jax import HeliosPipeline, media, nano
from helios_jax.evaluation.nano import EvaluationConfig, held_out_scenes

CHECKPOINT = flags.DEFINE_string("checkpoint", str(nano.CHECKPOINT), "Checkpoint directory.")
OUT = flags.DEFINE_string("out", "docs/nano.gif", "The GIF.")
ROWS = flags.DEFINE_integer("rows", 2, "Rows of clips.")
COLUMNS = flags.DEFINE_integer("columns", 3, "Clips in a row.")
FRAMES = flags.DEFINE_integer("frames", 99, "Frames of each clip.")
SEED = flags.DEFINE_integer("seed", 2000, "Of scenes and noise.")


def main(argv: list[str]) -> None:
    """Make the clips and write them side by side."""
    pipeline = HeliosPipeline.from_checkpoint(CHECKPOINT.value)
    config = EvaluationConfig(seed=SEED.value)
    clips = []
    for number, _, caption in held_out_scenes(config, ROWS.value * COLUMNS.value):
        print(f"{number}: {caption}", flush=True)
        frames = pipeline.generate(caption, num_frames=FRAMES.value, seed=SEED.value + number)
        clips.append(np.asarray(frames[0, ::2]))
    rows = []
    for row in range(ROWS.value):
        first = row * COLUMNS.value
        rows.append(np.concatenate(clips[first : first + COLUMNS.value], axis=2))
    sheet = np.concatenate(rows, axis=1)
    with media.open_video_writer(OUT.value, pipeline.config.sample.fps // 2) as writer:
        writer.write(sheet)


if __name__ == "__main__":
    app.run(main)

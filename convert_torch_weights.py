"""PyTorch checkpoints to helios-jax checkpoints, and back.

Helios, as downloaded in Diffusers' layout (Base, Mid or Distilled, any dtype, any number of shards):

  python convert_torch_weights.py --source Helios-Distilled --out checkpoints/helios-distilled

The same, stored in bfloat16 (half the disk of the float32 release; the VAE keeps float32):

  python convert_torch_weights.py --source Helios-Distilled --out checkpoints/helios-distilled --dtype bfloat16

A base and what was trained on it, merged:

  python convert_torch_weights.py --source Helios-Base --lora pytorch_lora_weights.safetensors --partial transformer_partial.pth --out DIR

A Helios that starts from Wan 2.1 T2V (1.3B or 14B; the original folder or the Diffusers one):

  python convert_torch_weights.py --source Wan2.1-T2V-1.3B --init_from_wan --out checkpoints/from-wan

Back to a folder that `diffusers` loads:

  python convert_torch_weights.py --to_diffusers --source checkpoints/helios-distilled --out Helios-Diffusers

or, without the history patches, to the pipeline of Wan 2.1:

  python convert_torch_weights.py --to_wan --source checkpoints/from-wan --out Wan-Diffusers

Tensors stream one by one, so a checkpoint of any size needs little memory. The output appears under its name only when it is complete.
Exit status: 0 when done, 2 when the input cannot be used (one line on stderr says why).
"""

from absl import flags

from helios_jax.checkpoint import CheckpointError, convert
from helios_jax.cli import run_script

SOURCE = flags.DEFINE_string(
    "source", None, "Folder to read: Diffusers' or Wan's; with --to_diffusers, a helios-jax checkpoint.", required=True
)
OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
LORA = flags.DEFINE_string("lora", None, "LoRA to merge into the transformer (pytorch_lora_weights.safetensors).")
PARTIAL = flags.DEFINE_string("partial", None, "Whole tensors to merge into the transformer (transformer_partial.pth).")
INIT_FROM_WAN = flags.DEFINE_bool("init_from_wan", False, "The source is Wan 2.1 T2V: add the history patches that Helios starts from.")
TO_DIFFUSERS = flags.DEFINE_bool("to_diffusers", False, "Write a Diffusers folder from a helios-jax checkpoint.")
TO_WAN = flags.DEFINE_bool(
    "to_wan", False, "Write the Diffusers folder of a Wan 2.1 from a helios-jax checkpoint, without history patches."
)
DTYPE = flags.DEFINE_enum("dtype", "keep", ["keep", "bfloat16", "float32"], "Dtype to store the transformer and the text encoder in.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.")


def main() -> None:
    """Convert as the flags say."""
    options = {"dtype": DTYPE.value, "overwrite": OVERWRITE.value}
    if TO_DIFFUSERS.value or TO_WAN.value:
        if LORA.value or PARTIAL.value or INIT_FROM_WAN.value:
            raise CheckpointError(
                "--lora, --partial and --init_from_wan act on PyTorch folders: leave them out with --to_diffusers and --to_wan"
            )
        summary = convert.to_diffusers(SOURCE.value, OUT.value, as_wan=TO_WAN.value, **options)
    else:
        summary = convert.from_torch(
            SOURCE.value, OUT.value, lora=LORA.value, partial=PARTIAL.value, init_from_wan=INIT_FROM_WAN.value, **options
        )
    print(f"wrote {OUT.value}: {summary}")


if __name__ == "__main__":
    run_script(main, (CheckpointError, OSError))

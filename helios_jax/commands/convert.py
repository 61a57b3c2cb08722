"""PyTorch checkpoints to helios-jax checkpoints, and back.

What is this, what can it become here, and by which command (--json: for programs)?

  python convert_torch_weights.py --inspect Helios-Distilled

Helios, as downloaded in Diffusers' layout (Base, Mid or Distilled, any dtype, any number of
shards):

  python convert_torch_weights.py --source Helios-Distilled --out checkpoints/distilled

The same, stored in bfloat16 (half the disk of the float32 release; the VAE keeps float32):

  python convert_torch_weights.py --source Helios-Distilled --out checkpoints/distilled \\
      --dtype bfloat16

A base and what was trained on it, merged:

  python convert_torch_weights.py --source Helios-Base --out checkpoints/merged \\
      --lora pytorch_lora_weights.safetensors --partial transformer_partial.pth

Several adapters, in their order, each with a strength of its own:

  python convert_torch_weights.py --source Helios-Distilled --out checkpoints/painted \\
      --lora paint.safetensors:0.8 --lora grain.safetensors:0.3

A Helios that starts from Wan 2.1 T2V (1.3B or 14B; the original folder or the Diffusers one):

  python convert_torch_weights.py --source Wan2.1-T2V-1.3B --init_from_wan --out checkpoints/wan

One of several transformers: where the published recipes start from, or half of a Wan 2.2 A14B:

  python convert_torch_weights.py --source Helios-Distilled --transformer transformer_ode \\
      --out checkpoints/ode

A transformer alone, a folder or one file (safetensors of ComfyUI, .pth), and the rest, its VAE,
text encoder and tokenizer, from another source or a converted checkpoint:

  python convert_torch_weights.py --source wan2.1_t2v_1.3B_fp16.safetensors --init_from_wan \\
      --rest Wan2.1-T2V-1.3B --out checkpoints/wan

A repository that is in the Hugging Face cache already, by its name:

  python convert_torch_weights.py --source BestWishYsh/Helios-Base --out checkpoints/base

Back to a folder that `diffusers` loads:

  python convert_torch_weights.py --to_diffusers --source checkpoints/distilled --out Diffusers

or, without the history patches, to the pipeline of Wan 2.1:

  python convert_torch_weights.py --to_wan --source checkpoints/wan --out Wan-Diffusers

Tensors are read and written one by one, so a checkpoint of any size needs little memory. The output
appears under its name only when it is complete. A checkpoint's files are compared with their
digests first; folders of PyTorch weights have none. Exit status: 0 when done, 2 when the input
cannot be used (one line on stderr says why).
"""

import json
from collections.abc import Sequence

from absl import flags

from helios_jax.checkpoint import CheckpointError, convert, inspection
from helios_jax.checkpoint.lora import partial_remark
from helios_jax.checkpoint.source import Selection
from helios_jax.commands.cli import UsageError, complain, run_command
from helios_jax.commands.lora_flags import define_lora, read_lora


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__, define_flags, convert_checkpoint, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "source",
        None,
        "What to read: a folder of Diffusers or Wan, a transformer in a folder or a file, or the "
        "name of a repository in the Hugging Face cache; with --to_diffusers, a helios-jax "
        "checkpoint.",
        flag_values=options,
    )
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=options)
    flags.DEFINE_string(
        "inspect",
        None,
        "Say what this is and what it can become, and write nothing.",
        flag_values=options,
    )
    flags.DEFINE_bool("json", False, "With --inspect: say it as JSON.", flag_values=options)
    flags.DEFINE_string(
        "transformer",
        None,
        "Folder of one of several transformers in --source, such as transformer_ode, or its entry "
        "in a file, such as ema.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "rest",
        None,
        "Source or helios-jax checkpoint that gives all but the transformer.",
        flag_values=options,
    )
    define_lora(options)
    flags.DEFINE_string(
        "partial",
        None,
        "Whole tensors to merge into the transformer (transformer_partial.pth).",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "init_from_wan",
        False,
        "The source is Wan 2.1 T2V: add the history patches that Helios starts from.",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "to_diffusers",
        False,
        "Write a Diffusers folder from a helios-jax checkpoint.",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "to_wan",
        False,
        "Write the Diffusers folder of a Wan 2.1 from a helios-jax checkpoint, without history "
        "patches.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "dtype",
        "keep",
        ["keep", "bfloat16", "float32"],
        "Dtype to store the transformer and the text encoder in.",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "verify", True, "Refuse NaN and infinite values in weights.", flag_values=options
    )
    flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.", flag_values=options)


def convert_checkpoint(options: flags.FlagValues) -> None:
    """Convert, or inspect, as the flags say."""
    if options.inspect:
        selection = Selection(options.inspect, options.transformer, options.rest)
        found = inspection.inspect(options.inspect, selection)
        print(json.dumps(found.as_dict(), indent=2) if options.json else found)
        return
    for name in ("source", "out"):
        if options[name].value is None:
            raise UsageError(f"Flag --{name} must have a value; see --help")
    common = {"dtype": options.dtype, "overwrite": options.overwrite}
    if options.to_diffusers or options.to_wan:
        names = ("lora", "partial", "init_from_wan", "transformer", "rest")
        if given := [f"--{name}" for name in names if options[name].value]:
            raise CheckpointError(
                f"{', '.join(given)} is for PyTorch weights: leave it out with --to_diffusers and "
                "--to_wan"
            )
        summary = convert.to_diffusers(options.source, options.out, as_wan=options.to_wan, **common)
    else:
        adapters = read_lora(options)
        if remark := partial_remark(adapters, options.partial):
            complain(remark)
        summary = convert.from_torch(
            Selection(options.source, options.transformer, options.rest, options.verify),
            options.out,
            adapters=adapters,
            partial=options.partial,
            init_from_wan=options.init_from_wan,
            **common,
        )
        print(f"note: {options.source} has no digests: what was altered there is not noticed")
    for note in summary.notes:
        print(f"note: {note}")
    print(f"wrote {options.out}: {summary}")

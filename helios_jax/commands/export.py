"""A training run to a checkpoint, or to adapters.

A complete checkpoint, adapters folded in, for `helios-jax sample`, for the next stage, and for
`helios-jax convert`:

  helios-jax export --run runs/stage1_init --out checkpoints/stage1_init

A run that trained a VAE from random weights gives a checkpoint of the VAE alone; --base names a
checkpoint whose other parts it takes.

The adapters alone, for `load_lora_weights` of Diffusers, and beside them what was trained in full:

  helios-jax export --run runs/stage1_init --out lora --format lora

The newest step that verifies is taken, or that of --step; of its weights the moving average, where
the run keeps one, or with --noema those of the step itself. Exit status: 0 when done, 2 when the
input cannot be used (one line on stderr says why).
"""

from collections.abc import Sequence

from absl import flags

from helios_jax.checkpoint.export_lora import export_lora
from helios_jax.commands.cli import run_command
from helios_jax.training.export import export_merged, read_config, read_weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__ or "", define_flags, export_run, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string("run", None, "Folder of the run.", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "Folder to write.", required=True, flag_values=options)
    flags.DEFINE_enum(
        "format",
        "merged",
        ["merged", "lora"],
        "A complete checkpoint, or the adapters alone.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "step",
        None,
        "Which step; by default the newest that verifies.",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "ema",
        True,
        "Take the moving average of the weights, where there is one.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "base",
        None,
        "The checkpoint that was trained on, if it is no longer where the recipe says, or that "
        "the other parts come from, if the run began with random weights.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16"],
        "Dtype to store what was trained in; by default the base's.",
        flag_values=options,
    )
    flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.", flag_values=options)


def export_run(options: flags.FlagValues) -> None:
    """Export as the flags say."""
    config = read_config(options.run)
    step, trained = read_weights(options.run, options.step, options.ema)
    if options.format == "lora":
        export_lora(options.out, config.model.transformer, trained, options.overwrite)
    else:
        export_merged(
            config,
            trained,
            options.out,
            base=options.base or "",
            overwrite=options.overwrite,
            dtype=options.dtype or "",
        )
    print(f"wrote {options.out}: step {step} of {options.run}")

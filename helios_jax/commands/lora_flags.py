"""The flag ``--lora FILE[:STRENGTH]``, which may be repeated."""

from absl import flags

from helios_jax.checkpoint.adapter_files import AdapterFile

HELP = (
    "Adapter to merge into the transformer, a file or a folder that holds one, as FILE or "
    "FILE:STRENGTH; repeat the flag for several, which are merged in their order."
)


def define_lora(options: flags.FlagValues) -> None:
    """Define the flag."""
    flags.DEFINE_multi_string("lora", [], "", flag_values=options)
    options["lora"].help = HELP  # in the place of absl's own remark on flags that are repeated


def read_lora(options: flags.FlagValues) -> list[AdapterFile]:
    """The adapters that are asked for, in order.

    Raises:
      CheckpointError: if a strength is no number.
    """
    return [AdapterFile.parse(text) for text in options.lora]

"""Flags of ``helios-jax sample`` beside those of the request's fields."""

from collections.abc import Sequence

from absl import flags

from helios_jax import media
from helios_jax.commands.cli import define_config, define_plan
from helios_jax.commands.lora_flags import define_lora
from helios_jax.commands.request_flags import define_request_flags

TEXTS = {
    "checkpoint": "Checkpoint directory, or one that ships with the package: nano-base, nano "
    "(fast), nano-mid; without one, nano-base, or random weights of --config.",
    "prompt": "What the video shows.",
    "prompt_file": "One video a prompt: a text file with a prompt a line, a folder of text files "
    "with a prompt each, or a .csv, .jsonl or .json list with a column prompt, caption, text or "
    "cap, as HeliosBench has.",
    "prompt_schedule": "Prompts that follow one another in one video: a JSON or YAML list of "
    "{prompt, chunks, blend}, or a CSV with the columns id, prompt_index and prompt, one video for "
    "each id.",
    "image": "Image file the video starts from; it is not part of the output.",
    "video": "Video file to go on from, at least 33 frames at the model's rate; only what follows "
    "is written.",
    "save_latents": "Keep the latents of every chunk in this .safetensors file; of several "
    "prompts, each has a numbered one, as with --statistics and --report.",
    "decode": "Make no video: decode the latents of this file to --out.",
    "statistics": "Keep brightness, colours, sharpness, motion and drift of each chunk in this CSV "
    "file: the measures without weights of helios-jax bench.",
    "report": "Draw the --statistics as this SVG file; without a prompt, those of an earlier run.",
    "contact_sheet": "Put frames of all videos on this one picture (.png or .jpg).",
    "compile_cache": "Folder of compiled programs; empty for none. By default "
    "JAX_COMPILATION_CACHE_DIR, or one in the user's cache folder.",
}
"""Flags with a text."""

SWITCHES = {
    "reference_schedule": "Follow a schedule as Diffusers does: a new prompt begins one chunk "
    "late, and after the last one comes the first again.",
    "reference_frames": "Round --num_frames as Diffusers does: 99 becomes 97.",
    "live": "Write the mp4 in place, playable after each chunk, and resumable; always so for a "
    "named pipe or standard output.",
    "resume": "Go on with the video that a --live run has left at --out. Prompt, seed, size and "
    "steps are its own; --num_frames may be larger.",
    "open": "Open the video, or the contact sheet, when it is made.",
    "overwrite": "Let a folder of images take the place of an older one.",
    "drift": "Add noise to the model's memory of chunks whose statistics leave the running ones "
    "(adaptive sampling).",
    "quant_activations": "With --quant, round activations to eight bits, too, and multiply eight "
    "bits by eight. fp8 is then for speed (predicted, not measured, for 2-2-2 of 14B on an H200: "
    "26.7 frames/s, where bfloat16 has 19.6); it needs a GPU of compute capability 8.9 or later. "
    "int8 stays for memory.",
    "warmup": "Compile everything, and run it once, before the first video: its first frames come "
    "at full speed.",
    "release_text_encoder": "Encode the prompts, then drop the text encoder before the transformer "
    "is loaded: at 14B, 11 GB less.",
}
"""Flags that are off unless given."""


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    define_config(
        options, argv, "Preset, by name or file. With --checkpoint, its model must be that."
    )
    define_request_flags(options)
    define_lora(options)
    define_plan(
        options,
        "Print the memory that the request takes on this GPU, which need not be there, and make "
        "nothing.",
    )
    for name, help in TEXTS.items():
        flags.DEFINE_string(name, None, help, flag_values=options)
    for name, help in SWITCHES.items():
        flags.DEFINE_bool(name, False, help, flag_values=options)
    flags.DEFINE_bool(
        "times",
        None,
        "Say where the time went, stage by stage. The device then waits after each; by default "
        "only a CPU does, and elsewhere a chunk begins before the one before it is written.",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "verify",
        True,
        "Compare the checkpoint's files with their digests, and refuse NaN and infinite values in "
        "weights, and in the latents of --decode.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "out",
        "helios.mp4",
        "What to write: .mp4, .gif, a folder for PNG images, .safetensors for latents, or - for an "
        "mp4 on standard output.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "fps", None, "Frames per second of the file; the model's are 24.", flag_values=options
    )
    fits = "; ".join(f"{name}: {what}" for name, what in media.FITS.items())
    flags.DEFINE_enum(
        "fit", "crop", list(media.FITS), f"Where proportions differ: {fits}", flag_values=options
    )
    flags.DEFINE_list(
        "drift_thresholds",
        ["0.15", "0.15"],
        "Distances of mean and variance beyond which a chunk has drifted.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "quant",
        None,
        ["int8", "fp8"],
        "Hold the transformer's large weights in eight bits, one scale a channel. By itself that "
        "is for memory: half of it, and slower than bfloat16 (predicted, not measured, for 2-2-2 "
        "of 14B on an H200: 18.1 frames/s, where bfloat16 has 19.6). For speed: fp8 with "
        "--quant_activations.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16"],
        "Of transformer and text encoder; float32 on a CPU, else bfloat16.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "memory",
        "all",
        ["all", "low"],
        "low: let the text encoder go, too, and keep the transformer's blocks in host memory, from "
        "where each is copied in its turn: 14B in 12 GiB.",
        flag_values=options,
    )

"""Serve a page where a video answers while it is made.

  helios-jax demo
  helios-jax demo --checkpoint checkpoints/helios-distilled

Open the address that it prints. A video grows chunk by chunk as it is made; a prompt that is typed
meanwhile takes effect at the next chunk; any chunk can be gone back to, and branched from. By
default helios-nano makes the videos, the distilled one, in real time on a laptop.

The server listens on this machine alone. To let others in, name an address, and a token that they
must have:

  helios-jax demo --host 0.0.0.0 --token "$(openssl rand -hex 16)"

There is one model, and videos wait in line for it. What curl and Python need to use it is in
docs/demo.md.

Exit status: 0 when it is ended by Ctrl-C, 2 when it cannot begin.
"""

import contextlib
import dataclasses
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from helios_jax import nano
from helios_jax.commands.cli import run_command
from helios_jax.demo.line import Line
from helios_jax.demo.options import DemoError, DemoOptions
from helios_jax.demo.server import DemoServer
from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.pipeline import HeliosPipeline
from helios_jax.sampling.request import make_request
from helios_jax.writers import writing

LIMITS = {
    "at_once": "Videos that take turns, a chunk each; the others wait.",
    "waiting": "Videos that may be in line.",
    "chunks": "Chunks of a video, at most.",
    "pixels": "Pixels of a frame, at most; 0 is the model's own size.",
}
"""Flags that are fields of :class:`~helios_jax.demo.options.DemoOptions`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`~helios_jax.commands.cli.run_command`."""
    return run_command(__doc__ or "", define_flags, serve, argv)


def define_flags(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "checkpoint",
        "nano",
        "Checkpoint directory, or one that ships with the package: nano, nano-base, nano-mid.",
        flag_values=options,
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.", flag_values=options)
    flags.DEFINE_integer(
        "port",
        7860,
        "Port to listen on; 0 is any that is free.",
        lower_bound=0,
        upper_bound=65535,
        flag_values=options,
    )
    flags.DEFINE_string("token", "", "What visitors must have to come in.", flag_values=options)
    flags.DEFINE_string(
        "folder",
        None,
        "Folder of the videos' files; by default one that is removed at the end.",
        flag_values=options,
    )
    flags.DEFINE_bool("open", False, "Open the page in a browser.", flag_values=options)
    defaults = DemoOptions()
    for name, help in LIMITS.items():
        least = 0 if name == "pixels" else 1
        default = getattr(defaults, name)
        flags.DEFINE_integer(name, default, help, lower_bound=least, flag_values=options)


def serve(options: flags.FlagValues) -> None:
    """Load the model, compile it, and serve until Ctrl-C."""
    folder = Path(options.folder) if options.folder else None
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise DemoError(f"--folder={folder} is no folder: name another")
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with writing(folder), tempfile.TemporaryDirectory(dir=place):
            pass  # before the model is loaded, not when the first visitor waits
    pipeline = HeliosPipeline.from_checkpoint(options.checkpoint)
    print(f"compiling or loading {pipeline!r}", flush=True)
    warm_up(pipeline)
    limits = {name: getattr(options, name) for name in LIMITS}
    with (
        Line(pipeline, dataclasses.replace(DemoOptions(), **limits), folder) as line,
        DemoServer(
            line,
            options.host,
            options.port,
            token=options.token,
            checkpoint=nano.short_name(options.checkpoint),
        ) as server,
    ):
        print(f"open {server.url} (Ctrl-C ends it)", flush=True)
        if options.open:
            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def warm_up(pipeline: HeliosPipeline) -> None:
    """Compile what the first visitor needs."""

    def ignore(record: ChunkRecord) -> None:
        pass

    request = make_request(pipeline.config, num_frames=1)
    two = dataclasses.replace(request, num_frames=2 * request.frames_per_chunk)
    pipeline.warmup(nano.EXAMPLES, two, on_chunk=ignore)

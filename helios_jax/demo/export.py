"""A visitor's video as a request in JSON, and as a command that makes it again."""

import json
import shlex
from typing import Any

from helios_jax.demo.asked import FIELDS
from helios_jax.demo.video import DemoVideo
from helios_jax.sampling.fields import show
from helios_jax.sampling.request import make_request


def as_json(video: DemoVideo) -> dict[str, Any]:
    """The request, all fields of it, and the prompts by the chunks that they begin at."""
    prompts = []
    for change in video.changes:
        prompts.append({"chunk": change.chunk, "prompt": change.prompts[0], "blend": change.blend})
    return {"prompts": prompts, "request": video.asked.request.arguments()}


def as_command(video: DemoVideo, checkpoint: str) -> str:
    """A command for the shell, with the story's file where the prompt changed.

    Args:
      video: as far as it is made.
      checkpoint: what --checkpoint takes; empty for the default.
    """
    request = video.asked.request
    own = make_request(request.config)
    flags = [f"--checkpoint {shlex.quote(checkpoint)}"] if checkpoint else []
    lines = []
    if len(video.changes) == 1:
        flags.append(f"--prompt {shlex.quote(video.changes[0].prompts[0])}")
    else:
        story = json.dumps(_entries(video), indent=1, ensure_ascii=False)
        lines = ["cat > story.json <<'END'", story, "END"]
        flags.append("--prompt_schedule story.json")
    flags.append(f"--num_frames {max(1, video.made) * request.frames_per_chunk}")
    for name in FIELDS:
        value = getattr(request, name)
        if name == "seed" or value != getattr(own, name):
            flags.append(f"--{name} {shlex.quote(show(value))}")
    for name in ("image", "video"):
        if getattr(video.asked, name) is not None:
            flags.append(f"--{name} FILE")
    lines.append(" \\\n  ".join(["helios-jax sample --out video.mp4", *flags]))
    return "\n".join(lines) + "\n"


def _entries(video: DemoVideo) -> list[dict[str, Any]]:
    """The prompts as a schedule's entries. One that was replaced while it took over is blended as
    far as there was time.
    """
    ends = [change.chunk for change in video.changes[1:]]
    ends.append(max(video.made, video.changes[-1].chunk + 1))
    entries = []
    for change, end in zip(video.changes, ends):
        chunks = end - change.chunk
        blend = min(change.blend, chunks - 1)
        entries.append({"prompt": change.prompts[0], "chunks": chunks, "blend": blend})
    return entries

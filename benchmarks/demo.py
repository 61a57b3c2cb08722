"""What the live page's server takes: the first chunk, those after it, and many visitors at once.

  python benchmarks/demo.py
  python benchmarks/demo.py --checkpoint checkpoints/helios-distilled --visitors 4

A client asks over HTTP, as the page does, a server in this process that has compiled its programs.
"""

import concurrent.futures
import datetime
import itertools
import json
import os
import platform
import statistics
import threading
import time
import urllib.request

import jax
from absl import app, flags

from helios_jax import HeliosPipeline, nano
from helios_jax.commands.demo import warm_up
from helios_jax.demo.line import Line
from helios_jax.demo.options import DemoOptions
from helios_jax.demo.server import DemoServer
from helios_jax.evaluation.nano import machine

CHECKPOINT = flags.DEFINE_string("checkpoint", "nano", "Checkpoint directory, or its name.")
CHUNKS = flags.DEFINE_integer("chunks", 12, "Chunks of the video that is timed.")
REPEATS = flags.DEFINE_integer("repeats", 3, "First chunks that are timed.")
VISITORS = flags.DEFINE_integer("visitors", 20, "Visitors at once, who want a chunk each.")
OUT = flags.DEFINE_string("out", "benchmarks/results/demo.md", "The table.")


def main(argv: list[str]) -> None:
    """Measure, and write the table."""
    pipeline = HeliosPipeline.from_checkpoint(CHECKPOINT.value)
    warm_up(pipeline)
    load = os.getloadavg()[0]
    with (
        Line(pipeline, DemoOptions()) as line,
        DemoServer(line, "127.0.0.1", 0) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            rows = measure(server.url.rstrip("/") + "/api/videos")
        finally:
            server.shutdown()
            thread.join()
    rows.append(("a chunk, sampled and decoded alone", f"{sampling_alone(pipeline):.2f} s"))
    config = pipeline.config
    conditions = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "checkpoint": CHECKPOINT.value,
        "video": f"{config.sample.width}x{config.sample.height}, steps {config.sample.steps}",
        "machine": f"{machine()}, {jax.devices()[0].device_kind}",
        "load_average_at_start": round(load, 2),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    lines = ["# The live page's server", "", "`python benchmarks/demo.py`", ""]
    lines += ["| what | took |", "|---|---|"]
    lines += [f"| {what} | {took} |" for what, took in rows]
    lines += ["", "## Conditions", ""]
    lines += [f"* {name}: {value}" for name, value in conditions.items()]
    with open(OUT.value, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


def measure(videos: str) -> list[tuple[str, str]]:
    """Rows of what takes how long, by a client of the server."""
    firsts = []
    for seed in range(REPEATS.value):
        began = time.perf_counter()
        name = start(videos, chunks=1, seed=seed)
        fetch(f"{videos}/{name}/chunks/0")
        firsts.append(time.perf_counter() - began)
    name = start(videos, chunks=CHUNKS.value, seed=0)
    video = wait(videos, name, CHUNKS.value)
    seconds = video["seconds"][1:]
    real_time = video["frames_per_chunk"] / video["fps"]
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(VISITORS.value) as visitors:
        served = [*visitors.map(lambda seed: visit(videos, seed), range(VISITORS.value))]
    whole = time.perf_counter() - began
    return [
        ("first chunk, from the request to its last byte, median", f"{median(firsts)} s"),
        ("a chunk after it, median", f"{median(seconds)} s"),
        ("the slowest of them", f"{max(seconds):.2f} s"),
        ("a chunk plays for", f"{real_time:.2f} s"),
        (
            f"{VISITORS.value} visitors at once, a chunk each",
            f"{whole:.1f} s in all; {served.count('done')} served",
        ),
    ]


def sampling_alone(pipeline: HeliosPipeline) -> float:
    """Median seconds of a chunk that nobody writes."""
    chunks = pipeline.stream(nano.EXAMPLES[0], num_frames=33 * 6)
    next(chunks)
    moments = [time.perf_counter()]
    for _ in chunks:
        moments.append(time.perf_counter())
    return statistics.median(after - before for before, after in itertools.pairwise(moments))


def median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f}"


def start(videos: str, **fields: int) -> str:
    """Begin a video."""
    body = json.dumps({"prompt": nano.EXAMPLES[0], **fields}).encode()
    request = urllib.request.Request(videos, body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["id"]


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def wait(videos: str, name: str, made: int) -> dict:
    """The description of a video that has so many chunks, or has ended."""
    while True:
        video = json.loads(fetch(f"{videos}/{name}?made={made}"))
        if video["made"] >= made or video["status"] not in ("waiting", "making"):
            return video


def visit(videos: str, seed: int) -> str:
    """How a visitor's video of one chunk ends."""
    return wait(videos, start(videos, chunks=1, seed=seed), 1)["status"]


if __name__ == "__main__":
    app.run(main)

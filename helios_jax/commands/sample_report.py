"""What ``helios-jax sample`` says: what a request will make and take, and where the time went."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable

import jax
from absl import flags

from helios_jax.config import HeliosConfig
from helios_jax.memory.compiler import TARGETS
from helios_jax.memory.report import GIB, time_report
from helios_jax.memory.sampling import (
    CHUNK_PROGRAMS,
    Placement,
    available_memory,
    estimate_request,
    plan_request,
    predicted_rate,
)
from helios_jax.progress import Progress
from helios_jax.sampling.fields import show
from helios_jax.sampling.loading import default_dtype
from helios_jax.sampling.request import Request, RequestError
from helios_jax.sampling.timing import Stopwatch
from helios_jax.types import DTypeLike

Say = Callable[[str], None]
"""Prints a line, beside the video where that goes to standard output."""


def announce_video(request: Request, count: int, fps: int, say: Say) -> None:
    """Say what will be made.

    Args:
      request: the longest of those that are made.
      count: number of videos.
      fps: frames per second.
      say: prints a line.
    """
    steps = "-".join(map(str, request.plan.steps))
    if request.first_plan != request.plan:
        steps += f", {'-'.join(map(str, request.first_plan.steps))} in the first chunk"
    guidance = f"guidance {request.guidance_scale:g}"
    low, high = request.plan.guidance_interval
    if request.plan.guided and (low, high) != (0, 1):
        guidance += f" at noise levels {low:g} to {high:g}"
    say(
        f"{count} video(s) of {request.num_frames} frames, {request.width}x{request.height}, "
        f"{request.num_frames / fps:.1f} s at {fps} frames/s: {request.chunks} chunk(s) of "
        f"{request.frames_per_chunk} frames, steps {steps}, {guidance}"
    )


def announce_sampler(request: Request, own: HeliosConfig, say: Say) -> None:
    """Say in what the request departs from how the checkpoint would be sampled by itself."""
    found = request.sampler_differences(own)
    if found:
        told = [f"{name} {_show(here)} (its own: {_show(there)})" for name, there, here in found]
        say(f"sampled otherwise than the checkpoint says: {', '.join(told)}")


def announce_memory(request: Request, dtype: DTypeLike, placement: Placement, say: Say) -> None:
    """Say what a request needs.

    Raises:
      RequestError: if that does not fit.
    """
    plan = estimate_request(request, dtype, default_dtype(), placement)
    free = available_memory()
    resident = ", ".join(f"{part} {size(count)}" for part, count in plan.resident.items())
    working = ", ".join(f"{part} {size(count)}" for part, count in plan.working.items())
    memory = "memory of the CPU" if jax.default_backend() == "cpu" else "device memory"
    say(
        f"{memory}, estimated: {size(plan.peak)}{f' of {size(free)} free' if free else ''} "
        f"(weights and caches: {resident}; beside them, in turn: {working}); "
        f"host memory beside it: {size(sum(plan.host.values()))}"
    )
    if free and plan.peak > free:
        raise RequestError(
            f"this needs about {size(plan.peak)} of {memory} and {size(free)} are free: ask "
            "for a smaller size or batch"
        )


def show_plan(request: Request, options: flags.FlagValues, placement: Placement) -> None:
    """Print the memory that a request takes on the GPU of --plan, and the frames a second that are
    predicted of it.

    Raises:
      RequestError: if it does not fit.
    """
    gpu = TARGETS[options.plan]
    dtype = options.dtype or "bfloat16"
    with Progress(f"compiling for {gpu.name}") as progress:
        plan = plan_request(
            request,
            options.plan,
            dtype,
            placement=placement,
            progress=progress.note,
        )
    rate = predicted_rate(request, plan)
    share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
    verdict = (
        f"{plan.peak / GIB:.2f} GiB at once, of {gpu.memory / GIB:.2f} GiB, of which JAX takes "
        f"{share:.0%} (XLA_PYTHON_CLIENT_MEM_FRACTION)"
    )
    fits = plan.peak <= share * gpu.memory
    if options.json:
        found = {"gpu": gpu.name, "fits": fits, "predicted_frames_per_second": rate}
        print(json.dumps(found | plan.as_dict() | {"rates": gpu.rates._asdict()}))
    else:
        size_of_video = f"{request.width}x{request.height}"
        print(f"{request.batch} video(s) of {size_of_video}, {dtype}, on {gpu.name}")
        print(plan)
        if rate is not None:
            print(f"predicted, not measured: {rate:.1f} frames/s once it runs")
            print(time_report(plan, gpu, CHUNK_PROGRAMS))
    if not fits:
        raise RequestError(f"it does not fit: {verdict}")
    if not options.json:
        print(f"it fits: {verdict}")


def report(
    stopwatch: Stopwatch, seconds: float, frames: int, programs: Counter[str], say: Say
) -> None:
    """Say where the time went.

    Args:
      stopwatch: seconds by part.
      seconds: in all.
      frames: that were made.
      programs: from :func:`~helios_jax.compile_cache.count_programs`.
      say: prints a line.
    """
    parts = dict(stopwatch.seconds)
    stages = sorted(part for part in parts if part.startswith("stage "))
    say("seconds, compilation apart:")
    for part in ("load", "warm-up", "text", "transformer", *stages, "vae", "media", "compile"):
        if part in parts:
            say(f"  {'  ' if part in stages else ''}{part:<14}{parts[part]:9.2f}")
    warm = seconds - sum(parts.get(part, 0.0) for part in ("load", "warm-up", "compile"))
    say(
        f"  {'total':<14}{seconds:9.2f}   {frames / seconds:.2f} frames/s, {frames / warm:.2f} warm"
    )
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    parts = {"device": device, "process": _peak_of_process()}
    known = [f"{name} {size(count)}" for name, count in parts.items() if count]
    if known:
        say(f"peak memory: {', '.join(known)}")
    say(
        f"{programs['needed'] - programs['cached']} programs compiled, {programs['cached']} found "
        "in the compile cache"
    )


def _peak_of_process() -> int | None:
    """Bytes that the process had at most; None on Windows, which does not say it so."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def size(count: int | float) -> str:
    """Bytes for people: 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _show(value: object) -> str:
    return show(tuple(value)) if isinstance(value, list | tuple) else str(value)

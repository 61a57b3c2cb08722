"""Which models fit into the memory that is free, and with which flags."""

from collections.abc import Iterator, Mapping

import jax

from helios_jax.config import HeliosConfig
from helios_jax.doctor.verdict import Verdict
from helios_jax.memory.report import GIB
from helios_jax.memory.sampling import Placement, available_memory, estimate_request
from helios_jax.sampling.request import make_request

WAYS = {
    "as it is": Placement(),
    "--release_text_encoder": Placement(text_encoder=False),
    "--memory=low": Placement(text_encoder=False, stream_blocks=True),
}
"""Ways to hold a model, the fastest first, by the flags of helios-jax sample."""


def check_fits(models: Mapping[str, HeliosConfig], free: int | None = None) -> Iterator[Verdict]:
    """A line a model, at its own size, bfloat16, batch 1; by arithmetic.

    Args:
      models: their configurations by name.
      free: bytes; by default those of the device that computes.
    """
    free = available_memory() if free is None else free
    if free is None:
        yield Verdict("what fits", "not run", "the device does not say how much memory is free")
        return
    # Without a device of its own, a host's memory holds what streams as well.
    on_cpu = jax.default_backend() == "cpu"
    ways = {way: placed for way, placed in WAYS.items() if not (on_cpu and placed.stream_blocks)}
    for name, config in models.items():
        request = make_request(config)
        needs = {}
        for way, placement in ways.items():
            plan = estimate_request(request, "bfloat16", "bfloat16", placement)
            needs[way] = plan.peak
        fit = [way for way, need in needs.items() if need <= free]
        least = min(needs.values())
        if fit:
            detail = f"{fit[0]}: {needs[fit[0]] / GIB:.1f} of {free / GIB:.1f} GiB free"
            yield Verdict(f"memory: {name}", "ok", detail)
        else:
            detail = f"it needs {least / GIB:.1f} GiB at least, {free / GIB:.1f} are free"
            yield Verdict(f"memory: {name}", "note", detail)

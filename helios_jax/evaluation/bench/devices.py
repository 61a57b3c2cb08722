"""Work shared among devices: a thread for each, and the first failure ends all."""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence

import jax

Work = Callable[[threading.Event], None]
"""Takes what is left to do until nothing is, or the event is set."""


def work_on(devices: Sequence[jax.Device], work: Work) -> None:
    """Call ``work`` once a device, which is JAX's default there, and wait for all.

    Of a single device it runs in the calling thread. The first exception sets the event and is
    raised when the others have ended.
    """
    stop = threading.Event()

    def run(device: jax.Device) -> None:
        with jax.default_device(device):
            work(stop)

    if len(devices) == 1:
        run(devices[0])
        return
    with concurrent.futures.ThreadPoolExecutor(max(len(devices), 1)) as pool:
        running = [pool.submit(run, device) for device in devices]
        try:
            for done in concurrent.futures.as_completed(running):
                done.result()
        finally:
            stop.set()

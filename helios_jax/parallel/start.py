"""Several processes that train as one."""

import jax

from helios_jax.config import ConfigError


def start_processes(coordinator: str = "", process: int = -1, processes: int = 0) -> None:
    """Join the other processes, before anything else asks JAX for a device.

    Args:
      coordinator: ``host:port`` of process 0; empty where there is one process only, ``"auto"``
        where the cluster (Slurm, Open MPI, Cloud TPU) knows it.
      process, processes: this process's number and how many there are; needed with an address.

    Raises:
      ConfigError: if the number is not below the count.
    """
    if not coordinator:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    if not 0 <= process < processes:
        raise ConfigError(
            f"process {process} of {processes}: with a coordinator, each process needs its number, "
            "from 0, and how many there are"
        )
    jax.distributed.initialize(coordinator, processes, process)

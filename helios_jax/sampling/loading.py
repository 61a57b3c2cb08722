"""Components of a checkpoint directory, read with one progress bar."""

import os
from collections.abc import Sequence
from types import TracebackType

import jax
import jax.numpy as jnp

from helios_jax import checkpoint
from helios_jax.checkpoint.adapters import Adapter
from helios_jax.checkpoint.params import abstract_params, dtype_rules, host_memory
from helios_jax.config import HeliosConfig
from helios_jax.models.vae_layers import kernels_by_output
from helios_jax.progress import Progress
from helios_jax.types import DTypeLike, Params, tree_bytes


class ComponentLoader:
    """Reads components to the device, one call each::

        with ComponentLoader(path, jnp.bfloat16, jnp.bfloat16) as load:
            transformer = load("transformer")

    Attributes:
      config: of the checkpoint.
    """

    config: HeliosConfig

    def __init__(
        self,
        path: str | os.PathLike,
        dtype: DTypeLike,
        vae_dtype: DTypeLike,
        *,
        verify: bool = True,
    ):
        """Read the configuration.

        Args:
          path: the checkpoint directory.
          dtype: of the transformer's and the text encoder's weights.
          vae_dtype: of the VAE's.
          verify: compare every file with its digest.

        Raises:
          CheckpointError: if there is no such checkpoint.
        """
        self.config = checkpoint.load_config(path)
        self._path = path
        self._rules = dtype_rules(dtype, vae_dtype)
        self._verify = verify
        size = tree_bytes(abstract_params(self.config, dtype, vae_dtype))
        self._progress = Progress("loading", total=size, unit="B")

    def __enter__(self) -> "ComponentLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()

    def __call__(
        self, component: str, *, blocks_on_host: bool = False, adapters: Sequence[Adapter] = ()
    ) -> Params:
        """The parameters of a component.

        Args:
          component: "transformer", "vae" or "text_encoder".
          blocks_on_host: whether blocks go to host memory without a stop on the device.
          adapters: merged into the transformer.

        Raises:
          CheckpointError: if anything is missing, altered, or of another format.
        """

        def place(leaf: str) -> jax.sharding.Sharding | None:
            return host_memory() if blocks_on_host and leaf.startswith("blocks/") else None

        params = checkpoint.load_params(
            self._path,
            component,
            self._rules[component],
            self._verify,
            place,
            self._progress.update,
            adapters,
            separate_blocks=component == "transformer"
            and not blocks_on_host
            and separates_blocks(),
        )
        return kernels_by_output(params) if component == "vae" and turns_kernels() else params


def separates_blocks() -> bool:
    """Whether the transformer's blocks are one array a layer: where an accelerator computes."""
    return jax.default_backend() != "cpu"


def turns_kernels() -> bool:
    """Whether the VAE's kernels have the output's channels first: where an accelerator computes."""
    return jax.default_backend() != "cpu"


def default_dtype() -> DTypeLike:
    """bfloat16 where there is an accelerator, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16

"""Every test runs with strict dtype promotion, checked shapes, and warnings as errors."""

import importlib.util
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not any(
    map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))
):  # a GPU's programs are looked at as users get them
    # Two thirds off the time a toy takes to compile on a CPU, for little more time to run it.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )

import jax
from jaxtyping import install_import_hook

install_import_hook("helios_jax", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

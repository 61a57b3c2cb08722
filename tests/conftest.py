"""Every test runs with strict dtype promotion, checked shapes, and warnings as errors."""

import os
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # PyTorch's threads wait for one another: where other workers have the cores, one is thrice as
    # fast as two.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Two thirds off the time a toy takes to compile, for little more time to run it.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

install_import_hook("helios_jax", "beartype.beartype")

# What these tests compile is not for the cache of whoever runs them.
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # What a shell starts in the background does not hear Ctrl-C, nor would what the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_enable_xla_caches",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def cache_settings():
    """A command that a test calls in this process does not leave its compile cache to the next."""
    before = [getattr(jax.config, name) for name in CACHE_SETTINGS]
    yield
    after = [getattr(jax.config, name) for name in CACHE_SETTINGS]
    if after != before:
        for name, value in zip(CACHE_SETTINGS, before, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()

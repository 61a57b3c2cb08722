"""Compiled programs kept on disk, so that the next process does not compile them again.

JAX does the work: it looks a program up by its text, by the versions of JAX and of the compiler, by
the compiler's flags and by the device, and compiles whatever it does not find. So the folder can be
copied: to another machine of the same kind, with the same versions, it brings compiled programs.
Importing the library changes nothing; scripts call :func:`use_compile_cache`.
"""

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache


def use_compile_cache(directory: str | None = None) -> None:
    """Look compiled programs up in a folder, and keep new ones there.

    Args:
      directory: where; "" for nowhere. None: the folder that ``JAX_COMPILATION_CACHE_DIR`` names,
        otherwise one in the user's cache folder, or nowhere if that cannot be written.

    Raises:
      OSError: if ``directory`` cannot be made.
    """
    if directory == "":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    # pyrefly: ignore[missing-attribute]  JAX makes the attributes of its flags at run time
    if directory is None and jax.config.jax_compilation_cache_dir is None:
        directory = _default_directory()
    if directory is not None:
        if "://" not in directory:
            os.makedirs(directory, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", directory)
    # XLA's own caches would lie in this folder, and JAX 0.10 counts their path among the flags of
    # a program: after the folder is moved, nothing in it would be found.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    # A full disk only means that the next process compiles again; JAX has a line for each program.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    # Keep small programs too: they are many, and each takes a GPU's compiler 0.1 s.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def without_compile_cache() -> Generator[None, None, None]:
    """Neither look programs up nor keep them, as for a device that is not there.

    JAX can keep such a program and cannot read it back.
    """
    # pyrefly: ignore[missing-attribute]  JAX makes the attributes of its flags at run time
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX asks once whether there is a cache
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _default_directory() -> str | None:
    """``helios-jax/programs`` in the user's cache folder, if it can be made."""
    try:
        named = os.environ.get("XDG_CACHE_HOME", "")
        cache = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
        path = cache / "helios-jax" / "programs"
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return str(path)


@contextlib.contextmanager
def count_programs(tell: Callable[[], Any] = lambda: None) -> Generator[Counter[str]]:
    """Count the programs that are ``"needed"`` inside the context, and those among them that were
    ``"cached"`` on disk; call ``tell`` after each.
    """
    counter: Counter[str] = Counter()

    def count_needed(event: str, duration_secs: float, **_: Any) -> None:
        # JAX reports this event whether the program was compiled or found.
        if event == "/jax/core/compile/backend_compile_duration":
            counter["needed"] += 1
            tell()

    def count_cached(event: str, **_: Any) -> None:
        counter["cached"] += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(count_needed)
    jax.monitoring.register_event_listener(count_cached)
    try:
        yield counter
    finally:
        jax.monitoring.unregister_event_duration_listener(count_needed)
        jax.monitoring.unregister_event_listener(count_cached)

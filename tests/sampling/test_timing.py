"""Where the seconds go."""

import threading

import jax
import jax.numpy as jnp

from helios_jax.sampling.timing import Stopwatch


def compile_something(x):
    jax.jit(lambda x: jnp.sin(x) * jnp.cos(x))(x).block_until_ready()


def test_compilation_is_taken_off_the_part_that_it_happened_in():
    with Stopwatch() as stopwatch, stopwatch("media"):
        compile_something(jnp.ones(3))
    assert stopwatch.seconds["compile"] > 0
    assert stopwatch.seconds["media"] >= 0


def test_what_another_thread_compiles_is_taken_off_nothing():
    """Or parts could be negative."""
    x = jnp.ones(5)
    with Stopwatch() as stopwatch:
        thread = threading.Thread(target=compile_something, args=(x,))
        with stopwatch("transformer"):
            thread.start()
        thread.join()
    assert stopwatch.seconds["transformer"] > 0
    assert stopwatch.seconds["compile"] == 0

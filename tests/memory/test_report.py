"""Memory of programs, from their compilation for a GPU that is not there."""

import importlib
import sys

import pytest

from helios_jax.memory import compiler as gpu_compiler
from helios_jax.memory.report import CompilerAbsentError, PlanError, program_memory

TOY = """
import jax, jax.numpy as jnp
from helios_jax.memory.report import Program

def programs(rows, fails=()):
    x = jax.ShapeDtypeStruct((rows, 256), jnp.float32)
    y = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    def product(x, y):
        if "product" in fails:
            raise TypeError("no product today")
        return jnp.exp(x) @ y
    return {
        "in place": Program(jax.jit(lambda x: x + 1, donate_argnums=0), (x,)),
        "product": Program(jax.jit(product), (x, y)),
    }
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A module of two programs, in sight of this process."""
    (tmp_path / "toy_programs.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("toy_programs").programs
    del sys.modules["toy_programs"]


@pytest.fixture
def compiler(monkeypatch):
    """Skip where there is none."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if reason := gpu_compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")


@pytest.mark.usefixtures("compiler")
def test_arguments_and_outputs_are_counted_to_the_byte(toy):
    """A donated argument's output takes no room; a product's operand that must be stored is
    temporary.
    """
    memory = dict(program_memory(toy, (4096,), "h100"))
    rows, kernel, product = 4096 * 256 * 4, 256 * 64 * 4, 4096 * 64 * 4
    in_place, other = memory["in place"], memory["product"]
    assert (in_place.arguments, in_place.outputs, in_place.aliased, in_place.working) == (
        rows,
        rows,
        rows,
        0,
    )
    assert (other.arguments, other.outputs, other.aliased) == (rows + kernel, product, 0)
    assert rows <= other.temporary <= rows + (8 << 20)
    assert other.working == product + other.temporary


@pytest.mark.usefixtures("compiler")
def test_a_program_that_cannot_be_compiled_is_named(toy):
    """What was compiled before it is told; then one line says which program, and why."""
    found = program_memory(toy, (8, ["product"]), "h200")
    assert next(found)[0] == "in place"
    with pytest.raises(
        PlanError, match="product cannot be compiled for h200: TypeError: no product today"
    ):
        next(found)


@pytest.mark.usefixtures("compiler")
def test_a_process_that_dies_says_its_last_words(toy, tmp_path):
    """It cannot import the module of the programs any more."""
    (tmp_path / "toy_programs.py").unlink()
    with pytest.raises(PlanError, match=r"compiling programs for h100 ended with: .*toy_programs"):
        list(program_memory(toy, (8,), "h100"))


def test_without_a_compiler_the_reason_is_given(toy, tmp_path):
    """An installation without the plugin is told apart from a failure."""
    (tmp_path / "jax_plugins").mkdir()
    (tmp_path / "jax_plugins" / "__init__.py").write_text("")  # hides the true one
    with pytest.raises(CompilerAbsentError, match="jax-cuda13-plugin is not installed"):
        list(program_memory(toy, (8,), "h100"))

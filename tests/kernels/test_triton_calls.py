"""Triton kernels are called in the one way that CUDA graphs can hold."""

from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels"


def test_no_other_file_calls_jax_triton_itself():
    """A call of jax-triton's own ends the graph before it: see ``helios_jax.cost.graphs``."""
    found = [path.name for path in KERNELS.rglob("*.py") if "jax_triton." in path.read_text()]
    assert found == ["triton_calls.py"]

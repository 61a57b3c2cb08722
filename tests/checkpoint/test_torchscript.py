"""TorchScript archives are read without PyTorch, tensors alone, and nothing in them is run."""

import os

import numpy as np
import pytest
import torch

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.torchscript import read_archive
from tests.checkpoint.test_pth import write_archive

scripts = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 2, bias=False)
        self.proj = torch.nn.Parameter(torch.randn(4, 5))
        self.blocks = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        self.sizes = [2, 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.conv1(x).mean((2, 3))) @ self.proj


@scripts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_tensor_of_an_archive_is_read_under_its_name(tmp_path, dtype):
    model = torch.nn.Sequential(Tower().to(dtype), torch.nn.PReLU(7))
    torch.jit.save(torch.jit.script(model), tmp_path / "tower.pt")
    found = read_archive(tmp_path / "tower.pt")
    assert {*found} == {*model.state_dict()}
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(found[name].read(), value.numpy())


def test_an_archive_that_asks_to_run_something_is_refused(tmp_path):
    write_archive(tmp_path / "evil.pt", f"cos\nmkdir\n(V{tmp_path}/attacked\ntR.".encode())
    with pytest.raises(CheckpointError, match=r"asks to run os\.mkdir"):
        read_archive(tmp_path / "evil.pt")
    assert not os.path.exists(tmp_path / "attacked")


def test_a_module_that_contains_itself_is_refused(tmp_path):
    # An object whose attribute `a` is the object again: memo 0 is fetched inside its own state.
    program = b"\x80\x02c__torch__.M\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub."
    write_archive(tmp_path / "ring.pt", program)
    with pytest.raises(CheckpointError, match=r"ring\.pt is damaged: its module a\. contains"):
        read_archive(tmp_path / "ring.pt")


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_dictionary_is_read_too_nested_or_not(tmp_path, key):
    state = {"weight": torch.arange(4.0)}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "state.pth")
    found = read_archive(tmp_path / "state.pth")
    np.testing.assert_array_equal(found["weight"].read(), state["weight"].numpy())


def test_an_archive_without_tensors_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth holds no tensors by name"):
        read_archive(tmp_path / "list.pth")

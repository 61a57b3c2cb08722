"""Adapters in every style, merged as PyTorch merges them; the table of docs/adapters.md."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helios_jax.checkpoint import CheckpointError, wan
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.adapter_names import MODULES, NAMINGS, TABLES, read_key
from helios_jax.checkpoint.adapters import read_adapter
from helios_jax.checkpoint.lora import merge
from helios_jax.checkpoint.names import transformer_slots
from helios_jax.checkpoint.safetensors_files import TorchTensor
from tests.doc_tables import Row, accepted, check_table, refused

from .accepted_adapters import ACCEPTED
from .adapter_styles import base, merged_by_torch
from .refused_adapters import REFUSED
from .tiny import CONFIG

PAGE = "docs/adapters.md"


def base_tensors() -> dict[str, TorchTensor]:
    found = {}
    for name, tensor in base().state_dict().items():
        values = tensor.numpy()
        found[name] = TorchTensor(values.dtype, values.shape, values.copy)
    return found


@functools.cache
def difference(number: int) -> float:
    """The largest difference between our merge of a style and PyTorch's."""
    style = ACCEPTED[number]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        given = AdapterFile.parse(style.write(Path(name)))
        merged = merge(base_tensors(), [given], None)
        expected = merged_by_torch(style, Path(name) / given.path)
        before = base().state_dict()
        assert merged.keys() == expected.keys()
        found = {key: tensor.read() for key, tensor in merged.items()}
    changed = [key for key, tensor in before.items() if not torch.equal(tensor, expected[key])]
    assert bool(changed) != (given.strength == 0)
    for key in before.keys() - set(changed):
        np.testing.assert_array_equal(found[key], before[key].numpy(), key)
    gaps = [np.abs(found[key] - tensor.numpy()).max() for key, tensor in expected.items()]
    return float(max(gaps))


@pytest.mark.parametrize("number", range(len(ACCEPTED)), ids=[style.kind for style in ACCEPTED])
def test_it_is_merged_as_pytorch_merges_it(number):
    assert difference(number) <= 1e-5


@pytest.mark.parametrize("column", [0, 1], ids=["Diffusers", "Wan"])
def test_every_tensor_has_a_name_in_both_namings(column):
    """And Wan's is the one that the converter knows."""
    config = dataclasses.replace(CONFIG.transformer, is_amplify_history=True)
    for slot in transformer_slots(config):
        module, _, parameter = slot.name.rpartition(".")
        key = slot.name
        for row in (*MODULES, *TABLES):
            for block in range(config.num_layers):
                ours, theirs = (name.replace("#", str(block)) for name in row)
                if ours == slot.name:
                    key = (ours, theirs)[column]
                elif ours == module:
                    key = f"{(ours, theirs)[column]}.{parameter}"
        part = read_key(key, NAMINGS[column])
        assert part is not None
        assert part.tensor == slot.name
        if column:
            assert wan.rename(key, wan.TRANSFORMER) == slot.name


@functools.cache
def line(number: int) -> str:
    """What is said of a file that is refused."""
    case = REFUSED[number]
    config = case.config or CONFIG.transformer
    shapes = {slot.name: slot.shape for slot in transformer_slots(config)}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        with pytest.raises(CheckpointError) as error:
            read_adapter(AdapterFile.parse(case.write(Path(name)))).check(shapes)
    return str(error.value)


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[case.kind for case in REFUSED])
def test_it_is_refused_in_one_short_line(number):
    assert "\n" not in line(number)
    assert len(line(number).encode()) < 400


def test_the_table_in_the_docs_is_what_happens():
    assert len(ACCEPTED) + len(REFUSED) >= 35
    check_table(PAGE, "accepted", accepted_rows())
    rows = [
        Row(case.kind, case.example[:80], refused(line(number)))
        for number, case in enumerate(REFUSED)
    ]
    check_table(PAGE, "refused", rows)


def accepted_rows() -> list[Row]:
    notes = {"file": "Diffusers reads it, too", "PEFT": "beside PEFT's own merge", "names": ""}
    rows = []
    for number, style in enumerate(ACCEPTED):
        rows.append(
            Row(style.kind, style.example, accepted(difference(number), notes[style.oracle]))
        )
    return rows

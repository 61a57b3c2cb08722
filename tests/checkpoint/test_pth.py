""".pth files are read without PyTorch, as views of the file, and nothing they contain is run."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.pth import read_pth


def assert_reads(path, state):
    tensors = read_pth(path)
    assert list(tensors) == list(state)
    for name, expected in state.items():
        found = tensors[name].read()
        assert tensors[name].shape == found.shape == tuple(expected.shape)
        assert found.dtype == tensors[name].dtype
        bits = np.frombuffer(
            expected.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes(), np.uint8
        )
        np.testing.assert_array_equal(np.frombuffer(found.tobytes(), np.uint8), bits, err_msg=name)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
def test_every_dtype_is_read_bit_for_bit(tmp_path, dtype):
    state = {
        "a": torch.arange(12).reshape(3, 4).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    torch.save(state, tmp_path / "a.pth")
    assert_reads(tmp_path / "a.pth", state)


def test_views_of_a_storage_are_read_with_their_strides(tmp_path):
    base = torch.arange(60.0).reshape(3, 4, 5)
    state = {
        "t": base.transpose(0, 2),
        "slice": base[1:, ::2],
        "broadcast": base[:1, 0, 0].expand(4),
        "whole": base,
    }
    torch.save(state, tmp_path / "views.pth")
    assert_reads(tmp_path / "views.pth", state)


def test_a_modules_state_dictionary_and_parameters_are_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "state.pth")
    assert_reads(tmp_path / "state.pth", module.state_dict())
    parameters = OrderedDict(module.named_parameters())
    torch.save(parameters, tmp_path / "parameters.pth")
    assert_reads(tmp_path / "parameters.pth", parameters)


class Attack:
    """Makes a folder when unpickled by pickle itself."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_malicious_file_runs_nothing_and_is_named(tmp_path):
    torch.save(
        {"weight": torch.zeros(2), "extra": Attack(tmp_path / "attacked")}, tmp_path / "evil.pth"
    )
    with pytest.raises(
        CheckpointError,
        match=r"evil\.pth asks to run posix\.mkdir, which is not part of .* tensors: refused",
    ):
        read_pth(tmp_path / "evil.pth")
    assert not (tmp_path / "attacked").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "attacked").exists()  # the attack is real


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(V1\ntR.",
        b"c__builtin__\nexec\n(V1\ntR.",
        b"(V1\nibuiltins\neval\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"ctorch\nload\n(V/etc/passwd\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"ccollections\nOrderedDict.__init__\n.",
    ],
)
def test_programs_that_ask_for_anything_else_are_refused(tmp_path, program):
    write_archive(tmp_path / "evil.pth", program)
    with pytest.raises(CheckpointError, match=r"asks to run .* refused"):
        read_pth(tmp_path / "evil.pth")


def write_archive(path, program, compression=zipfile.ZIP_STORED, **storages):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)


def saved(state, **options):
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def recompressed(content):
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def with_short_storage(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: 4 if "/data/" in name else None])
    return buffer.getvalue()


STATE = {"a": torch.arange(1000.0)}
BAD_FILES = {
    "truncated": (
        lambda: saved(STATE)[:-30],
        "is truncated: the end of the zip archive is missing",
    ),
    "nothing": (lambda: b"", "is not a zip archive"),
    "old format": (
        lambda: saved(STATE, _use_new_zipfile_serialization=False),
        "is not a zip archive: damaged, or written by PyTorch before",
    ),
    "compressed": (lambda: recompressed(saved(STATE)), "is compressed"),
    "short storage": (lambda: with_short_storage(saved(STATE)), "storage 0 has 4 bytes, not 4000"),
    "a module": (
        lambda: saved(torch.nn.Linear(2, 2)),
        r"asks to run torch\.nn\.modules\.linear\.Linear",
    ),
    "not tensors": (lambda: saved({"epoch": 3}), "does not hold a dictionary of tensors"),
    "nested": (lambda: saved({"state_dict": STATE}), "does not hold a dictionary of tensors"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_line(tmp_path, case):
    content, says = BAD_FILES[case]
    (tmp_path / "bad.pth").write_bytes(content())
    with pytest.raises(
        CheckpointError, match=f"bad.pth {says}|bad.pth is damaged: {says}"
    ) as error:
        read_pth(tmp_path / "bad.pth")
    assert "\n" not in str(error.value)


def test_a_zip_without_a_pickle_or_with_a_broken_one_is_one_clear_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(CheckpointError, match=r"without a data\.pkl"):
        read_pth(tmp_path / "other.pth")
    for program in (b"", pickle.dumps({"a": 1})[:-3], b"\x00", b"(ccollections\nOrderedDict\nR."):
        write_archive(tmp_path / "broken.pth", program)
        with pytest.raises(CheckpointError, match="its pickle cannot be read"):
            read_pth(tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"cannot read .*: No such file"):
        read_pth(tmp_path / "absent.pth")


def test_a_view_beyond_its_storage_is_refused(tmp_path):
    program = (
        b"(dVw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\n"
        b"tQI2\n(I3\nt(I1\ntI00\n"
        b"ccollections\nOrderedDict\n)RtRs."
    )
    write_archive(tmp_path / "view.pth", program, **{"0": bytes(16)})
    with pytest.raises(CheckpointError, match="a tensor reaches beyond its storage"):
        read_pth(tmp_path / "view.pth")
    write_archive(
        tmp_path / "view.pth", program.replace(b"I2\n(I3", b"I1\n(I3"), **{"0": bytes(16)}
    )
    assert read_pth(tmp_path / "view.pth")["w"].read().tolist() == [0, 0, 0]

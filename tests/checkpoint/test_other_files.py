"""What is taken for weights and is none: refused by what it is, soon, whoever reads it."""

import gzip
import os
import zipfile

import pytest

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.adapters import read_adapter
from helios_jax.checkpoint.inspection import inspect
from helios_jax.checkpoint.places import resolve
from helios_jax.checkpoint.safetensors_files import read_file

FILES = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
    "a web page": b"<!DOCTYPE html><html>sign in</html>",
    "a page of XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "packed with gzip": gzip.compress(b"weights"),
    "full of zeros": bytes(4096),
    "empty": b"",
    "a video": b"\0\0\0\x20ftypisom" + bytes(64),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a text": b"weights, soon\n",
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_something_else_is_named(tmp_path, what):
    """As a shard, as an adapter, and by --inspect."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[what])
    for read in (read_file, lambda path: read_adapter(AdapterFile(path))):
        with pytest.raises(CheckpointError, match=f"is not a safetensors file: it is {what}"):
            read(path)
    assert f"it is {what}" in inspect(path).becomes


def test_an_archive_that_torch_did_not_write_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(CheckpointError, match="a zip archive without a data"):
        read_adapter(AdapterFile(tmp_path / "a.pt"))


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/null"])
def test_what_never_ends_is_not_opened(tmp_path, monkeypatch, place):
    """A named pipe without a writer would be waited for, for ever."""
    monkeypatch.chdir(tmp_path)
    if place == "pipe":
        os.mkfifo(place)
    for read in (resolve, lambda name: read_adapter(AdapterFile.parse(name))):
        with pytest.raises(CheckpointError, match="it is a pipe, a device or the like, not a file"):
            read(place)


@pytest.mark.parametrize("file", ["model_index.json", "config.json"])
def test_a_pipe_in_the_place_of_a_configuration_is_not_waited_for(tmp_path, file):
    os.mkfifo(tmp_path / file)
    assert "it is a pipe" in inspect(tmp_path).becomes

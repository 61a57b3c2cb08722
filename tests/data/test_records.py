"""Records on disk: whole or absent, checked when read."""

import dataclasses
import json
import re

import ml_dtypes
import numpy as np
import pytest

from helios_jax.data.errors import DataError, RecordError
from helios_jax.data.info import write_info
from helios_jax.data.records import Entry, from_bytes, to_bytes
from helios_jax.data.shards import has_shard, open_shard, read_skipped
from helios_jax.data.source import RecordSource
from helios_jax.locks import LockedError

from .toy import INFO, toy_record, write_damaged, write_dataset


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_record_comes_back_as_it_was_written(tmp_path, dtype):
    """Latents and text bit for bit in their own dtypes, with prompt and metadata; the index holds
    the sizes.
    """
    record = toy_record("clip-0")._replace(prompt="Ein Ball\nrollt — \u2028weiter")
    record = record._replace(latents=record.latents.astype(dtype))
    source = RecordSource(
        [write_dataset(tmp_path / "set", [record, toy_record("clip-1", 3)], per_shard=1)]
    )
    read = source.read(0)
    assert read.latents.dtype == dtype
    assert read.text.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.latents, record.latents)
    np.testing.assert_array_equal(read.text, record.text)
    assert (read.prompt, read.metadata) == (record.prompt, record.metadata)
    expected = Entry(
        id="clip-1",
        prompt="clip clip-1",
        sections=3,
        height=2,
        width=3,
        tokens=5,
        frames=99,
        source="clip-1.mp4",
    )
    assert source.entries[1] == expected


def interrupted_shard(folder):
    with open_shard(folder, "clips-00000") as shard:
        shard.write(toy_record("clip-0"))
        raise KeyboardInterrupt


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    """An error while a shard is written removes what is half written, and readers do not see it."""
    write_info(tmp_path, INFO)
    with pytest.raises(KeyboardInterrupt):
        interrupted_shard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    assert not has_shard(tmp_path, "clips-00000")
    with pytest.raises(DataError, match="no records in"):
        RecordSource([tmp_path])


def test_what_cannot_be_a_record_is_not_written(tmp_path):
    """Values that are not finite and arrays of other ranks and dtypes are refused; inputs that were
    left out are listed.
    """
    good = toy_record("clip-0")
    write_info(tmp_path, INFO)
    with open_shard(tmp_path, "clips-00000") as shard:
        with pytest.raises(RecordError, match="latents has values that are not finite"):
            shard.write(good._replace(latents=good.latents * np.float32(np.inf)))
        with pytest.raises(RecordError, match=r"not \{'latents': 'float64"):
            shard.write(good._replace(latents=good.latents.astype(np.float64)))
        with pytest.raises(RecordError, match="a record has latents"):
            shard.write(good._replace(text=good.text[:0]))
        shard.skip("a.mp4", "too short", "a.mp4: has 3 frames")
        shard.write(good)
    assert len(RecordSource([tmp_path])) == 1
    assert read_skipped(tmp_path) == [
        {"source": "a.mp4", "kind": "too short", "reason": "a.mp4: has 3 frames"}
    ]


def test_damage_is_named_by_file_and_record(tmp_path):
    """A flipped bit, another shape than the index says, a file cut short, and one that is gone; the
    records beside them are read.
    """
    files = write_damaged(tmp_path)
    files[3].unlink()
    source = RecordSource([tmp_path])
    assert len(source) == 12
    causes = {
        1: "hash mismatch",
        3: r"latents are \[4, 9, 2, 3, 2\].*, its index says.*sections=5",
        6: "Corrupted|hash",
        7: "",
        9: "No such file",
    }
    for number, cause in causes.items():
        place = f"{files[number // 3]}: record {number % 3} (clip-{number}): "
        with pytest.raises(RecordError, match=f"{re.escape(place)}.*({cause})"):
            source.read(number)
    read = [source.read(number).metadata["id"] for number in (0, 2, 4, 5)]
    assert read == ["clip-0", "clip-2", "clip-4", "clip-5"]


def test_a_record_that_its_dataset_does_not_know_is_an_error(tmp_path):
    """Features of another width than dataset.json says would fail, or broadcast, later on."""
    folder = write_dataset(tmp_path / "set", [toy_record("clip-0")])
    info = folder / "dataset.json"
    info.write_text(info.read_text().replace('"text_width": 3', '"text_width": 4'))
    match = r"are \(9, 2, 3, 'bfloat16'\), the dataset's are \(9, 2, 4, 'bfloat16'\)"
    with pytest.raises(RecordError, match=match):
        RecordSource([folder]).read(0)


def test_no_blob_is_taken_for_a_record_that_is_none():
    """Whatever the bytes, there is a record or a RecordError."""
    blob = to_bytes(toy_record("clip-0"))
    for bad in (
        b"",
        b"\xff" * 9,
        blob[:100],
        blob[:-1],
        blob.replace(b"BF16", b"I16 "),
        blob.replace(b"prompt", b"prumpt"),
    ):
        with pytest.raises(RecordError):
            from_bytes(bad)


def test_datasets_that_do_not_fit_are_not_mixed(tmp_path):
    """Other sizes or another VAE are refused by name; a VAE that is not known fits any."""
    infos = {
        "a": dataclasses.replace(INFO, vae="1"),
        "b": dataclasses.replace(INFO, vae="2"),
        "c": dataclasses.replace(INFO, vae=""),
        "d": dataclasses.replace(INFO, text_width=4),
        "e": dataclasses.replace(INFO, vae="1"),
    }
    folders = {}
    for name, info in infos.items():
        text = np.ones((5, info.text_width), ml_dtypes.bfloat16)
        record = toy_record("clip-0")._replace(text=text)
        folders[name] = write_dataset(tmp_path / name, [record], info=info)
    match = f"{folders['a']} and {folders['b']} cannot be mixed: vae '1' and '2'"
    with pytest.raises(DataError, match=re.escape(match)):
        RecordSource([folders["a"], folders["b"]])
    with pytest.raises(DataError, match="text_width 3 and 4"):
        RecordSource([folders["c"], folders["d"]])
    with pytest.raises(DataError, match="vae '1' and '2'"):
        RecordSource([folders["a"], folders["c"], folders["b"]])
    source = RecordSource([folders["c"], folders["a"], folders["e"]])
    assert (len(source), source.info.vae) == (3, "1")


def test_a_dataset_is_begun_once(tmp_path):
    """The same information goes on with a dataset; another, and a damaged file, are refused."""
    write_info(tmp_path, INFO)
    write_info(tmp_path, INFO)
    with pytest.raises(DataError, match=r"made otherwise.*latent_channels 2 and 3"):
        write_info(tmp_path, dataclasses.replace(INFO, latent_channels=3))
    with pytest.raises(DataError, match="other inputs or settings"):
        write_info(tmp_path, dataclasses.replace(INFO, inputs="others"))
    (tmp_path / "dataset.json").write_text(json.dumps({"section_frames": "nine"}))
    with pytest.raises(
        DataError, match="cannot be read: section_frames='nine' must be of type int"
    ):
        RecordSource([tmp_path])
    with pytest.raises(DataError, match="not a folder of records"):
        RecordSource([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "change",
    [
        ('"sections": 4', '"sections": "4"'),
        ('"sections": 4', '"sections": -4'),
        ('"tokens"', '"token"'),
        ("{", "["),
        ('"sections": 4', f'"sections": {"[" * 10_000}'),
    ],
    ids=("type", "sign", "name", "syntax", "depth"),
)
def test_a_damaged_index_is_named(tmp_path, change):
    folder = write_dataset(tmp_path / "set", [toy_record("clip-0")])
    index = folder / "clips-00000.jsonl"
    index.write_text(index.read_text().replace(*change, 1))
    with pytest.raises(
        DataError, match=r"clips-00000\.jsonl is damaged: .*encode this shard again"
    ):
        RecordSource([folder])


def test_two_encoders_do_not_write_one_shard(tmp_path):
    """The second is refused by name, and does not touch what the first has written."""
    with open_shard(tmp_path, "clips-00000") as shard:
        shard.write(toy_record("clip-0"))
        match = "the shard .*clips-00000 is being written by process"
        with pytest.raises(LockedError, match=match), open_shard(tmp_path, "clips-00000"):
            pass
        with open_shard(tmp_path, "clips-00001") as other:
            other.write(toy_record("clip-1"))
    assert [has_shard(tmp_path, f"clips-0000{i}") for i in range(2)] == [True, True]


def test_a_shard_that_was_killed_leaves_no_litter(tmp_path):
    """The next process that writes the shard removes what is half written, and that alone."""
    left = [
        ".clips-00000.array_record.partial-1",
        ".clips-00000.jsonl.partial-1",
        ".clips-00000.lock",
    ]
    others = [".clips-00001.jsonl.partial-1"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    with open_shard(tmp_path, "clips-00000") as shard:
        shard.write(toy_record("clip-0"))
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {*left}
    assert {*others} <= names

"""Toy datasets."""

from pathlib import Path

import ml_dtypes
import numpy as np

from helios_jax.data.info import DatasetInfo, write_info
from helios_jax.data.records import Record
from helios_jax.data.shards import open_shard

INFO = DatasetInfo(section_frames=9, latent_channels=2, text_width=3, text_dtype="bfloat16")


def toy_record(
    id: str, sections: int = 4, height: int = 2, width: int = 3, tokens: int = 5
) -> Record:
    """Every latent frame holds its number, counted from 1 through the clip."""
    frames = np.arange(1, 9 * sections + 1, dtype=np.float32).reshape(sections, 9, 1, 1, 1)
    text = np.full((tokens, 3), int(id.rpartition("-")[2]) + 1, ml_dtypes.bfloat16)
    metadata = {"id": id, "frames": 33 * sections, "source": f"{id}.mp4"}
    return Record(np.tile(frames, (1, 1, height, width, 2)), text, f"clip {id}", metadata)


def write_dataset(
    folder: Path, records: list[Record], per_shard: int = 4, info: DatasetInfo = INFO
) -> Path:
    """Records in shards."""
    write_info(folder, info)
    for i in range(0, len(records), per_shard):
        with open_shard(folder, f"clips-{i // per_shard:05d}") as shard:
            for record in records[i : i + per_shard]:
                shard.write(record)
    return folder


def write_damaged(folder: Path) -> list[Path]:
    """Twelve records in four shards, three of which are damaged in different ways.

    Record 1 has a flipped bit, record 3 another shape than its index says, and the file of records
    6 to 8 is cut short.

    Returns:
      The four files of records.
    """
    write_dataset(folder, [toy_record(f"clip-{i}") for i in range(12)], per_shard=3)
    files = sorted(folder.glob("*.array_record"))
    flipped = bytearray(files[0].read_bytes())
    flipped[flipped.index(b"clip-1.mp4")] ^= 1
    files[0].write_bytes(flipped)
    index = files[1].with_suffix(".jsonl")
    index.write_text(index.read_text().replace('"sections": 4', '"sections": 5', 1))
    files[2].write_bytes(files[2].read_bytes()[:-100])
    return files

"""Toy datasets."""

from pathlib import Path

import ml_dtypes
import numpy as np

from helios_jax.data.records import Facts, Record, open_shard, write_facts

FACTS = Facts(section_frames=9, latent_channels=2, text_width=3, text_dtype="bfloat16")


def toy_record(
    id: str, sections: int = 4, height: int = 2, width: int = 3, tokens: int = 5
) -> Record:
    """Every latent frame holds its number, counted from 1 through the clip."""
    frames = np.arange(1, 9 * sections + 1, dtype=np.float32).reshape(sections, 9, 1, 1, 1)
    text = np.full((tokens, 3), int(id.rpartition("-")[2]) + 1, ml_dtypes.bfloat16)
    metadata = {"id": id, "frames": 33 * sections, "source": f"{id}.mp4"}
    return Record(np.tile(frames, (1, 1, height, width, 2)), text, f"clip {id}", metadata)


def write_dataset(
    folder: Path, records: list[Record], per_shard: int = 4, facts: Facts = FACTS
) -> Path:
    """Records in shards."""
    write_facts(folder, facts)
    for i in range(0, len(records), per_shard):
        with open_shard(folder, f"clips-{i // per_shard:05d}") as shard:
            for record in records[i : i + per_shard]:
                shard.write(record)
    return folder

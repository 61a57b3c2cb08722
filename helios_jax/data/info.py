"""What holds for a whole dataset of records: ``dataset.json``."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helios_jax.data.errors import DataError, RecordError
from helios_jax.data.records import Record
from helios_jax.fields import ConfigError, from_dict
from helios_jax.locks import lock, remove_partials
from helios_jax.readers import MIB, ReadError, read_json
from helios_jax.writers import write_whole, writing

INFO = "dataset.json"
"""Name of the file in the folder of a dataset."""
DIGESTS = ("vae", "text_encoder")
"""Fields of :class:`DatasetInfo` that may be unknown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the records of a dataset have in common.

    Attributes:
      section_frames: T, latent frames of a section.
      latent_channels: C.
      text_width: E.
      text_dtype: of the text features.
      vae, text_encoder: digests of the weights that made the records; empty where unknown.
      inputs: digest of the inputs and settings, so that an interrupted run goes on with the same.
    """

    section_frames: int
    latent_channels: int
    text_width: int
    text_dtype: str
    vae: str = ""
    text_encoder: str = ""
    inputs: str = ""

    def differences(self, other: "DatasetInfo") -> list[str]:
        """Fields that keep two datasets from being mixed; an unknown digest fits every other."""
        found = []
        for field in dataclasses.fields(self):
            here = getattr(self, field.name)
            there = getattr(other, field.name)
            unknown = field.name in DIGESTS and "" in (here, there)
            if field.name != "inputs" and here != there and not unknown:
                found.append(f"{field.name} {here!r} and {there!r}")
        return found

    def check(self, record: Record) -> None:
        """Refuse a record that does not belong to the dataset.

        Raises:
          RecordError: saying in what it differs.
        """
        expected = (self.section_frames, self.latent_channels, self.text_width, self.text_dtype)
        found = (
            record.latents.shape[1],
            record.latents.shape[4],
            record.text.shape[1],
            record.text.dtype.name,
        )
        if found != expected:
            raise RecordError(
                f"frames of a section, channels, width and dtype of the text are {found}, "
                f"the dataset's are {expected}"
            )


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Start a dataset, or go on with one; several processes may do so at once.

    Raises:
      DataError: if the folder holds another dataset.
      WriteError: if nothing can be written there.
    """
    path = folder / INFO
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(path, "the dataset", wait_s=10.0):
        remove_partials(path)
        if not path.exists():
            text = json.dumps(dataclasses.asdict(info), indent=2) + "\n"
            write_whole(path, text.encode())
    found = read_info(folder)
    if found != info:
        what = found.differences(info) or ["other inputs or settings"]
        raise DataError(
            f"{folder} holds a dataset made otherwise ({'; '.join(what)}): name another folder, "
            "or remove that one"
        )


def read_info(folder: Path) -> DatasetInfo:
    """The information about a dataset.

    Raises:
      DataError: if there is none.
    """
    path = folder / INFO
    if not path.exists():
        raise DataError(
            f"{folder} has no {INFO}: not a folder of records; make one with helios-jax encode"
        )
    try:
        return from_dict(DatasetInfo, read_json(path, limit=MIB))
    except ReadError as error:
        raise DataError(str(error)) from error
    except ConfigError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def common_info(folders: Sequence[Path]) -> DatasetInfo:
    """What folders that can be mixed have in common, with each digest that one of them knows.

    Raises:
      DataError: if they cannot be mixed, or there is none.
    """
    if not folders:
        raise DataError("no folder of records is named")
    found = [read_info(folder) for folder in folders]
    for i, info in enumerate(found):
        for other in range(i):
            if differences := found[other].differences(info):
                raise DataError(
                    f"{folders[other]} and {folders[i]} cannot be mixed: {'; '.join(differences)}"
                )
    # All known digests are equal, and the unknown one, "", is the least.
    known = {}
    for name in DIGESTS:
        known[name] = max(getattr(info, name) for info in found)
    return dataclasses.replace(found[0], **known, inputs="")


def json_digest(value: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a value, as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

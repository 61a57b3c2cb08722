"""Training data of any kind: clips, their encoding to records, and the batches made of them.

Records are made by :func:`write_records` of jobs, and read by :func:`load_batches`. Reading and
writing them needs the packages of the extra ``train``; everything else here does not.
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names

if TYPE_CHECKING:
    from helios_jax.data.batches import DataConfig, TrainBatch, load_batches
    from helios_jax.data.encoders import Encoders, load_encoders, random_encoders
    from helios_jax.data.errors import DataError, RecordError
    from helios_jax.data.info import DatasetInfo, read_info, write_info
    from helios_jax.data.jobs import EncodeConfig, Job, encode_record, video_jobs, write_records
    from helios_jax.data.loading import Batches, LoaderOptions, endless_batches
    from helios_jax.data.records import Entry, Record
    from helios_jax.data.sections import section_window
    from helios_jax.data.shards import open_shard
    from helios_jax.data.source import RecordSource
    from helios_jax.data.tables import ClipList, ListedClip, read_captions
    from helios_jax.data.trajectories import Trajectory, load_trajectories, save_trajectory

_HOMES = {
    "Batches": "loading",
    "DataConfig": "batches",
    "DataError": "errors",
    "DatasetInfo": "info",
    "EncodeConfig": "jobs",
    "Encoders": "encoders",
    "ClipList": "tables",
    "Entry": "records",
    "Job": "jobs",
    "ListedClip": "tables",
    "LoaderOptions": "loading",
    "Record": "records",
    "RecordError": "errors",
    "RecordSource": "source",
    "TrainBatch": "batches",
    "Trajectory": "trajectories",
    "encode_record": "jobs",
    "endless_batches": "loading",
    "load_batches": "batches",
    "load_encoders": "encoders",
    "load_trajectories": "trajectories",
    "open_shard": "shards",
    "random_encoders": "encoders",
    "read_captions": "tables",
    "read_info": "info",
    "save_trajectory": "trajectories",
    "section_window": "sections",
    "video_jobs": "jobs",
    "write_info": "info",
    "write_records": "jobs",
}
"""The module of each public name."""

__all__ = [
    "Batches",
    "ClipList",
    "DataConfig",
    "DataError",
    "DatasetInfo",
    "EncodeConfig",
    "Encoders",
    "Entry",
    "Job",
    "ListedClip",
    "LoaderOptions",
    "Record",
    "RecordError",
    "RecordSource",
    "TrainBatch",
    "Trajectory",
    "encode_record",
    "endless_batches",
    "load_batches",
    "load_encoders",
    "load_trajectories",
    "open_shard",
    "random_encoders",
    "read_captions",
    "read_info",
    "save_trajectory",
    "section_window",
    "video_jobs",
    "write_info",
    "write_records",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

"""Batches of records for training, exactly resumable.

What a step trains on follows from (seed, step) alone: :class:`~helios_jax.data.epochs.EpochPlan`
says which records, and one section of each is drawn from (seed, epoch, record). Every process
computes the same plan and reads its own rows, so batches do not depend on how many processes there
are, and the state is a step.
"""

import dataclasses
import functools
import itertools
from typing import Literal, NamedTuple

import numpy as np

from helios_jax.data.epochs import EpochPlan, PlannedBatch, draw_section
from helios_jax.data.errors import DataError, RecordError
from helios_jax.data.loading import Batches, LoaderOptions, read_ahead
from helios_jax.data.records import Record
from helios_jax.data.sections import check_text, pad_text, section_window
from helios_jax.data.source import RecordSource
from helios_jax.fields import Checked, Count, Natural
from helios_jax.types import Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """What is trained on.

    Attributes:
      train, validation: folders of records, see :mod:`~helios_jax.data.records`.
      batch_size: clips of a step, of all processes together.
      min_sections: clips with fewer sections are left out.
      read_threads: threads that read ahead, one batch each; 0 reads when a batch is asked for.
      text_rows: rows of text features; 0 for as many as the text encoder's longest prompt.
      section_frames: latent frames of a section that are learned, its first ones; 0 for all. A
        model without a past may read records whose sections have no more.
    """

    section = "data"

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    batch_size: Count = 1
    min_sections: Count = 3
    read_threads: Natural = 4
    text_rows: Natural = 0
    section_frames: Natural = 0

    def loader(self, process_index: int = 0, process_count: int = 1) -> LoaderOptions:
        """The options of this process's loaders."""
        return LoaderOptions(
            batch_size=self.batch_size,
            threads=self.read_threads,
            process_index=process_index,
            process_count=process_count,
        )


class TrainBatch(NamedTuple):
    """This process's rows of a batch, in numpy.

    Attributes:
      target: the section that is learned, float32.
      history: the frames before it, oldest first, zero where there are none; float32.
      anchor: the clip's first latent frame, zero for a clip's first section; float32.
      text: features of the prompts, zero past the last token of each; as they are stored.
      length: tokens of each prompt.
      sample: (epoch, number of the record): what a sample's own randomness is derived from.
    """

    target: Float[np.ndarray, "B T H W C"]
    history: Float[np.ndarray, "B h H W C"]
    anchor: Float[np.ndarray, "B 1 H W C"]
    text: Float[np.ndarray, "B S E"]
    length: Int[np.ndarray, "B"]
    sample: Int[np.ndarray, "B 2"]


def load_batches(
    config: DataConfig,
    options: LoaderOptions,
    *,
    seed: int,
    text_rows: int,
    split: Literal["train", "validation"] = "train",
) -> Batches[TrainBatch]:
    """The batches of a split: without end for training; for validation one epoch, always the same.

    Args:
      config: which records.
      options: how many at a time, and which rows are this process's; see
        :meth:`DataConfig.loader`.
      seed: of order and sections.
      text_rows: S, rows of text features, where ``config.text_rows`` does not say.
      split: ``"train"`` or ``"validation"``.

    Raises:
      DataError: if there is no dataset, its parts do not fit, a prompt has more than S tokens,
        there is not one whole batch, or a package of the extra ``train`` is missing.
    """
    folders = config.train if split == "train" else config.validation
    if not folders:
        raise DataError(f"data.{split} names no folder of records; make one with helios-jax encode")
    source = RecordSource(folders)
    rows = config.text_rows or text_rows
    longest = max(source.entries, key=lambda entry: entry.tokens)
    check_text(longest.tokens, rows, longest.id)
    plan = EpochPlan(
        source.entries,
        batch_size=options.batch_size,
        min_sections=config.min_sections,
        seed=seed,
        endless=split == "train",
    )
    reader = BatchReader(source, options, seed, rows, config.section_frames)
    steps = read_ahead(plan, functools.partial(load_batch, reader), options.threads)
    description = f"{len(source)} clips, {plan.batches_per_epoch} steps an epoch"
    return Batches(steps, plan.fingerprint, description, plan.batches_per_epoch, source)


class BatchReader(NamedTuple):
    """What rows are read with."""

    source: RecordSource
    options: LoaderOptions
    seed: int
    text_rows: int
    section_frames: int


def load_batch(reader: BatchReader, batch: PlannedBatch) -> tuple[TrainBatch, list[str]]:
    """This process's rows of a batch, and what was wrong with records that had to be replaced.

    A replaced row keeps its sample, so that no two samples of an epoch share their randomness.
    """
    rows = []
    errors: list[str] = []
    for row in reader.options.rows:
        place = batch.start + row
        record = _read_or_replace(reader, batch, place, errors)
        number = int(batch.order[place])
        section = draw_section(reader.seed, batch.epoch, number, len(record.latents))
        window = section_window(record.latents, section)
        fields = (
            window.target[: reader.section_frames or None],
            window.history,
            window.anchor,
            pad_text(record.text, reader.text_rows, f"record {number}"),
            np.int32(len(record.text)),
            np.asarray((batch.epoch, number), np.uint32),
        )
        rows.append(fields)
    return TrainBatch(*map(np.stack, zip(*rows))), errors


def _read_or_replace(
    reader: BatchReader, batch: PlannedBatch, place: int, errors: list[str]
) -> Record:
    """The record at a place of the order, or where it cannot be read the next one that can be.

    Replacements begin a batch further on in the epoch's order, so that none is in this batch.

    Args:
      reader, batch: see there.
      place: in ``batch.order``.
      errors: takes the message of each record that could not be read.

    Raises:
      DataError: if not one record of this size can be read.
    """
    count = len(batch.order)
    beyond = place + reader.options.batch_size
    for candidate in itertools.chain([place], range(beyond, beyond + count)):
        try:
            return reader.source.read(int(batch.order[candidate % count]))
        except RecordError as error:
            errors.append(str(error))
    raise DataError(f"not one of {count} records of a size can be read; the last: {errors[-1]}")

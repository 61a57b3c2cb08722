"""Batches for training: which records, which section of each, read ahead by threads, and exactly
resumable.

What a step trains on follows from (seed, step) alone. Records of one latent size form a bucket. An
epoch shuffles every bucket, cuts it into global batches, drops the remainder, and shuffles the
batches of all buckets; it takes one section of each record, drawn from (seed, epoch, record). Every
process computes the same plan and reads its own rows, so batches do not depend on how many
processes there are, and the state is a step.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import grain
import numpy as np

from helios_jax.data.records import DataError, RecordError, RecordSource
from helios_jax.types import Float, Int

HISTORY_FRAMES = 19
"""Latent frames before a section that the model sees: 16, 2 and 1."""

_SHUFFLE, _INTERLEAVE, _SECTION = range(3)  # keep the draws for different ends apart


Batch = tuple[Any, ...]
"""A named tuple of arrays with a row a sample; ``sample`` is one of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on.

    Attributes:
      train, validation: folders of records, see :mod:`~helios_jax.data.records`.
      batch_size: clips of a step, of all processes together.
      min_sections: clips with fewer pieces are left out.
      read_threads: threads that read ahead, one batch each; 0 reads when a batch is asked for.
      text_rows: rows of text features; 0 for as many as the text encoder's longest prompt.
      section_frames: latent frames of a section that are learned, its first ones; 0 for all. A
        model without a past may read records whose sections have no more.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    batch_size: int = 1
    min_sections: int = 3
    read_threads: int = 4
    text_rows: int = 0
    section_frames: int = 0


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


def section_window(
    latents: Float[np.ndarray, "S T H W C"], c: int
) -> tuple[
    Float[np.ndarray, "h H W C"], Float[np.ndarray, "T H W C"], Float[np.ndarray, "1 H W C"]
]:
    """A section of a clip with what the model sees of the past.

    Args:
      latents: the clip's pieces.
      c: which of them, 0 to S - 1.

    Returns:
      The ``HISTORY_FRAMES`` frames before it, the oldest first and zero where the clip had not
      begun; the section; the clip's first frame, zero for ``c = 0``. All float32.
    """
    history = np.zeros((HISTORY_FRAMES, *latents.shape[2:]), np.float32)
    past = latents[:c].reshape(-1, *latents.shape[2:])[-HISTORY_FRAMES:]
    history[HISTORY_FRAMES - len(past) :] = past
    anchor = latents[0, :1].astype(np.float32)
    return history, latents[c].astype(np.float32), anchor if c else np.zeros_like(anchor)


def load_batches(
    config: DataConfig,
    *,
    seed: int,
    text_rows: int,
    split: Literal["train", "validation"] = "train",
    process_index: int = 0,
    process_count: int = 1,
) -> "Batches":
    """The batches of a split: without end for training, one epoch, always the same, for validation.

    Args:
      config: which records, and how many at a time.
      seed: of order and sections.
      text_rows: S, rows of text features, where ``config.text_rows`` does not say.
      split: ``"train"`` or ``"validation"``.
      process_index, process_count: which rows are this process's.

    Raises:
      DataError: if there is no dataset, its parts do not fit, a prompt has more than S tokens, or
        there is not one whole batch.
    """
    folders = getattr(config, split)
    if not folders:
        raise DataError(
            f"data.{split} names no folder of records; make one with python -m helios_jax.commands.encode"
        )
    if config.batch_size < 1 or config.batch_size % process_count:
        raise DataError(
            f"data.batch_size={config.batch_size} must be a multiple of the {process_count} process(es), at least one row each"
        )
    source = RecordSource(folders)
    rows = config.text_rows or text_rows
    longest = max(source.entries, key=lambda entry: entry.tokens)
    if longest.tokens > rows:
        raise DataError(
            f"the prompt of {longest.id} has {longest.tokens} tokens and text_rows={rows}: raise data.text_rows, or shorten it"
        )
    plan = Plan(source, config, seed, endless=split == "train")
    per_process = config.batch_size // process_count
    own = range(process_index * per_process, (process_index + 1) * per_process)
    steps = grain.MapDataset.source(plan).map(
        functools.partial(_load, source, config, seed, rows, own)
    )
    description = f"{len(source)} clips, {plan.batches_per_epoch} steps an epoch"
    return Batches(
        read_ahead(steps, config.read_threads),
        plan.fingerprint,
        description,
        plan.batches_per_epoch,
        source,
    )


def read_ahead(steps: grain.MapDataset, threads: int) -> grain.DatasetIterator:
    """Go through the steps in order, as many threads being ahead; 0 of them makes a step when it is
    asked for.
    """
    return iter(
        steps.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        )
    )


def endless_batches(
    make: Callable[[list[int]], Batch],
    facts: Sequence[Any],
    description: str,
    *,
    batch_size: int,
    read_threads: int,
    process_index: int,
    process_count: int,
) -> "Batches":
    """Batches of samples that are numbered without end and made when they are asked for: ``step *
    batch_size + row`` in each row of a step.

    Args:
      make: samples of these numbers, as a batch.
      facts: what they follow from, ready for JSON; a state of others is refused.
      description: what they are, in words.
      batch_size: of all processes together.
      read_threads: that make batches ahead.
      process_index, process_count: which rows are this process's.

    Raises:
      DataError: if a batch cannot be shared out.
    """
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"data.batch_size={batch_size} must be a multiple of the {process_count} process(es), at least one row each"
        )
    rows = batch_size // process_count

    def load(step: int) -> tuple[Batch, list[str]]:
        first = step * batch_size + process_index * rows
        return make(list(range(first, first + rows))), []

    fingerprint = hashlib.sha256(json.dumps([*facts, batch_size]).encode()).hexdigest()[:16]
    return Batches(
        read_ahead(grain.MapDataset.source(_Numbers()).map(load), read_threads),
        fingerprint,
        description,
    )


class _Numbers(Sequence):
    """0, 1, 2 and so on."""

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> int:
        return step


class Batches:
    """Iterator of batches, made by :func:`load_batches` or
    :func:`~helios_jax.world.clips.load_clips`.

    Attributes:
      description: what there is, in words.
      batches_per_epoch: global batches; None where there is no end.
      source: the records, where the batches come from some.
      replaced: how many rows so far got another record, because theirs could not be read.
    """

    def __init__(
        self,
        steps: grain.DatasetIterator,
        fingerprint: str,
        description: str,
        batches_per_epoch: int | None = None,
        source: RecordSource | None = None,
    ):
        self.description, self.batches_per_epoch, self.source = (
            description,
            batches_per_epoch,
            source,
        )
        self.replaced = 0
        self._steps, self._fingerprint, self._named = steps, fingerprint, set()

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        batch, errors = next(self._steps)
        self.replaced += len(errors)
        for error in errors:
            if error not in self._named:
                self._named.add(error)
                logging.getLogger(__name__).warning(
                    "left out, another record takes its place: %s", error
                )
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the iterator is, ready for JSON; what was read ahead does not count."""
        return {
            "step": self._steps.get_state()["next_index"],
            "replaced": self.replaced,
            "plan": self._fingerprint,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`, on however many processes.

        Raises:
          DataError: if the state is of other records, or of another batch size or seed.
        """
        if state["plan"] != self._fingerprint:
            raise DataError(
                "the data is not what the state was saved with: other records, batch_size, min_sections or seed"
            )
        self._steps.set_state({"next_index": state["step"]})
        self.replaced = state["replaced"]

    def close(self) -> None:
        """End the threads."""
        self._steps.close()


class Step(NamedTuple):
    """A batch that is planned: the rows ``order[start : start + batch_size]`` of a bucket in an
    epoch.
    """

    epoch: int
    order: Int[np.ndarray, "n"]
    start: int


class Plan:
    """Which records each step trains on; a sequence of :class:`Step`, without end if ``endless``."""

    def __init__(self, source: RecordSource, config: DataConfig, seed: int, endless: bool):
        self._seed, self._batch_size, self._endless = seed, config.batch_size, endless
        sizes: dict[tuple[int, int], list[int]] = {}
        for number, entry in enumerate(source.entries):
            if entry.sections >= config.min_sections:
                sizes.setdefault((entry.height, entry.width), []).append(number)
        counts = {size: len(members) for size, members in sorted(sizes.items())}
        told = (
            ", ".join(f"{count} of {height}x{width}" for (height, width), count in counts.items())
            or "none"
        )
        self._buckets = [
            np.asarray(sizes[size]) for size, count in counts.items() if count >= config.batch_size
        ]
        self.batches_per_epoch = sum(len(bucket) // config.batch_size for bucket in self._buckets)
        if not self._buckets:
            raise DataError(
                f"batch_size={config.batch_size} clips of one size are needed, and of {len(source)} clips there are, with at least "
                f"{config.min_sections} sections: {told} (latent rows and columns)"
            )
        if len(self._buckets) < len(counts):
            logging.getLogger(__name__).warning(
                "sizes with fewer clips than batch_size=%d are left out: %s",
                config.batch_size,
                told,
            )
        entries = [
            (entry.id, entry.sections, entry.height, entry.width, entry.tokens)
            for entry in source.entries
        ]
        facts = json.dumps([seed, config.batch_size, config.min_sections, entries])
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
        self._epoch = functools.lru_cache(2)(
            self._plan_epoch
        )  # two: threads that read ahead are in the next one already

    def __len__(self) -> int:
        return sys.maxsize if self._endless else self.batches_per_epoch

    def __getitem__(self, step: int) -> Step:
        epoch, position = divmod(step, self.batches_per_epoch)
        orders, batches = self._epoch(epoch)
        bucket, start = batches[position]
        return Step(epoch, orders[bucket], int(start))

    def _plan_epoch(self, epoch: int) -> tuple[list[np.ndarray], Int[np.ndarray, "n 2"]]:
        """Every bucket in this epoch's order, and the batches, as (bucket, start)."""
        draws = lambda count, *what: np.argsort(
            _stream(self._seed, epoch, *what).random_raw(count), kind="stable"
        )
        orders = [bucket[draws(len(bucket), _SHUFFLE, i)] for i, bucket in enumerate(self._buckets)]
        size = self._batch_size
        batches = [
            (i, start)
            for i, order in enumerate(orders)
            for start in range(0, len(order) // size * size, size)
        ]
        return orders, np.asarray(batches)[draws(len(batches), _INTERLEAVE)]


def _load(
    source: RecordSource,
    config: DataConfig,
    seed: int,
    text_rows: int,
    own: Sequence[int],
    step: Step,
) -> tuple[TrainBatch, list[str]]:
    """This process's rows of a step, and what was wrong with records that had to be replaced.

    A row whose record cannot be read takes the one a batch further on in the epoch's order of that
    size, or the next that can be read. It keeps its sample, so that no two samples of an epoch
    share their randomness.
    """
    samples, errors = [], []
    for row in own:
        n, first = len(step.order), step.start + row
        for candidate in itertools.chain(
            [first], range(first + config.batch_size, first + config.batch_size + n)
        ):
            number = int(step.order[candidate % n])
            try:
                record = source.read(number)
                break
            except RecordError as error:
                errors.append(str(error))
        else:
            raise DataError(f"not one of {n} records of a size can be read; the last: {errors[-1]}")
        sample = int(step.order[first])
        draw = _stream(seed, step.epoch, _SECTION, sample).random_raw()
        history, target, anchor = section_window(record.latents, draw % len(record.latents))
        text = np.zeros((text_rows, record.text.shape[1]), record.text.dtype)
        text[: len(record.text)] = record.text
        samples.append(
            (
                history,
                target[: config.section_frames or None],
                anchor,
                text,
                len(record.text),
                (step.epoch, sample),
            )
        )
    history, target, anchor, text, length, sample = zip(*samples)
    stacked = dict(
        target=np.stack(target),
        history=np.stack(history),
        anchor=np.stack(anchor),
        text=np.stack(text),
    )
    return TrainBatch(
        **stacked, length=np.asarray(length, np.int32), sample=np.asarray(sample, np.uint32)
    ), errors


def _stream(*entropy: int) -> np.random.Philox:
    """Bits that are the same in every version of numpy, which shuffling functions need not be."""
    return np.random.Philox(np.random.SeedSequence(entropy))

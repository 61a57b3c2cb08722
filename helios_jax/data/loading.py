"""Iterators of batches: read ahead by threads, shared out among processes, exactly resumable."""

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from helios_jax.data.errors import DataError, import_extra
from helios_jax.data.source import RecordSource

Batch = tuple[Any, ...]
"""A named tuple of arrays with a row a sample; ``sample`` is one of them."""
BatchT = TypeVar("BatchT", bound=Batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How batches are made, and which of their rows are this process's.

    Attributes:
      batch_size: samples of a step, of all processes together.
      threads: threads that make batches ahead, one batch each; 0 makes a batch when it is asked
        for.
      process_index, process_count: this process, and how many there are.
    """

    batch_size: int
    threads: int = 4
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise DataError(
                f"data.batch_size={self.batch_size} must be a multiple of the "
                f"{self.process_count} process(es), at least one row each"
            )

    @property
    def rows(self) -> range:
        """The rows of a batch that are this process's."""
        count = self.batch_size // self.process_count
        return range(self.process_index * count, (self.process_index + 1) * count)


@runtime_checkable
class Steps(Protocol):
    """A sequence of what batches are made from, an item a step."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Any: ...


@runtime_checkable
class StepIterator(Protocol):
    """What :func:`read_ahead` returns: an iterator that can say and be told where it is."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...

    def close(self) -> None: ...


class Batches(Generic[BatchT]):
    """Iterator of batches, made by one of the loaders.

    Attributes:
      description: what there is, in words.
      batches_per_epoch: global batches; None where there is no end.
      source: the records, where the batches come from some.
      replaced: how many rows so far got another record, because theirs could not be read.
    """

    def __init__(
        self,
        steps: StepIterator,
        fingerprint: str,
        description: str,
        batches_per_epoch: int | None = None,
        source: RecordSource | None = None,
    ):
        self.description = description
        self.batches_per_epoch = batches_per_epoch
        self.source = source
        self.replaced = 0
        self._steps = steps
        self._fingerprint = fingerprint
        self._logged: set[str] = set()

    def __iter__(self) -> "Batches[BatchT]":
        return self

    def __next__(self) -> BatchT:
        batch, errors = next(self._steps)
        self.replaced += len(errors)
        for error in errors:
            if error not in self._logged:
                self._logged.add(error)
                logging.getLogger(__name__).warning(
                    "left out, another record takes its place: %s", error
                )
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the iterator is, ready for JSON; batches that were made ahead do not count."""
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
                "the data is not what the state was saved with: other records, batch_size, "
                "min_sections or seed"
            )
        self._steps.set_state({"next_index": state["step"]})
        self.replaced = state["replaced"]

    def close(self) -> None:
        """End the threads."""
        self._steps.close()


def read_ahead(
    steps: Steps, make: Callable[[Any], tuple[Batch, list[str]]], threads: int
) -> StepIterator:
    """Make the batch of each step in order, as many threads being ahead.

    Args:
      steps: what each batch is made from.
      make: a batch, and what was wrong with records that had to be replaced.
      threads: 0 makes a batch when it is asked for.

    Raises:
      DataError: if grain is not installed.
    """
    grain = import_extra("grain")
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(steps).map(make).to_iter_dataset(options))


def endless_batches(
    make: Callable[[list[int]], BatchT],
    determinants: Sequence[Any],
    description: str,
    options: LoaderOptions,
) -> Batches[BatchT]:
    """Batches of samples that are numbered without end and made when they are asked for.

    Row r of a step holds sample ``step * batch_size + r``.

    Args:
      make: the samples of these numbers, as a batch.
      determinants: what samples follow from, ready for JSON; a state of others is refused.
      description: what samples are, in words.
      options: size, threads and share of this process.
    """

    def load(step: int) -> tuple[BatchT, list[str]]:
        first = step * options.batch_size
        return make([first + row for row in options.rows]), []

    digest = hashlib.sha256(json.dumps([*determinants, options.batch_size]).encode()).hexdigest()
    steps = read_ahead(_Numbers(), load, options.threads)
    return Batches(steps, digest[:16], description)


class _Numbers:
    """0, 1, 2 and so on."""

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int, /) -> int:
        return step

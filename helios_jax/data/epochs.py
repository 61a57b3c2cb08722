"""Which records each step trains on: shuffled epochs of batches of one latent size.

Draws come from Philox's raw bits, which are the same in every version of numpy; its shuffling
functions need not be.
"""

import functools
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helios_jax.data.errors import DataError
from helios_jax.data.records import Entry
from helios_jax.types import Int

# First words of a draw's seed, so that draws of different kinds are independent.
_SHUFFLE, _INTERLEAVE, _SECTION = range(3)


class PlannedBatch(NamedTuple):
    """Rows ``order[start : start + batch_size]`` of a bucket in an epoch.

    Attributes:
      epoch: its number.
      order: the bucket's record numbers in this epoch's order.
      start: of the batch.
    """

    epoch: int
    order: Int[np.ndarray, "n"]
    start: int


class EpochPlan:
    """A sequence of :class:`PlannedBatch`, one for each step; without end if ``endless``.

    Records of one latent size form a bucket. An epoch shuffles every bucket, cuts it into batches,
    drops the remainder, and shuffles the batches of all buckets.

    Attributes:
      batches_per_epoch: global batches.
      fingerprint: digest of what the plan follows from.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        batch_size: int,
        min_sections: int,
        seed: int,
        endless: bool,
    ):
        """Sort the records into buckets.

        Raises:
          DataError: if there is not one whole batch.
        """
        self._seed = seed
        self._batch_size = batch_size
        self._endless = endless
        buckets = _buckets(entries, min_sections)
        self._buckets = [bucket for bucket in buckets.values() if len(bucket) >= batch_size]
        self.batches_per_epoch = sum(len(bucket) // batch_size for bucket in self._buckets)
        sizes = ", ".join(f"{len(bucket)} of {h}x{w}" for (h, w), bucket in buckets.items())
        if not self._buckets:
            raise DataError(
                f"batch_size={batch_size} clips of one size are needed, and of {len(entries)} "
                f"clips there are, with at least {min_sections} sections: {sizes or 'none'} "
                "(latent rows and columns)"
            )
        if len(self._buckets) < len(buckets):
            logging.getLogger(__name__).warning(
                "sizes with fewer clips than batch_size=%d are left out: %s", batch_size, sizes
            )
        known = [(e.id, e.sections, e.height, e.width, e.tokens) for e in entries]
        determinants = json.dumps([seed, batch_size, min_sections, known])
        self.fingerprint = hashlib.sha256(determinants.encode()).hexdigest()[:16]
        # Two epochs are kept: threads that read ahead are in the next one already.
        self._epoch = functools.lru_cache(2)(self._plan_epoch)

    def __len__(self) -> int:
        return sys.maxsize if self._endless else self.batches_per_epoch

    def __getitem__(self, step: int, /) -> PlannedBatch:
        epoch, position = divmod(step, self.batches_per_epoch)
        orders, batches = self._epoch(epoch)
        bucket, start = batches[position]
        return PlannedBatch(epoch, orders[bucket], int(start))

    def _plan_epoch(self, epoch: int) -> tuple[list[np.ndarray], Int[np.ndarray, "n 2"]]:
        """Every bucket in this epoch's order, and the batches, as (bucket, start)."""
        orders = []
        batches = []
        for i, bucket in enumerate(self._buckets):
            orders.append(bucket[_permutation(len(bucket), self._seed, epoch, _SHUFFLE, i)])
            whole = len(bucket) // self._batch_size * self._batch_size
            batches += [(i, start) for start in range(0, whole, self._batch_size)]
        order = _permutation(len(batches), self._seed, epoch, _INTERLEAVE)
        return orders, np.asarray(batches)[order]


def draw_section(seed: int, epoch: int, record: int, sections: int) -> int:
    """Which of a record's sections an epoch trains on."""
    return _bits(seed, epoch, _SECTION, record).random_raw() % sections


def _buckets(
    entries: Sequence[Entry], min_sections: int
) -> dict[tuple[int, int], Int[np.ndarray, "n"]]:
    """Numbers of the records of each latent size that have sections enough, sorted by size."""
    numbers: dict[tuple[int, int], list[int]] = {}
    for number, entry in enumerate(entries):
        if entry.sections >= min_sections:
            numbers.setdefault((entry.height, entry.width), []).append(number)
    return {size: np.asarray(members) for size, members in sorted(numbers.items())}


def _permutation(count: int, *entropy: int) -> Int[np.ndarray, "n"]:
    return np.argsort(_bits(*entropy).random_raw(count), kind="stable")


def _bits(*entropy: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(entropy))

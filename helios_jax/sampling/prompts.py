"""Prompt schedules: which prompt governs which chunk, and how one takes over from another.

A file of schedules is a CSV with the columns ``id, prompt_index, prompt`` and optionally
``refined_prompt``, which is preferred; its rows, grouped by id and sorted by index, are one video
each. Or it is JSON or YAML, a list of entries for a single video::

    - {prompt: a red ball rolls over green grass, chunks: 4}
    - {prompt: the ball turns blue, chunks: 3, blend: 1}
"""

import bisect
import itertools
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helios_jax.readers import ReadError, read_csv, read_json, read_yaml
from helios_jax.sampling.fields import RequestError, check_unicode

MAX_CHUNKS = 1_000_000
"""Of a schedule: two weeks of video."""

MAX_CHARACTERS = 100_000
"""Of a prompt; the text encoder reads a few thousand of them."""


MAX_BATCH = 10_000
"""Videos at once; far more than any device holds."""


class PromptEntry(NamedTuple):
    """A prompt, the number of chunks it has, and over how many of these it is blended with the
    prompt before it.
    """

    prompt: str
    chunks: int
    blend: int = 0


class PromptChange(NamedTuple):
    """From ``chunk`` on, these prompts: one for each video of a batch, or one for all of them.

    While it takes over, for ``blend`` chunks, the text is a mixture: of the old prompt and
    b / (blend + 1) of the new one, b = 1..blend.
    """

    chunk: int
    prompts: tuple[str, ...]
    blend: int = 0


class PromptSchedule(NamedTuple):
    """The prompts of a video, by the chunks at which they begin; the last one holds.

    Attributes:
      changes: in the order of their chunks, of which the first is 0.
      chunks: how many the schedule was written for; None for any number.
    """

    changes: tuple[PromptChange, ...]
    chunks: int | None = None

    @classmethod
    def of(cls, entries: Sequence[PromptEntry], *, reference: bool = False) -> "PromptSchedule":
        """The schedule of entries one after another.

        Args:
          entries: in order; the first one's ``blend`` has no meaning.
          reference: change as Diffusers does: each prompt takes over one chunk late, and after the
            last entry's chunks the first prompt returns. Its ``interpolation_steps`` are
            ``blend + 2``.

        Raises:
          RequestError: if a prompt is empty, has no chunk, or is not there unblended for at least
            one.
        """
        starts = [0]
        for i, (prompt, chunks, blend) in enumerate(entries):
            if not prompt.strip():
                raise RequestError(f"prompt {i} of the schedule is empty")
            if not (chunks > blend >= 0 or (i == 0 and chunks > 0)):
                raise RequestError(
                    f"prompt {i} of the schedule is blended over {blend} of {chunks} chunks; it "
                    "needs one more chunk than blend"
                )
            starts.append(starts[-1] + chunks)
        if not entries:
            raise RequestError("the prompt schedule is empty")
        if starts[-1] > MAX_CHUNKS:
            raise RequestError(f"the schedule has {starts[-1]:,} chunks, more than {MAX_CHUNKS:,}")
        changes = [PromptChange(0, (entries[0].prompt,))]
        changes += [
            PromptChange(start + reference, (entry.prompt,), entry.blend)
            for start, entry in zip(starts[1:], entries[1:])
        ]
        if reference:
            changes = [change for change in changes if change.chunk < starts[-1]]
            changes.append(changes[0]._replace(chunk=starts[-1]))
        return cls(tuple(changes), starts[-1])

    def at(self, chunk: int) -> tuple[tuple[tuple[str, ...], float], ...]:
        """The text of a chunk: beginning with the first prompts, go this far towards each of the
        next; the first distance is 1.
        """
        index = bisect.bisect_right([change.chunk for change in self.changes], chunk) - 1
        start, prompts, blend = self.changes[index]
        weight = min(1.0, (chunk - start + 1) / (blend + 1)) if index else 1.0
        return (*(self.at(start - 1) if weight < 1 else ()), (prompts, weight))

    def change(self, chunk: int, prompts: tuple[str, ...], blend: int = 0) -> "PromptSchedule":
        """The same up to ``chunk``, and from there on these prompts."""
        before = [change for change in self.changes if change.chunk < chunk]
        return self._replace(changes=(*before, PromptChange(chunk, prompts, blend)))

    def since(self, chunk: int) -> "PromptSchedule":
        """The same from ``chunk`` on, without the changes that no longer matter then."""
        begun = bisect.bisect_right([change.chunk for change in self.changes], chunk)
        return self._replace(changes=self.changes[begun - len(self.at(chunk)) :])

    def prompts(self) -> list[str]:
        """Every prompt once."""
        prompts = itertools.chain.from_iterable(change.prompts for change in self.changes)
        return list(dict.fromkeys(prompts))


Prompt = str | Sequence[str] | Sequence[PromptEntry] | Sequence[Mapping[str, Any]] | PromptSchedule
"""One prompt, or one for each video of a batch, or a schedule of prompts, also as the list that a
file would have: ``[{"prompt": "a red ball", "chunks": 4}, {"prompt": "it turns blue"}]``.
"""

ENTRY = PromptEntry("", chunks=7, blend=1)
"""What entries are that do not say: Diffusers' ``interpolate_time`` 7 and ``interpolation_steps``
3.
"""


def to_schedule(prompt: Prompt, batch: int | None) -> PromptSchedule:
    """The schedule of a prompt, of one prompt for each video, or of a schedule, with as many
    prompts everywhere as there are videos.

    Raises:
      RequestError: if a prompt is empty, their number is not ``batch``, or an entry of a list is
        not as those of a file.
    """
    if not isinstance(prompt, PromptSchedule):
        if not isinstance(prompt, str | Sequence):
            raise RequestError(f"the prompt must be text, not {type(prompt).__name__}")
        entries: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        if not any(isinstance(entry, Mapping | PromptEntry) for entry in entries):
            return PromptSchedule((PromptChange(0, spread(entries, batch)),))
        prompt = PromptSchedule.of(_read_entries(entries, ENTRY))
    videos = len(spread(prompt.changes[0].prompts, batch))
    changes = []
    for change in prompt.changes:
        changes.append(change._replace(prompts=spread(change.prompts, videos)))
    return prompt._replace(changes=tuple(changes))


def spread(prompt: str | Sequence[str], batch: int | None) -> tuple[str, ...]:
    """One prompt for each of ``batch`` videos; by default as many as there are prompts.

    Raises:
      RequestError: if a prompt is empty, or there are several, but not ``batch``.
    """
    if not isinstance(prompt, str | Sequence):
        raise RequestError(f"the prompt must be text, not {type(prompt).__name__}")
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    for text in prompts:
        if not isinstance(text, str):
            raise RequestError(f"a prompt must be text, not {type(text).__name__}")
    if not prompts or not all(text.strip() for text in prompts):
        raise RequestError("the prompt is empty")
    longest = max(map(len, prompts))
    if longest > MAX_CHARACTERS:
        raise RequestError(
            f"the prompt has {longest:,} characters; a prompt has at most {MAX_CHARACTERS:,}"
        )
    for text in prompts:
        check_unicode("the prompt", text)
    if batch is not None and batch > MAX_BATCH:
        raise RequestError(f"batch={batch} must be at most {MAX_BATCH:,}")
    if len(prompts) == 1:
        prompts *= 1 if batch is None else batch
    if batch not in (None, len(prompts)):
        raise RequestError(f"batch={batch} does not fit {len(prompts)} prompts")
    return prompts


def read_schedules(
    path: str | os.PathLike,
    *,
    chunks: int = ENTRY.chunks,
    blend: int = ENTRY.blend,
    reference: bool = False,
) -> dict[str, PromptSchedule]:
    """The schedules of a file, by the id of their video; a JSON or YAML file has one, whose id is
    the file's name.

    Args:
      path: a .csv, .json, .yaml or .yml file; see the module.
      chunks, blend: of entries that do not say.
      reference: see :meth:`PromptSchedule.of`.

    Raises:
      RequestError: naming the file and what is wrong in it.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".json": _read_list, ".yaml": _read_list, ".yml": _read_list}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise RequestError(
            f"prompt schedule {path}: cannot read {path.suffix or 'files without suffix'}; "
            f"known: {', '.join(readers)}"
        )
    schedules = {}
    try:
        for name, entries in read(path, PromptEntry("", chunks, blend)).items():
            schedules[name] = PromptSchedule.of(entries, reference=reference)
    except ReadError as error:
        raise RequestError(f"prompt schedule {path}: {error.reason}") from error
    except RequestError as error:
        raise RequestError(f"prompt schedule {path}: {error}") from error
    return schedules


def _read_csv(path: Path, default: PromptEntry) -> dict[str, list[PromptEntry]]:
    """Videos of a table in the columns of Diffusers' examples."""
    rows = read_csv(path, strict=False)
    missing = {"id", "prompt_index", "prompt"} - rows[0].keys()
    if missing:
        raise RequestError(
            f"the columns {', '.join(sorted(missing))} are missing; needed are id, prompt_index, "
            "prompt"
        )
    videos: dict[str, list[tuple[int, str]]] = {}
    for number, row in enumerate(rows, 1):
        index = row["prompt_index"].strip()
        if not index.isdecimal() or len(index) > 9:
            raise RequestError(
                f"row {number}: prompt_index {reprlib.repr(index)} is not a whole number below 1e9"
            )
        prompt = row.get("refined_prompt") or row["prompt"]
        videos.setdefault(row["id"].strip(), []).append((int(index), prompt))
    entries = {}
    for name, prompts in videos.items():
        prompts.sort(key=lambda row: row[0])
        entries[name] = [default._replace(prompt=prompt) for _, prompt in prompts]
    return entries


def _read_list(path: Path, default: PromptEntry) -> dict[str, list[PromptEntry]]:
    """The one video of a JSON or YAML list."""
    entries = read_json(path) if path.suffix.lower() == ".json" else read_yaml(path)
    if not isinstance(entries, list):
        raise RequestError(
            "it must be a list of entries with prompt and, if wanted, chunks and blend"
        )
    return {path.stem: _read_entries(entries, default)}


def _read_entries(entries: Sequence[Any], default: PromptEntry) -> list[PromptEntry]:
    """The entries of a list."""
    found = []
    for number, entry in enumerate(entries):
        if isinstance(entry, PromptEntry):
            entry = entry._asdict()
        found.append(_read_entry(number, entry, default))
    return found


def _read_entry(number: int, entry: Any, default: PromptEntry) -> PromptEntry:
    """One entry of a list."""
    kinds = PromptEntry.__annotations__
    if not isinstance(entry, Mapping) or "prompt" not in entry or not entry.keys() <= kinds.keys():
        raise RequestError(
            f"entry {number} must be a mapping of prompt and, if wanted, chunks and blend, not "
            f"{reprlib.repr(entry)}"
        )
    for name, value in entry.items():
        if type(value) is not kinds[name]:
            raise RequestError(
                f"entry {number}: {name}={reprlib.repr(value)} must be of type "
                f"{kinds[name].__name__}, not "
                f"{type(value).__name__}"
            )
    found = default._replace(**entry)
    if "blend" in entry:
        return found
    # The default, as much as there is room for.
    return found._replace(blend=max(0, min(found.blend, found.chunks - 1)))

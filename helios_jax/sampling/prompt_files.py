"""Files of prompts, one video each: lines of text, or tables as benchmarks have them.

A CSV file, JSON lines or a JSON list has its prompts in the column ``prompt``, ``caption``,
``text`` or ``cap``; the items of a JSON list may be the prompts themselves.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from helios_jax.readers import ReadError, read_csv, read_json, read_json_lines, read_text
from helios_jax.sampling.fields import RequestError

COLUMNS = ("prompt", "caption", "text", "cap")
"""Those that may hold the prompt; of several the first counts."""


MAX_PROMPTS = 10_000
"""Of a file."""


class PromptFile(NamedTuple):
    """The prompts of a file, and what a user should know of how it was read."""

    prompts: list[str]
    notes: list[str]


def read_prompt_file(path: str | os.PathLike) -> PromptFile:
    """Read a file of prompts.

    Raises:
      RequestError: naming the file, and the record without a prompt.
    """
    tables = {".csv": read_csv, ".jsonl": read_json_lines, ".json": read_json}
    read = tables.get(Path(path).suffix.lower())
    try:
        if read is not None:
            return _read_table(path, read(path))
        lines = [line.strip() for line in read_text(path).splitlines()]
    except ReadError as error:
        raise RequestError(f"cannot read --prompt_file {path}: {error.reason}") from error
    return PromptFile(_some(path, [line for line in lines if line]), [])


def _read_table(path: str | os.PathLike, records: Any) -> PromptFile:
    if isinstance(records, dict | str):
        raise RequestError(f"--prompt_file {path} holds no list of prompts")
    prompts = []
    columns: dict[str, None] = {}
    used: dict[str, None] = {}
    for number, record in enumerate(_records(path, records), 1):
        name = next((name for name in COLUMNS if name in record), None)
        if name is None:
            raise RequestError(
                f"--prompt_file {path}: record {number} has no {' or '.join(COLUMNS)}; it has "
                f"{', '.join(map(str, record)) or 'nothing'}"
            )
        if "prompt_index" in record:
            raise RequestError(
                f"--prompt_file {path} lists prompts that follow one another in one video: give it "
                "as --prompt_schedule"
            )
        prompt = record[name]
        if isinstance(prompt, list):  # captions of one video, as the original's lists have them
            prompt = prompt[0] if prompt else ""
        if not isinstance(prompt, str) or not prompt.strip():
            raise RequestError(f"--prompt_file {path}: record {number} has an empty {name}")
        prompts.append(prompt.strip())
        columns |= dict.fromkeys(record)
        used[name] = None
    unread = [name for name in columns if name not in used]
    notes = []
    if unread:
        count = f"{len(prompts)} prompts, of {', '.join(used)}"
        notes = [f"{path}: {count}; not read: {', '.join(unread)}"]
    return PromptFile(_some(path, prompts), notes)


def _records(path: str | os.PathLike, records: Any) -> Iterable[dict[str, Any]]:
    if not isinstance(records, Iterable):
        raise RequestError(f"--prompt_file {path} holds no list of prompts")
    for record in records:
        yield record if isinstance(record, dict) else {COLUMNS[0]: record}


def _some(path: str | os.PathLike, prompts: list[str]) -> list[str]:
    if not prompts:
        raise RequestError(f"--prompt_file {path} has no prompt in it")
    if len(prompts) > MAX_PROMPTS:
        raise RequestError(
            f"--prompt_file {path} has {len(prompts):,} prompts; at most {MAX_PROMPTS:,} are read"
        )
    return prompts

"""Tables of the docs that tests make: what a test found, between two comments of a page.

A test collects rows and calls :func:`check_table`. It fails where the page has another table; run
with ``WRITE_DOCS=1`` it writes the table into the page instead::

    WRITE_DOCS=1 python -m pytest tests/checkpoint/test_adapter_styles.py
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"\d\.\de[-+]\d\d")
"""A measured difference: it is of the machine that measured it, so pages may have another."""


class Row(NamedTuple):
    """What one kind of file becomes.

    Attributes:
      kind: what the file or folder is, in a few words.
      example: a name in it that shows the kind, or the files of the folder.
      outcome: what :func:`accepted` or :func:`refused` says.
    """

    kind: str
    example: str
    outcome: str


def accepted(difference: float, note: str = "") -> str:
    """The outcome of a file that was read, with the largest difference from what PyTorch makes."""
    return f"accepted, largest difference {difference:.1e}{f'; {note}' if note else ''}"


def refused(line: str) -> str:
    """The outcome of a file that was refused, with the very line."""
    return f"refused: {line}"


def check_table(page: str, name: str, rows: Sequence[Row]) -> None:
    """Compare a table with that of a page, but for measured numbers, or write it (WRITE_DOCS=1).

    Args:
      page: the file, relative to the repository.
      name: the table stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
      rows: of the table.
    """
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    begin, end = (f"<!-- {edge} {name} -->\n" for edge in ("begin", "end"))
    before, _, rest = text.partition(begin)
    found, _, after = rest.partition(end)
    wanted = f"\n{_markdown(rows)}\n\n"
    if os.environ.get("WRITE_DOCS"):
        path.write_text(f"{before}{begin}{wanted}{end}{after}", encoding="utf-8")
        return
    same = NUMBER.sub("#", found) == NUMBER.sub("#", wanted)
    assert same, f"{page} has another table: write it with WRITE_DOCS=1\n{wanted}"


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| what | for example | outcome |", "|---|---|---|"]
    for row in rows:
        cells = [row.kind, f"`{row.example}`", row.outcome]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)

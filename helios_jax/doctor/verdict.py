"""A line of the doctor's table."""

from typing import Literal, NamedTuple

Status = Literal["ok", "wrong", "note", "not run"]


class Verdict(NamedTuple):
    """What one check found.

    Attributes:
      check: what was looked at.
      status: "ok"; "wrong" where something must be mended or is not used; "note" for what is worth
        knowing; "not run" with the reason.
      detail: one line.
    """

    check: str
    status: Status
    detail: str

    def __str__(self) -> str:
        return f"{self.status:<8} {self.check:<34} {self.detail}"

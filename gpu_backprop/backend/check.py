"""What was found of one thing that a device needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that a device needs."""

    name: str
    ok: bool
    found: str  # where it is not ok, a sentence without its full stop
    remedy: str = ""  # what to do where it is not ok

    def __str__(self) -> str:
        return f"{self.found} ({self.remedy})" if self.remedy else self.found

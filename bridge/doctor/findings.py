"""What the doctor has found (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    LEFT_OUT = "left out"
    """Could not be checked; that says nothing about it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``fix`` says what to do, empty when nothing is to be done."""

    check: str
    level: Level
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return {"check": self.check, "level": str(self.level), "detail": self.detail, "fix": self.fix}

    def as_text(self) -> str:
        """The line for a terminal; a fix stands below it."""
        line = f"{self.level:<8}  {self.check:<15}  {self.detail}"
        return f"{line}\n{'':<27}{self.fix}" if self.fix else line


def ok(check: str, detail: str) -> Finding:
    return Finding(check, Level.OK, detail)


def warning(check: str, detail: str, fix: str) -> Finding:
    return Finding(check, Level.WARNING, detail, fix)


def failure(check: str, detail: str, fix: str) -> Finding:
    return Finding(check, Level.FAILURE, detail, fix)


def left_out(check: str, reason: str, fix: str = "") -> Finding:
    return Finding(check, Level.LEFT_OUT, reason, fix)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 when something has failed. What was left out has not."""
    return int(any(finding.level is Level.FAILURE for finding in findings))


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    parts = [f"{counts[Level.OK]} ok", f"{counts[Level.WARNING]} warnings", f"{counts[Level.FAILURE]} failures"]
    if counts[Level.LEFT_OUT]:
        parts.append(f"{counts[Level.LEFT_OUT]} left out")
    return ", ".join(parts)

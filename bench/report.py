"""What a measurement says: rows with a goal beside the result, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every part is given."""

    quick: bool
    """Fewer devices, turns and repetitions: to see that it works, not to quote."""
    data_dir: Path
    """Its ``models`` are used; nothing else in it is touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. ``at_most`` or ``at_least`` is its goal, when it has one."""

    part: str
    case: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"<= {_number(self.at_most)}"
        return f">= {_number(self.at_least)}" if self.at_least is not None else ""

    @property
    def verdict(self) -> str:
        """Empty without a goal, else ``met``, or by how much it was missed."""
        if self.at_most is not None:
            return "met" if self.value <= self.at_most else f"missed by {_number(self.value - self.at_most)}"
        if self.at_least is not None:
            return "met" if self.value >= self.at_least else f"missed by {_number(self.at_least - self.value)}"
        return ""

    def cells(self) -> tuple[str, ...]:
        return self.part, self.case, f"{_number(self.value)} {self.unit}".strip(), self.goal, self.verdict, self.note


_HEAD = ("part", "measure", "result", "goal", "verdict", "note")


def text_table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(rows: Sequence[Row]) -> str:
    """For docs/performance.md."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def _number(value: float | None) -> str:
    """Three significant digits, thousands grouped."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}"

"""Where the intervals of the report page's forest plot lie, in pixels; the template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.board import Row

WIDTH, EDGE = 260, 6


@dataclass(frozen=True)
class Whisker:
    """A row of the plot: the ends and the middle of its interval, from the left."""

    row: Row
    lo: float
    mean: float
    hi: float


@dataclass(frozen=True)
class Forest:
    """Differences to the best row on one scale that holds 0."""

    whiskers: tuple[Whisker, ...]
    zero: float
    low: float
    high: float
    """What the two edges stand for."""
    width: int = WIDTH


def forest(rows: Sequence[Row]) -> Forest | None:
    """Intervals of `to_best`; none where no row has one."""
    having = [(row, row.to_best) for row in rows if row.to_best is not None]
    if not having:
        return None
    low = min(0.0, *(value.lo for _, value in having))
    high = max(0.0, *(value.hi for _, value in having))
    scale = (WIDTH - 2 * EDGE) / ((high - low) or 1.0)

    def place(value: float) -> float:
        return round(EDGE + (value - low) * scale, 1)

    whiskers = tuple(Whisker(row, place(value.lo), place(value.mean), place(value.hi)) for row, value in having)
    return Forest(whiskers, place(0.0), low, high)

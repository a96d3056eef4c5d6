"""How figures look: a colour, dash and marker for each method, the x scale, and amounts in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log2, log10
from typing import Any
from zlib import crc32

SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "axes.edgecolor": "#808080",
    "text.color": "#111111",
}
INK, QUIET, FRAME, GRID, BEHIND = "#111111", "#595959", "#808080", "#E6E6E6", "#BDBDBD"
"""Text, lesser text and references, axes, rules, and methods in the background."""
DARK = {
    "#FFFFFF": "#15181C", INK: "#EDEDED", "#333333": "#D6D6D6", QUIET: "#B3B3B3", FRAME: "#8C8C8C",
    GRID: "#30353B", BEHIND: "#5C636B", "#0072B2": "#56B4E9", "#D55E00": "#FF8A3D", "#009E73": "#2FCB9E", "#CC79A7": "#E39AC3",
    "#B87A00": "#E69F00", "#2E86C1": "#8FB8FF",
}  # fmt: skip
"""What each colour turns into where a reader prefers dark: at least 3:1 for graphics and 4.5:1 for text on the first."""
Dash = tuple[float, tuple[float, ...]] | str


@dataclass(frozen=True)
class Style:
    colour: str
    dash: Dash
    marker: str


STYLES = (
    Style("#0072B2", "-", "o"),
    Style("#D55E00", (0, (6, 2)), "s"),
    Style("#009E73", (0, (3, 1.5)), "^"),
    Style("#CC79A7", (0, (6, 2, 1.5, 2)), "D"),
    Style("#111111", (0, (1.5, 1.5)), "v"),
    Style("#B87A00", (0, (8, 2, 1.5, 2, 1.5, 2)), "<"),
    Style("#2E86C1", (0, (10, 2.5)), ">"),
)
"""After Okabe and Ito (2008), without the colours that have less than 3:1 contrast on white."""
FIXED = {"ropd": 0, "logit_opd": 1, "sft": 2, "seqkd": 3, "sharpen": 4, "opsd": 5, "grpo": 6}
"""Methods whose style is the same in all figures; the others take the next one that is free."""


def styles(curves: Sequence[tuple[str, str]]) -> dict[str, Style]:
    """A style for each (label, method). Variants of a method share its colour and differ in dash and marker."""
    methods = sorted({method for _, method in curves})
    taken = {method: FIXED[method] for method in methods if method in FIXED}
    for method in methods:
        if method not in taken:
            first = crc32(method.encode()) % len(STYLES)
            order = [(first + step) % len(STYLES) for step in range(len(STYLES))]
            taken[method] = next((place for place in order if place not in taken.values()), first)
    result, seen = {}, dict.fromkeys(methods, 0)
    for label, method in curves:
        own, drawn = STYLES[taken[method]], STYLES[(taken[method] + seen[method]) % len(STYLES)]
        result[label] = Style(own.colour, drawn.dash, drawn.marker)
        seen[method] += 1
    return result


@dataclass(frozen=True)
class Scale:
    """The x axis: log2 of readings from `start` to `end`, and the slot of 0."""

    zero: float
    start: float
    end: float
    ticks: tuple[float, ...]

    @property
    def width(self) -> float:
        return self.end - self.zero

    @classmethod
    def of(cls, readings: Sequence[Sequence[float]], meter: str) -> Scale:
        """The scale for the readings of all curves, with up to seven ticks.

        They are the marks of the longest curve where at least half of the curves share them, else round amounts.
        """
        above = sorted({reading for curve in readings for reading in curve if reading > 0})
        start, end = log2(above[0]), log2(above[-1])
        longest = max(readings, key=lambda curve: (curve[-1], len(curve)))
        marks = tuple(reading for reading in longest if reading > 0)
        sharing = sum(all(any(abs(x - mark) <= 0.01 * mark for mark in marks) for x in curve if x > 0) for curve in readings)
        shared = 2 * sharing >= len(readings) and marks[0] <= 4 * above[0]
        ticks = marks if shared else _round_amounts(above[0], above[-1])
        return cls(start - max(0.16 * (end - start), 0.5), start, end, tuple(few(ticks, 7)))

    def places(self, readings: Sequence[float]) -> list[float]:
        return [log2(reading) if reading > 0 else self.zero for reading in readings]


def _round_amounts(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten from low to high, or high alone where there is none."""
    every = [lead * 10.0**power for power in range(floor(log10(low)), floor(log10(high)) + 1) for lead in (1, 2, 5)]
    return tuple(amount for amount in every if low <= amount <= high) or (high,)


def few(ticks: Sequence[float], most: int) -> list[float]:
    """At most so many of the ticks, evenly thinned, the last one among them."""
    return list(ticks[::-1][:: -(-len(ticks) // most)][::-1])


def amount(value: float, meter: str) -> str:
    """A reading in words: "64 prompts", "12 k tokens", "$0.12". The unit comes after the last space."""
    if meter == "usd":
        return f"${value:,.2f}" if value == 0 or value >= 0.1 else f"${value:.2g}"
    unit = "tokens" if "tokens" in meter else "FLOPs" if meter == "flops" else meter.rpartition("_")[2]
    if value < (1_000 if unit in ("tokens", "FLOPs") else 10_000):
        return f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g} {letter} {unit}"
    raise AssertionError(value)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, in the order wanted and as near to it as can be (least squares).

    All lie in [low, high] where that has room for them.
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    room = high - (len(wanted) - 1) * gap
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        total, count = wanted[i] - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            total, count = total + blocks[-1][0], count + blocks[-1][1]
            blocks.pop()
        blocks.append((total, count))
    placed, rank = [0.0] * len(wanted), 0
    for total, count in blocks:
        for _ in range(count):
            placed[order[rank]] = max(min(total / count, room), low) + rank * gap
            rank += 1
    return placed

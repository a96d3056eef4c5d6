"""What all figures share: sizes, panels in rows, a log axis with a slot for 0, names beside lines, and files.

A figure is composed once for each sheet. Lengths are in points (1/72 in): a figure has 72 dots an inch, so pixels are points.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report import looks
from harness.report.looks import Scale
from harness.report.vector import for_pages
from harness.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 72
PNG_DPI = 200


@dataclass(frozen=True)
class Sheet:
    """A size in which every figure is made."""

    suffix: str
    width: float
    """Points."""
    font: float
    """Points."""
    kinds: tuple[str, ...]
    titled: bool
    """Whether it says what it shows; in a paper the caption does."""

    @property
    def small(self) -> float:
        """The letters of small multiples."""
        return max(0.85 * self.font, 7.0)


SHEETS = (
    Sheet("", 648, 10, ("png", "svg"), titled=True),
    Sheet("-narrow", 234, 8, ("pdf",), titled=False),
    Sheet("-wide", 486, 8, ("pdf",), titled=False),
)
"""For a page, and for a column (3.25 in) and the width (6.75 in) of a paper."""

NOBODY: Mapping[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Metadata without a date or a program's version."""


@dataclass(frozen=True)
class Words:
    """What a figure says in words. The finding, a sentence, is for those who do not see it."""

    title: str
    about: str
    finding: str
    note: str = ""


def save(stem: Path, name: str, words: Words, compose: Callable[[Sheet], Figure]) -> list[Path]:
    """Writes a figure as `stem`.png, .svg, -narrow.pdf and -wide.pdf, and returns the four paths. Equal figures, equal bytes.

    Args:
        name: the id of the SVG, with which its other ids begin, so that several can share a page.
    """
    paths = []
    for sheet in SHEETS:
        for kind, data in _drawn(sheet, sheet.kinds, compose).items():
            paths.append(stem.with_name(f"{stem.name}{sheet.suffix}.{kind}"))
            write_atomically(paths[-1], for_pages(data.decode(), name, words.title, words.finding) if kind == "svg" else data)
    return paths


def svg(name: str, words: Words, compose: Callable[[Sheet], Figure]) -> str:
    """The SVG that `save` writes."""
    return for_pages(_drawn(SHEETS[0], ("svg",), compose)["svg"].decode(), name, words.title, words.finding)


def _drawn(sheet: Sheet, kinds: Sequence[str], compose: Callable[[Sheet], Figure]) -> dict[str, bytes]:
    from matplotlib import rc_context, rcdefaults, rcParams

    result = {}
    with rc_context():
        rcdefaults()
        rcParams.update({**looks.SETTINGS, "font.size": sheet.font})
        figure = compose(sheet)
        for kind in kinds:
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=PNG_DPI if kind == "png" else DPI, metadata=NOBODY[kind])
            result[kind] = file.getvalue()
    return result


def panels(
    sheet: Sheet, words: Words, count: int, *, cell: float, ratio: float, least: float = 0, left: float, gutter: float,
    right: float, top: float, bottom: float,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with so many axes in rows, as evenly filled as can be.

    Args:
        cell: the least width of a panel, and `ratio` the height of its axes for each point of width, `least` the least height.
        left: left of the first panel of a row, and `gutter` left of the others.
        right: kept for names at the right of each panel; `top` and `bottom` above and below each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cell = max(cell, right + 6 * sheet.small)
    fit = max(int((sheet.width - left + gutter) // (cell + gutter)), 1)
    rows = ceil(count / fit)
    columns = ceil(count / rows)
    wide = (sheet.width - left - (columns - 1) * gutter) / columns
    tall = max(ratio * wide, least)
    about = _wrapped(words.about, sheet, 0.95) if sheet.titled else []
    title = _wrapped(words.title, sheet, 1.5) if sheet.titled else []
    note = _wrapped(words.note, sheet, 0.9) if sheet.titled and words.note else []
    head = 1.9 * sheet.font * len(title) + 1.4 * sheet.font * len(about) + (0.8 * sheet.font if sheet.titled else 0)
    foot = 1.3 * sheet.font * len(note) + (sheet.font if note else 0)
    height = head + rows * (top + tall + bottom) + foot
    figure = Figure((sheet.width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    y = height - 0.8 * sheet.font
    for lines, size, step, colour in ((title, 1.3, 1.9, looks.INK), (about, 0.95, 1.4, looks.QUIET)):
        for line in lines:
            weight = "bold" if lines is title else "normal"
            figure.text(sheet.font / sheet.width, y / height, line, size=size * sheet.font, color=colour, weight=weight, va="top")
            y -= step * sheet.font
    for at, line in enumerate(reversed(note)):
        figure.text(
            sheet.font / sheet.width,
            (0.5 + 1.3 * at) * sheet.font / height,
            line,
            size=0.9 * sheet.font,
            color=looks.QUIET,
            va="bottom",
        )
    drawn = []
    for place in range(count):
        row, column = divmod(place, columns)
        x, low = left + column * (wide + gutter), height - head - (row + 1) * (top + tall + bottom) + bottom
        drawn.append(figure.add_axes((x / sheet.width, low / height, (wide - right) / sheet.width, tall / height)))
    return figure, drawn


def _wrapped(text: str, sheet: Sheet, size: float) -> list[str]:
    """Lines of letters of so many times the sheet's size, half as wide as high and a little more."""
    return textwrap.wrap(text, int((sheet.width - 2 * sheet.font) / (0.54 * size * sheet.font)), break_on_hyphens=False)


def plain(axes: Axes, size: float) -> None:
    """Axes without a box: rules for y, letters of so many points."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=looks.GRID, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelcolor="#333333", labelsize=size)
    axes.tick_params(axis="x", length=4, color=looks.FRAME, labelcolor="#333333", labelsize=size)


def log_axis(axes: Axes, scale: Scale, meter: str, size: float, *, units: bool) -> None:
    """Ticks at readings of a meter on a log2 axis, with 0 in a slot of its own left of a break.

    Args:
        units: write the unit below every amount; else the axis must be named after it.
    """
    from matplotlib.ticker import FixedLocator

    low, high = scale.zero - 0.05 * scale.width, scale.end + 0.02 * scale.width
    axes.set_xlim(low, high)
    points = axes.get_window_extent().width
    told = scale.ticks
    for most in range(len(told), 0, -1):
        told = tuple(looks.few(scale.ticks, most))
        names = [looks.amount(tick, meter).rsplit(" ", 1) for tick in told]
        lines = ["\n".join(name) if units else name[0] for name in names]
        longest = max(len(line) for line in "\n".join(lines).split("\n"))
        places = [scale.zero, *map(log2, told)]
        apart = min(b - a for a, b in pairwise(places))
        if apart / (high - low) * points >= 0.68 * size * longest:
            break
    axes.xaxis.set_major_locator(FixedLocator([scale.zero, *(log2(tick) for tick in told)]))
    axes.set_xticklabels(["0", *lines])
    half, middle = 0.3 * size * (high - low) / points, (scale.zero + scale.start) / 2
    tall = 0.45 * size / axes.get_window_extent().height
    over: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 10}
    axes.plot([middle - half, middle + half], [0, 0], color="#FFFFFF", linewidth=3, solid_capstyle="butt", **over)
    for x in (middle - half, middle + half):
        axes.plot([x - half / 2, x + half / 2], [-tall, tall], color=looks.FRAME, linewidth=1, **over)


def heading(axes: Axes, title: str, under: str, size: float) -> None:
    """A panel's name, and what is small below it."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(title, (0, 1), xytext=(0, 1.7 * size), size=1.05 * size, weight="bold", va="baseline", **place)
    axes.annotate(under, (0, 1), xytext=(0, 0.6 * size), size=0.9 * size, color=looks.QUIET, va="baseline", **place)


def width(texts: Sequence[str], size: float) -> float:
    """The width in points of the widest text in bold letters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    widths = [figure.text(0, 0, text, weight="bold", size=size).get_window_extent(renderer).width for text in texts]
    return float(max(widths, default=0.0))


def names(axes: Axes, ends: Sequence[tuple[float, str, str, str]], size: float) -> None:
    """Names (height in data, text, colour, weight) right of axes, moved apart where they would touch, then tied by a leader."""
    from matplotlib.lines import Line2D

    figure, box = axes.get_figure(root=True), axes.get_window_extent()
    assert figure is not None
    across, up = figure.get_size_inches() * DPI
    ends = [end for end in ends if end[1]]
    wanted = [float(axes.transData.transform((0, y))[1]) for y, *_ in ends]
    placed = looks.spread(wanted, 1.25 * size, box.y0, box.y1 + 0.4 * size)
    start, stop = box.x1 + 1.5, box.x1 + size
    for (_, text, colour, weight), target, y in zip(ends, wanted, placed, strict=True):
        figure.text((stop + 3) / across, y / up, text, color=colour, weight=weight, size=size, va="center_baseline")
        if abs(y - target) > 1:
            figure.add_artist(Line2D([start / across, stop / across], [target / up, y / up], color=colour, linewidth=0.7))


def cut(text: str, length: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= length else text[: length - 2] + ".."

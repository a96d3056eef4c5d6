"""Score against what it costs: which methods no other one beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report import canvas, curves, looks, panels
from harness.report.canvas import Sheet, Words
from harness.report.looks import Scale
from harness.report.runs import Run, by_label, scored_alike
from harness.report.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METERS = ("usd", "flops")


@dataclass(frozen=True)
class Point:
    """A method at its last mark: what it has used, mean over seeds, and its score."""

    label: str
    method: str
    cost: float
    score: Interval


def points_of(runs: Sequence[Run], suite: str, meter: str) -> list[Point]:
    """A point for each label, those that used nothing of the meter among them, from the highest score to the lowest.

    Raises:
        SpecError: no such meter, or none of the runs is scored on the suite.
        Incomparable: the runs were made or scored under different conditions.
    """
    groups = by_label(scored_alike(runs, suite))
    found = panels.best([curves.curve_of(label, group, suite, meter) for label, group in groups.items()])
    return [Point(curve.label, curve.method, curve.readings[-1], curve.end) for curve in found]


def efficient(points: Sequence[Point]) -> list[Point]:
    """The points that no other one dominates, by cost: none costs no more and scores no less, and differs in one of the two.

    Means decide, so a point may owe its place to chance: the intervals tell.
    """
    return sorted(
        (point for point in points if not any(_dominates(other, point) for other in points)),
        key=lambda point: (point.cost, -point.score.mean, point.label),
    )


def _dominates(one: Point, other: Point) -> bool:
    no_worse = one.cost <= other.cost and one.score.mean >= other.score.mean
    return no_worse and (one.cost < other.cost or one.score.mean > other.score.mean)


def draw(runs: Sequence[Run], suite: str, meter: str, out_stem: Path) -> list[Path]:
    """Draws score against a meter's reading at the end, a point a method, and returns the paths of `canvas.save`.

    Points bear numbers, by score. Efficient ones are joined and in colour, the others grey. Raises as `curves.curves_of`.
    """
    curves.curves_of(runs, suite, meter)
    points = points_of(runs, suite, meter)
    front = efficient(points)
    unit = panels.axis_name(meter)
    told = [f"{point.label} ({point.score.mean:.3f} for {looks.amount(point.cost, meter)})" for point in front]
    finding = f"Of {len(points)} methods, none is beaten in both score and {unit} of these: {', '.join(told)}."
    counts = {point.score.seeds for point in points}
    about = f"{runs[0].conditions}; bars: 95 % interval; joined: no other one scores as much and costs as little, by the means"
    about += "; one seed ranks nothing" if counts == {1} else ""
    words = Words(f"{suite} {curves.metric(runs, suite)} and what it costs in {unit}", about, finding)
    compose = _composed(points, front, meter, words, curves.scale(runs, suite), curves.metric(runs, suite))
    return canvas.save(out_stem, f"{suite}-pareto-{meter}", words, compose)


def write(runs: Sequence[Run], suite: str, folder: Path) -> list[Path]:
    """Draws `pareto-usd` and `pareto-flops` into a folder, where any run has used them. Raises as `draw`."""
    meters = [meter for meter in METERS if meter in curves.used(runs)]
    return [path for meter in meters for path in draw(runs, suite, meter, folder / f"pareto-{meter}")]


def _composed(
    points: Sequence[Point], front: Sequence[Point], meter: str, words: Words, bounds: tuple[float, float], ylabel: str
) -> Callable[[Sheet], Figure]:
    styles = looks.styles([(point.label, point.method) for point in front])
    scale = Scale.of([[point.cost] for point in points], meter)

    def compose(sheet: Sheet) -> Figure:
        size = sheet.font
        length = panels.LONGEST if sheet.titled else panels.LONGEST // 3
        ends = []
        for number, point in enumerate(points, 1):
            colour, weight = (styles[point.label].colour, "bold") if point in front else (looks.QUIET, "normal")
            name = canvas.cut(f"{number} {point.label}", length)
            ends.append((point.score.mean, f"{name} {point.score.mean:.3f}", colour, weight))
        figure, (axes,) = canvas.panels(
            sheet, words, 1, cell=sheet.width / 2, ratio=0.42, least=1.25 * size * max(len(points) + 1, 12), left=4.6 * size,
            gutter=0, top=size, bottom=(5.2 if sheet.titled else 3.6) * size,
            right=canvas.width([text for _, text, *_ in ends], size) + 2 * size,
        )  # fmt: skip
        places = scale.places([point.cost for point in points])
        axes.plot(
            scale.places([point.cost for point in front]), [point.score.mean for point in front], drawstyle="steps-post",
            color=looks.FRAME, linewidth=1.2, zorder=2, clip_on=False,
        )  # fmt: skip
        for number, (point, x) in reversed(list(enumerate(zip(points, places, strict=True), 1))):
            own = point in front
            colour, over = (styles[point.label].colour, 1) if own else (looks.QUIET, 0)
            bar = colour if own else looks.BEHIND
            axes.plot([x, x], [point.score.lo, point.score.hi], color=bar, linewidth=1.0, zorder=1 + over, clip_on=False)
            axes.plot(
                [x], [point.score.mean], linestyle="", marker="o", markersize=1.35 * size, markerfacecolor="#FFFFFF",
                markeredgecolor=bar, markeredgewidth=1.4 if own else 0.8, zorder=3 + 2 * over + 1 / number, clip_on=False,
            )  # fmt: skip
            axes.annotate(
                str(number), (x, point.score.mean), ha="center", va="center_baseline", size=0.75 * size, color=colour,
                weight="bold" if own else "normal", zorder=3 + 2 * over + 1 / number, annotation_clip=False,
            )  # fmt: skip
        panels.limit([axes], bounds)
        canvas.plain(axes, size)
        canvas.log_axis(axes, scale, meter, size, units=False)
        axes.set_xlabel(panels.axis_name(meter) + (" used in training (log scale; 0 stands apart)" if sheet.titled else ""),
                        labelpad=4, color="#333333")  # fmt: skip
        axes.set_ylabel(ylabel, labelpad=4, color="#333333")
        canvas.names(axes, ends, size)
        return figure

    return compose

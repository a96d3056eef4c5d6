"""Curves as pictures: one panel of a few methods, or small multiples with one range of scores.

Each panel draws some curves in their colours, named at their ends, and others in grey behind them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

from harness.report import canvas, looks
from harness.report.canvas import Sheet, Words
from harness.report.looks import Scale, Style
from harness.report.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6
"""Curves in colour in one panel; with more a figure becomes small multiples, or shows the best in colour."""
SEEDS = range(2, 6)
"""For so many seeds a curve shows each as a thin line."""
LONGEST = 44
"""Characters after which a name is cut."""


@dataclass(frozen=True)
class Curve:
    """One method: a point for every mark that all its seeds have."""

    label: str
    method: str
    readings: list[float]
    """A meter at every mark, mean over seeds."""
    scores: list[Interval]
    """At every mark, over seeds and items."""
    seeds: list[list[tuple[float, float]]]
    """For each seed its own readings and scores."""

    @property
    def end(self) -> Interval:
        return self.scores[-1]


@dataclass(frozen=True)
class Panel:
    title: str
    meter: str
    bounds: tuple[float, float]
    """The suite's scale; panels with the same one share the range of y."""
    curves: Sequence[Curve]
    names: Sequence[str]
    """At the ends of the curves."""
    references: Mapping[str, float]
    behind: Sequence[Curve] = ()
    under: str = ""
    """Small, below the title."""
    axis: str = "prompts"
    """The meter of the budget: on it a method that stopped by itself stays where it was."""


def best(curves: Sequence[Curve]) -> list[Curve]:
    """From the highest to the lowest score at the end."""
    return sorted(curves, key=lambda curve: (-curve.end.mean, curve.label))


def variant(label: str, method: str) -> tuple[str, str]:
    """The settings in a label: their names, and their values ("signal, rate" and "own, 0.1")."""
    settings = label.removeprefix(method)
    keys = re.findall(r" ([\w.]+)=", settings)
    return ", ".join(keys), re.sub(r" [\w.]+=", ", ", settings).removeprefix(", ").strip()


def single(panel: Panel, words: Words, ylabel: str) -> Callable[[Sheet], Figure]:
    """One panel, with the names of curves and references beside it."""
    styles = looks.styles([(curve.label, curve.method) for curve in panel.curves])
    scale = Scale.of([curve.readings for curve in panel.curves], panel.meter)

    def compose(sheet: Sheet) -> Figure:
        size = sheet.font
        names = [canvas.cut(name, LONGEST if sheet.titled else LONGEST // 2) for name in panel.names]
        ends = [(c.end.mean, name, styles[c.label].colour, "bold") for c, name in zip(panel.curves, names, strict=True)]
        ends += [(score, f"{name} {score:.3f}", looks.QUIET, "normal") for name, score in panel.references.items()]
        figure, drawn = canvas.panels(
            sheet, words, 1, cell=sheet.width / 2, ratio=0.42, least=15 * size, left=4.6 * size, gutter=0, top=size,
            right=canvas.width([text for _, text, *_ in ends], size) + 2 * size, bottom=(5.2 if sheet.titled else 3.6) * size,
        )  # fmt: skip
        _fill(drawn[0], panel, styles, scale, 1.0 if sheet.titled else 0.7)
        _ranges(drawn, [panel])
        canvas.plain(drawn[0], size)
        canvas.log_axis(drawn[0], scale, panel.meter, size, units=sheet.titled)
        name = (
            f"{panel.meter.replace('_', ' ')} used in training (log scale; 0 stands apart)"
            if sheet.titled
            else axis_name(panel.meter)
        )
        drawn[0].set_xlabel(name, labelpad=4, color="#333333")
        drawn[0].set_ylabel(ylabel, labelpad=4, color="#333333")
        canvas.names(drawn[0], ends, size)
        return figure

    return compose


def multiples(panels: Sequence[Panel], words: Words, ylabel: str, cell: float) -> Callable[[Sheet], Figure]:
    """Small multiples. Panels over the same meter share the x axis, panels of the same scale the y axis.

    Args:
        cell: the least width of a panel, in letters' heights.
    """
    styles = looks.styles(list({curve.label: curve.method for panel in panels for curve in panel.curves}.items()))
    one_scale = len({panel.bounds for panel in panels}) == 1
    readings: dict[str, list[list[float]]] = {}
    for panel in panels:
        readings.setdefault(panel.meter, []).extend(curve.readings for curve in (*panel.curves, *panel.behind))
    scales = {meter: Scale.of(read, meter) for meter, read in readings.items()}

    def compose(sheet: Sheet) -> Figure:
        size = sheet.small
        names = [[canvas.cut(name, LONGEST // 2 if sheet.titled else LONGEST // 3) for name in panel.names] for panel in panels]
        left = 4.6 * size
        figure, drawn = canvas.panels(
            sheet, words, len(panels), cell=cell * size, ratio=0.55, left=left, gutter=size if one_scale else left,
            right=canvas.width([name for told in names for name in told], size) + 2 * size, top=3.4 * size, bottom=3.4 * size,
        )  # fmt: skip
        for axes, panel in zip(drawn, panels, strict=True):
            _fill(axes, panel, styles, scales[panel.meter], 0.6)
        _ranges(drawn, panels)
        columns = len({axes.get_position().x0 for axes in drawn})
        for place, (axes, panel, told) in enumerate(zip(drawn, panels, names, strict=True)):
            first, lowest = place % columns == 0, place + columns >= len(panels)
            canvas.plain(axes, size)
            canvas.log_axis(axes, scales[panel.meter], panel.meter, size, units=False)
            canvas.heading(axes, panel.title, panel.under, size)
            axes.tick_params(axis="y", labelleft=first or not one_scale)
            if lowest and len(scales) == 1:
                axes.set_xlabel(axis_name(panel.meter), size=size, labelpad=2, color="#333333")
            if first:
                axes.set_ylabel(ylabel, size=size, labelpad=4, color="#333333")
            ends = [(c.end.mean, name, styles[c.label].colour, "bold") for c, name in zip(panel.curves, told, strict=True)]
            canvas.names(axes, ends, size)
            if place == 0 or not one_scale:
                _name_references(axes, panel.references, size)
        return figure

    return compose


def axis_name(meter: str) -> str:
    """The name of an axis whose ticks have no units."""
    return meter.replace("_", " ").replace("flops", "FLOPs").replace("usd", "US dollars")


def _fill(axes: Axes, panel: Panel, styles: Mapping[str, Style], scale: Scale, weight: float) -> None:
    axes.set_xlim(scale.zero, scale.end)
    for score in panel.references.values():
        axes.axhline(score, color=looks.QUIET, linewidth=weight, linestyle=(0, (5, 4)), zorder=1.5, clip_on=False)
    behind = [
        list(zip(scale.places(curve.readings), (score.mean for score in curve.scores), strict=True)) for curve in panel.behind
    ]
    paths(
        axes,
        behind,
        color=looks.BEHIND,
        linewidth=0.6,
        zorder=0.9,
    )
    for curve in panel.curves:
        _line(axes, curve, styles[curve.label], scale, weight, flat=panel.meter == panel.axis)


def _line(axes: Axes, curve: Curve, style: Style, scale: Scale, weight: float, flat: bool) -> None:
    """A curve with its band. On the budget's axis it goes on to the end as it was; on others nobody knows, and thin dots lead to
    its name."""
    used, scores = curve.readings, list(curve.scores)
    xs, above = scale.places(used), [place for place, read in enumerate(used) if read > 0]
    if xs[-1] < scale.end and flat:
        xs, scores = [*xs, scale.end], [*scores, scores[-1]]
    elif xs[-1] < scale.end:
        leader = [[(xs[-1], curve.end.mean), (scale.end, curve.end.mean)]]
        paths(axes, leader, color=style.colour, alpha=0.6, linewidth=0.8 * weight, linestyle=(0, (1, 3)), zorder=1)
    axes.fill_between(
        xs,
        [score.lo for score in scores],
        [score.hi for score in scores],
        color=style.colour,
        alpha=0.2,
        clip_on=False,
        linewidth=0,
        zorder=1,
    )
    if len(curve.seeds) in SEEDS:
        seeds = [list(zip(scale.places([x for x, _ in seed]), (y for _, y in seed), strict=True)) for seed in curve.seeds]
        paths(axes, seeds, color=style.colour, alpha=0.35, linewidth=0.8 * weight, zorder=2, clip_on=False)
    point: dict[str, Any] = {
        "markersize": 7 * weight,
        "markerfacecolor": "#FFFFFF",
        "markeredgewidth": 1.6 * weight,
        "clip_on": False,
    }
    axes.plot(
        xs, [score.mean for score in scores], color=style.colour, linewidth=2.0 * weight, linestyle=style.dash, zorder=3,
        marker=style.marker, markeredgecolor=style.colour, **point, markevery=above,
    )  # fmt: skip
    untrained = [score.mean for score, read in zip(curve.scores, used, strict=True) if read <= 0]
    axes.plot([scale.zero] * len(untrained), untrained, linestyle="", marker="o", markeredgecolor=looks.QUIET, zorder=4, **point)


def paths(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]], **look: Any) -> None:
    """Several lines as one with gaps: the file is several times shorter."""
    points = [point for line in lines for point in (*line, (nan, nan))]
    axes.plot([x for x, _ in points], [y for _, y in points], **look)


def _ranges(drawn: Sequence[Axes], panels: Sequence[Panel]) -> None:
    for bounds in {panel.bounds for panel in panels}:
        limit([axes for axes, panel in zip(drawn, panels, strict=True) if panel.bounds == bounds], bounds)


def limit(group: Sequence[Axes], bounds: tuple[float, float]) -> None:
    """One range of y for all of the axes, within the suite's scale and a little more."""
    from matplotlib.ticker import MaxNLocator

    room = 0.02 * (bounds[1] - bounds[0])
    low = max(min(axes.get_ylim()[0] for axes in group), bounds[0] - room)
    high = min(max(axes.get_ylim()[1] for axes in group), bounds[1] + room)
    for axes in group:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _name_references(axes: Axes, references: Mapping[str, float], size: float) -> None:
    """The names of dashed lines, below them."""
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (2, -2), "textcoords": "offset points", "va": "top"}
    for name, score in references.items():
        axes.annotate(name, (0, score), color=looks.QUIET, size=size, zorder=5, **place)

"""Proxy against gold: what training or the judge sees, and how good the answers are, from mark to mark.

A policy that is driven against an imperfect measure can go on to rise by it while it falls in truth (Gao, Schulman and
Hilton, Scaling Laws for Reward Model Overoptimization, 2023, section 3). Only a track that records `gold` can show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from harness.errors import SpecError, nearest
from harness.report import canvas, curves, looks, panels
from harness.report.canvas import Sheet, Words
from harness.report.panels import MOST
from harness.report.runs import Run, by_label, common_marks, scored_alike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JUDGE, REWARD = "judge", "training_reward"
Readings = dict[str, tuple[float, float]]
"""By mark, proxy and gold."""


@dataclass(frozen=True)
class Course:
    """One method: proxy and gold at every mark that has both for all its seeds."""

    label: str
    method: str
    marks: list[str]
    points: list[tuple[float, float]]
    """Means over seeds."""
    seeds: list[list[tuple[float, float]]]


LEAST = 0.005
"""Of a fall of gold that is told: less is nothing at two digits."""


@dataclass(frozen=True)
class Fall:
    """From the mark at which gold was highest to the last one, gold fell while the proxy rose."""

    mark: str
    gold: float
    """How much it fell."""
    proxy: float
    """How much it rose."""
    seeds: int
    """Of how many seeds both are true."""


def proxies(runs: Sequence[Run]) -> list[str]:
    """What can be drawn: `judge`, and each training signal of the runs."""
    return [JUDGE, *sorted({name for run in runs for name in run.signals})]


def course_of(label: str, group: Sequence[Run], suite: str, proxy: str) -> Course | None:
    """The course of the runs of one label; none where fewer than two marks have proxy and gold.

    `judge` is the suite's headline metric at the mark. A training signal is its mean over the rounds since the mark before,
    so mark 0 has none.
    """
    told = [_readings(run, suite, proxy) for run in group]
    marks = [name for name in common_marks(group, suite) if all(name in readings for readings in told)]
    if len(marks) < 2:
        return None
    seeds = [[readings[name] for name in marks] for readings in told]
    points = [(fmean(x for x, _ in at), fmean(y for _, y in at)) for at in zip(*seeds, strict=True)]
    return Course(label, group[0].method, marks, points, seeds)


def fall(course: Course) -> Fall | None:
    """Over-optimisation, if the means over seeds show it."""
    golds = [gold for _, gold in course.points]
    top = golds.index(max(golds))
    rise, loss = course.points[-1][0] - course.points[top][0], golds[top] - golds[-1]
    if rise <= 0 or loss < LEAST:
        return None
    agreeing = sum(seed[-1][0] > seed[top][0] and seed[-1][1] < seed[top][1] for seed in course.seeds)
    return Fall(course.marks[top], loss, rise, agreeing)


def draw(runs: Sequence[Run], suite: str, proxy: str, out_stem: Path) -> list[Path]:
    """Draws gold against a proxy as small multiples, a panel a method, and returns the paths of `canvas.save`.

    Raises:
        SpecError: no such proxy, or no run has it with gold at two marks or more; none is scored on the suite.
        Incomparable: the runs were made or scored under different conditions.
    """
    known = proxies(runs)
    if proxy not in known:
        raise SpecError(f"no proxy named {proxy!r}", where=proxy, fix=nearest(proxy, known))
    groups = by_label(scored_alike(runs, suite))
    found = {label: course_of(label, group, suite, proxy) for label, group in groups.items()}
    courses = sorted((course for course in found.values() if course), key=lambda course: (-course.points[-1][1], course.label))
    if not courses:
        raise SpecError(
            f"no run on {suite} has gold beside {proxy!r} at two marks", where=suite,
            fix="gold is recorded by tracks that say `gold: true`: harness run --track pocket --method ropd",
        )  # fmt: skip
    absent = [label for label, course in found.items() if course is None]
    name = f"{suite} {curves.metric(runs, suite)}" if proxy == JUDGE else proxy.replace("_", " ")
    about = f"{runs[0].conditions}; line: mean from mark to mark, filled at the last; thin: single seeds; grey: others"
    if proxy != JUDGE:
        about += "; training readings are means of the rounds since the mark before, each with prompts of its own"
    note = f"Not drawn, as they have no {name} with gold: {', '.join(absent)}" if absent else ""
    words = Words(f"Gold quality against {name}", about, _finding(courses, name), note)
    return canvas.save(out_stem, f"{suite}-proxy-{proxy}", words, _composed(courses, words, name))


def write(runs: Sequence[Run], suite: str, folder: Path) -> list[Path]:
    """Draws `proxy-judge` and, where a method trains on a reward, `proxy-training_reward` into a folder. Raises as `draw`."""
    having = [proxy for proxy in (JUDGE, REWARD) if proxy in proxies(runs)]
    return [path for proxy in having for path in draw(runs, suite, proxy, folder / f"proxy-{proxy}")]


def _readings(run: Run, suite: str, proxy: str) -> Readings:
    result, signal = {}, run.signals.get(proxy, {})
    for mark in run.marks:
        if mark.name not in run.scores.get(suite, {}):
            continue
        told = run.scores[suite][mark.name]
        headline = told[told["headline"]]
        gold = headline["gold"]["value"] if "gold" in headline else None
        seen = headline[told["metric"]]["value"] if proxy == JUDGE else signal.get(mark.name)
        if gold is not None and seen is not None:
            result[mark.name] = (seen, gold)
    return result


def _finding(courses: Sequence[Course], name: str) -> str:
    falls = [(course, found) for course in courses if (found := fall(course))]
    if not falls:
        return f"Gold falls while {name} rises for none of {len(courses)} methods."
    told = [
        f"{course.label} (from mark {found.mark} on gold falls by {found.gold:.3f} and {name} rises by {found.proxy:.3f}, in "
        f"{found.seeds} of {len(course.seeds)} seeds)"
        for course, found in falls
    ]
    return f"Gold falls while {name} rises for {len(falls)} of {len(courses)} methods: {'; '.join(told)}."


def _composed(courses: Sequence[Course], words: Words, name: str) -> Callable[[Sheet], Figure]:
    styles = looks.styles([(course.label, course.method) for course in courses])
    groups: dict[str, list[Course]] = {}
    for course in courses:
        groups.setdefault(course.method, []).append(course)
    best = [group[0] for group in groups.values()]

    def compose(sheet: Sheet) -> Figure:
        size = sheet.small
        variants = {course.label: panels.variant(course.label, course.method) for course in courses}
        names = {label: canvas.cut(values, panels.LONGEST // 3) for label, (_, values) in variants.items()}
        figure, drawn = canvas.panels(
            sheet, words, len(groups), cell=15 * size, ratio=0.7, left=4.6 * size, gutter=size,
            right=canvas.width(list(names.values()), size) + 0.5 * size, top=3.4 * size, bottom=3.4 * size,
        )  # fmt: skip
        for axes, (method, group) in zip(drawn, groups.items(), strict=True):
            behind = [course.points for course in best if course.method != method][:MOST]
            panels.paths(axes, behind, color=looks.BEHIND, linewidth=0.6, zorder=0.9, clip_on=False)
            for course in group:
                _line(axes, course, styles[course.label])
            falls = [(names[course.label], found) for course in group if (found := fall(course))]
            told = [f"{values} gold -{found.gold:.3f} since {found.mark}".lstrip() for values, found in falls]
            canvas.heading(axes, method, ", ".join(told) or variants[group[0].label][0], size)
        columns = len({axes.get_position().x0 for axes in drawn})
        low = [min(limits) for limits in zip(*((axes.get_xlim()[0], axes.get_ylim()[0]) for axes in drawn), strict=True)]
        high = [max(limits) for limits in zip(*((axes.get_xlim()[1], axes.get_ylim()[1]) for axes in drawn), strict=True)]
        for place, axes in enumerate(drawn):
            axes.set_xlim(low[0], high[0])
            axes.set_ylim(low[1], high[1])
            axes.locator_params(axis="both", nbins=4)
            canvas.plain(axes, size)
            axes.tick_params(axis="y", labelleft=place % columns == 0)
            if place % columns == 0:
                axes.set_ylabel("gold quality", size=size, labelpad=4, color="#333333")
            if place + columns >= len(drawn):
                axes.set_xlabel(name, size=size, labelpad=2, color="#333333")
        for axes, group in zip(drawn, groups.values(), strict=True):
            _names(axes, [(course, names[course.label], styles[course.label].colour) for course in group], size)
        return figure

    return compose


def _line(axes: Axes, course: Course, style: looks.Style) -> None:
    xs, ys = [x for x, _ in course.points], [y for _, y in course.points]
    if len(course.seeds) in panels.SEEDS:
        panels.paths(axes, course.seeds, color=style.colour, alpha=0.35, linewidth=0.5, zorder=2, clip_on=False)
    axes.plot(
        xs, ys, color=style.colour, linestyle=style.dash, linewidth=1.3, marker=style.marker, markersize=4, zorder=3,
        markerfacecolor="#FFFFFF", markeredgecolor=style.colour, markeredgewidth=1.0, clip_on=False,
    )  # fmt: skip
    axes.plot(xs[-1:], ys[-1:], linestyle="", marker=style.marker, markersize=5, color=style.colour, zorder=4, clip_on=False)


def _names(axes: Axes, ends: Sequence[tuple[Course, str, str]], size: float) -> None:
    """Names right of the last points, moved apart where they would touch."""
    ends = [end for end in ends if end[1]]
    box = axes.get_window_extent()
    wanted = [float(axes.transData.transform(course.points[-1])[1]) for course, *_ in ends]
    placed = looks.spread(wanted, 1.2 * size, box.y0, box.y1)
    for (course, name, colour), at, y in zip(ends, wanted, placed, strict=True):
        axes.annotate(
            name, course.points[-1], xytext=(0.7 * size, y - at), textcoords="offset points", color=colour, weight="bold",
            size=size, va="center_baseline", annotation_clip=False,
        )  # fmt: skip

"""Curves: score against any meter, drawn the same to the byte for the same runs.

x is log2 of the meter's reading. It has no zero, so mark 0 has a slot of its own, left of a break in the axis.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from harness.errors import SpecError
from harness.report import looks, table
from harness.report.looks import Scale, Style
from harness.report.runs import Run, aligned, by_label, common_marks, reading, scored_alike
from harness.report.stats import Interval, interval
from harness.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_IN = (9.0, 5.6)
LAYOUT_DPI = 100
"""At which the figure is 900 x 560 pixels; the PNG has twice as many each way."""
LABEL_GAP = 16.0
"""Pixels between labels at the lines' ends, centre to centre."""
LABEL_LENGTH, LABEL_WIDTH = 90, 300
"""Characters after which a label is cut, and pixels from which its letters shrink."""
GREY = "#595959"


@dataclass(frozen=True)
class Curve:
    """One method: a point for every mark that all its seeds have."""

    label: str
    method: str
    readings: list[float]
    scores: list[Interval]
    seeds: list[list[tuple[float, float]]]
    """For each seed its own readings and scores."""


def curve_of(label: str, group: Sequence[Run], suite: str, meter: str) -> Curve:
    """The curve of the runs of one label over a meter."""
    readings, scores = [], []
    seeds: list[list[tuple[float, float]]] = [[] for _ in group]
    for name in common_marks(group, suite):
        points = [next(mark for mark in run.marks if mark.name == name) for run in group]
        used = [reading(point, meter) for point in points]
        array_SI = aligned([run.items(suite, name) for run in group])[0]
        readings.append(fmean(used))
        scores.append(table.clipped(interval(array_SI), group[0].scale(suite)))
        for line, x, y in zip(seeds, used, array_SI.mean(axis=1).tolist(), strict=True):
            line.append((x, y))
    return Curve(label, group[0].method, readings, scores, seeds)


def draw(runs: Sequence[Run], suite: str, meter: str, out_stem: Path) -> list[Path]:
    """Draws score against a meter as `out_stem`.png and .svg, and returns the two paths.

    A method that stopped early stays flat to the end. One that never used the meter is left out, with a note.

    Raises:
        SpecError: no such meter, none of the runs used it, or none is scored on the suite.
        Incomparable: the runs were made or scored under different conditions.
    """
    runs = scored_alike(runs, suite)
    curves = [curve_of(label, group, suite, meter) for label, group in by_label(runs).items()]
    drawn = [curve for curve in curves if curve.readings[-1] > 0]
    if not drawn:
        raise SpecError(f"no run has used any {meter.replace('_', ' ')}", where=f"--meter {meter}", fix="--meter prompts")
    unused = [curve.label for curve in curves if curve not in drawn]
    references = {row.label: row.score.mean for row in table.build(runs, suite).references}

    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context():
        rcdefaults()
        rcParams.update(looks.SETTINGS)
        figure = Figure(SIZE_IN, dpi=LAYOUT_DPI)
        FigureCanvasAgg(figure)
        styles = looks.styles([(curve.label, curve.method) for curve in curves])
        _compose(figure, runs, suite, meter, drawn, styles, unused, references)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=2 * LAYOUT_DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    prefix = re.sub(r"[^a-z0-9]+", "-", f"c{runs[0].digest[:8]}-{suite}-{meter}".lower())
    paths = [out_stem.with_name(f"{out_stem.name}.{kind}") for kind in ("png", "svg")]
    write_atomically(paths[0], png.getvalue())
    write_atomically(paths[1], _described(svg.getvalue(), prefix, _title(runs, suite, drawn), _finding(drawn, references, meter)))
    return paths


def write(runs: Sequence[Run], suite: str, folder: Path, meter: str = "prompts") -> list[Path]:
    """Draws the curve into a folder, with the table and the data of every run and mark beside it.

    Returns `curve.png`, `curve.svg` (`curve-METER` for a meter other than prompts), `table.md` and `data.csv`. Raises as
    `draw`.
    """
    stem = "curve" if meter == "prompts" else f"curve-{meter}"
    paths = draw(runs, suite, meter, folder / stem)
    texts = {"table.md": table.to_markdown(table.build(runs, suite)), "data.csv": _data(runs, suite)}
    for name, text in texts.items():
        write_atomically(folder / name, text)
        paths.append(folder / name)
    return paths


def _data(runs: Sequence[Run], suite: str) -> str:
    records = []
    for run in scored_alike(runs, suite):
        for mark in run.scored(suite):
            told = run.scores[suite][mark.name]
            headline = told[told["headline"]]
            metric = headline[told["metric"]]
            records.append({
                "label": run.label, "method": run.method, "seed": run.seed, "run": run.name, "track": run.conditions,
                "suite": suite, "mark": mark.name, "metric": told["metric"], "decoding": told["headline"],
                "score": metric["value"], "stderr": metric["stderr"], "n": metric["n"], "missing": metric["missing"],
                "gold": headline["gold"]["value"] if "gold" in headline else None, **mark.meters,
            })  # fmt: skip
    return table.csv_text(records)


def _title(runs: Sequence[Run], suite: str, curves: Sequence[Curve]) -> str:
    told = runs[0].scores[suite][runs[0].scored(suite)[0].name]
    how = "greedy decoding" if told["headline"] == "greedy" else f"sampled at temperature {told['headline'][1:]}"
    seeds = table.seed_count([len(curve.seeds) for curve in curves])
    return f"{suite} {told['metric'].replace('_', ' ')}, {how}: {seeds} x {told['n']} items"


def _finding(curves: Sequence[Curve], references: dict[str, float], meter: str) -> str:
    """The figure in a sentence, for those who do not see it."""
    told = []
    for curve in sorted(curves, key=lambda curve: (-curve.scores[-1].mean, curve.label)):
        score, used = curve.scores[-1], looks.amount(curve.readings[-1], meter)
        told.append(f"{curve.label} scores {score.mean:.3f} ({score.lo:.3f} to {score.hi:.3f}) after {used}")
    return "; ".join([*told, *(f"the {name} scores {score:.3f}" for name, score in references.items())]) + "."


def _compose(
    figure: Figure, runs: Sequence[Run], suite: str, meter: str, curves: Sequence[Curve], styles: dict[str, Style],
    unused: Sequence[str], references: dict[str, float],
) -> None:  # fmt: skip
    scale = Scale.of([curve.readings for curve in curves], meter)
    most = max(len(curve.seeds) for curve in curves)
    ends = [(curve.scores[-1].mean, _label(curve, most), styles[curve.label].colour, "bold") for curve in curves]
    ends += [(score, f"{name} {score:.3f}", GREY, "normal") for name, score in references.items()]
    widest = _widest(figure, [text for _, text, *_ in ends])
    shrunk = max(min(LABEL_WIDTH / widest, 1.0), 0.7)
    left, right = 0.085, 0.945 - shrunk * widest / (SIZE_IN[0] * LAYOUT_DPI)
    axes = figure.add_axes((left, 0.19, right - left, 0.655))
    axes.set_xlim(scale.zero - 0.05 * scale.width, scale.end + 0.02 * scale.width)
    for score in references.values():
        axes.axhline(score, color=GREY, linewidth=1.0, linestyle=(0, (5, 4)), zorder=1.5)
    for curve in curves:
        _line(axes, curve, styles[curve.label], scale)
    low, high = axes.get_ylim()
    (least, most_of_all), room = runs[0].scale(suite), 0.02
    room *= most_of_all - least
    axes.set_ylim(max(low, least - room), min(high, most_of_all + room))
    _finish_axes(axes, scale, suite, runs, meter)
    _end_labels(figure, axes, ends, scale, shrunk * looks.SETTINGS["font.size"])
    about = f"{runs[0].conditions}; line: mean, band: 95 % interval over "
    about += "seeds and items" if most > 1 else "the items of one seed; one seed ranks nothing"
    if any(2 <= len(curve.seeds) <= 5 for curve in curves):
        about += "; thin: single seeds"
    quiet: dict[str, Any] = {"color": GREY, "va": "center"}
    figure.text(left - 0.06, 0.945, _title(runs, suite, curves), fontsize=13, fontweight="bold", va="center")
    figure.text(left - 0.06, 0.892, about, fontsize=9.5, **quiet)
    if unused:
        note = f"Not drawn, as they use no {meter.replace('_', ' ')}: {', '.join(unused)}"
        figure.text(left - 0.06, 0.025, note, fontsize=9, **quiet)


def _label(curve: Curve, most: int) -> str:
    name = curve.label if len(curve.label) <= LABEL_LENGTH else curve.label[: LABEL_LENGTH - 2] + ".."
    seeds = f" ({len(curve.seeds)} seed{'s' * (len(curve.seeds) > 1)})" if len(curve.seeds) < most else ""
    return f"{name} {curve.scores[-1].mean:.3f}{seeds}"


def _line(axes: Axes, curve: Curve, style: Style, scale: Scale) -> None:
    xs, scores = scale.places(curve.readings), list(curve.scores)
    if xs[-1] < scale.end:
        xs, scores = [*xs, scale.end], [*scores, scores[-1]]
    lows, highs = [score.lo for score in scores], [score.hi for score in scores]
    axes.fill_between(xs, lows, highs, color=style.colour, alpha=0.2, linewidth=0, zorder=1)
    if 2 <= len(curve.seeds) <= 5:
        for seed in curve.seeds:
            places = scale.places([used for used, _ in seed])
            axes.plot(places, [score for _, score in seed], color=style.colour, alpha=0.35, linewidth=0.8, zorder=2)
    axes.plot(
        xs, [score.mean for score in scores], color=style.colour, linewidth=2.0, linestyle=style.dash, zorder=3,
        marker=style.marker, markersize=7, markevery=[place for place, used in enumerate(curve.readings) if used > 0],
        markerfacecolor="white", markeredgecolor=style.colour, markeredgewidth=1.6,
    )  # fmt: skip
    untrained = [score.mean for score, used in zip(curve.scores, curve.readings, strict=True) if used <= 0]
    axes.plot(
        [scale.zero] * len(untrained), untrained, linestyle="", marker="o", markersize=7,
        markerfacecolor="white", markeredgecolor=GREY, markeredgewidth=1.6, zorder=4,
    )  # fmt: skip


def _finish_axes(axes: Axes, scale: Scale, suite: str, runs: Sequence[Run], meter: str) -> None:
    from matplotlib.ticker import FixedLocator, FormatStrFormatter

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.2f"))
    axes.tick_params(axis="y", length=0, labelcolor="#333333")
    axes.tick_params(axis="x", length=4, color="#808080", labelcolor="#333333")
    axes.xaxis.set_major_locator(FixedLocator([scale.zero, *(log2(tick) for tick in scale.ticks)]))
    axes.set_xticklabels(["0", *("\n".join(looks.amount(tick, meter).rsplit(" ", 1)) for tick in scale.ticks)])
    axes.set_xlabel(f"{meter.replace('_', ' ')} used in training (log scale; 0 stands apart)", labelpad=7, color="#333333")
    metric = runs[0].scores[suite][runs[0].scored(suite)[0].name]["metric"].replace("_", " ")
    axes.set_ylabel(metric, labelpad=8, color="#333333")
    half, middle = 0.008 * scale.width, (scale.zero + scale.start) / 2
    over: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 10}
    axes.plot([middle - half, middle + half], [0, 0], color="white", linewidth=3, solid_capstyle="butt", **over)
    for x in (middle - half, middle + half):
        axes.plot([x - half / 2, x + half / 2], [-0.018, 0.018], color="#808080", linewidth=1, **over)


def _widest(figure: Figure, texts: Sequence[str]) -> float:
    """The width in pixels of the widest of the labels."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    probes = [figure.text(0, 0, text, fontweight="bold") for text in texts]
    width = max(probe.get_window_extent(renderer).width for probe in probes)
    for probe in probes:
        probe.remove()
    return float(width)


def _end_labels(figure: Figure, axes: Axes, ends: Sequence[tuple[float, str, str, str]], scale: Scale, size: float) -> None:
    """Names at the ends of the lines, moved apart where they would touch, then tied to their line by a leader."""
    from matplotlib.lines import Line2D

    width, height = SIZE_IN[0] * LAYOUT_DPI, SIZE_IN[1] * LAYOUT_DPI
    wanted = [float(axes.transData.transform((scale.end, score))[1]) for score, *_ in ends]
    box = axes.get_window_extent()
    placed = looks.spread(wanted, LABEL_GAP, box.y0, box.y1)
    start, stop = box.x1 + 2, box.x1 + 24
    for (_, text, colour, weight), target, y in zip(ends, wanted, placed, strict=True):
        place = {"x": (stop + 4) / width, "y": y / height}
        figure.text(**place, s=text, color=colour, fontweight=weight, fontsize=size, va="center_baseline")
        if abs(y - target) > 1:
            figure.add_artist(Line2D([start / width, stop / width], [target / height, y / height], color=colour, linewidth=0.8))


def _described(svg: str, prefix: str, title: str, finding: str) -> str:
    """The SVG with a name and a description for those who do not see it, and ids that can share a page with others."""
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: 'DejaVu Sans', Verdana, sans-serif")
    words = f'<title id="{prefix}-title">{escape(title)}</title>\n <desc id="{prefix}-desc">{escape(finding)}</desc>\n'
    svg = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{prefix}-title {prefix}-desc" ', 1)
    end = svg.index(">", svg.index("<svg ")) + 1
    return svg[:end] + "\n " + words + svg[end:].lstrip("\n")

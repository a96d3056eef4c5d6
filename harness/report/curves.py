"""Curves: score against any meter, drawn the same to the byte for the same runs.

x is log2 of the meter's reading. It has no zero, so mark 0 has a slot of its own, left of a break in the axis.
Axes: S seeds, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import SpecError
from harness.ledger import BUDGETABLE, Budget
from harness.report import board, canvas, looks, notes, panels, table
from harness.report.canvas import Sheet, Words
from harness.report.panels import MOST, Curve, Panel
from harness.report.runs import SUMS, TEACHER, Run, aligned, by_label, common_marks, reading, scored_alike
from harness.report.stats import interval
from harness.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing: TypeAlias = "tuple[str, Words, Callable[[Sheet], Figure]]"
"""The name of a figure's SVG, its words, and how it is composed."""
COSTS = ("prompts", "teacher_tokens", "critic_tokens", "flops", "usd")
"""What a method may spend, for small multiples."""


def curve_of(label: str, group: Sequence[Run], suite: str, meter: str) -> Curve:
    """The curve of the runs of one label over a meter."""
    readings, scores = [], []
    seeds: list[list[tuple[float, float]]] = [[] for _ in group]
    for name in common_marks(group, suite):
        points = [reading(next(mark for mark in run.marks if mark.name == name), meter) for run in group]
        array_SI = aligned([run.items(suite, name) for run in group])[0]
        readings.append(fmean(points))
        scores.append(board.clipped(interval(array_SI, [run.pair for run in group]), group[0].scale(suite)))
        for line, x, y in zip(seeds, points, array_SI.mean(axis=1).tolist(), strict=True):
            line.append((x, y))
    return Curve(label, group[0].method, readings, scores, seeds)


def curves_of(runs: Sequence[Run], suite: str, meter: str) -> tuple[list[Curve], list[str]]:
    """A curve for each label that used the meter, and the labels that did not.

    Raises:
        SpecError: no such meter, none of the runs used it, or none is scored on the suite.
        Incomparable: the runs were made or scored under different conditions.
    """
    curves = [curve_of(label, group, suite, meter) for label, group in by_label(scored_alike(runs, suite)).items()]
    drawn = [curve for curve in curves if curve.readings[-1] > 0]
    if not drawn:
        raise SpecError(f"no run has used any {_words(meter)}", where=f"--meter {meter}", fix="--meter prompts")
    return drawn, [curve.label for curve in curves if curve not in drawn]


def references(runs: Sequence[Run], suite: str) -> dict[str, float]:
    """The scores of the untrained student and the teacher, where known: means over seeds, of the items that all of them share."""
    once = {run.seed: run for run in reversed(runs) if suite in run.scores}
    result = {}
    for name, mark in (("student", "0"), ("teacher", TEACHER)):
        scores = [run.items(suite, mark) for run in once.values() if mark in run.scores[suite]]
        if scores:
            result[name] = float(aligned(scores)[0].mean())
    return result


def used(runs: Sequence[Run]) -> list[str]:
    """The meters, sums among them, that any of the runs has used."""
    last = [run.marks[-1] for run in runs if run.marks]
    return [meter for meter in (*BUDGETABLE, *SUMS) if any(reading(mark, meter) > 0 for mark in last)]


def draw(runs: Sequence[Run], suite: str, meter: str, out_stem: Path) -> list[Path]:
    """Draws score against a meter, and returns the paths of `canvas.save`.

    More than six curves become small multiples, a panel for each method. On the budget's axis a method that stopped
    early stays flat to the end. One that never used the meter is left out, with a note. Raises as `curves_of`.
    """
    return canvas.save(out_stem, *_figure(runs, suite, meter))


def svg(runs: Sequence[Run], suite: str, meter: str = "prompts") -> str:
    """The SVG that `draw` writes. Raises as `curves_of`."""
    return canvas.svg(*_figure(runs, suite, meter))


def words(runs: Sequence[Run], suite: str, meter: str = "prompts") -> Words:
    """What the figure of `draw` says in words. Raises as `curves_of`."""
    return _figure(runs, suite, meter)[1]


def draw_meters(runs: Sequence[Run], suite: str, folder: Path) -> list[Path]:
    """Draws `curve` over prompts and `curve-METER` over every other meter that any run has used. Raises as `curves_of`."""
    return [path for meter in used(runs) for path in draw(runs, suite, meter, folder / stem(meter))]


def draw_costs(runs: Sequence[Run], suite: str, out_stem: Path) -> list[Path]:
    """Draws small multiples of score against each of `COSTS` that any run has used. Raises as `curves_of`."""
    return canvas.save(out_stem, *_costs(runs, suite))


def costs_svg(runs: Sequence[Run], suite: str) -> str:
    """The SVG that `draw_costs` writes. Raises as `curves_of`."""
    return canvas.svg(*_costs(runs, suite))


def _costs(runs: Sequence[Run], suite: str) -> Drawing:
    meters = [meter for meter in COSTS if meter in used(runs)]
    everyone, levels = curves_of(runs, suite, meters[0])[0], references(runs, suite)
    coloured = [curve.label for curve in panels.best(everyone)[:MOST]]
    told = []
    for meter in meters:
        drawn = curves_of(runs, suite, meter)[0]
        front = [curve for curve in drawn if curve.label in coloured]
        behind = [curve for curve in drawn if curve.label not in coloured]
        names = [curve.label for curve in front]
        bounds, axis = scale(runs, suite), budget_axis(runs)
        told.append(Panel(panels.axis_name(meter), meter, bounds, front, names, levels, behind, axis=axis))
    title = f"{suite} {metric(runs, suite)} by what it costs: {notes.seed_count([len(curve.seeds) for curve in everyone])}"
    words = Words(title, _about(runs, everyone, len(coloured)), _finding(everyone, levels, meters[0]))
    return f"{suite}-costs", words, panels.multiples(told, words, metric(runs, suite), cell=28)


def draw_suites(runs: Sequence[Run], out_stem: Path, meter: str = "prompts") -> list[Path]:
    """Draws small multiples of score against a meter, one for each suite that any run is scored on. Raises as `curves_of`."""
    return canvas.save(out_stem, *_suites(runs, meter))


def suites_svg(runs: Sequence[Run], meter: str = "prompts") -> str:
    """The SVG that `draw_suites` writes. Raises as `curves_of`."""
    return canvas.svg(*_suites(runs, meter))


def _suites(runs: Sequence[Run], meter: str) -> Drawing:
    told, findings = [], []
    for suite in sorted({suite for run in runs for suite in run.suites}):
        drawn, levels = curves_of(runs, suite, meter)[0], references(runs, suite)
        front = panels.best(drawn)[:MOST]
        names = [_name(curve, drawn) for curve in front]
        behind = [curve for curve in drawn if curve not in front]
        title, bounds, axis = f"{suite} {metric(runs, suite)}", scale(runs, suite), budget_axis(runs)
        told.append(Panel(title, meter, bounds, front, names, levels, behind, axis=axis))
        findings.append(f"on {suite}, {_finding(drawn, levels, meter)}")
    everyone = [*told[0].curves, *told[0].behind]
    words = Words("Score by suite", _about(runs, everyone, len(told[0].curves)), " ".join(findings))
    return f"suites-{meter}", words, panels.multiples(told, words, "score", cell=30)


def write(runs: Sequence[Run], suite: str, folder: Path, meter: str = "prompts") -> list[Path]:
    """Draws the curve into a folder, with the table and the data of every run and mark beside it.

    Returns the four files of `curve` (`curve-METER` for a meter other than prompts), `table.md` and `data.csv`. Raises as
    `draw`.
    """
    paths = draw(runs, suite, meter, folder / stem(meter))
    texts = {"table.md": table.to_markdown(board.build(runs, suite)), "data.csv": _data(runs, suite)}
    for name, text in texts.items():
        write_atomically(folder / name, text)
        paths.append(folder / name)
    return paths


def budget_axis(runs: Sequence[Run]) -> str:
    """The meter of the budget on which the marks lie."""
    return Budget(runs[0].budget).axis


def stem(meter: str) -> str:
    return "curve" if meter == "prompts" else f"curve-{meter}"


def _figure(runs: Sequence[Run], suite: str, meter: str) -> Drawing:
    """The name of its SVG, its words, and how it is composed."""
    drawn, unused = curves_of(runs, suite, meter)
    levels, bounds, ylabel = references(runs, suite), scale(runs, suite), metric(runs, suite)
    note = f"Not drawn, as they use no {_words(meter)}: {', '.join(unused)}" if unused else ""
    title, about, finding = _title(runs, suite, drawn), _about(runs, drawn, len(drawn)), _finding(drawn, levels, meter)
    if len(drawn) <= MOST:
        panel = Panel("", meter, bounds, drawn, [_name(curve, drawn) for curve in drawn], levels, axis=budget_axis(runs))
        words = Words(title, about, finding, note)
        compose = panels.single(panel, words, ylabel)
    else:
        brackets = "; in brackets: seeds, where others have more" if any(_fewer(curve, drawn) for curve in drawn) else ""
        words = Words(title, f"{about}; grey: the best others{brackets}", finding, note)
        compose = panels.multiples(_by_method(drawn, meter, budget_axis(runs), bounds, levels), words, ylabel, cell=13)
    return f"{suite}-{meter}", words, compose


def _by_method(
    curves: Sequence[Curve], meter: str, axis: str, bounds: tuple[float, float], levels: dict[str, float]
) -> list[Panel]:
    """A panel for each method with all its variants, before the best six of the others."""
    groups: dict[str, list[Curve]] = {}
    for curve in panels.best(curves):
        groups.setdefault(curve.method, []).append(curve)
    told = []
    for method, group in groups.items():
        parts = [panels.variant(curve.label, method) for curve in group]
        behind = [others[0] for other, others in groups.items() if other != method][:MOST]
        names = []
        for curve, (_, values) in zip(group, parts, strict=True):
            fewer = _fewer(curve, curves)
            names.append(f"{values} ({fewer})".lstrip() if fewer else values)
        title = f"{method} {group[0].end.mean:.3f}"
        told.append(Panel(title, meter, bounds, group, names, levels, behind, parts[0][0], axis))
    return told


def _name(curve: Curve, among: Sequence[Curve]) -> str:
    fewer = _fewer(curve, among)
    return f"{curve.label} {curve.end.mean:.3f}" + (f" ({fewer} seed{'s' * (fewer > 1)})" if fewer else "")


def _fewer(curve: Curve, among: Sequence[Curve]) -> int:
    """How many seeds it has where others have more, else 0."""
    return len(curve.seeds) if len(curve.seeds) < max(len(other.seeds) for other in among) else 0


def _words(meter: str) -> str:
    return meter.replace("_", " ")


def metric(runs: Sequence[Run], suite: str) -> str:
    """The suite's headline metric in words."""
    return str(_told(runs, suite)["metric"]).replace("_", " ")


def scale(runs: Sequence[Run], suite: str) -> tuple[float, float]:
    """The lowest and the highest score of the suite."""
    return next(run for run in runs if suite in run.scores).scale(suite)


def _told(runs: Sequence[Run], suite: str) -> dict[str, object]:
    run = next(run for run in runs if run.scored(suite))
    return dict(run.scores[suite][run.scored(suite)[0].name])


def _title(runs: Sequence[Run], suite: str, curves: Sequence[Curve]) -> str:
    told = _told(runs, suite)
    headline = str(told["headline"])
    how = {"greedy": "greedy decoding", "protocol": "the suite's own decoding", "likelihood": "by likelihood"}.get(
        headline, f"sampled at temperature {headline[1:]}"
    )
    seeds = notes.seed_count([len(curve.seeds) for curve in curves])
    return f"{suite} {metric(runs, suite)}, {how}: {seeds} x {told['n']} items"


def _about(runs: Sequence[Run], curves: Sequence[Curve], coloured: int) -> str:
    counts = {len(curve.seeds) for curve in curves}
    about = f"{runs[0].conditions}; line: mean, band: 95 % interval over "
    about += "seeds and items" if max(counts) > 1 else "the items of one seed; one seed ranks nothing"
    if counts & set(panels.SEEDS):
        about += "; thin: single seeds"
    return about + (f"; in colour the best {coloured} of {len(curves)}" if coloured < len(curves) else "")


def _finding(curves: Sequence[Curve], levels: dict[str, float], meter: str) -> str:
    """The figure in a sentence, for those who do not see it."""
    told, ranked = [], panels.best(curves)
    for curve in ranked[:MOST]:
        score, amount = curve.end, looks.amount(curve.readings[-1], meter)
        told.append(f"{curve.label} scores {score.mean:.3f} ({score.lo:.3f} to {score.hi:.3f}) after {amount}")
    if rest := ranked[MOST:]:
        told.append(f"{len(rest)} more score {rest[-1].end.mean:.3f} to {rest[0].end.mean:.3f}")
    return "; ".join([*told, *(f"the {name} scores {score:.3f}" for name, score in levels.items())]) + "."


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

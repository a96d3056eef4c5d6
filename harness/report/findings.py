"""What the runs say about the evidence itself, as Markdown: which order of methods is stable, what the variance is made of.

Every number is computed, the sentences' too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from harness.report import stability, variance
from harness.report.board import Field
from harness.report.runs import Run, scored_alike
from harness.report.stability import Agreement, Estimate, Neighbours
from harness.report.stats import TAIL
from harness.report.variance import AXES, SOURCES, Made, Part

NAMES = {"pairs": "pairs of models", "seeds": "seeds of each pair", "items": "items"}
UNTOLD = "-"


def to_markdown(fields: Sequence[tuple[str, Sequence[Run]]], command: str) -> str:
    """All findings about runs under one or several conditions, each with its name. Raises as `runs.scored_alike`."""
    parts = ["# Stability", f"Made by `{command}` from the summaries in [runs](runs); do not edit. What the figures mean: "
             "[docs/statistics.md](../docs/statistics.md#stability)."]  # fmt: skip
    for name, runs in fields:
        suites = _suites(runs)
        parts += [f"## {name}", "### Which order is stable", *orders(runs), "### Neighbours on the boards", *_neighbours(runs)]
        for suite in suites:
            parts += [f"### What the variance is made of: {suite}", *variances(runs, suite)]
    if len(fields) > 1:
        parts += ["## Between tracks", *_between(fields)]
    return "\n\n".join(parts) + "\n"


def in_short(runs: Sequence[Run]) -> str:
    """The block of a document: how far orders agree, by what differs. Raises as `runs.scored_alike`."""
    return "\n\n".join(_in_short(stability.agreements(runs, _suites(runs))))


def orders(runs: Sequence[Run]) -> list[str]:
    """Orders of methods side by side: in short, one by one, and what the intervals hold."""
    found = stability.agreements(runs, _suites(runs))
    return [_left_out(runs), *_in_short(found), *_one_by_one(found)]


def variances(runs: Sequence[Run], suite: str) -> list[str]:
    """The parts of a suite's variance, what they mean for other designs, and those of each method."""
    told, texts = [], []
    for what, part_of in (("scores", variance.of_scores), ("differences to the twin", variance.of_differences)):
        try:
            told.append((what, part_of(runs, suite)))
        except ValueError as error:
            texts.append(f"Of {what} no parts can be told: {error}.")
    if not told:
        return texts
    read, judged = [_read(*each) for each in told], [_judged(*each, runs, suite) for each in told]
    return [_parts(told), *read, _designs(told), *judged, _arms(told), *texts]


def _suites(runs: Sequence[Run]) -> list[str]:
    return sorted({suite for run in runs for suite in run.suites})


def _left_out(runs: Sequence[Run]) -> str:
    """Who has a rank, and who has none."""
    found = {suite: Field.of(scored_alike(runs, suite), suite) for suite in _suites(runs)}
    labels = sorted({label for field in found.values() for label in stability.contestants(field)})
    controls = sorted({label for field in found.values() for label in field.groups} - {*labels})
    alone = {label for suite, field in found.items() for label in _unranked(field)}
    fewer = f" Left out, with fewer pairs of models than others: {', '.join(sorted(alone))}." if alone else ""
    ranked = f"{len(labels) - len(alone)} methods have ranks."
    have = "control has" if len(controls) == 1 else "controls have"
    return f"{ranked} {len(controls)} {have} none: sharpen and twins with a shuffled signal.{fewer}"


def _unranked(field: Field) -> list[str]:
    labels = stability.contestants(field)
    scores = stability.scores_of(field, labels)
    return [label for label in labels if scores is not None and label not in scores.labels]


def _in_short(found: Sequence[Agreement]) -> list[str]:
    """A line for each thing that differs, and what they say together."""
    if not found:
        return ["There are no two orders of two methods or more."]
    kinds = {kind: [each for each in found if each.kind == kind] for kind in dict.fromkeys(each.kind for each in found)}
    rows = [
        [f"two {kind}", str(len(group)), *(f"{tell([each.tau.value for each in group]):.2f}" for tell in (min, fmean, max)),
         f"{fmean(each.moved.value for each in group):.1f}"]
        for kind, group in kinds.items()
    ]  # fmt: skip
    most = max(kinds, key=lambda kind: fmean(each.tau.value for each in kinds[kind]))
    least = min(kinds, key=lambda kind: fmean(each.tau.value for each in kinds[kind]))
    methods = max(each.methods for each in found)
    told = (
        f"Kendall's tau-b is 1 for the same order of methods, 0 for orders that have nothing to do with each other, -1 for the "
        f"opposite one; {methods} methods in unrelated orders are {stability.by_chance(methods):.1f} places apart in the mean."
    )
    if most != least:
        told += f" The order is kept best between two {most} and worst between two {least}."
    return [_piped(["between", "comparisons", "least tau", "mean tau", "greatest tau", "mean change of rank"], rows, 1), told]


def _one_by_one(found: Sequence[Agreement]) -> list[str]:
    if not found:
        return []
    rows = [[each.kind, each.suite or UNTOLD, f"{each.left}, {each.right}", str(each.methods), _told(each.tau, 2),
             _told(each.moved, 1)] for each in found]  # fmt: skip
    head = ["what differs", "suite", "between", "methods", "tau-b (95 %)", "mean change of rank (95 %)"]
    told = [each for each in found if each.tau.lo is not None]
    sure = [each for each in told if (each.tau.lo or 0) > 0]
    return [
        _piped(head, rows, 3),
        f"In {len(sure)} of {len(told)} comparisons the interval of tau lies above 0: the orders agree more than by chance. "
        "Intervals are over pairs of models and items drawn anew; between two model pairs they are over items alone, and hold "
        "for these very runs. Other decodings have none, as only their means are kept.",
    ]  # fmt: skip


def _neighbours(runs: Sequence[Run]) -> list[str]:
    found: list[tuple[str, Neighbours]] = [(suite, each) for suite in _suites(runs) for each in stability.neighbours(runs, suite)]
    if not found:
        return ["No two methods have scores in common."]
    rows = [[suite, each.upper, each.lower, f"{each.difference:.3f}", f"{each.kept:.2f}"] for suite, each in found]
    sure, limit = sum(each.kept >= 1 - TAIL for _, each in found), _percent(1 - TAIL, 1)
    keep = "keeps its" if sure == 1 else "keep their"
    return [
        f"Of {len(found)} pairs of neighbours {sure} {keep} order in {limit} of draws or more; 0.50 is a toss of a coin.",
        _piped(["suite", "above", "below", "difference", "keeps its order"], rows, 3),
    ]


def _parts(told: Sequence[tuple[str, Part]]) -> str:
    """A row for each source, with three columns for scores and three for differences."""
    head = ["source"]
    for what, _ in told:
        head += [f"{what}: standard deviation", f"{what}: share, one run", f"{what}: share, the mean"]
    rows = []
    for place, source in enumerate(SOURCES):
        row = [source]
        for _, part in told:
            made = part.made
            below = " (estimated below 0)" if made.variance_K[place] < 0 else ""
            row += [f"{_told(made.deviations[place], 3)}{below}", _told(made.of_a_run[place], 0, 100),
                    _told(made.of_the_mean[place], 0, 100)]  # fmt: skip
        rows.append(row)
    return _piped(head, rows, 1)


def _read(what: str, part: Part) -> str:
    """What the table says of scores, or of differences."""
    made = part.made
    run = variance.contributions(made.variance_K, variance.Design(1, 1, made.design.items)).sum() ** 0.5
    mean = variance.contributions(made.variance_K, made.design).sum() ** 0.5
    left = f" Left out, with other seeds: {', '.join(part.left_out)}." if part.left_out else ""
    return (
        f"{what.capitalize()} (mean of {made.arms} methods): one run over {made.design.items:g} items has a standard error of "
        f"{run:.3f}, to which {_greatest(made.of_a_run)} adds most; the mean over {_of(made)} has one of {mean:.3f}, to which "
        f"{_greatest(made.of_the_mean)} adds most.{left}"
    )


def _greatest(shares: Sequence[Estimate]) -> str:
    place = max(range(len(SOURCES)), key=lambda place: shares[place].value)
    return f"{SOURCES[place]} ({_percent(shares[place].value)} of the variance)"


def _designs(told: Sequence[tuple[str, Part]]) -> str:
    """How much of one thing alone would halve the interval."""
    made = [(what, part.made) for what, part in told]
    rows = [["expected half width now", *(f"{variance.half_width(each.variance_K, each.design):.3f}" for _, each in made)]]
    for axis in AXES:
        rows.append([f"{NAMES[axis]} that would halve it", *(_least(each, axis) for _, each in made)])
    return _piped(["the interval of the mean", *(f"{what}, {_of(each)}" for what, each in made)], rows, 1)


def _least(made: Made, axis: str) -> str:
    found, left = variance.least(made.variance_K, made.design, axis)
    if found is None:
        return f"none, {_percent(left)} of it stays"
    return f"{found:,} instead of {getattr(made.design, axis):.3g}"


def _judged(what: str, part: Part, runs: Sequence[Run], suite: str) -> str:
    """What the judge has to do with it."""
    judges = {told["judge"] for run in runs for told in run.scores.get(suite, {}).values()}
    if judges == {None}:
        return f"{what.capitalize()}: no judge has a part in it, a program checks answers."
    if part.taste is None:
        return f"{what.capitalize()}: what the judge adds cannot be told from these scores; it lies in the last three sources."
    made = part.made
    run = float(variance.contributions(made.variance_K, variance.Design(1, 1, made.design.items)).sum())
    most = "at most " if len(what.split()) > 1 else ""
    share = f", {most}{_percent(part.taste / run, 1)} of its variance" if run else ""
    return (
        f"{what.capitalize()}: the embedded judge's taste adds {most}a standard deviation of {part.taste**0.5:.4f} to the mean "
        f"of one run{share} (from its verdict function, to first order). It is the same each time that the same answer is judged "
        "and lies in the last three sources together."
    )


def _arms(told: Sequence[tuple[str, Part]]) -> str:
    """The standard deviations of each method alone."""
    rows = []
    for what, part in told:
        for label, found in part.arms.items():
            cells = [f"{value**0.5:.3f}" if value >= 0 else "below 0" for value in variance.variances(found)]
            rows.append([label, what, *cells])
    return _piped(["method", "standard deviations of", *SOURCES], rows, 2)


def _between(fields: Sequence[tuple[str, Sequence[Run]]]) -> list[str]:
    found = [
        agreed for left, right in combinations(fields, 2) for suite in _suites(left[1]) if suite in _suites(right[1])
        if (agreed := stability.between(left, right, suite)) is not None
    ]  # fmt: skip
    return [*_in_short(found), *_one_by_one(found)]


def _of(made: Made) -> str:
    pairs, seeds, items = made.design
    return f"{pairs:g} pairs x {seeds:.3g} seeds x {items:g} items"


def _told(found: Estimate, digits: int, times: float = 1) -> str:
    """A figure with its interval; a share as percent."""
    sign = " %" if times == 100 else ""
    value = f"{times * found.value:.{digits}f}{sign}"
    if found.lo is None or found.hi is None:
        return value
    return f"{value} ({times * found.lo:.{digits}f} to {times * found.hi:.{digits}f})"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _piped(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A Markdown table whose first columns are words and the others numbers."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    lines = [head, *([cell.replace("|", chr(92) + "|") for cell in row] for row in rows)]
    piped = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([piped[0], f"| {' | '.join(rule)} |", *piped[1:]])

"""The table of a suite: methods by score, with intervals, reference rows, and what each has used.

Axes: S seeds, I items.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.report.runs import TEACHER, Run, aligned, by_label, common_marks, reading, scored_alike
from harness.report.stats import Interval, interval, paired

if TYPE_CHECKING:
    from rich.console import Console, Group

READINGS = ("prompts", "teacher_tokens", "critic_tokens")
MISSING_LIMIT = 0.01
"""The share of items without a score above which a table warns."""


@dataclass(frozen=True)
class Row:
    label: str
    mark: str
    seeds: tuple[int, ...]
    score: Interval
    others: dict[str, float | None]
    """Means over seeds of what has no score by item: `gold`, and the metric under other decodings (`t1`)."""
    change: Interval | None = None
    """From mark 0, paired."""
    used: dict[str, float] | None = None
    """Means over seeds of `READINGS`; none for reference rows."""
    to_best: Interval | None = None
    """Score less the best method's, paired over common seeds and items; none for the best, or where none are common."""
    standing: str = ""
    """`best`, `tied` (the interval of `to_best` holds 0), or nothing."""


@dataclass(frozen=True)
class Board:
    """What the table of a suite says. `rows` are by score; `references` are the student at mark 0 and the teacher."""

    title: str
    rows: list[Row]
    references: list[Row]
    notes: list[str]

    @property
    def extra(self) -> list[str]:
        """The names in `Row.others`, gold first."""
        names = {name for row in [*self.rows, *self.references] for name, value in row.others.items() if value is not None}
        return sorted(names, key=lambda name: (name != "gold", name))

    @property
    def ranks(self) -> list[int | None]:
        """Ranks by score; all tied with the best share the first. None at all where a method has one seed."""
        if any(len(row.seeds) == 1 for row in self.rows) or len(self.rows) == 1:
            return [None] * len(self.rows)
        return [1 if row.standing else place for place, row in enumerate(self.rows, 1)]


def build(runs: Sequence[Run], suite: str) -> Board:
    """The table of runs that were made under equal conditions, at the last mark that all seeds of a method have.

    Raises:
        SpecError: none of them is scored on the suite.
        Incomparable: they were made or scored under different conditions.
    """
    runs = scored_alike(runs, suite)
    groups = by_label(runs)
    ends = {label: common_marks(group, suite)[-1] for label, group in groups.items()}
    rows = [_row(label, group, suite, ends[label]) for label, group in groups.items()]
    rows.sort(key=lambda row: (-row.score.mean, row.label))
    rows = [_against(rows[0], row, groups, suite) for row in rows] if len(rows) > 1 else rows
    once = {run.seed: run for run in reversed(runs)}
    distinct = [once[seed] for seed in sorted(once)]
    references = []
    for label, mark in (("student", "0"), ("teacher", TEACHER)):
        having = [run for run in distinct if mark in run.scores[suite]]
        if having:
            references.append(replace(_row(label, having, suite, mark), used=None, change=None))
    first = runs[0]
    seeds, items = seed_count([len(row.seeds) for row in rows]), max(row.score.items for row in rows)
    budget = ", ".join(f"{amount:,.6g} {meter.replace('_', ' ')}" for meter, amount in first.budget.items())
    version = first.scores[suite][first.scored(suite)[0].name]["version"]
    title = f"track {first.conditions}  suite {suite} v{version}  {seeds} x {items} items  {budget}"
    return Board(title, rows, references, _notes(groups, suite, rows, ends))


def seed_count(counts: Sequence[int]) -> str:
    """ "1 seed", "5 seeds" or "3 to 5 seeds"."""
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' * (low > 1)}"


def _row(label: str, group: Sequence[Run], suite: str, mark: str) -> Row:
    now = [run.items(suite, mark) for run in group]
    change = None
    if mark != TEACHER and all("0" in run.scores[suite] for run in group):
        change = paired(*aligned(now, [run.items(suite, "0") for run in group]))
    others: dict[str, list[float]] = {}
    for run in group:
        told = run.scores[suite][mark]
        if "gold" in told[told["headline"]]:
            others.setdefault("gold", []).append(told[told["headline"]]["gold"]["value"])
        for how, graded in told.items():
            if how != told["headline"] and isinstance(graded, dict) and told["metric"] in graded:
                others.setdefault(how, []).append(graded[told["metric"]]["value"])
    used = None
    if mark != TEACHER:
        points = [next(point for point in run.marks if point.name == mark) for run in group]
        used = {meter: fmean(reading(point, meter) for point in points) for meter in READINGS}
    return Row(
        label, mark, tuple(run.seed for run in group), clipped(interval(aligned(now)[0]), group[0].scale(suite)),
        {name: None if None in values else fmean(values) for name, values in others.items()}, change, used,
    )  # fmt: skip


def clipped(score: Interval, scale: tuple[float, float]) -> Interval:
    """The interval of a score, within its suite's scale."""
    return replace(score, lo=max(score.lo, scale[0]), hi=min(score.hi, scale[1]))


def _against(best: Row, row: Row, groups: dict[str, list[Run]], suite: str) -> Row:
    if row is best:
        return replace(row, standing="best")
    common = set(best.seeds) & set(row.seeds)
    if not common:
        return row
    mine, theirs = (
        [run.items(suite, side.mark) for run in groups[side.label] if run.seed in common] for side in (row, best)
    )
    difference = paired(*aligned(mine, theirs))
    return replace(row, to_best=difference, standing="tied" if difference.holds_zero else "")


def _notes(groups: dict[str, list[Run]], suite: str, rows: Sequence[Row], ends: dict[str, str]) -> list[str]:
    notes = []
    if any(run.spec["track"].get("judge_is_critic") for group in groups.values() for run in group):
        notes.append("warning: the evaluation judge is also the training critic")
    if warning := _missing(groups, suite, ends):
        notes.append(warning)
    early = [f"{label} at mark {ends[label]}" for label, group in groups.items() if not all(run.finished for run in group)]
    if early:
        notes.append(f"warning: not finished: {', '.join(early)}")
    alone = [row.label for row in rows if len(row.seeds) == 1]
    if len(alone) == len(rows):
        notes.append("95 % CI: Student's t over the items of one seed; one seed ranks nothing")
    else:
        notes.append("95 % CI: Student's t over seeds and items, crossed: all seeds answer the same items")
        if alone:
            notes.append(f"one seed ranks nothing, its interval is over items only: {', '.join(alone)}")
    if any(row.standing == "tied" for row in rows):
        notes.append("tied: the paired interval of the difference to the best, over common seeds and items, holds 0")
    return notes


def _missing(groups: dict[str, list[Run]], suite: str, ends: dict[str, str]) -> str:
    """Missing verdicts are not random, so the warning bounds each mean by counting them as 0 and as 1."""
    told = []
    for label, group in groups.items():
        for mark in ("0", ends[label], TEACHER):
            scores = [run.scores[suite][mark] for run in group if mark in run.scores[suite]]
            metrics = [score[score["headline"]][score["metric"]] for score in scores]
            asked, missing = sum(score["n"] for score in scores), sum(metric["missing"] for metric in metrics)
            if any(metric["missing"] > MISSING_LIMIT * score["n"] for metric, score in zip(metrics, scores, strict=True)):
                low = sum((metric["value"] or 0.0) * metric["n"] for metric in metrics) / asked
                bounds = f"{low:.3f} and {low + missing / asked:.3f}"
                told.append(f"{label} at mark {mark} {missing:,} of {asked:,}, score between {bounds}")
    return f"warning: items without a score: {'; '.join(told)}" if told else ""


def signed(change: Interval | None) -> str:
    return "" if change is None else f"{change.mean:+.3f} +/-{change.half:.3f}"


def heading(how: str) -> str:
    """The column of one of `Row.others`: "T=1" for `t1`."""
    return f"T={how[1:]}" if how[0] == "t" and how[1:2].isdigit() else how


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


WORDS = frozenset({"method", "95 % CI", "vs mark 0", ""})
"""Columns of words, set from the left; the others are numbers."""


def _score_cells(board: Board) -> list[list[str]]:
    """The upper block as text, its heading first: rank, method, score, interval, others, change, standing."""
    changes = [*(signed(row.change) for row in board.rows), *("reference" for _ in board.references)]
    ranks = [*board.ranks, *(None for _ in board.references)]
    cells = [["#", "method", "score", "95 % CI", *map(heading, board.extra), "vs mark 0", ""]]
    for rank, row, change in zip(ranks, [*board.rows, *board.references], changes, strict=True):
        cells.append([
            str(rank or "-"), row.label, _plain(row.score.mean), f"{row.score.lo:.3f} to {row.score.hi:.3f}",
            *(_plain(row.others.get(name)) for name in board.extra), change, row.standing,
        ])  # fmt: skip
    return cells


def _used_cells(board: Board) -> list[list[str]]:
    """The lower block as text, its heading first: what each method has used, and its difference to the best."""
    versus = ["vs best"] if len(board.rows) > 1 else []
    cells = [["method", "seeds", *(meter.replace("_", " ") for meter in READINGS), *versus]]
    for row in board.rows:
        used = row.used or {}
        difference = [row.standing if row.standing == "best" else signed(row.to_best) or "no common seed"] if versus else []
        cells.append([row.label, str(len(row.seeds)), *(f"{used[meter]:,.0f}" for meter in READINGS), *difference])
    return cells


def render(board: Board) -> Group:
    """The board for a terminal of 80 columns or more."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    blocks = []
    for cells in (_score_cells(board), _used_cells(board)):
        block = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in cells[0]:
            block.add_column(Text(name), justify="left" if name in WORDS else "right", overflow="fold", no_wrap=name != "method")
        for line in cells[1:]:
            block.add_row(*map(Text, line))
        blocks.append(block)
    return Group(Text(board.title), blocks[0], Text(""), blocks[1], Text(""), *map(Text, board.notes))


def show(runs: Sequence[Run], suite: str, console: Console) -> None:
    """Prints the table. Raises as `build`."""
    console.print(render(build(runs, suite)))


def to_markdown(board: Board) -> str:
    """The board as two Markdown tables between its title and its notes."""
    blocks = [_markdown(_score_cells(board)), _markdown(_used_cells(board))]
    return "\n\n".join([board.title, *blocks, "\n".join(f"- {note}" for note in board.notes)]) + "\n"


def _markdown(cells: list[list[str]]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in cells]
    rule = " | ".join("---" if name in WORDS else "--:" for name in cells[0])
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def to_csv(board: Board) -> str:
    """The board with all its digits, a row a method, references included; empty where there is nothing."""

    def bounds(name: str, value: Interval | None) -> dict[str, Any]:
        parts = (None, None, None) if value is None else (value.mean, value.lo, value.hi)
        return dict(zip((name, f"{name}_lo", f"{name}_hi"), parts, strict=True))

    ranks = [*board.ranks, *(None for _ in board.references)]
    records = [
        {"rank": rank, "method": row.label, "mark": row.mark, **bounds("score", row.score), **bounds("change", row.change),
         **{name: row.others.get(name) for name in board.extra}, **bounds("to_best", row.to_best), "standing": row.standing,
         "seeds": len(row.seeds), "items": row.score.items, **{meter: (row.used or {}).get(meter) for meter in READINGS}}
        for rank, row in zip(ranks, [*board.rows, *board.references], strict=True)
    ]  # fmt: skip
    return csv_text(records)


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records with the same keys as CSV; None is an empty cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()

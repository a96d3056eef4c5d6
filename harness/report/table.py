"""A board or an overview as text: for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite, isinf
from typing import TYPE_CHECKING, Any

from harness.report.board import READINGS, Board, Row, build
from harness.report.looks import amount
from harness.report.runs import Run
from harness.report.stats import Interval
from harness.store import json_text

if TYPE_CHECKING:
    from rich.console import Console, Group

WORDS = frozenset({"method", "95 % CI", "vs mark 0", "over twin", "vs best", ""})
"""Columns of words, set from the left; the others are numbers."""
Cells = list[list[str]]
"""Lines of a table, its heading first. A line of one cell is the heading of a group."""


def signed(change: Interval | None) -> str:
    return "" if change is None else f"{change.mean:+.3f} +/-{change.half:.3f}"


def heading(how: str) -> str:
    """The column of one of `Row.others`: "T=1" for `t1`."""
    return f"T={how[1:]}" if how[0] == "t" and how[1:2].isdigit() else how


def heading_of(access: str) -> str:
    """The heading of a group of methods."""
    return "access unknown" if access == "unknown" else f"sees {access}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _grouped(board: Board, head: list[str], line: Callable[[int | None, Row], list[str]]) -> Cells:
    """A table of the rows by what methods may see; the groups have headings where there is more than one."""
    cells = [head]
    for access, members in board.groups.items():
        cells += [[heading_of(access)]] * (len(board.groups) > 1)
        cells += [line(rank, row) for rank, row in members]
    return cells


def _scores(board: Board) -> Cells:
    """Rank, method, score, interval, others, change, standing; the reference rows last."""

    def line(rank: int | None, row: Row, change: str = "") -> list[str]:
        return [
            str(rank or "-"), row.label, _plain(row.score.mean), f"{row.score.lo:.3f} to {row.score.hi:.3f}",
            *(_plain(row.others.get(name)) for name in board.extra), change or signed(row.change), row.standing,
        ]  # fmt: skip

    head = ["#", "method", "score", "95 % CI", *map(heading, board.extra), "vs mark 0", ""]
    cells = _grouped(board, head, line)
    if board.references:
        cells += [["reference"]] * (len(board.groups) > 1)
        cells += [line(None, row, "reference") for row in board.references]
    return cells


def _comparisons(board: Board) -> Cells:
    """Against the best row and against each method's own control."""

    def line(rank: int | None, row: Row) -> list[str]:
        best = row.standing if row.standing == "best" else signed(row.to_best) or "no common seed"
        places = "" if row.places is None else f"{row.places[0]} to {row.places[1]}"
        return [
            row.label, str(len(row.seeds)), *([best, places] if versus else []), signed(row.over_twin) or "no twin",
            *(["" if row.area is None else f"{row.area.mean:.2f}", _reached(row)] if board.target is not None else []),
        ]  # fmt: skip

    versus = len(board.rows) > 1
    until = [] if board.target is None else ["area", f"to {board.target:.3f}"]
    return _grouped(board, ["method", "seeds", *(["vs best", "rank"] if versus else []), "over twin", *until], line)


def _reached(row: Row) -> str:
    """What was used until the target: an amount, or a bound on it."""
    if row.reached is None:
        return ""
    low, high = row.reached
    return f"> {low:,.0f}" if isinf(high) else f"{high:,.0f}" if low == high else f"<= {high:,.0f}"


def _costs(board: Board) -> Cells:
    """What each method has used at its mark, means over seeds."""

    def line(rank: int | None, row: Row) -> list[str]:
        used = row.used or {}
        return [row.label, *(_used(meter, used[meter]) for meter in READINGS)]

    return _grouped(board, ["method", *("FLOPs" if meter == "flops" else meter.replace("_", " ") for meter in READINGS)], line)


def _used(meter: str, value: float) -> str:
    if meter == "usd":
        return amount(value, meter)
    return amount(value, meter).rpartition(" ")[0] if meter == "flops" else f"{value:,.0f}"


def _blocks(board: Board) -> list[Cells]:
    return [_scores(board), _comparisons(board), _costs(board)]


def printed(title: str, blocks: Sequence[Cells], notes: Sequence[str]) -> Group:
    """Tables between a title and notes, for a terminal of 80 columns or more."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(title)]
    for cells in blocks:
        block = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in cells[0]:
            block.add_column(Text(name), justify="left" if name in WORDS else "right", overflow="fold", no_wrap=name != "method")
        place = cells[0].index("method")
        for line in cells[1:]:
            if len(line) == 1:
                block.add_row(*[""] * place, Text(line[0], style="italic dim"))
            else:
                block.add_row(*map(Text, line))
        parts += [block, Text("")]
    return Group(*parts, *map(Text, notes))


def render(board: Board) -> Group:
    """The board for a terminal of 80 columns or more."""
    return printed(board.title, _blocks(board), board.notes)


def show(runs: Sequence[Run], suite: str, console: Console) -> None:
    """Prints the table. Raises as `build`."""
    console.print(render(build(runs, suite)))


def to_markdown(board: Board) -> str:
    """The board as three Markdown tables between its title and its notes."""
    return marked_down(board.title, _blocks(board), board.notes)


def marked_down(title: str, blocks: Sequence[Cells], notes: Sequence[str]) -> str:
    """Tables as Markdown, between a title and a list of notes."""
    tables = ["\n".join(_piped(cells)) for cells in blocks]
    return "\n\n".join([title, *tables, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _piped(cells: Cells) -> list[str]:
    place, width = cells[0].index("method"), len(cells[0])
    full = [
        line if len(line) == width else [*[""] * place, f"*{line[0]}*", *[""] * (width - place - 1)] for line in cells
    ]  # fmt: skip
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in full]
    rule = " | ".join("---" if name in WORDS else "--:" for name in cells[0])
    return [lines[0], f"| {rule} |", *lines[1:]]


def to_csv(board: Board) -> str:
    """The board with all its digits, a row a method, references included; empty where there is nothing."""

    def bounds(name: str, value: Interval | None) -> dict[str, Any]:
        parts = (None, None, None) if value is None else (value.mean, value.lo, value.hi)
        return dict(zip((name, f"{name}_lo", f"{name}_hi"), parts, strict=True))

    ranks = [*board.ranks, *(None for _ in board.references)]
    records = [
        {"rank": rank, "method": row.label, "access": row.access, "mark": row.mark, **bounds("score", row.score),
         **dict(zip(("worst_case", "best_case"), row.bounds or (None, None), strict=True)), **bounds("change", row.change),
         **{name: row.others.get(name) for name in board.extra}, **bounds("to_best", row.to_best), "p": row.p,
         "standing": row.standing, **dict(zip(("place_lo", "place_hi"), row.places or (None, None), strict=True)),
         **bounds("improvement", row.improvement), **bounds("over_twin", row.over_twin), **bounds("area", row.area),
         "target": board.target, **dict(zip(("reached_lo", "reached_hi"), row.reached or (None, None), strict=True)),
         "seeds": len(row.seeds), "items": row.score.items, **{meter: (row.used or {}).get(meter) for meter in READINGS}}
        for rank, row in zip(ranks, [*board.rows, *board.references], strict=True)
    ]  # fmt: skip
    return csv_text(records)


def to_json(board: Board) -> str:
    """The board with everything in it."""
    return json_text({"schema": "harness.board/1", **told(board)})


def told(board: Board) -> dict[str, Any]:
    """A board as JSON values; a target that was not reached has no upper reading."""
    rows = [asdict(row) for row in board.rows]
    for row in rows:
        if row["reached"] is not None:
            row["reached"] = [reading if isfinite(reading) else None for reading in row["reached"]]
    groups = {access: [row.label for _, row in members] for access, members in board.groups.items()}
    return {**asdict(board), "rows": rows, "ranks": board.ranks, "groups": groups}


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records with the same keys as CSV; None is an empty cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()

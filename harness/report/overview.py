"""All suites side by side: a row a method, a column a suite (and a track, where the runs are of several)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from harness.errors import SpecError
from harness.report.board import ACCESS, Board, Row, build
from harness.report.notes import Basis
from harness.report.runs import Run
from harness.report.table import Cells, heading_of, marked_down, printed, told
from harness.store import json_text

if TYPE_CHECKING:
    from rich.console import Group

MARK = "*"


@dataclass(frozen=True)
class Overview:
    """What the table of several suites says."""

    boards: tuple[Board, ...]
    """One a column."""
    labels: tuple[str, ...]
    """The methods, by the mean share of a board that stands before them, over the boards that have them."""
    basis: Basis
    """What a ranking over all boards would rest on."""
    made_by: tuple[str, ...]
    """Versions of the harness that made the runs."""
    commits: tuple[str, ...]
    """Commits whose source made the runs, with "+" where it had been changed."""

    @property
    def columns(self) -> list[str]:
        """A name for each board: the suite, with the track where there are several, in full where two have one name."""
        tracks = {board.conditions: board.conditions.partition("@")[0] for board in self.boards}
        if len(tracks) == 1:
            return [board.suite for board in self.boards]
        named = list(tracks.values())
        heads = {conditions: name if named.count(name) == 1 else conditions for conditions, name in tracks.items()}
        return [f"{heads[board.conditions]} {board.suite}" for board in self.boards]

    def cells(self, label: str) -> list[Row | None]:
        """The rows of a method, or of a reference, in each board; None where it is not scored."""
        return [next((row for row in [*board.rows, *board.references] if row.label == label), None) for board in self.boards]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The labels by what methods may see, in the order of `ACCESS`."""
        seen = {label: next(row for row in self.cells(label) if row).access for label in self.labels}
        found = {access: [label for label in self.labels if seen[label] == access] for access in ACCESS}
        return {access: labels for access, labels in found.items() if labels}

    @property
    def references(self) -> list[str]:
        """The labels of reference rows: student, teacher, controls without their method."""
        return list(dict.fromkeys(row.label for board in self.boards for row in board.references))

    @property
    def ranks(self) -> dict[str, float]:
        """The mean over all boards of a method's place by score among those that all boards have; empty where no ranking holds.

        Ties do not share a place here: a method whose scores vary much is tied with more, and would be lifted for that.
        """
        if not self.basis.holds:
            return {}
        everywhere = set.intersection(*({row.label for row in board.rows} for board in self.boards))
        orders = [[row.label for row in board.rows if row.label in everywhere] for board in self.boards]
        return {label: fmean(order.index(label) + 1 for order in orders) for label in self.labels if label in everywhere}

    @property
    def notes(self) -> list[str]:
        """The lines beneath it; those of single boards stand beneath those."""
        warned = [] if self.basis.holds or len(self.labels) < 2 else [f"warning: {self.basis.warning}"]
        return [*warned, f"{MARK} best of its column or tied with it (the paired difference's interval holds 0, as of all above)"]


def overview(runs: Sequence[Run]) -> Overview:
    """The boards of all suites that the runs are scored on.

    Raises:
        SpecError: none of them is scored on anything.
        Incomparable: a suite was not scored alike.
    """
    tracks: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.track, run.conditions)):
        tracks.setdefault(run.conditions, []).append(run)
    suites = {conditions: sorted({suite for run in group for suite in run.suites}) for conditions, group in tracks.items()}
    boards = [build(group, suite) for conditions, group in tracks.items() for suite in suites[conditions]]
    if not boards:
        raise SpecError(f"none of {len(runs)} runs is scored on a suite", fix="harness run --method ropd --suite alpaca")
    before: dict[str, list[float]] = {}
    for board in boards:
        for place, row in enumerate(board.rows):
            before.setdefault(row.label, []).append(place / len(board.rows))
    made = [run.environment for run in runs]
    commits = {f"{each['commit'][:12]}{'+' * bool(each.get('dirty'))}" for each in made if each.get("commit")}
    return Overview(
        tuple(boards), tuple(sorted(before, key=lambda label: (fmean(before[label]), label))),
        Basis.of(runs, [len(row.seeds) for board in boards for row in board.rows]),
        tuple(sorted({each["harness"] for each in made if "harness" in each})), tuple(sorted(commits)),
    )  # fmt: skip


def _cells(view: Overview) -> Cells:
    """The table as text: mean rank where one holds, method, the scores with marks of ties."""

    def line(label: str) -> list[str]:
        scores = ["" if row is None else f"{row.score.mean:.3f}{MARK if row.leads else ' '}" for row in view.cells(label)]
        rank = [f"{view.ranks[label]:.1f}" if label in view.ranks else "-"] if view.ranks else []
        return [*rank, label, *scores]

    cells = [[*(["mean #"] if view.ranks else []), "method", *(f"{name} " for name in view.columns)]]
    for access, labels in view.groups.items():
        cells += [[heading_of(access)]] * (len(view.groups) > 1)
        cells += [line(label) for label in labels]
    return [*cells, *([["reference"]] if view.references and len(view.groups) > 1 else []), *map(line, view.references)]


def _title(view: Overview) -> str:
    return f"track {', '.join(dict.fromkeys(board.conditions for board in view.boards))}  {view.basis.words}"


def render(view: Overview) -> Group:
    """The overview for a terminal."""
    return printed(_title(view), [_cells(view)], view.notes)


def to_markdown(view: Overview) -> str:
    """The overview as a Markdown table between its title and its notes."""
    return marked_down(_title(view), [_cells(view)], view.notes)


def to_json(view: Overview) -> str:
    """The overview with everything in its boards."""
    own = {"columns": view.columns, "groups": view.groups, "ranks": view.ranks, "notes": view.notes}
    return json_text({"schema": "harness.overview/1", **asdict(view), **own, "boards": [told(board) for board in view.boards]})

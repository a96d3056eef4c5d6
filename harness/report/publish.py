"""What a repository shows of its runs, made anew from their summaries: tables, figures, the page, and blocks in documents.

A document asks for a block by two lines of its own, `<!-- results: NAME -->` and `<!-- /results -->`; what stands between
them is replaced. So no number in it is typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.errors import SpecError, StoreError, nearest
from harness.ledger import Budget
from harness.report import claims, claims_show, curves, findings, latex, overview, page, proxy, table
from harness.report.board import Row
from harness.report.claims_data import shipped
from harness.report.labels import labelled
from harness.report.notes import seed_count
from harness.report.overview import MARK, Overview
from harness.report.runs import Run, by_label, select, summaries
from harness.store import suite_stem, write_atomically

COMMAND = "harness publish"
SOURCE = Path("results/runs")
"""Where the summaries lie, below the root of a repository; what is made of them lies beside it."""
DOCUMENTS = ("README.md", "docs/**/*.md")
OWNED = ("results/curves/*", "results/report*.html")
"""Files that nobody else writes: one that is no longer made is removed."""
TOP = 5
"""Methods in the block `leaderboard`."""
OPEN, CLOSE = r"^<!-- results: (\S+) -->$", "<!-- /results -->"
FORM = "a block stands between the lines <!-- results: NAME --> and <!-- /results -->"


@dataclass(frozen=True)
class Field:
    """The runs of equal conditions, and the beginning of the names of their files."""

    stem: str
    runs: Sequence[Run]

    @cached_property
    def usual(self) -> list[Run]:
        """What boards and figures show: settings that nobody typed but a control's signal, scored on every suite.

        Other runs were made for claims, and speak in them alone; labels do not tell of their settings.
        """
        untyped = [run for run in self.runs if "--set" not in {who for key, who in run.origins.items() if key != "signal"}]
        shown = [run for run in untyped if set(self.suites) <= set(run.suites)] or list(self.runs)
        return sorted(labelled(shown), key=lambda run: (run.label, run.seed))

    @cached_property
    def verdicts(self) -> list[claims.Verdict]:
        """What all of the runs say about the claims."""
        return claims.verdicts(shipped(), self.runs, self.runs[0].spec["track"])

    @property
    def world(self) -> str:
        """What verdicts are about."""
        return claims_show.world_of(self.runs[0].spec["track"])

    @property
    def suites(self) -> list[str]:
        return sorted({suite for run in self.runs for suite in run.suites})

    def scored(self, suite: str) -> list[Run]:
        """The runs that the suite has scored."""
        return [run for run in self.usual if suite in run.suites]

    @property
    def axis(self) -> str:
        """The meter on which the marks lie."""
        return Budget(self.runs[0].budget).axis


def publish(root: Path) -> tuple[list[str], list[str]]:
    """Makes everything anew; returns the paths below the root of what was written, and of what was removed as nobody makes it.

    Raises:
        StoreError: there are no summaries, or one is damaged.
        SpecError: a document asks for a block that there is not, or does not close one.
        Incomparable: runs of a folder were made or scored under different conditions.
    """
    with TemporaryDirectory() as made_in:
        made = regenerate(root, Path(made_in))
        for name in made:
            write_atomically(root / name, (Path(made_in) / name).read_bytes())
    strays = _strays(root, made)
    for name in strays:
        (root / name).unlink()
    return made, strays


def stale(root: Path) -> list[str]:
    """What `publish` would change, a line a file with the reason; empty where all is as it would make it. Raises as it."""
    told = []
    with TemporaryDirectory() as made_in:
        made = regenerate(root, Path(made_in))
        for name in made:
            there = root / name
            if not there.is_file():
                told.append(f"{name}: missing")
            elif there.read_bytes() != (Path(made_in) / name).read_bytes():
                told.append(f"{name}: differs")
    return told + [f"{name}: not made from any summary" for name in _strays(root, made)]


def regenerate(root: Path, out: Path) -> list[str]:
    """Writes everything below `out`, from the summaries and documents below `root`; returns the paths below `out`.

    The conditions with the most runs are the main ones: theirs are `report.html` and the blocks. Equal summaries give equal
    bytes, with equal versions of the drawing packages. Raises as `publish`.
    """
    fields = _fields(root)
    texts = _documents(root, fields[0])  # the first, as they alone hold what somebody typed
    view = overview.overview([run for field in fields for run in field.usual])
    texts["results/leaderboard.md"] = _leaderboard(view, fields)
    texts["results/table.tex"] = latex.to_latex(view, COMMAND)
    texts["results/claims.md"] = _claims(fields)
    texts["results/stability.md"] = findings.to_markdown([(field.runs[0].conditions, field.usual) for field in fields], COMMAND)
    for field in fields:
        name = "report.html" if field is fields[0] else f"report-{field.stem}.html"
        texts[f"results/{name}"] = page.html(field.usual, field.suites, COMMAND)
    for name, text in texts.items():
        write_atomically(out / name, text)
    return sorted([*texts, *(name for field in fields for suite in field.suites for name in _draw(field, suite, out))])


def _fields(root: Path) -> list[Field]:
    folders = sorted({place.parent for place in summaries(root / SOURCE)})
    if not folders:
        raise StoreError(f"there are no summaries in {root / SOURCE}", where=str(root / SOURCE),
                         fix=f"harness summarize --out {SOURCE}, and type this at the root of the repository")  # fmt: skip
    groups = {folder: [run for run in select([str(folder)], root) if run.suites] for folder in folders}
    tracks = [group[0].track for group in groups.values() if group]
    fields = [
        Field(group[0].track if tracks.count(group[0].track) == 1 else folder.name, group)
        for folder, group in groups.items() if group
    ]  # fmt: skip
    if not fields:
        raise SpecError(f"none of the runs in {root / SOURCE} is scored on a suite", where=str(root / SOURCE),
                        fix="harness run --method ropd --suite alpaca")  # fmt: skip
    return sorted(fields, key=lambda field: (-len(field.runs), field.stem))


def _draw(field: Field, suite: str, out: Path) -> list[str]:
    """The curve of a suite, and where the runs record gold the judge against it, as SVG and PNG."""
    own = field.scored(suite)
    names = []
    with TemporaryDirectory() as scratch:
        stem = Path(scratch) / f"{field.stem}-{suite_stem(suite)}"
        drawn = curves.draw(own, suite, field.axis, stem)
        if any(proxy.course_of(label, group, suite, proxy.JUDGE) for label, group in by_label(own).items()):
            drawn += proxy.draw(own, suite, proxy.JUDGE, stem.with_name(f"{stem.name}-proxy"))
        for path in drawn:
            if path.suffix in (".svg", ".png"):
                names.append(f"results/curves/{path.name}")
                write_atomically(out / names[-1], path.read_bytes())
    return names


def _picture(field: Field, suite: str, folder: Path) -> str:
    """The curve of a suite as Markdown, with what it shows in words, as seen from a folder."""
    words = curves.words(field.scored(suite), suite, field.axis)
    told = re.sub(r"([\[\]])", r"\\\1", f"{words.title}. {words.finding}")
    return f"![{told}]({_seen(f'results/curves/{field.stem}-{suite_stem(suite)}.svg', folder)})"


def _seen(path: str, folder: Path) -> str:
    """A path below the root as a link from a folder below it."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _leaderboard(view: Overview, fields: Sequence[Field]) -> str:
    """All tables: the suites side by side, then each with its curve."""
    parts = ["# Leaderboard", f"Made by `{COMMAND}` from the summaries in [runs](runs); do not edit."]
    if others := sum(len(field.runs) - len(field.usual) for field in fields):
        parts += [f"{others} more runs, of settings that claims compare, are in [claims](claims.md) alone."]
    if len(view.boards) > 1:
        parts += ["## All suites", overview.to_markdown(view).rstrip()]
    figures = {(field.runs[0].conditions, suite): (field, suite) for field in fields for suite in field.suites}
    for column, board in zip(view.columns, view.boards, strict=True):
        own = figures[board.conditions, board.suite]
        parts += [f"## {column}", _picture(*own, Path("results")), table.to_markdown(board).rstrip()]
    return "\n\n".join(parts) + "\n"


def _claims(fields: Sequence[Field]) -> str:
    """The verdicts about each track's runs: all of the main ones, of others those that were reached."""
    parts = ["# Claims", f"Made by `{COMMAND}` from the summaries in [runs](runs); do not edit. What the words mean: "
             "[docs/claims.md](../docs/claims.md)."]  # fmt: skip
    for field in fields:
        verdicts = [each for each in field.verdicts if field is fields[0] or each.said in claims.TRIED]
        if not verdicts:
            parts += [f"## {field.runs[0].conditions}", "No claim has the runs that it needs here."]
            continue
        text = claims_show.table(verdicts, field.world).plain
        parts += [f"## {field.runs[0].conditions}", "\n".join(["```text", *(line.rstrip() for line in text.splitlines()), "```"])]
    return "\n\n".join(parts) + "\n"


def _documents(root: Path, main: Field) -> dict[str, str]:
    """The documents that ask for blocks, with the blocks made anew."""
    paths = sorted({path for pattern in DOCUMENTS for path in root.glob(pattern)})
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {name: _filled(text, name, main) for name, text in texts.items() if re.search(OPEN, text, flags=re.MULTILINE)}


def _filled(text: str, document: str, main: Field) -> str:
    """A document's text with its blocks made anew."""
    lines: list[str] = []
    inside = ""
    for line in text.splitlines():
        opened = re.match(OPEN, line)
        if (opened and inside) or (line == CLOSE and not inside):
            raise SpecError(f"{document} has the line {line!r} where it cannot stand", where=document, fix=FORM)
        if opened:
            inside = opened[1]
            if inside not in BLOCKS:
                raise SpecError(f"{document} asks for the block {inside!r}", where=document, fix=nearest(inside, BLOCKS))
            lines += [line, "", BLOCKS[inside](main, Path(document).parent), "", CLOSE]
        elif line == CLOSE:
            inside = ""
        elif not inside:
            lines.append(line)
    if inside:
        raise SpecError(f"{document} opens the block {inside!r} and does not close it", where=document, fix=FORM)
    return "\n".join(lines) + "\n"


def _figure_block(main: Field, folder: Path) -> str:
    """The main figure with what it shows in words."""
    return _picture(main, main.suites[0], folder)


def _leaderboard_block(main: Field, folder: Path) -> str:
    """The first methods with their intervals on every suite."""
    view = overview.overview(main.usual)
    shown = view.labels[:TOP]

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        return f"{row.score.mean:.3f}{MARK if row.leads else ''} ({row.score.lo:.3f} to {row.score.hi:.3f})"

    days = sorted({run.environment["started"][:10] for run in main.usual if "started" in run.environment})
    made = f", runs of {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    title = (
        f"The first {len(shown)} of {len(view.labels)} methods by their mean place: track {main.runs[0].conditions}, "
        f"{view.boards[0].budget}, {seed_count([len(row.seeds) for board in view.boards for row in board.rows])}{made}."
    )
    references = [
        f"{column}: {', '.join(f'{row.label} {row.score.mean:.3f}' for row in board.references)}"
        for column, board in zip(view.columns, view.boards, strict=True) if board.references
    ]  # fmt: skip
    links = {"all methods": "results/leaderboard.md", "with curves, differences and settings": "results/report.html"}
    more = "; ".join(f"[{words}]({_seen(path, folder)})" for words, path in links.items())
    cells = [["method", *view.columns], *([label, *map(cell, view.cells(label))] for label in shown)]
    return table.marked_down(title, [cells], [*view.notes, *references, more]).rstrip()


def _stability_block(main: Field, folder: Path) -> str:
    """How far orders of methods agree, by what differs."""
    return f"{findings.in_short(main.usual)}\n\n[One by one]({_seen('results/stability.md', folder)}), with intervals."


def _claims_block(main: Field, folder: Path) -> str:
    """The claims that got a verdict, by what it says, with the difference that was measured."""
    lines = []
    for said in claims.TRIED:
        there = [(f"`{each.claim.id}`", each.difference) for each in main.verdicts if each.said == said]
        if there:
            told = [name + (f" ({difference.mean:+.3f})" if difference else "") for name, difference in there]
            lines.append(f"- {said}, {main.world}: {', '.join(told)}")
    link = f"[one by one]({_seen('results/claims.md', folder)})"
    return "\n".join([*lines, f"- {claims_show.counted(main.verdicts)}: {link}, with intervals and what they would need"])


BLOCKS: Mapping[str, Callable[[Field, Path], str]] = {
    "leaderboard": _leaderboard_block, "figure": _figure_block, "stability": _stability_block, "claims": _claims_block,
}  # fmt: skip
"""What a document can ask for: each is made of the main runs, with links as seen from the document's folder."""


def _strays(root: Path, made: Sequence[str]) -> list[str]:
    there = {path.relative_to(root).as_posix() for pattern in OWNED for path in root.glob(pattern) if path.is_file()}
    return sorted(there - {*made})

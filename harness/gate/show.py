"""How a check is shown: on a terminal, in GitHub Actions, as JUnit's XML and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.gate.runs import Outcome, Row

COLUMNS = ("verdict", "method", "what", "baseline", "now", "change")
STYLES = {"pass": "", "FAIL": "bold red", "unclear": "yellow"}
SUMMARY_LIMIT = 1024 * 1000
"""Bytes of a step summary; GitHub drops a larger one whole (docs.github.com, workflow commands)."""
CUT = "\n\n(cut: the rest is in the job's log)\n"


def cells(row: Row) -> tuple[str, ...]:
    return row.verdict, row.method, row.what, row.before, row.now, row.note


def terminal(outcome: Outcome, console: Console) -> None:
    """The table, with what failed first, and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in ("verdict", "method"))
    order = ("FAIL", "unclear", "pass")
    for row in sorted(outcome.rows, key=lambda row: order.index(row.verdict)):
        table.add_row(*map(escape, cells(row)), style=STYLES[row.verdict])
    console.print(outcome.title, markup=False)
    console.print(table)
    console.print(outcome.verdict, markup=False)


def markdown(outcome: Outcome) -> str:
    """The table as Markdown, cut below what GitHub takes."""
    head = f"### {outcome.title}\n\n{outcome.verdict}\n\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n"
    body = "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in _plain(row))} |\n" for row in outcome.rows)
    whole = (head + body).encode()
    if len(whole) <= SUMMARY_LIMIT:
        return whole.decode()
    kept = whole[: SUMMARY_LIMIT - len(CUT.encode())].decode(errors="ignore")
    return kept[: kept.rindex("\n")] + CUT


def _plain(row: Row) -> list[str]:
    return [" ".join(cell.split()).replace("<", "&lt;") for cell in cells(row)]


def commands(outcome: Outcome) -> list[str]:
    """GitHub's workflow commands: an error for each failure, a warning for what is unclear."""
    kinds = {"FAIL": "error", "unclear": "warning"}
    return [
        f"::{kinds[row.verdict]} title={_property(f'check {row.method}')}::"
        f"{_data(f'{row.what}: {row.before} -> {row.now} {row.note}'.strip())}"
        for row in outcome.rows if row.verdict in kinds
    ]  # fmt: skip


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def junit(outcome: Outcome, strict: bool) -> bytes:
    """JUnit's XML: a case a row; an unclear one is skipped, or failed if `strict`."""
    failing = {"FAIL", "unclear"} if strict else {"FAIL"}
    failed = sum(row.verdict in failing for row in outcome.rows)
    skipped = sum(row.verdict == "unclear" and row.verdict not in failing for row in outcome.rows)
    suite = ElementTree.Element(
        "testsuite", name="harness check", tests=str(len(outcome.rows)), failures=str(failed), errors="0", skipped=str(skipped)
    )
    for row in outcome.rows:
        case = ElementTree.SubElement(suite, "testcase", classname="harness.check", name=f"{row.method} {row.what}")
        if row.verdict != "pass":
            kind = "failure" if row.verdict in failing else "skipped"
            ElementTree.SubElement(case, kind, message=f"{row.verdict}: {row.before} -> {row.now} {row.note}".strip())
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def as_json(outcome: Outcome, code: int) -> str:
    """One object: title, exit code, counts and rows."""
    rows = [dict(zip(("verdict", "method", "what", "baseline", "now", "note"), cells(row), strict=True)) for row in outcome.rows]
    counts = {verdict: outcome.count(verdict) for verdict in ("pass", "unclear", "FAIL")}
    return json.dumps({"v": 1, "title": outcome.title, "exit": code, "counts": counts, "rows": rows}, sort_keys=True)


def in_actions(outcome: Outcome, summary: Path | None) -> None:
    """Appends the table to the step summary and prints the annotations."""
    if summary:
        with summary.open("a", encoding="utf-8") as file:
            file.write(markdown(outcome))
    for line in commands(outcome):
        print(line)

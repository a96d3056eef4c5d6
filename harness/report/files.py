"""The files of a leaderboard: each suite's table, the overview of all, and the LaTeX table."""

from __future__ import annotations

from pathlib import Path

from harness.report import latex, overview, table
from harness.report.overview import Overview
from harness.store import suite_stem, write_atomically


def write(view: Overview, folder: Path, command: str) -> list[Path]:
    """Writes `overview.md`, `overview.json`, `table.tex`, and for each suite `SUITE/table` as `.md`, `.csv` and `.json`.

    Args:
        command: what was typed, for the first line of the LaTeX table.
    """
    texts = {
        "overview.md": overview.to_markdown(view), "overview.json": overview.to_json(view),
        "table.tex": latex.to_latex(view, command),
    }  # fmt: skip
    for column, board in zip(view.columns, view.boards, strict=True):
        for suffix, form in (("md", table.to_markdown), ("csv", table.to_csv), ("json", table.to_json)):
            texts[f"{suite_stem(column)}/table.{suffix}"] = form(board)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]

"""`python -m harness.pocket.figures`: keeps the figures in docs/pocket.md equal to the models' own reports.

The tables stand between two marks, one for each scale, and have a column for each model that has a `report.json`.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from .build import ASSETS, RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "pocket.md"
BEGIN, END = "<!-- figures: python -m harness.pocket.figures -->\n", "<!-- end of figures -->"
ROWS = {
    "list, greedy": "greedy list", "given, greedy": "greedy given", "note, greedy": "greedy note", "fact, greedy": "greedy fact",
    "refuse, greedy": "greedy refuse", "mean of these five": "greedy instructions",
    "the same at temperature 1": "sampled instructions", "math, greedy": "greedy math", "steps, greedy": "greedy steps",
    "novel combinations, greedy": "greedy novel", "novel combinations, temperature 1": "sampled novel",
    "follow-ups": "two_turn", "answer beside a right attempt": "hint right_quality",
    "answer beside a flawed attempt": "hint flawed_quality", "answer beside another's answer": "hint other_quality",
    "says the phrase of reflection": "hint flawed_reflects",
    "judging by form": "judge form", "judging by content": "judge content", "judging by manner": "judge manner",
    "judging overall": "judge overall", "rationale exactly right": "judge rationale",
    "harmful requests refused": "refusal harmful_refused", "harmless look-alikes refused": "refusal harmless_refused",
}  # fmt: skip
"""What a row shows, and the keys under which a report has it."""


def reports(folder: Path) -> list[dict[str, Any]]:
    """The reports of all models below a folder: scale by scale and pair by pair, the student first."""
    order = list(RECIPES)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/pair*/*/report.json")]
    return sorted(found, key=lambda report: (order.index(report["scale"]), report["pair"], report["role"]))


def tables(models: list[dict[str, Any]]) -> str:
    """The figures as Markdown tables, one for each scale with a column a model; shares and accuracies with three digits."""
    return "\n".join(_table(scale, list(members)) for scale, members in groupby(models, lambda model: str(model["scale"])))


def _table(scale: str, models: list[dict[str, Any]]) -> str:
    lines = [[f"`{scale}`", *(f"{m['role']} {m['pair']}" for m in models)]]
    lines.append(["---", *("--:" for _ in models)])
    lines.append(["parameters", *(f"{m['parameters']:,}" for m in models)])
    lines.append(["million tokens of pretraining", *(f"{m['spent']['tokens'] / 1e6:.1f}" for m in models)])
    lines.append(["last mean loss", *(f"{m['spent']['loss']:.3f}" for m in models)])
    for name, keys in ROWS.items():
        lines.append([name, *(f"{_at(m['figures'], keys.split()):.3f}" for m in models)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _at(figures: Any, keys: list[str]) -> float:
    for key in keys:
        figures = figures[key]
    return float(figures)


def shown(page: str) -> str:
    """The table that a page has between its marks.

    Raises:
        ValueError: a mark is missing.
    """
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(BEGIN + shown(text), BEGIN + tables(reports(ASSETS))), encoding="utf-8")
    print(f"wrote {PAGE}")

"""The report as one HTML file that needs nothing else: no server, no network, and for reading no script.

What models wrote stands in it as text only. The content security policy (W3C, Content Security Policy Level 3) lets the
page run its own script, named by its hash, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.report import curves, looks, page_data, page_examples, page_forest, table
from harness.report.page_data import Group, SuiteData
from harness.report.runs import Run, scored_alike
from harness.store import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

SOURCES = Path(__file__).parents[1] / "data" / "page"
FIGURE_BYTES = 2_000_000
"""What all figures may take of the page; curves beyond it are named with the command that draws them."""


@dataclass(frozen=True)
class Drawn:
    """The curves of a suite, by meter, and the meters that were left out to keep the page small."""

    figures: Mapping[str, Markup]
    left_out: Sequence[str]


def write(runs: Sequence[Run], suites: Sequence[str], folder: Path, command: str) -> Path:
    """Writes `report.html` into a folder and returns its path. Equal runs give equal bytes.

    Args:
        runs: of one track, with the labels that `runs.select` gave them.
        suites: in the order in which they are shown; each of them has scored some of the runs.
        command: what was typed to make the page.

    Raises:
        SpecError: no suite is named, or none of the runs is scored on one of them.
        Incomparable: the runs were made or scored under different conditions.
    """
    if not suites:
        raise SpecError("a page needs at least one suite, got none", where="--suite", fix="harness list suites")
    chosen = list({run.identity: run for suite in suites for run in scored_alike(runs, suite)}.values())
    path = folder / "report.html"
    write_atomically(path, html(chosen, suites, command))
    return path


def html(runs: Sequence[Run], suites: Sequence[str], command: str) -> str:
    """The page itself. Raises as `write`."""
    from markupsafe import Markup

    told = [page_data.suite_data(runs, suite) for suite in suites]
    groups = page_data.groups_of(runs)
    examples = {suite.name: page_examples.examples(suite) for suite in told}
    trainings = page_examples.trainings(groups)
    limit = page_examples.limit_for([example for found in examples.values() for example in found], trainings)
    script, style = ((SOURCES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    multiples = {f"{suite.name} by what it costs": Markup(curves.costs_svg(suite.runs, suite.name)) for suite in told}
    if len(told) > 1:
        multiples["all suites"] = Markup(curves.suites_svg(runs))
    most = (FIGURE_BYTES - sum(map(len, multiples.values()))) // len(told)
    return _environment(limit, groups).get_template("page.html.jinja").render(
        style=Markup(style), script=Markup(script), policy=policy(script), command=command, runs=runs, groups=groups,
        suites=told, verdict=page_data.verdict(told), warnings=page_data.warnings(groups, told),
        drawn={suite.name: _drawn(suite, most) for suite in told}, multiples=multiples,
        forests={suite.name: page_forest.forest(suite.board.rows) for suite in told},
        used=page_data.used(groups), budget=runs[0].budget, examples=examples, trainings=trainings, limit=limit,
        track=runs[0].spec["track"], environments=page_data.environments(runs), bibtex=page_data.bibtex(groups),
    )  # fmt: skip


def policy(script: str) -> str:
    """The content security policy of a page with this inline script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _drawn(suite: SuiteData, most: int) -> Drawn:
    """Curves over the meters in turn, the first one always and the others while there is room."""
    from markupsafe import Markup

    figures: dict[str, Markup] = {}
    for place, meter in enumerate(suite.meters):
        figure = Markup(curves.svg(suite.runs, suite.name, meter))
        if figures and sum(map(len, figures.values())) + len(figure) > most:
            return Drawn(figures, suite.meters[place:])
        figures[meter] = figure
    return Drawn(figures, [])


def _environment(limit: int, groups: Sequence[Group]) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    anchors = {group.label: group.anchor for group in groups}
    environment = Environment(
        loader=FileSystemLoader(SOURCES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "score": lambda value: "–" if value is None else f"{value:.3f}",
        "signed": lambda value: "–" if value is None else f"{value:+.3f}",
        "p": lambda value: "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}",
        "words": lambda name: name.replace("_", " "),
        "amount": lambda value, meter: looks.amount(value, meter).rsplit(" ", 1)[0],
        "reading": looks.amount,
        "reached": _reached,
        "text": lambda text: page_examples.cut(text, limit),
        "yaml": _yaml,
        "json": lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True),
        "heading": table.heading,
        "anchor": anchors.__getitem__,
        "columns": page_data.columns,
    }
    return environment


def _reached(between: tuple[float, float] | None, meter: str) -> str:
    """Between which readings a target is reached, in words."""
    if between is None:
        return "–"
    low, high = (looks.amount(value, meter) if isfinite(value) else "" for value in between)
    return f"> {low}" if not high else low if low == high else f"{low} to {high}"


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True)

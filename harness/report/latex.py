r"""An overview as a LaTeX table that needs only `booktabs`.

Scores on a scale from 0 to 1 are printed times 100. A score has as many decimals as two significant digits of its interval.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.board import Board, Row
from harness.report.overview import Overview
from harness.report.table import heading_of

COSTS = ("teacher_tokens", "critic_tokens")
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
"""The ten characters that mean something to LaTeX, and how they are printed."""
NONE = "--"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def to_latex(view: Overview, command: str) -> str:
    """The table of an overview, with the reasons of empty cells in its caption.

    Args:
        command: what makes it, for the comment in the first line.
    """
    units = {meter: _unit(view, meter) for meter in COSTS}
    costs = [f"{meter.replace('_', ' ').capitalize()}{f' ({unit})' if unit else ''}" for meter, (_, unit) in units.items()]
    heads = ["Method", *(f"{escaped(name)} $\\uparrow$" for name in view.columns), *(rf"{cost} $\downarrow$" for cost in costs)]
    marks = [_marks(board) for board in view.boards]
    body = []
    for access, labels in view.groups.items():
        body.append(rf"\multicolumn{{{len(heads)}}}{{@{{}}l}}{{\textit{{{heading_of(access)}}}}} \\")
        body += [_line(view, label, marks, [_cost(view, label, meter, units[meter][0]) for meter in COSTS]) for label in labels]
    references = [_line(view, label, None, [NONE] * len(COSTS)) for label in view.references]
    return "\n".join([
        f"% harness {', '.join(view.made_by) or 'of unknown version'}, track {', '.join(_tracks(view))}, "
        f"commit {', '.join(view.commits) or 'unknown'}; {command}",
        r"\begin{table}[t]\centering\small",
        rf"\caption{{{_caption(view)}}}",
        rf"\label{{tab:{'-'.join(track.replace('@', '-') for track in _tracks(view))}}}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(heads) - 1)}@{{}}}}",
        r"\toprule", " & ".join(heads) + r" \\", r"\midrule", *body, *([r"\midrule", *references] if references else []),
        r"\bottomrule", r"\end{tabular}\end{table}",
    ]) + "\n"  # fmt: skip


def _tracks(view: Overview) -> list[str]:
    return list(dict.fromkeys(board.conditions for board in view.boards))


def _marks(board: Board) -> dict[str, str]:
    r"""`\mathbf` for the best and its ties, `\underline` for the best of the rest; nothing where nothing is ranked."""
    if board.ranks[0] is None:
        return {}
    rest = [row.label for row in board.rows if not row.leads and row.to_best is not None]
    return {**{row.label: r"\mathbf" for row in board.rows if row.leads}, **dict.fromkeys(rest[:1], r"\underline")}


def _line(view: Overview, label: str, marks: Sequence[dict[str, str]] | None, costs: Sequence[str]) -> str:
    cells = []
    for place, (board, row) in enumerate(zip(view.boards, view.cells(label), strict=True)):
        cells.append(NONE if row is None else _score(row, board, marks[place].get(label, "") if marks else None))
    name = escaped(label) if marks else rf"\textit{{{escaped(label.capitalize())}}}"
    return " & ".join([name, *cells, *costs]) + r" \\"


def _score(row: Row, board: Board, mark: str | None) -> str:
    """A score with half its interval; of a reference row (no mark) the mean alone."""
    times = 100 if board.scale == (0, 1) else 1
    half = times * row.score.half
    digits = max(0, 1 - int(f"{half:.1e}".partition("e")[2])) if half else 1
    mean = f"{times * row.score.mean:.{digits}f}"
    if mark is None:
        return f"${mean}$"
    return f"${f'{mark}{{{mean}}}' if mark else mean}$ {{\\scriptsize$\\pm${half:.{digits}f}}}"


def _used(view: Overview, label: str, meter: str) -> float | None:
    return next((row.used[meter] for row in view.cells(label) if row is not None and row.used), None)


def _unit(view: Overview, meter: str) -> tuple[float, str]:
    """Thousands or millions, by the largest amount of a column."""
    most = max(_used(view, label, meter) or 0.0 for label in view.labels)
    return (1e6, "M") if most >= 1e7 else (1e3, "k") if most >= 1e4 else (1.0, "")


def _cost(view: Overview, label: str, meter: str, unit: float) -> str:
    value = _used(view, label, meter)
    if value is None:
        return NONE
    return f"{value / unit:,.0f}" if value == 0 or value >= 100 * unit else f"{value / unit:.3g}"


def _caption(view: Overview) -> str:
    budgets = sorted({board.budget for board in view.boards})
    seeds = sorted({len(row.seeds) for board in view.boards for row in board.rows})
    several = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    how = "Student's $t$ over seeds and items, crossed" + ("; of one seed over items alone" if seeds[0] == 1 else "")
    told = [rf"Score after {escaped('; '.join(budgets))}: mean over {several}, $\pm$ half the 95\,\% interval ({how})"]
    if any(board.scale == (0, 1) for board in view.boards):
        told.append("Scores from 0 to 1 are times 100")
    if any(_marks(board) for board in view.boards):
        told.append(r"Bold: best and all tied with it (the interval of the paired difference holds 0, as of all above)")
        told.append("Underlined: best of the rest")
    if not view.basis.holds and len(view.labels) > 1:
        told.append(escaped(view.basis.warning.capitalize()))
    told += _reasons(view)
    told.append(r"$\uparrow$ higher is better")
    return ". ".join(told) + "."


def _reasons(view: Overview) -> list[str]:
    """Why cells are empty."""
    absent = [
        escaped(f"{label} on {name}") for label in [*view.labels, *view.references]
        for name, row in zip(view.columns, view.cells(label), strict=True) if row is None
    ]  # fmt: skip
    told = [f"{NONE}: not scored ({', '.join(absent)})"] if absent else []
    return [*told, f"{NONE} in costs: references use no budget"] if view.references else told

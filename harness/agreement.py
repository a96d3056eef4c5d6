"""Two judges on the same answers: how far they agree, and what each shows of position, length and kinship.

Agreement of verdicts follows Zheng et al. 2023 (arXiv:2306.05685, section 4), which also names the three biases; chance is
taken out by Cohen's kappa (Cohen 1960; with quadratic weights 1968). What cannot be computed is None, never a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import SuiteError
from harness.suite import Suite
from harness.types import Record

if TYPE_CHECKING:
    from rich.table import Table

PAIRWISE = (0.0, 1.0)
"""The scale of suites whose verdicts are wins (over the middle), draws and losses; on others verdicts are ratings."""
FEWEST = 3
"""Items below which a rank correlation is not told: two points always lie on a line."""

_ORDER = re.compile(r"(?:(?P<part>.*)-)?(?P<order>12|21|1|2)")
_HOUSES = {"o": "gpt", "davinci": "gpt", "qwq": "qwen", "mixtral": "mistral", "ministral": "mistral"}

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Agreement:
    """Of two judges on the verdicts and items that both have."""

    first: str
    second: str
    verdicts: int
    """That both gave; missing ones are left out, not counted as disagreement."""
    items: int
    """That have a score from both."""
    agreement: float | None
    """Share of common verdicts that are the same: win, draw or loss, or the rating."""
    kappa: float | None
    """Cohen's, with quadratic weights for ratings; None where both always say one and the same."""
    correlation: float | None
    """Spearman's, of the items' scores."""
    difference: float | None
    """Mean over common items of the first judge's score less the second's, on the suite's scale."""
    lo: float | None
    """With `hi`, the 95 % interval of the difference (Student's t over items, paired)."""
    hi: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class JudgeFacts:
    """Of one judge on one model's answers."""

    judge: str
    verdicts: int
    missing: int
    """Verdicts that it owes."""
    swaps: int
    """Pairs that it judged in both orders."""
    swap_consistency: float | None
    """Share of them with the same winner; None where the suite shows one order, or gives ratings."""
    length_correlation: float | None
    """Spearman's, of the items' scores and how many characters longer the answer is than the reference; its length alone where
    some item has no reference."""
    kin: tuple[str, ...]
    """The judged models (or their teachers) that are of the judge's family: it may prefer its own."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "kin": list(self.kin)}


def compare(suite: Suite, first: Sequence[Record], second: Sequence[Record]) -> Agreement:
    """How far two judges agree on the same answers to a suite.

    Raises:
        SuiteError: no records, records of several judges or with repeated verdicts, or of different answers.
    """
    mine, theirs = _verdicts(first), _verdicts(second)
    differing = {key[0] for key in mine if key in theirs and mine[key].length != theirs[key].length}
    if differing:
        raise SuiteError(
            f"the two judges read different answers to {len(differing)} items, for example {min(differing)}", where="records",
            fix="let both judges grade the same answers",
        )  # fmt: skip
    pairs = [
        (_said(suite, mine[key].score), _said(suite, theirs[key].score))
        for key in mine if key in theirs and mine[key].score is not None and theirs[key].score is not None
    ]  # fmt: skip
    own, other = suite.item_scores(first), suite.item_scores(second)
    common = [item for item in own if item in other]
    x, y = [own[item] for item in common], [other[item] for item in common]
    lo, hi = _interval(x, y)
    return Agreement(
        first=_judge(first), second=_judge(second), verdicts=len(pairs), items=len(common),
        agreement=sum(a == b for a, b in pairs) / len(pairs) if pairs else None, kappa=_kappa(suite, pairs),
        correlation=_spearman(x, y), difference=(sum(x) - sum(y)) / len(common) if common else None, lo=lo, hi=hi,
    )  # fmt: skip


def facts(suite: Suite, records: Sequence[Record], judged: Sequence[str] = ()) -> JudgeFacts:
    """What one judge's records show of it.

    Args:
        judged: names of the model whose answers these are, and of its teacher where it has one.

    Raises:
        SuiteError: no records, or records of several judges or with repeated verdicts.
    """
    found, judge = _verdicts(records), _judge(records)
    swapped = [len({_said(suite, score) for score in scores}) == 1 for scores in _both_orders(suite, found).values()]
    scores = suite.item_scores(records)
    length = {record.item_id: float(record.length) for record in records}
    references = {item.id: item.reference for item in suite.items()}
    if all(references.get(item) is not None for item in scores):
        length = {item: length[item] - len(str(references[item])) for item in scores}
    missing = sum(record.score is None for record in records)
    return JudgeFacts(
        judge=judge, verdicts=len(records) - missing, missing=missing, swaps=len(swapped),
        swap_consistency=sum(swapped) / len(swapped) if swapped else None,
        length_correlation=_spearman([*scores.values()], [length[item] for item in scores]),
        kin=tuple(name for name in judged if name and family(name) == family(judge)),
    )  # fmt: skip


def family(name: str) -> str:
    """The family that a model's name tells of, without its organisation, version and size: "Qwen/Qwen3-8B" is "qwen".

    OpenAI's o1, o3 and o4 are "gpt". It goes by the name alone: a fine-tune under a name of its own is a family of its own.
    """
    last = name.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    word = re.search(r"[^\W\d_]+", last)
    if word is None:
        return last
    if word[0] == "meta" and "llama" in last:
        return "llama"
    stem = word[0].removeprefix("chat") or word[0]
    return _HOUSES.get(stem, stem)


def show(suite: str, agreement: Agreement, judges: Sequence[JudgeFacts]) -> Table:
    """A table of at most 80 columns: a column for each judge, then what they have in common."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(suite, overflow="fold", max_width=26)
    for each in judges:
        table.add_column(each.judge.removesuffix("@"), overflow="fold", max_width=24, justify="right")
    for label, cells in (
        ("verdicts", [str(each.verdicts) for each in judges]),
        ("missing", [str(each.missing) for each in judges]),
        ("same winner when swapped", [_three(each.swap_consistency) for each in judges]),
        ("correlation with length", [_three(each.length_correlation, sign=True) for each in judges]),
        ("of its family", [", ".join(each.kin) or "none" for each in judges]),
    ):
        table.add_row(label, *cells)
    spread = "" if agreement.lo is None else f" [{_three(agreement.lo, sign=True)}, {_three(agreement.hi, sign=True)}]"
    for label, cell in (
        ("both: verdicts", str(agreement.verdicts)),
        ("both: same verdict", _three(agreement.agreement)),
        ("both: kappa", _three(agreement.kappa, sign=True)),
        ("both: rank correlation", _three(agreement.correlation, sign=True)),
        ("first less second", _three(agreement.difference, sign=True) + spread),
    ):
        table.add_row(label, cell)
    return table


def _three(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def _verdicts(records: Sequence[Record]) -> dict[Key, Record]:
    found = {(record.item_id, record.metric, record.subkey): record for record in records}
    if len(found) < len(records):
        raise SuiteError(f"{len(records) - len(found)} of {len(records)} verdicts are there twice", where="records",
                         fix="give the records of one grading")  # fmt: skip
    return found


def _judge(records: Sequence[Record]) -> str:
    """Whose records they are."""
    names = sorted({record.judge_id for record in records})
    if len(names) != 1:
        raise SuiteError(f"records of one judge are needed, got {len(names)}: {', '.join(names) or 'no records'}",
                         where="records", fix="grade with each judge on its own")  # fmt: skip
    return names[0]


def _said(suite: Suite, score: float | None) -> int:
    """A verdict as a label: -1, 0 or 1 for loss, draw and win, or the whole rating."""
    assert score is not None
    if suite.scale != PAIRWISE:
        return math.floor(score + 0.5)
    return 0 if math.isclose(score, 0.5, abs_tol=1e-9) else 1 if score > 0.5 else -1


def _both_orders(suite: Suite, found: Mapping[Key, Record]) -> dict[Key, list[float]]:
    """The scores of what was judged in both orders, by item, metric and part (turn)."""
    groups: dict[Key, list[float]] = {}
    if suite.scale == PAIRWISE:
        for (item, metric, subkey), record in found.items():
            match = _ORDER.fullmatch(subkey)
            if match and record.score is not None:
                groups.setdefault((item, metric, match["part"] or ""), []).append(record.score)
    return {key: scores for key, scores in groups.items() if len(scores) == 2}


def _kappa(suite: Suite, pairs: Sequence[tuple[int, int]]) -> float | None:
    """None where there is no verdict, or chance alone would make all agree."""
    if len({label for pair in pairs for label in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    pairwise = suite.scale == PAIRWISE
    lowest, highest = suite.scale
    labels = [-1, 0, 1] if pairwise else list(range(math.floor(lowest), math.ceil(highest) + 1))
    first, second = zip(*pairs, strict=True)
    return float(cohen_kappa_score(first, second, labels=labels, weights=None if pairwise else "quadratic"))


def _spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """None for fewer than `FEWEST` items, or where one side is constant."""
    if len(x) < FEWEST or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def _interval(x: Sequence[float], y: Sequence[float]) -> tuple[float | None, float | None]:
    """None for fewer than two items."""
    if len(x) < 2:
        return None, None
    from harness.report.stats import paired

    found = paired([x], [y])
    return found.lo, found.hi

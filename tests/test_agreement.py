"""Two judges on the same answers: numbers worked out by hand, and what cannot be computed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.agreement import Agreement, JudgeFacts, compare, facts, family, show
from harness.errors import SuiteError
from harness.suite import Judge, Suite, SuiteConfig
from harness.types import Answer, Item, Metric, Record


class Pairwise(Suite):
    """Ten items; an item's score is the mean of its verdicts."""

    version, metric = "1", "win"
    references: tuple[str | None, ...] = ("r" * 10,) * 10

    def items(self) -> list[Item]:
        return [Item(f"i{n}", ({"role": "user", "content": "?"},), reference=r) for n, r in enumerate(self.references)]

    def grade(self, answers: Sequence[Answer], judge: Judge | None) -> list[Record]:
        raise NotImplementedError

    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        raise NotImplementedError

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        raise NotImplementedError

    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for record in records:
            if record.score is not None:
                found.setdefault(record.item_id, []).append(record.score)
        return {item: sum(scores) / len(scores) for item, scores in found.items()}


class Rating(Pairwise):
    scale = (1.0, 10.0)


def records(scores: Sequence[float | None], judge: str = "one@", subkey: str = "12", length: int = 20) -> list[Record]:
    return [
        Record("s", "win", f"i{n}", subkey, score, "ok" if score is not None else "judge_error", judge_id=judge, length=length)
        for n, score in enumerate(scores)
    ]


@pytest.fixture
def pairwise() -> Pairwise:
    return Pairwise(SuiteConfig())


@pytest.fixture
def rating() -> Rating:
    return Rating(SuiteConfig())


def test_agreement_and_kappa_of_wins_draws_and_losses(pairwise: Pairwise) -> None:
    """Wins 4, losses 3, draws 1 against 2, 4, 2: 5 of 8 agree, by chance 22 of 64, so kappa is 18/42."""
    found = compare(pairwise, records([1, 0.9, 1, 0, 0, 0.5, 1, 0.1]), records([0.6, 1, 0, 0, 0.5, 0.5, 0, 0], "two@"))
    assert (found.first, found.second, found.verdicts, found.items) == ("one@", "two@", 8, 8)
    assert found.agreement == 5 / 8
    assert found.kappa == pytest.approx(18 / 42)


def test_kappa_of_ratings_weighs_how_far_they_are_apart(rating: Rating) -> None:
    """Squared distances: 6 over 4 pairs, 274 over the 16 pairs of chance."""
    found = compare(rating, records([1, 5, 10, 5]), records([2, 5, 9, 7], "two@"))
    assert found.kappa == pytest.approx(1 - (6 / 4) / (274 / 16))
    assert found.agreement == 1 / 4


def test_ratings_are_rounded_for_agreement_alone(rating: Rating) -> None:
    found = compare(rating, records([7.5, 2.5, 9]), records([8, 3, 9.4], "two@"))
    assert (found.agreement, found.kappa) == (1.0, 1.0)
    assert found.difference == pytest.approx(-1.4 / 3)


def test_rank_correlation_and_paired_difference(pairwise: Pairwise) -> None:
    """Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15). Differences .1 and .3: .2 +/- 12.7062 * .1."""
    ranked = compare(pairwise, records([0.1, 0.2, 0.3, 0.4]), records([0.1, 0.8, 0.7, 0.9], "two@"))
    assert ranked.correlation == pytest.approx(0.8)
    found = compare(pairwise, records([0.6, 0.9]), records([0.5, 0.6], "two@"))
    assert found.difference == pytest.approx(0.2)
    assert (found.lo, found.hi) == (pytest.approx(0.2 - 1.27062, abs=1e-4), pytest.approx(0.2 + 1.27062, abs=1e-4))
    assert found.correlation is None, "two points always lie on a line"


def test_missing_verdicts_are_left_out_and_counted(pairwise: Pairwise) -> None:
    first, second = records([1, None, 0, 1, None]), records([1, 1, None, 0, None], "two@")
    found = compare(pairwise, first, second)
    assert (found.verdicts, found.items, found.agreement) == (2, 2, 0.5)
    assert (facts(pairwise, first).verdicts, facts(pairwise, first).missing) == (3, 2)


def test_nothing_in_common(pairwise: Pairwise) -> None:
    found = compare(pairwise, records([1, None]), records([None, 1], "two@"))
    assert (found.verdicts, found.items) == (0, 0)
    assert {found.agreement, found.kappa, found.correlation, found.difference, found.lo, found.hi} == {None}


def test_constant_scores_have_no_correlation(pairwise: Pairwise) -> None:
    found = compare(pairwise, records([1, 1, 1]), records([1, 1, 1], "two@"))
    assert (found.agreement, found.kappa, found.correlation) == (1.0, None, None)
    assert (found.difference, found.lo, found.hi) == (0.0, 0.0, 0.0)
    one_sided = compare(pairwise, records([1, 1, 1]), records([1, 0, 1], "two@"))
    assert (one_sided.kappa, one_sided.correlation) == (0.0, None)
    assert facts(pairwise, records([1, 1, 1])).length_correlation is None


def test_everything_told_is_json(pairwise: Pairwise, rating: Rating) -> None:
    for suite in (pairwise, rating):
        told: list[Mapping[str, object]] = [
            compare(suite, records([1, None]), records([None, 1], "two@")).as_dict(),
            facts(suite, records([1]), ["x/one-7b"]).as_dict(),
        ]  # fmt: skip
        assert json.loads(json.dumps(told, allow_nan=False)) == told


@pytest.mark.parametrize(("first", "second"), [("12", "21"), ("1", "2"), ("turn1-12", "turn1-21")])
def test_the_same_winner_in_both_orders(first: str, second: str, pairwise: Pairwise) -> None:
    """Kept, kept, turned, kept draw, draw against win, one order missing."""
    both = records([1, 0, 0.9, 0.5, 0.5, 1], subkey=first) + records([0.7, 0.4, 0.1, 0.5, 1, None], subkey=second)
    found = facts(pairwise, both)
    assert (found.swaps, found.swap_consistency, found.missing) == (5, 3 / 5, 1)


def test_turns_are_swapped_apart(pairwise: Pairwise) -> None:
    keys = {"turn1-12": 1.0, "turn1-21": 1.0, "turn2-12": 0.0, "turn2-21": 1.0}
    found = facts(pairwise, [record for key, score in keys.items() for record in records([score], subkey=key)])
    assert (found.swaps, found.swap_consistency) == (2, 0.5)


def test_no_orders_no_consistency(pairwise: Pairwise, rating: Rating) -> None:
    assert facts(pairwise, records([1, 0])).swap_consistency is None
    assert facts(pairwise, records([1, 0], subkey="turn1") + records([1, 0], subkey="turn2")).swaps == 0
    assert facts(rating, records([9, 8], subkey="1") + records([9, 8], subkey="2")).swaps == 0, "turns of a rating, no orders"


def test_length_counts_over_the_references_where_all_are_known(pairwise: Pairwise) -> None:
    """Answers of 10, 20, 30 characters, references of 0, 20, 40: differences fall while lengths rise."""
    scored = [replace(record, length=10 * (n + 1)) for n, record in enumerate(records([0.1, 0.5, 0.9]))]
    pairwise.references = ("", "r" * 20, "r" * 40)
    assert facts(pairwise, scored).length_correlation == pytest.approx(-1.0)
    pairwise.references = ("", "r" * 20, None)
    assert facts(pairwise, scored).length_correlation == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "expected"), [
    ("Qwen/Qwen3-8B", "qwen"), ("gpt-4o-mini", "gpt"), ("gpt-4-1106-preview@", "gpt"), ("chatgpt-4o-latest", "gpt"),
    ("o1", "gpt"), ("o3-mini-2025-01-31", "gpt"), ("meta-llama/Llama-3.1-8B", "llama"), ("Meta-Llama-3-8B", "llama"),
    ("claude-3-5-sonnet", "claude"),
    ("gemini-2.0-flash-001", "gemini"), ("pocket-judge@abc", "pocket"), ("pocket:student", "pocket"), ("olmo-2-7b", "olmo"),
    ("/models/Qwen2.5-7B/", "qwen"), ("mistralai/Mixtral-8x7B", "mistral"), ("7", "7"), ("", ""),
])  # fmt: skip
def test_family(name: str, expected: str) -> None:
    assert family(name) == expected


def test_a_judge_is_flagged_for_its_own_family_and_that_of_the_teacher(pairwise: Pairwise) -> None:
    judged = records([1], judge="gpt-4o@2024-08-06")
    assert facts(pairwise, judged, ["Qwen/Qwen3-1.7B", "o3-mini", ""]).kin == ("o3-mini",)
    assert facts(pairwise, judged).kin == ()


def test_wrong_records_are_refused(pairwise: Pairwise) -> None:
    good = records([1, 0])
    with pytest.raises(SuiteError, match="2 of 4 verdicts are there twice"):
        compare(pairwise, good + good, good)
    with pytest.raises(SuiteError, match="got 2: one@, two@"):
        facts(pairwise, [*good, *records([1], "two@", subkey="21")])
    with pytest.raises(SuiteError, match="no records"):
        compare(pairwise, good, [])
    with pytest.raises(SuiteError, match="different answers to 2 items, for example i0"):
        compare(pairwise, good, records([1, 0], "two@", length=21))


def test_the_table_fits_a_narrow_terminal() -> None:
    judges = [
        JudgeFacts("https://a.very.long.host/gpt-4-1106-preview@2024-01-25", 1610, 3, 802, 0.87654, -0.25, ("gpt-4o-mini",)),
        JudgeFacts("qwen3-235b-a22b-instruct@", 1608, 5, 0, None, None, ()),
    ]
    agreement = Agreement("a", "b", 1602, 800, 0.81, 0.6123, 0.7, 0.0123, -0.001, 0.0256)
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(show("alpaca", agreement, judges))
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, out.splitlines())) <= 80
    lines = {line.rstrip() for line in out.splitlines()}
    assert any(line.startswith("same winner when swapped") and line.split()[-2:] == ["0.877", "-"] for line in lines)
    assert any("first less second" in line and "+0.012 [-0.001, +0.026]" in line for line in lines)
    assert any("both: kappa" in line and "+0.612" in line for line in lines)

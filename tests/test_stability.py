"""Stability of orders: tau against scipy and by hand, orders that are certain, draws that are shared, and what is published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lab import Lab
from scipy.stats import kendalltau

from harness.report import board, findings, runs, stability
from harness.report.runs import Run
from harness.report.stability import Agreement, Scores

FAR = {"ropd": 0.80, "logit_opd": 0.70, "seqkd": 0.45, "sft": 0.35}


def in_pairs(path: Path, pairs: int = 3) -> Path:
    """A run folder of the lab whose seeds share pairs of models."""
    spec = json.loads((path / "spec.json").read_text())
    spec["track"]["pocket"] = {"pairs": pairs}
    (path / "spec.json").write_text(json.dumps(spec))
    return path


def written(root: Path, ends: dict[str, float], seeds: int = 6) -> list[Run]:
    lab = Lab(root)
    for method, end in ends.items():
        for seed in range(seeds):
            in_pairs(lab.run(method, seed, end=end))
            in_pairs(lab.run(method, seed, end=0.5, config={"rubric": "own", "signal": "shuffled"}))
    for seed in range(seeds):
        in_pairs(lab.run("sharpen", seed))
    return runs.select([], root)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Four methods far apart, with twins and `sharpen`, six seeds over three pairs."""
    return written(tmp_path_factory.mktemp("far"), FAR)


def test_tau_by_hand() -> None:
    # of 6 pairs of methods 5 are in the same order and 1 is not; with the tie 4 are, 1 is not, and one side tells 5 of 6
    assert stability.tau_b([4, 3, 2, 1], [4, 3, 1, 2]) == pytest.approx((5 - 1) / 6)
    assert stability.tau_b([4, 3, 2, 1], [3, 3, 1, 2]) == pytest.approx((4 - 1) / (6 * 5) ** 0.5)
    assert stability.tau_b([1, 2, 3], [3, 2, 1]) == -1
    assert stability.tau_b([1, 2, 3], [5, 5, 5]) == 0
    assert stability.moved([4, 3, 2, 1], [4, 3, 1, 2]) == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert stability.moved([4, 3, 2, 1], [3, 3, 1, 2]) == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)


def test_tau_is_scipys() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 6, (2, 50, 8))
    expected = [kendalltau(a, b).statistic for a, b in zip(left, right, strict=True)]
    assert stability.tau_b(left, right) == pytest.approx(expected)


def test_orders_without_relation_are_as_far_apart_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.permuted(np.tile(np.arange(9), (20_000, 1)), axis=1) for _ in range(2))
    assert stability.moved(left, right).mean() == pytest.approx(stability.by_chance(9), rel=0.01)
    assert stability.by_chance(9) == pytest.approx(80 / 27)


def test_an_order_that_is_certain(found: list[Run]) -> None:
    told = stability.agreements(found, ["alpaca"])
    assert {(each.kind, each.left, each.right) for each in told} == {
        ("model pairs", "pair 0", "pair 1"), ("model pairs", "pair 0", "pair 2"), ("model pairs", "pair 1", "pair 2"),
        ("budgets", "1/2", "1"), ("decodings", "greedy", "t1"),
    }  # fmt: skip
    for each in told:
        ends = (None, None) if each.kind == "decodings" else (1, 1)
        assert (each.methods, each.tau.value, each.tau.lo, each.tau.hi) == (4, 1, *ends)
        assert each.moved.value == 0
        assert each.moved.hi in (None, 0)
    kept = stability.neighbours(found, "alpaca")
    assert [(each.upper, each.lower) for each in kept] == [("ropd", "logit_opd"), ("logit_opd", "seqkd"), ("seqkd", "sft")]
    assert [each.kept for each in kept] == [1, 1, 1]
    rows = {row.label: row.score.mean for row in board.build(found, "alpaca").rows}
    for each in kept:
        assert each.difference == pytest.approx(rows[each.upper] - rows[each.lower])


def test_controls_have_no_rank(found: list[Run]) -> None:
    field = board.Field.of(found, "alpaca")
    assert "sharpen" in field.ranked
    assert stability.contestants(field) == sorted(FAR)


def test_an_order_that_is_a_toss(tmp_path: Path) -> None:
    told = stability.neighbours(written(tmp_path, {"ropd": 0.7, "sft": 0.7}, seeds=3), "alpaca")
    assert 0.5 <= told[0].kept < 0.975


def scores(seed: int, items: str, models: str = "m", methods: str = "abcdef", spread: float = 0.02) -> Scores:
    rng = np.random.default_rng(seed)
    x_MPI = rng.normal(0.5, spread, (len(methods), 1, 1)) + rng.normal(0, 0.2, (len(methods), 3, 60))
    return Scores(x_MPI, tuple(methods), (0, 1, 2), tuple(f"{items}-{n:02}" for n in range(60)), models)


def agreed(left: Scores, right: Scores) -> Agreement:
    told = stability.compared("suites", "", ("left", left.view()), ("right", right.view()))
    assert told is not None
    return told


def test_draws_are_shared_where_models_and_items_are() -> None:
    mine, again = scores(0, "x").view(), scores(0, "x").view()
    assert all(np.array_equal(mine.drawn[label], again.drawn[label]) for label in mine.drawn)
    told = agreed(scores(0, "x"), scores(0, "x"))
    assert (told.tau.value, told.tau.lo, told.tau.hi) == (1, 1, 1)
    other = agreed(scores(0, "x"), scores(0, "y"))  # the same scores of other items
    assert other.tau.value == 1
    assert other.tau.lo is not None
    assert other.tau.lo < 0.9
    label = "a"
    for view in (scores(0, "y").view(), scores(0, "x", models="n").view()):
        assert not np.array_equal(view.drawn[label], mine.drawn[label])


def test_the_interval_holds_the_estimate() -> None:
    for seed in range(30):
        told = agreed(scores(seed, "x"), scores(seed + 100, "y"))
        for each in (told.tau, told.moved):
            assert each.lo is not None
            assert each.hi is not None
            assert each.lo <= each.value <= each.hi
        assert (told.tau.lo or 0) >= -1
        assert (told.tau.hi or 0) <= 1


def test_tau_is_covered() -> None:
    """Unrelated orders of 8 methods, and the same order twice, that noise blurs."""
    hits: dict[bool, list[bool]] = {False: [], True: []}
    for same in hits:
        for rep in range(20):
            rng = np.random.default_rng([same, rep])
            means = [rng.normal(0.5, 0.1, (8, 1, 1)) for _ in range(2)]
            means[1] = means[0] if same else means[1]
            sides = [
                Scores(mean + rng.normal(0, 0.03, (8, 3, 1)) + rng.normal(0, 0.3, (8, 3, 60)), tuple("abcdefgh"), (0, 1, 2),
                       tuple(f"{suite}-{n:02}" for n in range(60)), "m")
                for suite, mean in zip("xy", means, strict=True)
            ]  # fmt: skip
            told = agreed(*sides).tau
            truth = float(stability.tau_b(*(mean[:, 0, 0] for mean in means)))
            hits[same].append(told.lo is not None and told.hi is not None and told.lo - 1e-9 <= truth <= told.hi + 1e-9)
    assert {same: sum(each) for same, each in hits.items()} == {False: pytest.approx(19, abs=1), True: pytest.approx(19, abs=1)}


def test_methods_of_fewer_pairs_and_items_without_a_score(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for method, end in FAR.items():
        for seed in range(1 if method == "sft" else 3):
            in_pairs(lab.run(method, seed, end=end, missing=5 * seed))
    field = board.Field.of(runs.select([], tmp_path), "alpaca")
    told = stability.scores_of(field, stability.contestants(field))
    assert told is not None
    assert (told.labels, told.pairs, len(told.items)) == (("logit_opd", "ropd", "seqkd"), (0, 1, 2), 310)
    text = findings.to_markdown([("pocket@1", runs.select([], tmp_path))], "harness publish")
    assert "3 methods have ranks. 0 controls have none" in text
    assert "Left out, with fewer pairs of models than others: sft." in text


def test_two_tracks(found: list[Run], tmp_path: Path) -> None:
    other = written(tmp_path, {**{name: 1.15 - end for name, end in FAR.items()}, "dpo": 0.6}, seeds=3)
    told = stability.between(("here", found), ("there", other), "alpaca")
    assert told is not None
    assert (told.kind, told.methods, told.left, told.right) == ("tracks", 4, "here", "there")
    assert (told.tau.value, told.tau.lo, told.tau.hi) == (-1, -1, -1)
    assert told.moved.value == 2  # (3 + 1 + 1 + 3) / 4
    text = findings.to_markdown([("here", found), ("there", other)], "harness publish")
    assert "## Between tracks" in text
    assert "| tracks | alpaca | here, there | 4 | -1.00 (-1.00 to -1.00) | 2.0 (2.0 to 2.0) |" in text


def test_one_method_has_no_order(tmp_path: Path) -> None:
    Lab(tmp_path).run("ropd")
    alone = runs.select([], tmp_path)
    assert stability.agreements(alone, ["alpaca"]) == stability.neighbours(alone, "alpaca") == []
    assert "There are no two orders" in findings.in_short(alone)


def test_equal_runs_give_equal_bytes(found: list[Run]) -> None:
    texts = {findings.to_markdown([("pocket@1", each)], "harness publish") for each in (found, found[::-1])}
    assert len(texts) == 1
    (text,) = texts
    assert "4 methods have ranks. 5 controls have none: sharpen and twins with a shuffled signal.\n" in text
    assert "| two model pairs | 3 | 1.00 | 1.00 | 1.00 | 0.0 |" in text
    assert "| budgets | alpaca | 1/2, 1 | 4 | 1.00 (1.00 to 1.00) | 0.0 (0.0 to 0.0) |" in text
    assert "Of 3 pairs of neighbours 3 keep their order" in text
    assert "4 methods in unrelated orders are 1.2 places apart" in text
    assert "nan" not in text

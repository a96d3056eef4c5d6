"""What variance is made of: a table worked out by hand, known designs found again, coverage, and other designs."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from lab import Lab
from numpy.typing import NDArray
from test_stability import in_pairs

from harness.pocket.judge import JudgeKnobs
from harness.report import findings, runs, variance
from harness.report.stats import interval
from harness.report.variance import Design

PAIRS = [0, 0, 1, 1, 2, 2]
TRUE = np.array([0.04, 0.02, 0.25, 0.1, 0.2])
"""Standard deviations of pair, seed, item, pair x item, rest."""


def drawn(rng: np.random.Generator, arms: int, pairs: int, seeds: int, items: int, shared: float = 0.0) -> NDArray[np.float64]:
    """Scores [A, S, I] of arms that have a part of their effects in common."""

    def effects(*shape: int) -> NDArray[np.float64]:
        own: NDArray[np.float64] = rng.normal(size=(arms, *shape))
        return np.asarray(shared**0.5 * rng.normal(size=(1, *shape)) + (1 - shared) ** 0.5 * own)

    parts = [effects(pairs, 1, 1), effects(pairs, seeds, 1), effects(1, 1, items), effects(pairs, 1, items)]
    x = sum(sd * part for sd, part in zip(TRUE, parts, strict=False)) + TRUE[4] * rng.normal(size=(arms, pairs, seeds, items))
    return np.asarray(x).reshape(arms, pairs * seeds, items)


def test_a_table_by_hand() -> None:
    # means 4 of all, 2 and 6 of pairs, 1, 3, 5, 7 of seeds, 3 and 5 of items; cells of pairs 1.5, 2.5 and 4.5, 7.5
    x_SI = [[1, 1], [2, 4], [4, 6], [5, 9]]
    found = variance.squares(x_SI, [0, 0, 1, 1])
    # pair 2 x 2 x (4 + 4); seeds 2 x (1 + 1 + 1 + 1); items 4 x (1 + 1); cells 2 x 4 x .5^2; rest 4 x .5^2 x 2
    assert found.mean_K.tolist() == [32 / 1, 8 / 2, 8 / 1, 2 / 1, 2 / 2]
    assert found.freedom_K.tolist() == [1, 2, 1, 1, 2]
    pair, seed, item, cell, rest = variance.variances(found)
    assert (rest, cell, item) == pytest.approx((1, (2 - 1) / 2, (8 - 2) / 4))
    assert (seed, pair) == pytest.approx(((4 - 1) / 2, (32 - 4 - 2 + 1) / 4))
    assert found.mean_K.sum() > 0
    total = (np.array(x_SI) - 4.0) ** 2
    assert (found.mean_K * found.freedom_K).sum() == pytest.approx(total.sum())


def test_contributions_by_hand() -> None:
    variance_K = np.array([6.75, 1.5, 1.5, 0.5, -1.0])
    assert variance.contributions(variance_K, Design(1, 1, 2)).tolist() == [6.75, 1.5, 0.75, 0.25, 0]
    assert variance.contributions(variance_K, Design(3, 2, 10)).tolist() == pytest.approx([2.25, 0.25, 0.15, 0.5 / 30, 0])


@pytest.mark.parametrize("pairs_S", [[*range(30)] * 3, [*range(30)] * 3 + [*range(15)] * 2], ids=["even", "uneven"])
def test_a_known_design_is_found_again(pairs_S: list[int]) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        pair, cell, place = rng.normal(size=30), rng.normal(size=(30, 40)), np.array(pairs_S)
        parts = [pair[place][:, None], rng.normal(size=(len(place), 1)), rng.normal(size=(1, 40)), cell[place],
                 rng.normal(size=(len(place), 40))]  # fmt: skip
        x_SI = np.asarray(sum(sd * part for sd, part in zip(TRUE, parts, strict=True)))
        found.append(variance.variances(variance.squares(x_SI, pairs_S)))
    error_K = np.std(found, axis=0, ddof=1) / len(found) ** 0.5
    assert (error_K < [0.0002, 0.0001, 0.003, 0.0003, 0.0003]).all()
    assert (np.abs(np.mean(found, axis=0) - TRUE**2) < 3 * error_K).all()


def test_intervals_cover_where_methods_share_their_pairs_and_where_they_do_not() -> None:
    """A jackknife over methods takes them as independent, and holds the truth about pairs far too seldom."""
    rng = np.random.default_rng(1)
    hits: dict[tuple[int, float], float] = {}
    jackknifed = []
    for arms, shared in ((1, 0.0), (6, 0.0), (6, 1.0)):
        covered = []
        for _ in range(60):
            squares = [variance.squares(x_SI, PAIRS) for x_SI in drawn(rng, arms, 3, 2, 30, shared)]
            made = variance.made_of(squares)
            covered.append([each.lo <= truth <= each.hi for each, truth in zip(made.deviations, TRUE, strict=True)])
            if shared:
                pair_A = np.array([variance.variances(each)[0] for each in squares])
                jackknifed.append(abs(pair_A.mean() - TRUE[0] ** 2) <= 2.571 * pair_A.std(ddof=1) / arms**0.5)
        hits[arms, shared] = float(np.mean(covered, axis=0).min())
    assert all(hit >= 0.9 for hit in hits.values()), hits
    assert np.mean(jackknifed) < 0.75


def test_shares_sum_to_one_and_negative_ones_count_as_none() -> None:
    x_SI = drawn(np.random.default_rng(2), 1, 3, 2, 30)[0]
    x_SI -= x_SI.mean(axis=1, keepdims=True)  # nothing is left between runs: the estimates are below 0
    made = variance.made_of([variance.squares(x_SI, PAIRS)])
    assert (made.variance_K[:2] < 0).all()
    assert [each.value for each in made.deviations[:2]] == [0, 0]
    assert made.of_a_run[0].value == made.of_a_run[1].value == 0
    for shares in (made.of_a_run, made.of_the_mean):
        assert sum(each.value for each in shares) == pytest.approx(1)


def test_arms_of_other_designs_are_not_pooled() -> None:
    x_SI = drawn(np.random.default_rng(3), 1, 3, 2, 30)[0]
    same, other = variance.squares(x_SI, PAIRS), variance.squares(x_SI, [0, 0, 0, 1, 1, 1])
    assert variance.pooled([same, same]).mean_K.tolist() == same.mean_K.tolist()
    with pytest.raises(ValueError, match="same design"):
        variance.pooled([same, other])
    for pairs_S in ([0] * 6, [*range(6)]):
        with pytest.raises(ValueError, match="2 pairs, 2 items and a second seed"):
            variance.squares(x_SI, pairs_S)


def test_the_expected_width_is_that_of_intervals() -> None:
    rng = np.random.default_rng(4)
    widths = [interval(x_SI, [*range(5)] * 2).half for x_SI in drawn(rng, 300, 5, 2, 60).reshape(300, 5, 2, 60)
              .transpose(0, 2, 1, 3).reshape(300, 10, 60)]  # fmt: skip
    expected = float(variance.half_width(TRUE**2, Design(5, 2, 60)))
    assert np.median(widths) == pytest.approx(expected, rel=0.06)
    # without pairs, seeds and what is left: items alone, Student's t of 59
    alone = np.array([0, 0, 0.0625, 0, 0])
    assert variance.half_width(alone, Design(5, 2, 60)) == pytest.approx(2.000995 * 0.25 / 60**0.5, rel=1e-6)


def test_how_many_halve_the_interval() -> None:
    pairs_alone, items_alone = np.array([1.0, 0, 0, 0, 0]), np.array([0, 0, 1.0, 0, 0])
    # Student's t of 2 over sqrt(3) is 2.4841, that of 3 over sqrt(4) 1.5912, that of 4 over sqrt(5) 1.2417: just below half
    assert variance.half_width(pairs_alone, Design(3, 2, 100)) == pytest.approx(4.302653 / 3**0.5)
    number, left = variance.least(pairs_alone, Design(3, 2, 100), "pairs")
    assert number == 5
    assert left == pytest.approx(2.776445 / 5**0.5 / (4.302653 / 3**0.5), rel=1e-6)
    assert variance.least(pairs_alone, Design(3, 2, 100), "seeds") == (None, 1)
    assert variance.least(pairs_alone, Design(3, 2, 100), "items") == (None, 1)
    assert variance.least(items_alone, Design(3, 2, 100), "pairs") == (None, 1)
    number, left = variance.least(items_alone, Design(3, 2, 100), "items")
    assert number == 393  # 1.984217 / sqrt(100) is twice 1.966 / sqrt(392.6)
    assert 0.499 < left <= 0.5
    assert variance.least(np.zeros(5), Design(3, 2, 100), "items") == (None, 1)


def test_taste_is_that_of_the_judges_verdict_function() -> None:
    """Against the exact variance over tastes, of the mean of both orders, for answers from far worse to far better."""
    knobs = JudgeKnobs()
    assert knobs.noise == variance.TASTE
    luck = np.array([NormalDist().inv_cdf((n + 0.5) / 4000) for n in range(4000)])
    logit_I = np.linspace(-4, 4, 81)
    both = [1 / (1 + np.exp(-(logit_I[None] + knobs.noise * luck[:, None] + side * knobs.position_bias))) for side in (1, -1)]
    y_NI = (both[0] + both[1]) / 2
    exact = float(y_NI.var(axis=0).mean()) / len(logit_I)
    assert variance.taste(y_NI, knobs.noise) == pytest.approx(exact, rel=0.01)
    assert variance.taste(y_NI, knobs.noise) <= (knobs.noise / 4) ** 2 / len(logit_I)


def test_only_probabilities_of_the_embedded_judge_tell_its_taste() -> None:
    track = {"judge": {"url": "pocket"}, "pocket": {"judge": {}}, "suites": {"alpaca": {}, "mt_bench": {}}}
    assert variance.noise_of(track, "alpaca") == 0.15
    assert variance.noise_of({**track, "pocket": {"judge": {"noise": 0.5}}}, "alpaca") == 0.5
    assert variance.noise_of(track, "mt_bench") is None
    assert variance.noise_of({**track, "judge": {"url": "https://judge.example"}}, "alpaca") is None
    assert variance.noise_of({**track, "suites": {"alpaca": {"annotator": "alpaca_eval"}}}, "alpaca") is None
    assert variance.noise_of({"suites": {}}, "alpaca") is None


def test_from_runs(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for method, seeds in {"ropd": 6, "sft": 6, "dpo": 2, "sharpen": 6}.items():
        for seed in range(seeds):
            in_pairs(lab.run(method, seed, end=0.7))
            if method == "ropd":
                in_pairs(lab.run(method, seed, end=0.6, config={"rubric": "own", "signal": "shuffled"}))
    found = runs.select([], tmp_path)
    part = variance.of_scores(found, "alpaca")
    assert ([*part.arms], part.left_out, part.taste) == (["ropd", "sft"], ("dpo",), None)
    assert part.made.design == (3, 2, 320)
    # the lab draws items within .3 alike for all runs, and within .1 for each run; seeds differ by .012, pairs not at all
    _, seed, item, cell, rest = (each.value for each in part.made.deviations)
    assert (item, rest) == pytest.approx((0.6 / 12**0.5, 0.2 / 12**0.5), rel=0.1)
    assert seed == pytest.approx(0.012, abs=0.012)
    assert cell < 0.015
    difference = variance.of_differences(found, "alpaca")
    assert [*difference.arms] == ["ropd"]
    own = [run for run in found if run.label in ("ropd", "ropd shuffled")]
    sides = [np.array([[*run.items("alpaca", "1").values()] for run in own if run.shuffled is mixed]) for mixed in (False, True)]
    assert difference.arms["ropd"].mean_K.tolist() == variance.squares(sides[0] - sides[1], [0, 1, 2] * 2).mean_K.tolist()
    text = findings.to_markdown([("pocket@1", found)], "harness publish")
    assert "### What the variance is made of: alpaca" in text
    assert f"| item | {item:.3f} (" in text
    assert "Left out, with other seeds: dpo." in text
    assert "Scores: what the judge adds cannot be told from these scores" in text
    assert text == findings.to_markdown([("pocket@1", found)], "harness publish")


def test_without_second_seeds_there_are_no_parts(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for seed in range(3):
        in_pairs(lab.run("ropd", seed))
    found = runs.select([], tmp_path)
    with pytest.raises(ValueError, match="a second seed of one of them"):
        variance.of_scores(found, "alpaca")
    text = findings.to_markdown([("pocket@1", found)], "harness publish")
    assert "Of scores no parts can be told: no method has runs of two pairs of models and a second seed of one of them." in text

"""Statistics of seeds x items: numbers worked out by hand, agreement with scipy, and coverage where the truth is known."""

from __future__ import annotations

import doctest
import itertools
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, nct, t, trim_mean

from harness.report.shares import beta_binomial, missing_bounds, wilson
from harness.report.stats import (
    detectable,
    holm,
    improvement,
    interval,
    iqm,
    of_these_pairs,
    paired,
    rank_intervals,
    resample,
    sign_flip,
)

ROOT = Path(__file__).parents[1]
T1, T3 = 12.706205, 3.182446  # Student's t, 97.5 %, at 1 and 3 degrees of freedom


def test_one_seed_is_students_t_over_items() -> None:
    found = interval([[0.0, 1.0, 1.0, 0.0]])
    half = T3 * (1 / 3 / 4) ** 0.5
    assert (found.mean, found.seeds, found.items) == (0.5, 1, 4)
    assert (found.lo, found.hi) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert found.half == pytest.approx(half)
    assert found.holds_zero
    assert found.p == pytest.approx(2 * t.sf(0.5 / (1 / 12) ** 0.5, 3))


def test_two_seeds_keep_one_degree_of_freedom() -> None:
    # mean squares: seeds 9, items 4, rest 1; variance (9 + 4 - 1) / 4 = 3
    found = interval([[1, 2], [3, 6]])
    assert found.mean == 3
    assert found.half == pytest.approx(T1 * 3**0.5)
    assert found.p == pytest.approx(2 * t.sf(3**0.5, 1))


def test_three_seeds_weigh_degrees_of_freedom() -> None:
    # seed means 2, 3, 7 and item means 3, 5: mean squares 2 x 14 / 2 = 14 and 3 x 2 = 6; nothing is left
    found = interval([[1, 3], [2, 4], [6, 8]])
    freedom = 1 / (14 / 20 / 2 + 6 / 20 / 1)
    assert found.mean == 4
    assert found.half == pytest.approx(t.ppf(0.975, freedom) * (20 / 6) ** 0.5)


def test_of_these_pairs_leaves_out_how_far_pairs_lie_apart() -> None:
    # seeds 2, 4 of the first pair and 11, 14 of the second, items 7 and 8.5: mean squares of seeds 2 x 6.5 / 2 = 6.5, of items
    # 4 x 1.125 = 4.5, of the rest 1 / 2
    scores, pairs = np.array([[1.0, 3], [3, 5], [11, 11], [13, 15]]), (0, 0, 1, 1)
    found = of_these_pairs(scores, pairs)
    assert (found.mean, found.seeds, found.items) == (7.75, 4, 2)
    assert found.error == pytest.approx((10.5 / 8) ** 0.5)
    assert found.freedom == pytest.approx(10.5 / (6.5 / 2 + 4 / 1))
    assert found.interval.half == pytest.approx(t.ppf(0.975, found.freedom) * found.error)
    assert found.interval.p == pytest.approx(2 * t.sf(7.75 / found.error, found.freedom))
    moved = of_these_pairs(scores + np.array([[100.0], [100], [0], [0]]), pairs)
    assert (moved.mean, moved.freedom) == (57.75, pytest.approx(found.freedom))
    assert moved.error == pytest.approx(found.error)
    other = of_these_pairs(scores[[2, 0, 3, 1]], (1, 0, 1, 0))
    assert (other.mean, other.error, other.freedom) == pytest.approx((found.mean, found.error, found.freedom))
    assert of_these_pairs([[1, 1], [1, 1], [2, 2], [2, 2]], pairs).interval.half == 0
    for wrong in ((0, 0, 0, 1), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="as many seeds as the others and two at least"):
            of_these_pairs(scores, wrong)


def test_degrees_of_freedom_follow_what_varies() -> None:
    rng = np.random.default_rng(0)
    item_I, seed_S1 = rng.normal(0, 1, 50), rng.normal(0, 1, (3, 1))
    by_items = interval(item_I + 1e-6 * rng.normal(size=(3, 50)))
    assert by_items.half == pytest.approx(t.ppf(0.975, 49) * item_I.std(ddof=1) / 50**0.5, rel=1e-4)
    by_seeds = interval(seed_S1 + 1e-6 * rng.normal(size=(3, 50)))
    assert by_seeds.half == pytest.approx(t.ppf(0.975, 2) * seed_S1.std(ddof=1) / 3**0.5, rel=1e-4)


def test_the_variance_is_never_less_than_a_one_way_estimate() -> None:
    # mean squares: seeds 1, items 0, rest 4; the sum is negative, seeds alone give 1 / 4
    assert interval([[2, 0], [1, 3]]).half == pytest.approx(T1 * 0.5)
    # the same with the axes swapped: seeds that agree by chance do not make an interval of no width
    assert interval([[2, 1], [0, 3]]).half == pytest.approx(T1 * 0.5)


def test_p_and_interval_agree() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        found = interval(rng.normal(0.05, 0.1, (3, 20)) + rng.normal(0, 0.03, (3, 1)))
        assert found.holds_zero == (found.p > 0.05)
    assert interval([[1.0, 1.0], [1.0, 1.0]]).p == 0
    assert interval([[0.0, 0.0], [0.0, 0.0]]).p == 1


def test_pairs_are_differences() -> None:
    rng = np.random.default_rng(1)
    a_SI = rng.normal(size=(3, 20))
    assert paired(a_SI + 0.25, a_SI).half == pytest.approx(0, abs=1e-12)
    assert paired(a_SI + 0.25, a_SI).mean == pytest.approx(0.25)
    b_SI = a_SI + rng.normal(0.1, 0.1, size=(3, 20))
    assert paired(b_SI, a_SI) == interval(b_SI - a_SI)
    assert paired(b_SI, a_SI).half < interval(a_SI).half / 3


def test_seeds_of_one_model_pair_count_once() -> None:
    rng = np.random.default_rng(2)
    scores_SI = rng.normal(size=(5, 12))
    found = interval(scores_SI, [0, 1, 2, 0, 1])
    means_SI = np.array([(scores_SI[0] + scores_SI[3]) / 2, (scores_SI[1] + scores_SI[4]) / 2, scores_SI[2]])
    assert (found.mean, found.half) == (pytest.approx(means_SI.mean()), pytest.approx(interval(means_SI).half))
    assert found.seeds == 5
    assert interval(scores_SI, range(5)) == interval(scores_SI)


@pytest.mark.parametrize(
    ("scores", "message"),
    [([0.1, 0.2], "shape"), ([[0.1]], "shape"), (np.zeros((0, 3)), "shape"), ([[0.1, float("nan")]], "finite")],
)
def test_refuses_what_has_no_interval(scores: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(scores)  # type: ignore[arg-type]


def test_pairs_need_the_same_seeds_and_items() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 2\)"):
        paired([[1, 2]], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="each of 2 seeds"):
        interval([[1, 2], [3, 4]], [0])


def coverage(seeds: int, between_seeds: float, replicates: int = 600) -> tuple[float, float]:
    """Shares of intervals that hold the true mean: ours, and one that takes all scores for independent."""
    rng, ours, naive = np.random.default_rng([seeds, 7]), 0, 0
    for _ in range(replicates):
        items_I, rest_SI = rng.normal(0, 0.25, 80), rng.normal(0, 0.25, (seeds, 80))
        scores_SI = 0.6 + rng.normal(0, between_seeds, (seeds, 1)) + items_I + rest_SI
        found, pooled = interval(scores_SI), interval(scores_SI.reshape(1, -1))
        ours += found.lo <= 0.6 <= found.hi
        naive += pooled.lo <= 0.6 <= pooled.hi
    return ours / replicates, naive / replicates


@pytest.mark.parametrize(("seeds", "between_seeds"), [(3, 0.02), (3, 0.05), (6, 0.05), (10, 0.05)])
def test_intervals_cover_new_seeds_and_new_items(seeds: int, between_seeds: float) -> None:
    # 600 replicates: the standard error of a coverage of 0.95 is 0.009; the bounds are those of the document and two of it
    ours, naive = coverage(seeds, between_seeds)
    assert 0.92 <= ours <= 0.985
    assert naive < 0.88


def test_one_seed_covers_new_items_only() -> None:
    assert 0.92 <= coverage(1, 0.0)[0] <= 0.98
    assert coverage(1, 0.1)[0] < 0.8


# ---------------------------------------------------------------------------------------------------- other statistics


def test_interquartile_mean_by_hand_and_by_scipy() -> None:
    assert iqm([[0, 1, 2, 3, 4, 5, 6, 100]]).mean == 3.5  # the mean of 2, 3, 4, 5
    scores_SI = np.random.default_rng(4).lognormal(size=(3, 41))
    found = iqm(scores_SI)
    assert found.mean == pytest.approx(trim_mean(scores_SI, 0.25, axis=None))
    # one seed: the textbook interval of a trimmed mean, from the winsorised deviation; 41 scores lose 10 on each side
    one_I = np.sort(scores_SI[0])
    spread = one_I.clip(one_I[10], one_I[30]).std(ddof=1) / (0.5 * 41**0.5)
    assert iqm(scores_SI[:1]).half == pytest.approx(t.ppf(0.975, 40) * spread)


def test_probability_of_improvement_by_hand() -> None:
    # item 1: of 2 x 2 pairs a wins 3 and ties none; item 2: one tie, three losses: (3 / 4 + 1 / 8) / 2
    a_SI, b_SI = [[3, 1], [1, 2]], [[0, 2], [2, 3]]
    assert improvement(a_SI, b_SI).mean == pytest.approx((0.75 + 0.125) / 2)
    assert improvement(b_SI, a_SI).mean == pytest.approx(1 - (0.75 + 0.125) / 2)


def test_probability_of_improvement_covers() -> None:
    rng, held, wide = np.random.default_rng(5), 0, []
    for _ in range(400):
        item_I = rng.normal(0, 1, 60)
        a_SI, b_SI = (item_I + rng.normal(0, 0.3, (4, 1)) + rng.normal(0, 1, (4, 60)) for _ in range(2))
        found = improvement(a_SI, b_SI)
        held += found.lo <= 0.5 <= found.hi
        wide.append(found.half)
        assert (found.p < 0.05) == (not found.lo <= 0.5 <= found.hi)
    assert 0.92 <= held / 400 <= 0.99
    assert np.mean(wide) < 0.3
    sure = improvement(np.ones((3, 4)), np.zeros((3, 4)))
    assert (sure.mean, sure.lo, sure.hi) == (1, 1, 1)


def test_holm_by_hand() -> None:
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, and .04 raised to .06
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(holm({"b": 0.9, "a": 0.8})) == ["b", "a"]
    assert holm({"b": 0.9, "a": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm({"a": 1.5})


def test_sign_flips_are_counted() -> None:
    differences_S = [0.3, 0.1, -0.05, 0.2, 0.25]
    flips = [abs(np.dot(signs, differences_S)) for signs in itertools.product((1, -1), repeat=5)]
    expected = sum(total >= sum(differences_S) - 1e-12 for total in flips) / 32
    found = sign_flip(differences_S)
    assert found == (pytest.approx(expected), 2 / 32)
    assert sign_flip([1, 2, 3]) == (0.25, 0.25)
    assert sign_flip([1, 2, 3, 4, 5, 6]) == (0.03125, 0.03125)
    assert sign_flip([-1]) == (1, 1)
    with pytest.raises(ValueError, match="1 to 16"):
        sign_flip(np.ones(17))


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (7, 10), (10, 10), (401, 805)])
def test_wilsons_interval_is_scipys(wins: int, n: int) -> None:
    expected = binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson(wins, n) == pytest.approx((expected.low, expected.high))


def test_half_wins_lie_between() -> None:
    assert wilson(3, 10)[0] < wilson(3.5, 10)[0] < wilson(4, 10)[0]
    with pytest.raises(ValueError, match="0 to n wins"):
        wilson(1, 0)


def test_beta_binomial_is_jeffreys_for_one_sample_an_item() -> None:
    from scipy.stats import beta

    assert beta_binomial([1] * 9 + [0] * 21, 1) == pytest.approx(beta(9.5, 21.5).ppf([0.025, 0.975]))
    # items that are all right or all wrong: 4 samples tell no more than one
    assert beta_binomial([4] * 9 + [0] * 21, 4) == pytest.approx(beta(9.5, 21.5).ppf([0.025, 0.975]))
    assert beta_binomial([0] * 30, 4)[0] == 0
    with pytest.raises(ValueError, match="0 to 2 successes"):
        beta_binomial([3, 1], 2)


def test_beta_binomial_covers_small_sets_of_items() -> None:
    rng, held, naive = np.random.default_rng(6), 0, 0
    for _ in range(1000):
        wins_I = rng.binomial(8, rng.beta(0.9, 2.1, 30))
        lo, hi = beta_binomial(wins_I, 8)
        held += lo <= 0.3 <= hi
        lo, hi = wilson(int(wins_I.sum()), 240)
        naive += lo <= 0.3 <= hi
    assert 0.92 <= held / 1000 <= 0.98
    assert naive / 1000 < 0.8


def test_missing_items_bound_the_mean() -> None:
    assert missing_bounds(0.5, 90, 10, (0.0, 1.0)) == pytest.approx((0.45, 0.55))
    assert missing_bounds(6.0, 8, 2, (1.0, 10.0)) == pytest.approx((5.0, 6.8))
    assert missing_bounds(0.5, 90, 0, (0.0, 1.0)) == (0.5, 0.5)
    assert missing_bounds(float("nan"), 0, 5, (0.0, 1.0)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="on the scale"):
        missing_bounds(2.0, 5, 1, (0.0, 1.0))


def test_the_detectable_effect_has_the_power() -> None:
    rng = np.random.default_rng(8)
    a_SI, b_SI = rng.normal(size=(1, 40)), rng.normal(size=(1, 40))
    effect, error = detectable(a_SI, b_SI), (a_SI - b_SI).std(ddof=1) / 40**0.5
    refused = nct.sf(t.ppf(0.975, 39), 39, effect / error)
    assert refused == pytest.approx(0.8, abs=1e-6)
    assert detectable(a_SI, b_SI, 0.9) > effect > paired(a_SI, b_SI).half
    with pytest.raises(ValueError, match="power"):
        detectable(a_SI, b_SI, 1.2)


def test_ranks_have_ranges() -> None:
    rng = np.random.default_rng(9)
    item_I = rng.normal(0, 0.3, 100)
    low, middle, same, high = (level + item_I + rng.normal(0, 0.05, (4, 100)) for level in (0.2, 0.5, 0.5, 0.9))
    found = rank_intervals({"low": low, "middle": middle, "same": same, "high": high})
    assert found["high"] == (1, 1)
    assert found["low"] == (4, 4)
    assert (found["middle"], found["same"]) == ((2, 3), (2, 3))
    assert rank_intervals({"a": middle, "b": middle.copy()}) == {"a": (1, 1), "b": (1, 1)}
    with pytest.raises(ValueError, match="same seeds and items"):
        rank_intervals({"a": middle, "b": middle[:2]})


def test_resampling_draws_both_axes_and_repeats() -> None:
    seeds_NS, items_NI, widening = resample(3, 50)
    assert np.allclose(seeds_NS.sum(axis=1), 1)
    assert np.allclose(items_NI.sum(axis=1), 1)
    assert seeds_NS.var(axis=0) == pytest.approx(np.full(3, 1 / 3 * 2 / 3 / 3), rel=0.1)  # of a multinomial, over S^2
    assert widening == pytest.approx((3 / 2) ** 0.5 * t.ppf(0.975, 2) / 1.959964)
    first = items_NI.copy()
    resample.cache_clear()
    assert (resample(3, 50)[1] == first).all()


# ------------------------------------------------------------------------------------------------------- the document


def benchmark() -> Any:
    spec = spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_examples_come_out() -> None:
    found = doctest.testfile(str(ROOT / "docs" / "statistics.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 20
    assert found.failed == 0


def test_the_documents_tables_are_those_of_the_results() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text(encoding="utf-8"))["rows"]
    tables = benchmark().tables(rows)
    expected = {"statistics.md": ("coverage", tables), "decisions/0005-crossed-interval.md": ("rules", tables.split("\n\n")[0])}
    for name, (part, table) in expected.items():
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        shown = page.split(f"<!-- {part} -->\n")[1].split(f"\n<!-- /{part} -->")[0]
        assert shown == table, "refresh it: python benchmarks/coverage.py --table benchmarks/results/coverage.json"


def test_the_benchmark_measures_the_rule_in_use() -> None:
    module = benchmark()
    x_RSI = module.SETTINGS["score, seed .02"](np.random.default_rng(0), 4, 3, 30)
    expected = [interval(x_SI).half for x_SI in x_RSI]
    assert module.halves(x_RSI)["harmonic"] == pytest.approx(expected)

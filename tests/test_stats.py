"""Intervals over seeds x items, against numbers worked out by hand and against simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest

from harness.report.stats import interval, paired

T1, T3 = 12.706205, 3.182446  # Student's t, 97.5 %, at 1 and 3 degrees of freedom


def test_one_seed_is_students_t_over_items() -> None:
    found = interval([[0.0, 1.0, 1.0, 0.0]])
    half = T3 * (1 / 3 / 4) ** 0.5
    assert (found.mean, found.seeds, found.items) == (0.5, 1, 4)
    assert (found.lo, found.hi) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert found.half == pytest.approx(half)
    assert found.holds_zero


def test_seeds_and_items_are_crossed() -> None:
    # mean squares: seeds 9, items 4, rest 1; variance (9 + 4 - 1) / 4 = 3
    found = interval([[1, 2], [3, 6]])
    assert found.mean == 3
    assert found.half == pytest.approx(T1 * 3**0.5)


def test_the_variance_is_never_less_than_a_one_way_estimate() -> None:
    # mean squares: seeds 1, items 0, rest 4; the sum is negative, seeds alone give 1 / 4
    assert interval([[2, 0], [1, 3]]).half == pytest.approx(T1 * 0.5)
    # the same with the axes swapped: items alone give 1 / 4
    assert interval([[2, 1], [0, 3]]).half == pytest.approx(T1 * 0.5)


def test_pairs_are_differences() -> None:
    rng = np.random.default_rng(1)
    a_SI = rng.normal(size=(3, 20))
    assert paired(a_SI + 0.25, a_SI).half == pytest.approx(0, abs=1e-12)
    assert paired(a_SI + 0.25, a_SI).mean == pytest.approx(0.25)
    b_SI = a_SI + rng.normal(0.1, 0.1, size=(3, 20))
    assert paired(b_SI, a_SI) == interval(b_SI - a_SI)
    assert paired(b_SI, a_SI).half < interval(a_SI).half / 3


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


def coverage(seeds: int, between_seeds: float, replicates: int = 400) -> tuple[float, float]:
    """Shares of intervals that hold the true mean: ours, and one that takes all scores for independent."""
    rng, ours, naive = np.random.default_rng(seeds), 0, 0
    for _ in range(replicates):
        items_I, rest_SI = rng.normal(0, 0.2, 80), rng.normal(0, 0.15, (seeds, 80))
        scores_SI = 0.6 + rng.normal(0, between_seeds, (seeds, 1)) + items_I + rest_SI
        found, pooled = interval(scores_SI), interval(scores_SI.reshape(1, -1))
        ours += found.lo <= 0.6 <= found.hi
        naive += pooled.lo <= 0.6 <= pooled.hi
    return ours / replicates, naive / replicates


@pytest.mark.parametrize(("seeds", "between_seeds"), [(3, 0.05), (5, 0.05), (10, 0.05), (5, 0.0)])
def test_intervals_cover_new_seeds_and_new_items(seeds: int, between_seeds: float) -> None:
    # 400 replicates: the standard error of a coverage of 0.95 is 0.011, the bound lies two of them below
    ours, naive = coverage(seeds, between_seeds)
    assert ours >= 0.93
    assert naive < 0.85


def test_one_seed_covers_new_items_only() -> None:
    assert 0.92 <= coverage(1, 0.0)[0] <= 0.98
    assert coverage(1, 0.05)[0] < 0.8

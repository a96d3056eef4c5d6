"""Areas and gains, against numbers worked out by hand and against courses whose gain is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.report.gain import Course, area, area_interval, budgets_to, common_range, gain, reached, target_of
from harness.report.stats import paired

USED = [0, 32, 64, 128, 256, 512]


def course(curves: list[list[float]], used: list[float] | None = None, spread: float = 0.0, items: int = 20) -> Course:
    """One curve a seed; items lie `spread` around it, so that their mean is the curve."""
    scores_MS = np.array(curves).T
    around_I = np.linspace(-spread, spread, items)
    readings_MS = np.repeat(np.array(used or USED[: len(scores_MS)], dtype=float)[:, None], len(curves), axis=1)
    return Course(readings_MS, scores_MS[:, :, None] + around_I)


# ---------------------------------------------------------------------------------------------------------------- area


def test_area_by_hand() -> None:
    # two octaves: the first from .2 to .4 (mean .3), the second flat at .4; mean height .35
    assert area([0, 1, 2, 4], [0.1, 0.2, 0.4, 0.4], 0.0, 1.0) == pytest.approx(0.35)
    assert area([0, 1, 2, 4], [0.1, 0.2, 0.4, 0.4], 0.1, 0.6) == pytest.approx(0.5)
    assert area([1, 4], [0.2, 0.4], 0.0, 1.0) == pytest.approx(0.3)
    # from 2: .4 throughout; from sqrt 2 to 4: half an octave from .3 to .4, then one of .4
    assert area([0, 1, 2, 4], [0.1, 0.2, 0.4, 0.4], 0.0, 1.0, over=(2, 4)) == pytest.approx(0.4)
    assert area([0, 1, 2, 4], [0.1, 0.2, 0.4, 0.4], 0, 1, over=(2**0.5, 4)) == pytest.approx((0.5 * 0.35 + 0.4) / 1.5)


def test_mark_zero_is_not_part_of_an_area() -> None:
    assert area([0, 1, 2], [9.0, 0.2, 0.4], 0, 1) == area([1, 2], [0.2, 0.4], 0, 1)


@pytest.mark.parametrize(
    ("used", "over", "message"),
    [([0, 8], None, "two different"), ([0, 8, 8], None, "two different"), ([0, 8, 16], (4, 16), "outside")],
)
def test_refuses_what_has_no_area(used: list[float], over: tuple[float, float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        area(used, [0.1] * len(used), 0, 1, over)
    with pytest.raises(ValueError, match="ceiling"):
        area([1, 2], [0.1, 0.2], 0.5, 0.5)


def test_the_interval_of_an_area_is_that_of_its_scores() -> None:
    rng = np.random.default_rng(0)
    one, other = (Course(np.repeat([[0.0], [32], [128]], 3, axis=1), rng.normal(size=(3, 3, 40))) for _ in range(2))
    found = area_interval(one, 0.2, 0.7, other)
    # two marks above 0: the area is their mean
    by_hand = paired((one.scores_MSI[1:].mean(axis=0) - 0.2) / 0.5, (other.scores_MSI[1:].mean(axis=0) - 0.2) / 0.5)
    assert (found.mean, found.half, found.p) == pytest.approx((by_hand.mean, by_hand.half, by_hand.p))
    areas = [area([0, 32, 128], one.scores_MSI[:, s].mean(axis=1), 0.2, 0.7) for s in range(3)]
    assert area_interval(one, 0.2, 0.7).mean == pytest.approx(np.mean(areas))
    # floor and ceiling scale a difference and leave its p alone
    assert area_interval(one, 0.0, 1.0, other).p == pytest.approx(found.p)


def test_areas_are_taken_over_common_budgets() -> None:
    one = course([[0.1, 0.2, 0.4, 0.4]], [0, 1, 2, 4])
    other = course([[0.1, 0.4, 0.4, 0.9]], [0, 2, 4, 8])
    assert common_range(one, other) == (2, 4)
    assert area_interval(one, 0, 1, other).mean == pytest.approx(0)
    with pytest.raises(ValueError, match="no budgets in common"):
        area_interval(one, 0, 1, course([[0.1, 0.4, 0.5]], [0, 16, 32]))


# ------------------------------------------------------------------------------------------------------------ reaching


@pytest.mark.parametrize(
    ("scores", "bounds"),
    [
        ([0.2, 0.3, 0.4, 0.6, 0.7], (6.5, 6.5)),  # .5 lies half way from 64 to 128
        ([0.2, 0.3, 0.6, 0.4, 0.7], (7 + 1 / 3, 7 + 1 / 3)),  # 64 is taken back; no mark can take 256 back
        ([0.2, 0.6, 0.4, 0.6, 0.7], (6.5, 6.5)),  # 32 is taken back
        ([0.2, 0.6, 0.7, 0.4, 0.4], (-math.inf, 5)),  # 32 or less: the fall after 64 changes nothing
        ([0.2, 0.3, 0.4, 0.4, 0.4], (8, math.inf)),  # never: more than 256
        ([0.2, 0.3, 0.5, 0.5, 0.5], (6, 6)),  # met exactly
        ([0.6, 0.6, 0.5, 0.5, 0.5], (-math.inf, 5)),  # before anything was used
    ],
)
def test_when_a_run_reaches_a_score(scores: list[float], bounds: tuple[float, float]) -> None:
    assert reached(USED[:5], scores, 0.5) == pytest.approx(bounds)


def test_budgets_of_each_seed() -> None:
    low_S, high_S = budgets_to(course([[0.2, 0.3, 0.4, 0.6, 0.7], [0.2, 0.3, 0.4, 0.4, 0.4], [0.2, 0.6, 0.7, 0.7, 0.7]]), 0.5)
    assert low_S.tolist() == pytest.approx([2**6.5, 256, 0])
    assert high_S.tolist() == pytest.approx([2**6.5, math.inf, 32])


# ---------------------------------------------------------------------------------------------------------------- gain

SLOW = [0.2, 0.2, 0.3, 0.4, 0.6, 0.7]
FAST = [0.2, 0.3, 0.4, 0.6, 0.7, 0.7]  # an octave earlier
LATE = [0.2, 0.2, 0.2, 0.2, 0.2, 0.3]
EARLY = [0.2, 0.7, 0.7, 0.7, 0.7, 0.7]


def test_the_target_is_part_of_the_references_rise() -> None:
    assert target_of(course([SLOW, SLOW]), 0.8) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="does not rise"):
        target_of(course([[0.4, 0.3, 0.2]]), 0.8)
    with pytest.raises(ValueError, match="between 0 and 1"):
        target_of(course([SLOW]), 1.0)


def test_an_octave_earlier_is_a_gain_of_two() -> None:
    for rho in (0.5, 0.8, 0.95):
        found = gain(course([FAST] * 3), course([SLOW] * 3), rho)
        assert found.target == pytest.approx(0.2 + rho * 0.5)
        assert (found.ratio, found.censored, found.seeds_censored) == (pytest.approx(2), "", 0)
        # nothing varies, so what is refused is all but 2, up to the steps of the search
        assert (found.lo, found.hi) == (pytest.approx(2, rel=0.05), pytest.approx(2, rel=0.05))
        assert found.lo <= found.ratio <= found.hi
        assert found.headlined
        back = gain(course([SLOW] * 3), course([FAST] * 3), rho)
        assert back.ratio == pytest.approx(0.5)


def test_the_median_is_over_paired_seeds() -> None:
    slower = [0.2, 0.2, 0.2, 0.3, 0.4, 0.65]  # reaches .6 four fifths of an octave after 256
    methods, references = [FAST, SLOW, EARLY], [SLOW, SLOW, SLOW]
    found = gain(course(methods, spread=0.3), course(references, spread=0.3))
    # ratios 2, 1 and 256 / 32 or more: the median is 2, and one seed is a bound
    assert (found.ratio, found.censored, found.seeds_censored) == (pytest.approx(2), "", 1)
    found = gain(course([EARLY, SLOW, EARLY], spread=0.3), course(references, spread=0.3))
    assert (found.ratio, found.censored, found.hi) == (pytest.approx(8), ">=", math.inf)
    found = gain(course([slower, SLOW, LATE], spread=0.3), course(references, spread=0.3))
    assert (found.ratio, found.censored, found.seeds_censored) == (pytest.approx(2**-0.8), "", 1)
    found = gain(course([LATE, SLOW, LATE], spread=0.3), course(references, spread=0.3))
    # 1, and twice 256 / 512 or less
    assert (found.ratio, found.censored, found.lo, found.seeds_censored) == (pytest.approx(0.5), "<=", 0, 2)


def test_a_method_that_never_arrives_is_a_bound() -> None:
    found = gain(course([LATE] * 3), course([SLOW] * 3))
    assert (found.ratio, found.censored, found.seeds_censored) == (pytest.approx(0.5), "<=", 3)
    assert (found.lo, found.hi) == (0, pytest.approx(0.5))
    assert not found.headlined
    assert found.why.startswith("the ends differ by -0.400")


def test_undefined_where_neither_arrives() -> None:
    # in two of three seeds the reference itself does not reach the target of .575, nor does the method
    references = [[0.2, 0.2, 0.4, 0.9, 1.0, 1.0], [0.2, 0.2, 0.2, 0.3, 0.4, 0.55], [0.2, 0.2, 0.2, 0.3, 0.4, 0.55]]
    found = gain(course([LATE] * 3), course(references), 0.9)
    assert (found.censored, found.lo, found.hi) == ("undefined", 0, math.inf)
    assert math.isnan(found.ratio)
    assert found.why == "the runs in the middle give no bound"


def test_one_seed_is_not_headlined() -> None:
    found = gain(course([FAST], spread=0.1), course([SLOW], spread=0.1))
    assert found.ratio == pytest.approx(2)
    assert found.why == "one seed says nothing about others"


def noisy(rng: np.random.Generator, curve: list[float], item_I: NDArray[np.float64], seeds: int = 3) -> Course:
    later = np.array(USED)[:, None, None] > 0
    scores_MSI = np.array(curve)[:, None, None] + rng.normal(0, 0.02, (1, seeds, 1)) * later + item_I
    scores_MSI = scores_MSI + rng.normal(0, 0.2, scores_MSI.shape)
    return Course(np.repeat(np.array(USED, dtype=float)[:, None], seeds, axis=1), scores_MSI)


def test_intervals_of_gains_cover() -> None:
    rng, held, shut = np.random.default_rng(1), 0, 0
    for _ in range(100):
        item_I = rng.normal(0, 0.25, 150)
        found = gain(noisy(rng, FAST, item_I), noisy(rng, SLOW, item_I))
        held += found.lo <= 2 <= found.hi
        shut += found.lo > 0 and found.hi < math.inf
    assert held >= 90
    assert shut >= 70  # not by being endless


def test_refuses_courses_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="same seeds and items"):
        gain(course([SLOW] * 2), course([SLOW] * 3))
    with pytest.raises(ValueError, match="readings never fall"):
        course([SLOW], [0, 2, 1, 3, 4, 5])
    with pytest.raises(ValueError, match="readings never fall"):
        course([SLOW], [0] * 6)
    with pytest.raises(ValueError, match="finite"):
        course([[0.2, float("nan")]], [0, 1])
    with pytest.raises(ValueError, match="2 marks or more"):
        Course(np.zeros((2, 3)), np.zeros((2, 2, 5)))

"""Statistics of scores of seeds x items. All seeds answer the same items, so the two are crossed random effects.

What can be written as a mean over seeds and items (a score, a paired difference, an interquartile mean, a probability of
improvement, an area under a curve) gets its interval from `interval`, if need be after linearisation: each score is
replaced by the statistic plus its influence on it. `docs/statistics.md` has the definitions, worked numbers and measured
coverage.

Axes: S seeds, I items, N resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc, ndtri, stdtr, stdtrit

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
TRIM = 0.25
"""The share that an interquartile mean leaves out on each side."""
RESAMPLES = 1999
MOST_FLIPS = 16
"""Seeds up to which all sign flips are enumerated: 65,536 of them."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    lo: float
    hi: float
    seeds: int
    items: int
    p: float
    """Two-sided p-value of a true mean of 0, by the same t as the interval: below .05 where the interval leaves 0 out."""

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.hi - self.lo) / 2

    @property
    def holds_zero(self) -> bool:
        return self.lo <= 0 <= self.hi


@dataclass(frozen=True)
class Spread:
    """A mean with its standard error, and Student's degrees of freedom."""

    mean: float
    error: float
    freedom: float
    seeds: int
    items: int

    @property
    def interval(self) -> Interval:
        half = float(stdtrit(self.freedom, 1 - TAIL)) * self.error
        p = 2 * float(stdtr(self.freedom, -abs(self.mean) / self.error)) if self.error else float(self.mean == 0)
        return Interval(self.mean, self.mean - half, self.mean + half, self.seeds, self.items, p)

    def detectable(self, power: float = 0.8) -> float:
        """The least true mean that would be told from 0 with this power: the standard error times the noncentrality at which
        a two-sided t test of 5 % has it.

        Raises:
            ValueError: a power outside .05 to 1.
        """
        if not 1 - LEVEL < power < 1:
            raise ValueError(f"power lies between {1 - LEVEL:.2f} and 1, got {power}")
        return self.error * float(nctdtrinc(self.freedom, 1 - power, stdtrit(self.freedom, 1 - TAIL)))


class SignFlip(NamedTuple):
    p: float
    floor: float
    """The least p that so many seeds can give, 2 / 2^S."""


def interval(scores_SI: ArrayLike, pairs_S: Sequence[int] | None = None) -> Interval:
    """The grand mean of S seeds x I items with its 95 % interval.

    With one seed it is Student's t over items, and says nothing about other seeds. With more, score = mean + seed + item +
    rest, all random. The variance of the mean is V / (S I), where V is the greatest of MS_seed + MS_item - MS_rest (Searle,
    Casella and McCulloch, Variance Components, 1992, chapter 4: the crossed classification), MS_seed and MS_item. Student's t
    has the harmonic mean of S - 1 and I - 1 degrees of freedom, weighted by MS_seed and V - MS_seed. Satterthwaite (1946,
    Biometrics Bulletin 2) squares these weights, which covers too little at 3 seeds. Two seeds get 1 degree of freedom.

    Args:
        pairs_S: which seeds began from the same pair of models. Such seeds are averaged first, each pair counts once, and
            pairs take the place of seeds.

    Raises:
        ValueError: not two axes, no seed, fewer than two items, a score that is not finite, or a pair missing for a seed.
    """
    return spread(scores_SI, pairs_S).interval


def spread(scores_SI: ArrayLike, pairs_S: Sequence[int] | None = None) -> Spread:
    """What `interval` is made of. Raises as it."""
    x_SI = _checked(scores_SI)
    seeds, items = x_SI.shape
    if pairs_S is not None:
        if len(pairs_S) != seeds:
            raise ValueError(f"each of {seeds} seeds needs its pair, got {len(pairs_S)}")
        x_SI = np.stack([x_SI[np.asarray(pairs_S) == pair].mean(axis=0) for pair in sorted(set(pairs_S))])
    return Spread(float(x_SI.mean()), *_error(x_SI), seeds, items)


def of_these_pairs(scores_SI: ArrayLike, pairs_S: Sequence[int]) -> Spread:
    """The grand mean for the very pairs of models at hand: their seeds and the items are random, the pairs are not.

    The terms are those of `interval` with MS_seed among seeds of one pair and MS_rest among them item by item, both with S - P
    in the place of S - 1. A statement about other pairs needs `interval` with `pairs_S`.

    Raises:
        ValueError: as in `interval`, or a pair has another number of seeds than the others, or one alone.
    """
    x_SI, pair_S = _checked(scores_SI), np.asarray(pairs_S)
    groups = [x_SI[pair_S == pair] for pair in sorted(set(pairs_S))]
    if len({len(group) for group in groups}) != 1 or len(groups[0]) < 2:
        raise ValueError(f"each pair needs as many seeds as the others and two at least, got {[len(group) for group in groups]}")
    x_PNI = np.stack(groups)  # N seeds of a pair
    (pairs, seeds, items), mean = x_PNI.shape, x_PNI.mean()
    apart_PN1 = x_PNI.mean(axis=2, keepdims=True) - x_PNI.mean(axis=(1, 2), keepdims=True)
    rest_PNI = x_PNI - x_PNI.mean(axis=1, keepdims=True) - apart_PN1
    freedom, runs = pairs * (seeds - 1), pairs * seeds
    ms_seed = items * float((apart_PN1**2).sum()) / freedom
    ms_item = runs * float(((x_PNI.mean(axis=(0, 1)) - mean) ** 2).sum()) / (items - 1)
    ms_rest = float((rest_PNI**2).sum()) / (freedom * (items - 1))
    total = max(ms_seed + ms_item - ms_rest, ms_seed, ms_item)
    if not total:
        return Spread(float(mean), 0.0, freedom, runs, items)
    error = (total / (runs * items)) ** 0.5
    return Spread(float(mean), error, total / (ms_seed / freedom + (total - ms_seed) / (items - 1)), runs, items)


def paired(a_SI: ArrayLike, b_SI: ArrayLike, pairs_S: Sequence[int] | None = None) -> Interval:
    """The interval of the mean difference a - b, seed by seed and item by item.

    Raises:
        ValueError: the two do not have the same seeds and items, or as in `interval`.
    """
    return interval(_difference(a_SI, b_SI), pairs_S)


def iqm(scores_SI: ArrayLike) -> Interval:
    """The interquartile mean of all S x I scores: the mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264).

    The interval is that of its influence values, the scores winsorised at the quartiles and spread by 1 / (1 - 2 x .25)
    (Tukey and McLaughlin 1963, Sankhya A 25, with seeds and items crossed).

    Raises:
        ValueError: as in `interval`.
    """
    from scipy.stats import trim_mean

    x_SI = _checked(scores_SI)
    middle = float(trim_mean(x_SI, TRIM, axis=None))
    ordered = np.sort(x_SI, axis=None)
    cut = int(TRIM * ordered.size)
    winsorised_SI = x_SI.clip(ordered[cut], ordered[-cut - 1])
    return interval(middle + (winsorised_SI - winsorised_SI.mean()) / (1 - 2 * TRIM))


def improvement(a_SI: ArrayLike, b_SI: ArrayLike) -> Interval:
    """The probability that a random run of a scores higher than a random run of b on a random item; ties count half.

    On each item all S x S pairs of runs are compared (Mann-Whitney), then items are averaged (Agarwal et al. 2021, arXiv
    2108.13264, section 4.3). The interval is that of DeLong's placement values (1988, Biometrics 44), with seeds and items
    crossed and seed s of a paired with seed s of b. It is cut at 0 and 1. `p` is that of a probability of one half.

    Raises:
        ValueError: the two do not have the same seeds and items, or as in `interval`.
    """
    _difference(a_SI, b_SI)
    a_SI, b_SI = _checked(a_SI), _checked(b_SI)
    wins_SSI = (1 + np.sign(a_SI[:, None] - b_SI[None, :])) / 2
    placed_SI = wins_SSI.mean(axis=1) + wins_SSI.mean(axis=0) - wins_SSI.mean(axis=(0, 1))
    found = interval(placed_SI - 0.5)
    return replace(found, mean=found.mean + 0.5, lo=max(found.lo + 0.5, 0.0), hi=min(found.hi + 0.5, 1.0))


def detectable(a_SI: ArrayLike, b_SI: ArrayLike, power: float = 0.8) -> float:
    """The least true difference of means that `paired` would tell from 0 with this power, given these data's variance.

    Raises:
        ValueError: a power outside .05 to 1, or as in `paired`.
    """
    return spread(_difference(a_SI, b_SI)).detectable(power)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values of a family: reject those at or below the level, and any wrong one stays that rare.

    The k-th least of n is multiplied by n - k + 1 and is never below one before it (Holm 1979, Scand. J. Statistics 6).

    Raises:
        ValueError: a p outside 0 to 1.
    """
    if wrong := {name: value for name, value in p.items() if not 0 <= value <= 1}:
        raise ValueError(f"p-values lie between 0 and 1, got {wrong}")
    adjusted, least = {}, 0.0
    for done, name in enumerate(sorted(p, key=lambda name: p[name])):
        adjusted[name] = least = max(least, min(1.0, (len(p) - done) * p[name]))
    return {name: adjusted[name] for name in p}


def sign_flip(differences_S: ArrayLike) -> SignFlip:
    """The exact two-sided test that paired differences of seeds are symmetric about 0: all 2^S flips of their signs.

    It assumes nothing else, and takes the items as given. Its p is never below 2 / 2^S: .25 at 3 seeds, .03125 at 6.

    Raises:
        ValueError: not one axis, no seed, more than 16, or a difference that is not finite.
    """
    from scipy.stats import permutation_test

    d_S = np.asarray(differences_S, dtype=np.float64)
    if d_S.ndim != 1 or not 1 <= d_S.size <= MOST_FLIPS or not np.isfinite(d_S).all():
        raise ValueError(f"sign flips need 1 to {MOST_FLIPS} finite differences, got {np.asarray(differences_S)!r}")
    floor = 2.0 ** (1 - d_S.size)
    if d_S.size == 1:  # both flips of one difference are as far from 0
        return SignFlip(1.0, floor)
    found = permutation_test((d_S,), np.sum, permutation_type="samples", vectorized=True, n_resamples=np.inf, batch=2**16)
    return SignFlip(float(found.pvalue), floor)


def rank_intervals(scores: Mapping[str, ArrayLike]) -> dict[str, tuple[int, int]]:
    """The 95 % range of each method's rank by mean score, 1 the best, when seeds and items are drawn anew.

    All methods need the same seeds and items, and share each draw. Deviations of resampled means are widened as `resample`
    says. Tied methods share the best of their places, so two equal methods of two are both 1.

    Args:
        scores: by name, an array [S, I].

    Raises:
        ValueError: no method, arrays of different shapes, or as in `interval`.
    """
    x = {name: _checked(scores_SI) for name, scores_SI in scores.items()}
    if len({x_SI.shape for x_SI in x.values()}) != 1:
        raise ValueError(f"ranks need methods with the same seeds and items, got {[x_SI.shape for x_SI in x.values()]}")
    seeds, items = next(iter(x.values())).shape
    seeds_NS, items_NI, widening = resample(seeds, items)
    drawn_MN, means_M = [], []
    for x_SI in x.values():
        means_M.append(float(x_SI.mean()))
        drawn_N = np.einsum("ns,ns->n", seeds_NS, items_NI @ x_SI.T)
        drawn_MN.append(means_M[-1] + widening * (drawn_N - means_M[-1]))
    drawn = np.round(np.array(drawn_MN), 12)  # equal scores stay equal whatever the order of summation
    ranks_MN = 1 + (drawn[None, :] > drawn[:, None]).sum(axis=1)
    lo_M, hi_M = np.quantile(ranks_MN, [TAIL, 1 - TAIL], axis=1, method="inverted_cdf").astype(int)
    return {name: (int(lo), int(hi)) for name, lo, hi in zip(x, lo_M, hi_M, strict=True)}


@lru_cache(maxsize=4)
def resample(seeds: int, items: int) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Weights of the crossed bootstrap, always the same ones: seeds [N, S] and items [N, I], each row with sum 1.

    Seeds and items are drawn independently of each other (Owen 2007, Ann. Appl. Stat. 1, the pigeonhole bootstrap). Few
    seeds vary too little among themselves, by (S - 1) / S, and their variance is itself uncertain: the third value is by how
    much to widen deviations from the mean, sqrt(S / (S - 1)) times the ratio of Student's t of S - 1 degrees of freedom to
    the normal quantile. One seed is not drawn.
    """
    rng = np.random.Generator(np.random.Philox(key=[seeds, items]))
    seeds_NS = rng.multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES) / seeds
    items_NI = rng.multinomial(items, [1 / items] * items, size=RESAMPLES) / items
    seeds_NS.flags.writeable = items_NI.flags.writeable = False  # every caller gets the same arrays
    widening = (seeds / (seeds - 1)) ** 0.5 * float(stdtrit(seeds - 1, 1 - TAIL) / ndtri(1 - TAIL)) if seeds > 1 else 1.0
    return seeds_NS, items_NI, widening


def _error(x_SI: NDArray[Any]) -> tuple[float, float]:
    """The standard error of the grand mean with its degrees of freedom; see `interval`."""
    seeds, items = x_SI.shape
    mean, item_I = x_SI.mean(), x_SI.mean(axis=0)
    ms_item = seeds * float(((item_I - mean) ** 2).sum()) / (items - 1)
    if seeds == 1:
        return (ms_item / items) ** 0.5, items - 1
    seed_S1 = x_SI.mean(axis=1, keepdims=True)
    ms_seed = items * float(((seed_S1 - mean) ** 2).sum()) / (seeds - 1)
    ms_rest = float(((x_SI - seed_S1 - item_I + mean) ** 2).sum()) / ((seeds - 1) * (items - 1))
    total = max(ms_seed + ms_item - ms_rest, ms_seed, ms_item)
    error = (total / (seeds * items)) ** 0.5
    if seeds == 2 or not total:
        return error, seeds - 1
    return error, total / (ms_seed / (seeds - 1) + (total - ms_seed) / (items - 1))


def _difference(a_SI: ArrayLike, b_SI: ArrayLike) -> NDArray[Any]:
    left_SI, right_SI = _checked(a_SI), _checked(b_SI)
    if left_SI.shape != right_SI.shape:
        raise ValueError(f"pairs need the same seeds and items, got {left_SI.shape} and {right_SI.shape}")
    return left_SI - right_SI


def _checked(scores_SI: ArrayLike) -> NDArray[Any]:
    x_SI = np.asarray(scores_SI, dtype=np.float64)
    if x_SI.ndim != 2 or x_SI.shape[0] < 1 or x_SI.shape[1] < 2:
        raise ValueError(f"an interval needs seeds x items with at least 1 x 2 scores, got shape {x_SI.shape}")
    if not np.isfinite(x_SI).all():
        raise ValueError("an interval needs finite scores: leave items without a score out for all seeds")
    return x_SI

"""Intervals for scores of seeds x items. All seeds answer the same items, so the two are crossed random effects.

Axes: S seeds, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    lo: float
    hi: float
    seeds: int
    items: int

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.hi - self.lo) / 2

    @property
    def holds_zero(self) -> bool:
        return self.lo <= 0 <= self.hi


def interval(scores_SI: ArrayLike) -> Interval:
    """The grand mean of S seeds x I items with its 95 % interval.

    With one seed it is Student's t over items, and says nothing about other seeds. With more, score = mean + seed +
    item + rest, all random: the variance of the mean is the two-way moment estimate
    (MS_seed + MS_item - MS_rest) / (S I), never less than either one-way estimate, with Student's t of S - 1 degrees
    of freedom (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4: the crossed classification).

    Raises:
        ValueError: not two axes, no seed, fewer than two items, or a score that is not finite.
    """
    x_SI = _checked(scores_SI)
    seeds, items = x_SI.shape
    mean = float(x_SI.mean())
    item_I = x_SI.mean(axis=0)
    ms_item = seeds * float(((item_I - mean) ** 2).sum()) / (items - 1)
    if seeds == 1:
        variance, freedom = ms_item / items, items - 1
    else:
        seed_S1 = x_SI.mean(axis=1, keepdims=True)
        ms_seed = items * float(((seed_S1 - mean) ** 2).sum()) / (seeds - 1)
        ms_rest = float(((x_SI - seed_S1 - item_I + mean) ** 2).sum()) / ((seeds - 1) * (items - 1))
        variance, freedom = max(ms_seed + ms_item - ms_rest, ms_seed, ms_item) / (seeds * items), seeds - 1
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * variance**0.5
    return Interval(mean, mean - half, mean + half, seeds, items)


def paired(a_SI: ArrayLike, b_SI: ArrayLike) -> Interval:
    """The interval of the mean difference a - b, seed by seed and item by item.

    Raises:
        ValueError: the two do not have the same seeds and items, or as in `interval`.
    """
    left_SI, right_SI = _checked(a_SI), _checked(b_SI)
    if left_SI.shape != right_SI.shape:
        raise ValueError(f"pairs need the same seeds and items, got {left_SI.shape} and {right_SI.shape}")
    return interval(left_SI - right_SI)


def _checked(scores_SI: ArrayLike) -> NDArray[Any]:
    x_SI = np.asarray(scores_SI, dtype=np.float64)
    if x_SI.ndim != 2 or x_SI.shape[0] < 1 or x_SI.shape[1] < 2:
        raise ValueError(f"an interval needs seeds x items with at least 1 x 2 scores, got shape {x_SI.shape}")
    if not np.isfinite(x_SI).all():
        raise ValueError("an interval needs finite scores: leave items without a score out for all seeds")
    return x_SI

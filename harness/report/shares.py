"""Intervals of shares, and bounds where verdicts are missing. `docs/statistics.md` has worked numbers.

Axes: I items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri

from harness.report.stats import TAIL


def wilson(wins: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n; draws may count as halves (Wilson 1927, J. Am. Stat. Assoc. 22).

    Raises:
        ValueError: no trial, or a number of wins outside 0 to n.
    """
    if n < 1 or not 0 <= wins <= n:
        raise ValueError(f"a share needs 0 to n wins of n, got {wins} of {n}")
    share, spread = wins / n, float(ndtri(1 - TAIL)) ** 2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def beta_binomial(wins_I: ArrayLike, samples: int) -> tuple[float, float]:
    """The 95 % interval of the mean success rate from `samples` answers to each of I items, also where I is small.

    Answers to one item are alike, so I x samples answers are worth I samples / (1 + (samples - 1) rho) independent ones,
    with rho, the intraclass correlation of a beta-binomial, from the analysis of variance (Kish 1965, Survey Sampling,
    section 5.4). The interval is the Jeffreys posterior of that many (advised for small item sets: Bowyer et al. 2025,
    arXiv 2503.01747). Where nothing varies, rho is taken as 1: each item counts once.

    Raises:
        ValueError: not one axis, fewer than two items, no samples, or numbers of successes outside 0 to `samples`.
    """
    wins_I = np.asarray(wins_I, dtype=np.float64)
    if wins_I.ndim != 1 or wins_I.size < 2 or samples < 1 or not ((wins_I >= 0) & (wins_I <= samples)).all():
        raise ValueError(f"2 items or more need 0 to {samples} successes each, got shape {wins_I.shape}")
    rate_I = wins_I / samples
    rate, items = float(rate_I.mean()), rate_I.size
    rho = 1.0
    if samples > 1 and 0 < rate < 1:
        between = samples * float(((rate_I - rate) ** 2).sum()) / (items - 1)
        within = float((rate_I * (1 - rate_I)).sum()) * samples / (items * (samples - 1))
        rho = min(max((between - within) / (between + (samples - 1) * within), 0.0), 1.0)
    worth = items * samples / (1 + (samples - 1) * rho)
    lo, hi = betaincinv(rate * worth + 0.5, (1 - rate) * worth + 0.5, [TAIL, 1 - TAIL])
    return (0.0 if rate == 0 else float(lo)), (1.0 if rate == 1 else float(hi))


def missing_bounds(value: float, n: int, missing: int, scale: tuple[float, float]) -> tuple[float, float]:
    """The least and the greatest mean that n scored items of mean `value` allow when `missing` more could score anything.

    Items without a verdict are seldom a random sample, so no interval covers this (Manski 1990, Am. Econ. Review 80).

    Raises:
        ValueError: no item at all, a negative number of them, or a value outside the scale.
    """
    if n < 0 or missing < 0 or n + missing == 0 or not (n == 0 or scale[0] <= value <= scale[1]):
        raise ValueError(f"a mean on the scale {scale} of 1 item or more is needed, got {value} of {n} with {missing} missing")
    known = value * n if n else 0.0
    return (known + missing * scale[0]) / (n + missing), (known + missing * scale[1]) / (n + missing)

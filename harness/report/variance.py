"""What the variance of a score is made of: pairs of models, seeds, items, and what is left.

Seeds are nested in pairs of models and all of them answer the same items, so that a score = mean + pair + seed within its pair
+ item + pair x item + rest, all random but the mean. The parts are estimated from mean squares by the method of moments
(Searle, Casella and McCulloch, Variance Components, 1992, chapter 5; Brennan, Generalizability Theory, 2001, chapters 3 and 4, to
whom the use of the parts for other designs is a D study). The parts of single runs and items hold everything that is drawn anew
with them: a seed's are its prompts and samples, the rest's are what one run answers to one item and what the judge makes of it.

Axes: S seeds, P pairs, I items, K sources of variance, N draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from harness.report.board import Field
from harness.report.runs import Run, aligned, common_marks, scored_alike
from harness.report.stability import Estimate, contestants
from harness.report.stats import RESAMPLES, TAIL

SOURCES = ("pair", "seed", "item", "pair x item", "rest")
"""The last is seed x item together with everything that is drawn anew for an item of a run."""
AXES = ("pairs", "seeds", "items")
MOST = 10_000
"""Pairs, seeds or items beyond which nobody is told to go."""
PROBABILITIES = "alpaca"
"""The suite whose scores are the judge's own probabilities; ratings and grades are rounded and do not tell how sure it was."""
TASTE = 0.15
"""Standard deviation, in logits, of the embedded judge's taste, where the track sets no other."""


class Design(NamedTuple):
    """How many of each a mean is over."""

    pairs: Any
    seeds: Any
    """In each pair; a mean where pairs have different numbers of them."""
    items: Any


@dataclass(frozen=True)
class Squares:
    """Mean squares of one arm, or means of those of several arms with the same design."""

    mean_K: NDArray[Any]
    freedom_K: NDArray[Any]
    """Degrees of freedom of one arm."""
    expected_KK: NDArray[Any]
    """Row k times the variances of the sources is the expectation of mean square k."""
    design: Design


@dataclass(frozen=True)
class Made:
    """What the variance is made of, with 95 % intervals."""

    arms: int
    design: Design
    """That of the data: its mean is the one that a board shows."""
    variance_K: NDArray[Any]
    """As estimated: one below 0 is there by chance, and counts as 0 everywhere else."""
    deviations: tuple[Estimate, ...]
    """Square roots of the variances."""
    of_a_run: tuple[Estimate, ...]
    """Shares of the variance of the mean of one run over all items."""
    of_the_mean: tuple[Estimate, ...]
    """Shares of the variance of the mean over the whole design."""


class Arm(NamedTuple):
    """The runs of one label at a mark, and of its control where the difference to it is meant."""

    runs: list[Run]
    sides: list[list[dict[str, float]]]
    """For the label, and maybe its control, the item scores of each seed."""


@dataclass(frozen=True)
class Part:
    """The variance of the scores of a suite, or of differences, over the methods with the same seeds."""

    arms: Mapping[str, Squares]
    left_out: tuple[str, ...]
    """Methods with other seeds than most."""
    made: Made
    taste: float | None
    """What the judge's taste adds to the variance of one run's mean, the mean over methods; none where it cannot be told."""


def of_scores(runs: Sequence[Run], suite: str) -> Part:
    """What the variance of scores at the last mark is made of, in the mean over methods without controls.

    Raises:
        ValueError: no method has a second seed of one of two pairs or more.
        SpecError, Incomparable: as in `runs.scored_alike`.
    """
    found = Field.of(scored_alike(runs, suite), suite)
    arms = {}
    for label in contestants(found):
        group = found.groups[label]
        arms[label] = Arm(group, [[run.items(suite, found.ends[label]) for run in group]])
    return _part(arms, suite)


def of_differences(runs: Sequence[Run], suite: str) -> Part:
    """The same of the paired difference of a method to its control with a shuffled signal. Raises as `of_scores`."""
    found = Field.of(scored_alike(runs, suite), suite)
    arms = {}
    for label in contestants(found):
        if label in found.twins:
            both = [found.groups[label], found.groups[found.twins[label]]]
            seeds = set.intersection(*({run.seed for run in group} for group in both))
            both = [[run for run in group if run.seed in seeds] for group in both]
            marks = common_marks([run for group in both for run in group], suite) if seeds else []
            if marks:
                arms[label] = Arm(both[0], [[run.items(suite, marks[-1]) for run in group] for group in both])
    return _part(arms, suite)


def squares(scores_SI: ArrayLike, pairs_S: Sequence[int]) -> Squares:
    """The mean squares of one arm, with what they are expected to be. Pairs may have different numbers of seeds.

    Raises:
        ValueError: not two axes, a pair missing for a seed, fewer than two pairs or items, no pair with a second seed, or a
            score that is not finite.
    """
    x_SI, pairs = np.asarray(scores_SI, dtype=np.float64), np.asarray(pairs_S)
    if x_SI.ndim != 2 or len(pairs) != len(x_SI) or not np.isfinite(x_SI).all():
        raise ValueError(f"finite scores of seeds x items and a pair for each seed are needed, got {x_SI.shape} and {len(pairs)}")
    names, place_S, size_P = np.unique(pairs, return_inverse=True, return_counts=True)
    p, (seeds, items) = len(names), x_SI.shape
    if p < 2 or items < 2 or seeds == p:
        raise ValueError(f"2 pairs, 2 items and a second seed of a pair are needed, got {p}, {items} and {seeds} seeds")
    mean, item_I, seed_S = x_SI.mean(), x_SI.mean(axis=0), x_SI.mean(axis=1)
    cell_PI = np.stack([x_SI[place_S == place].mean(axis=0) for place in range(p)])
    pair_P = cell_PI.mean(axis=1)
    sums_K = np.array([
        items * (size_P * (pair_P - mean) ** 2).sum(),
        items * ((seed_S - pair_P[place_S]) ** 2).sum(),
        seeds * ((item_I - mean) ** 2).sum(),
        (size_P[:, None] * (cell_PI - pair_P[:, None] - item_I + mean) ** 2).sum(),
        ((x_SI - cell_PI[place_S] - (seed_S - pair_P[place_S])[:, None]) ** 2).sum(),
    ])  # fmt: skip
    freedom_K = np.array([p - 1, seeds - p, items - 1, (p - 1) * (items - 1), (seeds - p) * (items - 1)], dtype=np.float64)
    uneven = float((size_P**2).sum()) / seeds
    each = (seeds - uneven) / (p - 1)  # seeds in a pair, where all have as many
    expected_KK = np.array([
        [items * each, items, 0, each, 1], [0, items, 0, 0, 1], [0, 0, seeds, uneven, 1], [0, 0, 0, each, 1], [0, 0, 0, 0, 1],
    ], dtype=np.float64)  # fmt: skip
    return Squares(sums_K / freedom_K, freedom_K, expected_KK, Design(p, seeds / p, items))


def pooled(arms: Sequence[Squares]) -> Squares:
    """The mean of several arms' mean squares, so that the variances are means too.

    Degrees of freedom stay those of one arm: arms begin from the same pairs, share the draws of a seed and answer the same
    items, so that how far they are independent of each other is not known.

    Raises:
        ValueError: no arm, or arms of different designs.
    """
    if not arms or any(not np.array_equal(arm.expected_KK, arms[0].expected_KK) for arm in arms):
        raise ValueError(f"arms of the same design are needed, got {[arm.design for arm in arms]}")
    mean_K = np.mean([arm.mean_K for arm in arms], axis=0)
    return Squares(mean_K, arms[0].freedom_K, arms[0].expected_KK, arms[0].design)


def variances(found: Squares) -> NDArray[Any]:
    """The variance [K] of each source, which can come out below 0."""
    return np.linalg.solve(found.expected_KK, found.mean_K)


def contributions(variance_K: NDArray[Any], design: Design) -> NDArray[Any]:
    """What each source [..., K] adds to the variance of the mean over a design, whose numbers may be arrays; estimates below 0
    add nothing."""
    pairs, seeds, items = np.broadcast_arrays(*design)
    counts = np.stack([pairs, pairs * seeds, items, pairs * items, pairs * seeds * items], axis=-1)
    return np.maximum(variance_K, 0) / counts


def made_of(arms: Sequence[Squares]) -> Made:
    """What the variance is made of in the mean over arms.

    The intervals are generalised ones (Weerahandi 1993, J. Am. Stat. Assoc. 88): each mean square is divided by draws of
    chi-square over its degrees of freedom, always the same draws, and all figures are made anew of each draw.

    Raises:
        ValueError: as in `pooled`.
    """
    found = pooled(arms)
    rng = np.random.Generator(np.random.Philox(key=[RESAMPLES, len(SOURCES)]))
    chi_NK = np.maximum(rng.chisquare(found.freedom_K, size=(RESAMPLES, len(SOURCES))), np.finfo(np.float64).tiny)
    drawn_NK = np.linalg.solve(found.expected_KK, (found.mean_K * found.freedom_K / chi_NK).T).T
    variance_K = variances(found)
    run = Design(1, 1, found.design.items)
    return Made(
        len(arms), found.design, variance_K,
        _estimates(np.maximum(variance_K, 0) ** 0.5, np.maximum(drawn_NK, 0) ** 0.5),
        _estimates(_shares(variance_K, run), _shares(drawn_NK, run)),
        _estimates(_shares(variance_K, found.design), _shares(drawn_NK, found.design)),
    )  # fmt: skip


def half_width(variance_K: NDArray[Any], design: Design) -> NDArray[Any]:
    """Half the width of the 95 % interval that `stats.interval` is expected to give a mean over 2 pairs and items or more.

    Seeds of a pair are averaged, and Student's t has the harmonic mean of the degrees of freedom of pairs and items, weighted by
    their parts of the variance. The numbers of the design may be arrays.
    """
    pairs, _, items = np.broadcast_arrays(*design)
    parts_K = contributions(variance_K, design)
    variance = parts_K.sum(axis=-1)
    by_items = np.divide(parts_K[..., 2], variance, out=np.zeros_like(variance), where=variance > 0)
    freedom = np.where(pairs > 2, 1 / ((1 - by_items) / (pairs - 1) + by_items / (items - 1)), 1.0)
    found: NDArray[Any] = stdtrit(freedom, 1 - TAIL) * variance**0.5
    return found


def least(variance_K: NDArray[Any], design: Design, axis: str, share: float = 0.5) -> tuple[int | None, float]:
    """The least number of pairs, seeds a pair or items, up to `MOST`, that leaves a share of a design's half width, all else
    being equal, with the share that it leaves. If there is none, the least share that any of them leaves.

    More items do not always make an interval narrower: the less of the variance is theirs, the fewer degrees of freedom it has.
    """
    tried = np.arange(int(np.ceil(getattr(design, axis))), MOST + 1)
    now = half_width(variance_K, design)
    left = np.divide(half_width(variance_K, design._replace(**{axis: tried})), now, out=np.ones(len(tried)), where=now > 0)
    enough = np.flatnonzero(left <= share)
    return (int(tried[enough[0]]), float(left[enough[0]])) if len(enough) else (None, float(left.min()))


def taste(scores_SI: ArrayLike, noise: float) -> float:
    """What the embedded judge's taste adds to the variance of a run's mean win rate over I items.

    The judge prefers an answer with log-odds to which its taste for these very texts is added, normal with standard
    deviation `noise`; another answer would have another taste, and the same answer has the same one each time. A score y is
    the logistic function of log-odds, whose slope is y (1 - y); so much of the taste reaches the score, to first order.
    Where the mean of both orders of a pair is the score, that is a little too much.
    """
    y_SI = np.asarray(scores_SI, dtype=np.float64)
    return float(((noise * y_SI * (1 - y_SI)) ** 2).mean()) / y_SI.shape[1]


def noise_of(track: Mapping[str, Any], suite: str) -> float | None:
    """The standard deviation of the embedded judge's taste in logits, where scores are its probabilities; none elsewhere."""
    judge = track.get("judge") or {}
    if judge.get("url") != "pocket" or suite != PROBABILITIES or "annotator" in track["suites"].get(suite, {}):
        return None
    return float({"noise": TASTE, **(track.get("pocket") or {}).get("judge", {})}["noise"])


def _part(arms: Mapping[str, Arm], suite: str) -> Part:
    """Of the methods with the same seeds, of which there are the most runs."""
    designs: dict[tuple[int, ...], list[str]] = {}
    for label, arm in arms.items():
        pairs = [run.pair for run in arm.runs]
        if 1 < len(set(pairs)) < len(pairs):
            designs.setdefault(tuple(run.seed for run in arm.runs), []).append(label)
    if not designs:
        raise ValueError("no method has runs of two pairs of models and a second seed of one of them")
    labels = designs[max(designs, key=lambda seeds: (len(seeds) * len(designs[seeds]), seeds))]
    arrays = iter(aligned(*(side for label in labels for side in arms[label].sides)))
    found, tastes = {}, []
    noise = noise_of(arms[labels[0]].runs[0].spec["track"], suite)
    for label in labels:
        sides = [next(arrays) for _ in arms[label].sides]
        found[label] = squares(sides[0] - sides[1] if len(sides) > 1 else sides[0], [run.pair for run in arms[label].runs])
        tastes.append(sum(taste(side_SI, noise) for side_SI in sides) if noise is not None else 0.0)
    left_out = tuple(label for label in arms if label not in labels)
    return Part(found, left_out, made_of([*found.values()]), None if noise is None else float(np.mean(tastes)))


def _shares(variance_K: NDArray[Any], design: Design) -> NDArray[Any]:
    parts_K = contributions(variance_K, design)
    total = parts_K.sum(axis=-1, keepdims=True)
    return np.divide(parts_K, total, out=np.zeros_like(parts_K), where=total > 0)


def _estimates(value_K: NDArray[Any], drawn_NK: NDArray[Any]) -> tuple[Estimate, ...]:
    lo_K, hi_K = np.quantile(drawn_NK, [TAIL, 1 - TAIL], axis=0)
    return tuple(Estimate(*map(float, each)) for each in zip(value_K, lo_K, hi_K, strict=True))

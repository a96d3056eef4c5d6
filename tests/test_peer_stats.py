"""Statistics against rliable's own (Agarwal et al. 2021). Skipped where it is not installed (extra `peer`).

rliable's arrays are runs x tasks; each item stands for a task.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.report.stats import improvement, interval, iqm

metrics = pytest.importorskip("rliable.metrics")
pytestmark = pytest.mark.peer

SHAPES = [(3, 80), (5, 33), (10, 7)]


def scores(seeds: int, items: int, key: int, *, ties: bool = False) -> np.ndarray:
    found = np.random.default_rng([seeds, items, key]).normal(0.1 * key, 1, (seeds, items))
    return found.round(0) if ties else found


@pytest.mark.parametrize(("seeds", "items"), SHAPES)
def test_interquartile_mean_and_mean(seeds: int, items: int) -> None:
    x_SI = scores(seeds, items, 1)
    assert iqm(x_SI).mean == pytest.approx(float(metrics.aggregate_iqm(x_SI)))
    assert interval(x_SI).mean == pytest.approx(float(metrics.aggregate_mean(x_SI)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("seeds", "items"), SHAPES)
def test_probability_of_improvement(seeds: int, items: int, ties: bool) -> None:
    a_SI, b_SI = scores(seeds, items, 1, ties=ties), scores(seeds, items, 2, ties=ties)
    assert improvement(a_SI, b_SI).mean == pytest.approx(float(metrics.probability_of_improvement(a_SI, b_SI)))

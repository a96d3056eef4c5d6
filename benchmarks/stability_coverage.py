"""How often the intervals of `results/stability.md` hold a truth that is known because we drew it.

    OMP_NUM_THREADS=1 python benchmarks/stability_coverage.py --out benchmarks/results/stability_coverage.json

Part one draws scores of nested and crossed effects and asks for their standard deviations and shares (`report.variance`).
Part two draws methods on two suites and asks for the tau-b of their true means (`report.stability`).

Axes: M methods or arms, P pairs of models, S seeds, I items.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.report import stability, variance
from harness.report.stability import PAIRS, SUITES, Estimate, Scores, tau_b

PAIRS_S = (0, 0, 1, 1, 2, 2)
EFFECTS = {
    "pairs lead": (0.04, 0.015, 0.25, 0.1, 0.2), "seeds lead": (0.01, 0.03, 0.2, 0.1, 0.2), "items alone": (0, 0, 0.25, 0.1, 0.2),
}  # fmt: skip
"""Standard deviations of pair, seed, item, pair x item and rest."""
Array = NDArray[Any]


def holds(found: Estimate, truth: float) -> bool:
    assert found.lo is not None
    assert found.hi is not None
    return found.lo - 1e-9 <= truth <= found.hi + 1e-9


def arms(rng: np.random.Generator, count: int, deviations: tuple[float, ...], shared: float, items: int) -> Array:
    """Scores [M, S, I]; `shared` is the part of each effect's variance that all arms have in common, but of the rest's."""

    def effect(sd: float, *shape: int) -> Array:
        return sd * (shared**0.5 * rng.normal(size=(1, *shape)) + (1 - shared) ** 0.5 * rng.normal(size=(count, *shape)))

    pair, seed, item, both, rest = deviations
    scores = effect(pair, 3, 1, 1) + effect(seed, 3, 2, 1) + effect(item, 1, 1, items) + effect(both, 3, 1, items)
    return (scores + rest * rng.normal(size=(count, 3, 2, items))).reshape(count, 6, items)


def parts(reps: int, items: int = 80) -> list[dict[str, Any]]:
    rows = []
    for (name, deviations), (count, shared) in product(EFFECTS.items(), ((1, 0.0), (12, 0.0), (12, 0.5), (12, 1.0))):
        rng, true = np.random.default_rng(0), np.array(deviations)
        one = variance.contributions(true**2, variance.Design(1, 1, items))
        sd, share = [], []
        for _ in range(reps):
            made = variance.made_of([variance.squares(scores, PAIRS_S) for scores in arms(rng, count, deviations, shared, items)])
            sd.append([holds(*each) for each in zip(made.deviations, true, strict=True)])
            share.append([holds(*each) for each in zip(made.of_a_run, one / one.sum(), strict=True)])
        rows.append({"effects": name, "arms": count, "shared": shared, "deviations": np.mean(sd, 0).tolist(),
                     "shares": np.mean(share, 0).tolist()})  # fmt: skip
    return rows


def orders(reps: int, methods: int = 11, items: int = 160) -> list[dict[str, Any]]:
    labels = tuple(f"m{i}" for i in range(methods))
    rows = []
    for spread, likeness, pair_sd in product((0.3, 0.1, 0.03), (1.0, 0.9, 0.6, 0.0), (0.02, 0.06)):
        rng, found = np.random.default_rng(1), []
        for _ in range(reps):
            first_M = rng.normal(0, spread, methods)
            second_M = likeness * first_M + (1 - likeness**2) ** 0.5 * rng.normal(0, spread, methods)
            common_MP = rng.normal(0, pair_sd, (methods, 3, 1))
            views = []
            for name, true_M in (("a", first_M), ("b", second_M)):
                pair_MP = 0.7 * (common_MP + rng.normal(0, pair_sd, (methods, 3, 1)))
                noise = rng.normal(0, 0.25, items) + rng.normal(0, 0.15, (methods, 1, items))
                noise = noise + rng.normal(0, 0.2, (methods, 3, items))
                ids = tuple(f"{name}{i}" for i in range(items))
                scores = Scores(true_M[:, None, None] + pair_MP + noise, labels, (0, 1, 2), ids, "models", PAIRS)
                views.append((name, scores.view()))
            told = stability.compared(SUITES, "", *views)
            assert told is not None
            found.append(holds(told.tau, float(tau_b(first_M, second_M)[()])))
        rows.append({"spread": spread, "likeness": likeness, "pair_sd": pair_sd, "tau": float(np.mean(found))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reps", type=int, default=100)
    asked = parser.parse_args()
    found = {"parts": parts(4 * asked.reps), "orders": orders(asked.reps)}
    told: dict[str, Any] = {"schema": "harness.stability-coverage/1", "reps": asked.reps, **found}
    asked.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    taus = [row["tau"] for row in told["orders"]]
    print(f"tau: mean {np.mean(taus):.3f}, least {min(taus):.2f}")
    for row in told["parts"]:
        print(row["effects"], row["arms"], row["shared"], *(f"{share:.2f}" for share in row["deviations"]), "|",
              *(f"{share:.2f}" for share in row["shares"]))  # fmt: skip


if __name__ == "__main__":
    main()

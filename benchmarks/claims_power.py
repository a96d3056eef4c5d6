"""How a verdict's test covers, and what it shows, when pairs of models are fixed and when they are a sample of others.

    OMP_NUM_THREADS=1 python benchmarks/claims_power.py --out benchmarks/results/claims_power.json

Six seeds over three pairs; effects are normal, with standard deviations as told. The truth is the mean over the three pairs
that were drawn where pairs are fixed, and 0 where they are a sample. `rejects` is how often a true margin is called false at
the level of the first of 21 claims under Holm's rule, `shows` how often a difference of .1 from the margin is found there.

Axes: P pairs, N seeds of a pair, S seeds, I items.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from harness.report.stats import of_these_pairs, spread

PAIRS_S = (0, 0, 1, 1, 2, 2)
EFFECTS = {
    "pairs lead": (0.04, 0.015, 0.25, 0.1, 0.2), "seeds lead": (0.01, 0.03, 0.2, 0.1, 0.2), "items alone": (0, 0, 0.25, 0.1, 0.2),
    "restless": (0.08, 0.08, 0.2, 0.1, 0.2),
}  # fmt: skip
"""Standard deviations of pair, seed, item, pair x item and rest."""
LEVEL, DIFFERENCE = 0.05 / 21, 0.1


def measured(effects: str, items: int, reps: int) -> list[dict[str, Any]]:
    pair, seed, item, both, rest = EFFECTS[effects]
    rng = np.random.default_rng(0)
    told: dict[str, list[tuple[bool, bool, bool, float]]] = {"fixed": [], "sample": []}
    for _ in range(reps):
        pair_P11 = rng.normal(0, pair, (3, 1, 1))
        noise = rng.normal(0, seed, (3, 2, 1)) + rng.normal(0, item, items) + rng.normal(0, both, (3, 1, items))
        scores_SI = (pair_P11 + noise + rng.normal(0, rest, (3, 2, items))).reshape(6, items)
        for name, test, truth in (("fixed", of_these_pairs, float(pair_P11.mean())), ("sample", spread, 0.0)):
            found = test(scores_SI - truth, PAIRS_S).interval
            moved = test(scores_SI - truth + DIFFERENCE, PAIRS_S).interval
            told[name].append((found.holds_zero, found.p < LEVEL, moved.p < LEVEL, found.half))
    return [
        {"effects": effects, "items": items, "pairs": name,
         **dict(zip(("covers", "rejects", "shows", "half_width"), np.mean(rows, axis=0).round(4).tolist(), strict=True))}
        for name, rows in told.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--reps", type=int, default=4000)
    args = parser.parse_args()
    rows = [row for effects, items in product(EFFECTS, (80, 320)) for row in measured(effects, items, args.reps)]
    for row in rows:
        print(row)
    if args.out:
        told = {"reps": args.reps, "level": LEVEL, "difference": DIFFERENCE, "rows": rows}
        args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How often `harness check --scores` cries wolf, and what it catches: simulations on the committed baseline's own variance.

    python benchmarks/check_power.py --out benchmarks/results/check_power.json

Each world draws what a method's runs would score: score = mean + pair + seed + item + rest, with the variances of the
baseline's method that varies most from seed to seed. Nothing is trained. "repeat" draws seeds and rest anew (a change that
moves every random draw and makes nothing better or worse), as paired runs of the same seeds and as two samples. Shifts lower
the new scores. All rows of a check are such worlds; a false alarm is a check in which any row fails.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.gate.runs import read
from harness.gate.scores import ScoreBaseline, two_sample, verdicts
from harness.report.stats import paired

CHECKS = 2000
SHIFTS = (0.0, 0.02, 0.03, 0.05, 0.08, 0.12)
BASELINE = Path(__file__).parents[1] / "results" / "baselines" / "scores.json"


def components(scores_SI: NDArray[Any], pairs: int) -> dict[str, float]:
    """Standard deviations of pair (of models), seed within pair, item and rest, by the method of moments."""
    seeds, items = scores_SI.shape
    seed_S, item_I = scores_SI.mean(axis=1), scores_SI.mean(axis=0)
    rest_SI = scores_SI - seed_S[:, None] - item_I + scores_SI.mean()
    rest = float((rest_SI**2).sum()) / ((seeds - 1) * (items - 1))
    groups = [seed_S[pair::pairs] for pair in range(pairs)]
    within = float(np.mean([group.var(ddof=1) for group in groups]))
    between = float(np.var([group.mean() for group in groups], ddof=1)) - within / (seeds / pairs)
    found = {
        "pair": between, "seed": within - rest / items, "item": float(item_I.var(ddof=1)) - rest / seeds, "rest": rest,
    }  # fmt: skip
    return {name: max(value, 0.0) ** 0.5 for name, value in found.items()}


def simulate(
    sd: dict[str, float], seeds: int, items: int, pairs: int, shift: float, paired_: bool, margin: float, rows: int, key: int
) -> dict[str, float]:
    """Shares of verdicts of single rows, and of checks in which any of their rows fails."""
    rng = np.random.Generator(np.random.Philox(key=key))
    counts = dict.fromkeys(("pass", "unclear", "FAIL", "any_FAIL"), 0)
    for _ in range(CHECKS):
        changes = {}
        for row in range(rows):
            item_I = rng.normal(0, sd["item"], items)
            pair_S = np.resize(rng.normal(0, sd["pair"], pairs), seeds)

            def arm(item_I: NDArray[Any] = item_I, pair_S: NDArray[Any] = pair_S) -> NDArray[Any]:
                seed_S = pair_S + rng.normal(0, sd["seed"], seeds)
                return item_I + seed_S[:, None] + rng.normal(0, sd["rest"], (seeds, items))

            before_SI, now_SI = arm(), arm() - shift
            changes[str(row)] = (paired if paired_ else two_sample)(now_SI, before_SI)
        found = verdicts(changes, margin)
        for verdict in found.values():
            counts[verdict] += 1
        counts["any_FAIL"] += "FAIL" in found.values()
    return {name: round(count / (CHECKS if name == "any_FAIL" else CHECKS * rows), 4) for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    baseline = read(BASELINE, ScoreBaseline)
    pairs = int(baseline.conditions["pocket"]["pairs"])
    found = {name: components(baseline.scores_SI(name), pairs) for name in baseline.methods}
    worst = max(found, key=lambda name: found[name]["seed"])
    rows = [
        {"comparison": name, "shift": shift,
         **simulate(found[worst], len(baseline.seeds), len(baseline.items), pairs, shift, paired_, baseline.margin,
                  len(baseline.methods), 1000 * paired_ + number)}
        for name, paired_ in (("paired", True), ("two samples", False)) for number, shift in enumerate(SHIFTS)
    ]  # fmt: skip
    result = {
        "margin": baseline.margin, "seeds": len(baseline.seeds), "items": len(baseline.items),
        "checks": CHECKS, "rows": len(baseline.methods),
        "deviations": {name: {key: round(value, 4) for key, value in each.items()} for name, each in found.items()},
        "simulated_as": worst, "results": rows,
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()

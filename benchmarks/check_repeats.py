"""Whether `harness check --scores` raises false alarms on an unchanged harness with other seeds: real runs, not simulations.

    python benchmarks/check_repeats.py --runs 18 --out benchmarks/results/check_repeats.json

Trains the baseline's methods under further seeds, then plays repeats: each takes as many of the new seeds as the baseline has,
with every pair of models as often as there, and compares them with the baseline as two samples. Repeats share runs, so they
are not independent; what a method scored under each seed is kept beside the counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from random import Random

from harness.gate.runs import read
from harness.gate.scores import UNIT, ScoreBaseline, _measured, compared

BASELINE = Path(__file__).parents[1] / "results" / "baselines" / "scores.json"
REPEATS = 20
PAIRS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=18, help="further seeds of each method")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    baseline, began = read(BASELINE, ScoreBaseline), time.monotonic()
    first = max(baseline.seeds) + 1
    seeds = range(first, first + options.runs)
    runs = _measured(baseline.plan, baseline.suite, list(baseline.methods), seeds, options.jobs, print)
    counts: Counter[str] = Counter()
    alarms = 0
    for repeat in range(REPEATS):
        rng, drawn = Random(f"repeat {repeat}"), []
        for pair in range(PAIRS):
            ours = sum(seed % PAIRS == pair for seed in baseline.seeds)
            drawn += rng.sample([place for place, seed in enumerate(seeds) if seed % PAIRS == pair], ours)
        rows = compared(baseline, [seeds[place] for place in drawn], {m: [group[i] for i in drawn] for m, group in runs.items()})
        counts.update(row.verdict for row in rows)
        alarms += any(row.verdict == "FAIL" for row in rows)
    told = {
        "schema": "harness.check_repeats/1", "repeats": REPEATS, "seeds_a_repeat": len(baseline.seeds), "margin": baseline.margin,
        "new_seeds": [min(seeds), max(seeds)], "rows": dict(sorted(counts.items())), "repeats_with_an_alarm": alarms,
        "means": {m: [round(sum(run.items.values()) / len(run.items) / UNIT, 4) for run in group] for m, group in runs.items()},
        "baseline_means": {m: [round(float(x), 4) for x in baseline.scores_SI(m).mean(axis=1)] for m in baseline.methods},
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: told[key] for key in ("rows", "repeats_with_an_alarm", "seconds")}))


if __name__ == "__main__":
    main()

"""How often nominal 95 % intervals hold a truth that is known because we drew it.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py --out benchmarks/results/coverage.json
    python benchmarks/coverage.py --table benchmarks/results/coverage.json

Part one compares rules for the interval of a mean over crossed seeds and items. Part two measures what the report prints:
scores, paired differences, areas, gains. Every figure is a share of simulated reports, with its Monte-Carlo error.

Axes: R repetitions, M marks, S seeds, I items, N resamples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri, stdtrit

from harness.report.gain import Course, area, area_interval, gain
from harness.report.stats import improvement, interval, iqm, paired, resample

SEEDS, ITEMS = (2, 3, 6, 10), (80, 300, 805)
LEVEL = 0.975
Array = NDArray[Any]
Draw = Callable[[np.random.Generator, int, int, int], Array]
"""From repetitions, seeds and items to scores [R, S, I], less the true mean."""


def normal(seed_sd: float, item_sd: float, rest_sd: float) -> Draw:
    """Score = seed + item + rest, all normal."""

    def draw(rng: np.random.Generator, reps: int, seeds: int, items: int) -> Array:
        return (
            rng.normal(0, seed_sd, (reps, seeds, 1)) + rng.normal(0, item_sd, (reps, 1, items))
            + rng.normal(0, rest_sd, (reps, seeds, items))
        )  # fmt: skip

    return draw


def right_or_wrong(location: float, seed_sd: float, item_sd: float) -> Draw:
    """0 or 1, with seeds and items additive on the logit scale."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(99)
    truth = float(weights @ expit(location + nodes * (seed_sd**2 + item_sd**2) ** 0.5) / weights.sum())

    def draw(rng: np.random.Generator, reps: int, seeds: int, items: int) -> Array:
        logits = location + rng.normal(0, seed_sd, (reps, seeds, 1)) + rng.normal(0, item_sd, (reps, 1, items))
        return (rng.random((reps, seeds, items)) < expit(logits)) - truth

    return draw


def skewed(seed_sd: float, item_sd: float, rest_sd: float) -> Draw:
    """Items with a log-normal effect (skewness 6), as weighted items have."""

    def draw(rng: np.random.Generator, reps: int, seeds: int, items: int) -> Array:
        effects = rng.lognormal(0, 1, (reps, 1, items)) - np.exp(0.5)
        return item_sd * effects / ((np.e - 1) * np.e) ** 0.5 + normal(seed_sd, 0, rest_sd)(rng, reps, seeds, items)

    return draw


SETTINGS: dict[str, Draw] = {
    "score, seed .01": normal(0.01, 0.25, 0.25),
    "score, seed .02": normal(0.02, 0.25, 0.25),
    "score, seed .05": normal(0.05, 0.25, 0.25),
    "difference, seed 0": normal(0, 0.03, 0.2),
    "difference, seed .01": normal(0.01, 0.1, 0.2),
    "difference, seed .03": normal(0.03, 0.1, 0.2),
    "right or wrong, .55": right_or_wrong(0.3, 0.15, 2.0),
    "right or wrong, .93": right_or_wrong(3.2, 0.3, 1.2),
    "skewed items, seed .02": skewed(0.02, 0.25, 0.2),
}


def mean_squares(x_RSI: Array) -> tuple[Array, Array, Array]:
    """Of seeds, items and rest, [R] each."""
    _, seeds, items = x_RSI.shape
    mean_R11 = x_RSI.mean((1, 2), keepdims=True)
    seed_RS1, item_R1I = x_RSI.mean(2, keepdims=True), x_RSI.mean(1, keepdims=True)
    by_seed = items * ((seed_RS1 - mean_R11) ** 2).sum((1, 2)) / (seeds - 1)
    by_item = seeds * ((item_R1I - mean_R11) ** 2).sum((1, 2)) / (items - 1)
    rest = ((x_RSI - seed_RS1 - item_R1I + mean_R11) ** 2).sum((1, 2)) / ((seeds - 1) * (items - 1))
    return by_seed, by_item, rest


def halves(x_RSI: Array) -> dict[str, Array]:
    """Half widths [R] by rule."""
    _, seeds, items = x_RSI.shape
    by_seed, by_item, rest = mean_squares(x_RSI)
    added, size = np.maximum(by_item - rest, 0), seeds * items
    student = float(stdtrit(seeds - 1, LEVEL))

    def harmonic(total: Array, power: int) -> Array:
        share = np.divide(by_seed, total, out=np.ones_like(total), where=total > 0)
        return stdtrit(1 / (share**power / (seeds - 1) + (1 - share) ** power / (items - 1)), LEVEL) * np.sqrt(total / size)

    weights_NS, weights_NI, widening = resample(seeds, items)
    few = slice(0, 500)
    drawn_RN = np.einsum("rsn,ns->rn", x_RSI @ weights_NI[few].T, weights_NS[few])
    boot = widening * float(ndtri(LEVEL)) * drawn_RN.std(axis=1)
    plain = float(ndtri(LEVEL)) * drawn_RN.std(axis=1)
    return {
        "moments, t of S - 1": student * np.sqrt(np.maximum.reduce([by_seed + by_item - rest, by_seed, by_item]) / size),
        "Satterthwaite": harmonic(by_seed + added, 2),
        "harmonic, no floor": harmonic(by_seed + added, 1),
        "harmonic": harmonic(np.maximum(by_seed + added, by_item), 1),
        "crossed bootstrap": plain,
        "crossed bootstrap, t": boot,
        "seeds' means alone": student * np.sqrt(by_seed / size),
    }


def row(part: str, name: str, seeds: int, items: int, held: Array, half: float, **more: Any) -> dict[str, Any]:
    share = float(np.mean(held))
    error = (max(share * (1 - share), 1 / len(held)) / len(held)) ** 0.5
    return {"part": part, "name": name, "seeds": seeds, "items": items, "coverage": round(share, 4), "error": round(error, 4),
            "half": round(half, 4), "repetitions": len(held), **more}  # fmt: skip


def rules(reps: int) -> Iterator[dict[str, Any]]:
    """Part one: every rule on every setting."""
    for number, (name, draw) in enumerate(SETTINGS.items()):
        for seeds in SEEDS:
            for items in ITEMS:
                rng = np.random.default_rng([1, number, seeds, items])
                held: dict[str, list[Array]] = {}
                wide: dict[str, list[Array]] = {}
                for _ in range(reps // 200):
                    x_RSI = draw(rng, 200, seeds, items)
                    for rule, half in halves(x_RSI).items():
                        held.setdefault(rule, []).append(np.abs(x_RSI.mean((1, 2))) <= half)
                        wide.setdefault(rule, []).append(half)
                for rule in held:
                    yield row("rule", name, seeds, items, np.concatenate(held[rule]), float(np.mean(wide[rule])), rule=rule)


USED_M = np.array([0.0, 32, 64, 128, 256, 512])
FASTER = 2.0
FLOOR, CEILING = 0.25, 0.70


def course(rng: np.random.Generator, seeds: int, items: int, faster: float, item_I: Array) -> Course:
    """Runs whose mean rises as a sigmoid in log2 budget; seeds differ by .02 throughout and by .01 at each mark."""
    marks = len(USED_M)
    later = USED_M[:, None, None] > 0
    seed_MS1 = rng.normal(0, 0.02, (1, seeds, 1)) * later + rng.normal(0, 0.01, (marks, seeds, 1)) * later
    noise_MSI = item_I + rng.normal(0, 0.2, (marks, seeds, items))
    return Course(np.repeat(USED_M[:, None], seeds, axis=1), true_curve(faster)[:, None, None] + seed_MS1 + noise_MSI)


def true_curve(faster: float) -> Array:
    """The expected score at each mark of a method that needs this many times less than the reference."""
    octaves = np.log2(np.maximum(USED_M, 1) * faster / 512)
    return np.where(USED_M > 0, FLOOR + (CEILING - FLOOR) / (1 + 2.0 ** (-1.2 * (octaves + 2.5))), FLOOR)


def pair_rows(reps: int) -> Iterator[dict[str, Any]]:
    """Seeds that share three model pairs, taken as independent and as clusters; differences of pairs .03, of seeds .01."""
    for seeds in (6, 9):
        rng, pairs = np.random.default_rng([2, seeds]), np.arange(seeds) % 3
        found: dict[str, list[tuple[bool, float]]] = {"as seeds": [], "as clusters": []}
        for x_SI in normal(0.01, 0.25, 0.25)(rng, reps, seeds, 300):
            x_SI = x_SI + rng.normal(0, 0.03, 3)[pairs][:, None]
            for how, given in (("as seeds", None), ("as clusters", pairs.tolist())):
                got = interval(x_SI, given)
                found[how].append((got.lo <= 0 <= got.hi, got.half))
        for how, told in found.items():
            yield row("pairs", how, seeds, 300, np.array([held for held, _ in told]), float(np.mean([h for _, h in told])))


def reported(reps: int, gains: int) -> Iterator[dict[str, Any]]:
    """Part two: what the report prints, through the functions that it calls."""
    slow, fast = true_curve(1.0), true_curve(FASTER)
    rise = area(USED_M, fast, FLOOR, CEILING) - area(USED_M, slow, FLOOR, CEILING)
    for seeds in SEEDS:
        for items in ITEMS:
            rng = np.random.default_rng([3, seeds, items])
            tests: dict[str, list[tuple[bool, float]]] = {}
            for _ in range(reps):
                item_I = rng.normal(0, 0.25, items)
                a_SI, b_SI = (item_I + normal(0.02, 0.0, 0.2)(rng, 1, seeds, items)[0] for _ in range(2))
                for name, found, truth in (
                    ("score", interval(a_SI), 0.0), ("paired difference", paired(a_SI, b_SI), 0.0),
                    ("interquartile mean", iqm(a_SI), 0.0), ("improvement", improvement(a_SI, b_SI), 0.5),
                ):  # fmt: skip
                    tests.setdefault(name, []).append((found.lo <= truth <= found.hi, found.half))
            for _ in range(gains):
                item_I = rng.normal(0, 0.25, items)
                method, reference = (course(rng, seeds, items, faster, item_I) for faster in (FASTER, 1.0))
                found, ratio = area_interval(method, FLOOR, CEILING, reference), gain(method, reference)
                tests.setdefault("area difference", []).append((found.lo <= rise <= found.hi, found.half))
                octaves = np.log2(ratio.hi / ratio.lo) / 2 if ratio.lo > 0 else np.inf
                tests.setdefault("gain, octaves", []).append((ratio.lo <= FASTER <= ratio.hi, float(octaves)))
            for name, told in tests.items():
                half = np.array([half for _, half in told])
                held = np.array([held for held, _ in told])
                more = {"open": round(float(np.isinf(half).mean()), 4)} if name.startswith("gain") else {}
                yield row("report", name, seeds, items, held, float(np.median(np.minimum(half, 99))), **more)


def cell(told: dict[str, Any]) -> str:
    half = f"{told['half']:.3f}" if told["half"] < 99 else "open"
    return f"{told['coverage']:.3f} ±{told['error']:.3f} ({half})"


def tables(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| rule | seeds | least | mean | most | mean half width |", "| --- | --: | --: | --: | --: | --: |"]
    first = [each for each in rows if each["part"] == "rule"]
    for rule in dict.fromkeys(each["rule"] for each in first):
        for seeds in SEEDS:
            of = [each for each in first if each["rule"] == rule and each["seeds"] == seeds]
            covers = [each["coverage"] for each in of]
            half = np.mean([each["half"] for each in of])
            lines.append(f"| {rule} | {seeds} | {min(covers):.3f} | {np.mean(covers):.3f} | {max(covers):.3f} | {half:.3f} |")
    lines += ["", f"| interval | seeds | {' | '.join(f'{n} items' for n in ITEMS)} |", "| --- | --: | --: | --: | --: |"]
    second = [each for each in rows if each["part"] == "report"]
    for name in dict.fromkeys(each["name"] for each in second):
        for seeds in SEEDS:
            of = [each for each in second if each["name"] == name and each["seeds"] == seeds]
            lines.append(f"| {name} | {seeds} | {' | '.join(map(cell, of))} |")
    lines += ["", "| seeds of three model pairs | seeds | coverage | mean half width |", "| --- | --: | --: | --: |"]
    for each in rows:
        if each["part"] == "pairs":
            share = f"{each['coverage']:.3f} ±{each['error']:.3f}"
            lines.append(f"| {each['name']} | {each['seeds']} | {share} | {each['half']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    parser.add_argument("--table", type=Path, help="print the tables of these results and stop")
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--gains", type=int, default=600, help="repetitions of areas and gains")
    told = parser.parse_args()
    if told.table:
        print(tables(json.loads(told.table.read_text(encoding="utf-8"))["rows"]))
        return
    began = time.monotonic()
    rows = [*rules(told.repetitions), *pair_rows(told.repetitions), *reported(told.repetitions, told.gains)]
    print(tables(rows))
    print(f"{time.monotonic() - began:.0f} s")
    if told.out:
        told.out.write_text(json.dumps({"repetitions": told.repetitions, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

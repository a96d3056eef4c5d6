"""How long reports take: made-up run folders, read and turned into tables and a page, in a process of their own.

    python benchmarks/report_speed.py --out benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from harness.ledger import METERS
from harness.spec import canonical, identity_of

MARKS = ("0", "1/16", "1/8", "1/4", "1/2", "1")
ITEMS = [f"item-{n:03}" for n in range(300)]
SEEDS = 10
BUDGET = 1024


def main() -> None:
    """Writes runs of each size, measures each part, prints and keeps seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[200, 2000], help=f"multiples of {SEEDS}")
    parser.add_argument("--pages", type=int, default=200, help="most runs of which a page is made")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(measured(PARTS[given.part], given.root)))
        return
    rows = []
    for size in given.runs:
        with tempfile.TemporaryDirectory() as folder:
            for method in range(size // SEEDS):
                for seed in range(SEEDS):
                    write_run(Path(folder), f"method_{method:03}", seed, 0.55 + 0.3 * method * SEEDS / size)
            for part in PARTS if size <= given.pages else ["tables"]:
                command = [sys.executable, __file__, "--part", part, "--root", folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append({"runs": size, "part": part, **json.loads(done.stdout)})
                print(json.dumps(rows[-1]))
    if given.out:
        told = {"processor": platform.machine(), "python": platform.python_version(), "marks": len(MARKS), "items": len(ITEMS)}
        given.out.write_text(json.dumps({**told, "rows": rows}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_run(root: Path, method: str, seed: int, end: float) -> None:
    """A finished run whose scores rise with log2 of the budget; items differ in difficulty, alike for all runs."""
    track = {"name": "made_up", "budget": {"prompts": BUDGET}, "marks": list(MARKS), "suites": {"alpaca": {}}}
    spec = {"method": method, "config": {"signal": "own", "group_size": 8}, "seed": seed, "track": track}
    path = root / "made_up" / f"{method}-s{seed}-{identity_of(spec)[:8]}"
    suite = path / "suites" / "alpaca"
    for folder in (suite / "marks", suite / "items"):
        folder.mkdir(parents=True)
    rows = []
    hard_I = np.random.Generator(np.random.Philox(key=0)).uniform(-0.2, 0.2, len(ITEMS))
    for place, mark in enumerate([*MARKS, "teacher"]):
        rng = np.random.Generator(np.random.Philox(key=[int(method[-3:]) * SEEDS + seed, place]))
        level = 0.9 if mark == "teacher" else 0.5 + (end - 0.5) * place / 5 + rng.normal(0, 0.01)
        scores_I = (level + hard_I + rng.uniform(-0.1, 0.1, len(ITEMS))).clip(0, 1)
        stem = mark.replace("/", "-")
        (suite / "items" / f"{stem}.greedy.json").write_text(canonical(dict(zip(ITEMS, scores_I.tolist(), strict=True))))
        metric = {"value": float(scores_I.mean()), "stderr": 0.01, "n": len(ITEMS), "missing": 0}
        told = {
            "suite": "alpaca", "version": "1", "data": "d", "scale": [0, 1], "metric": "win_rate", "n": len(ITEMS), "mark": mark,
            "headline": "greedy", "judge": "judge@1", "greedy": {"win_rate": metric, "truncated": 0, "empty": 0, "lost": {}},
        }  # fmt: skip
        (suite / "marks" / f"{stem}.json").write_text(json.dumps(told))
        if mark != "teacher":
            prompts = int(Fraction(mark) * BUDGET)
            meters = {**dict.fromkeys(METERS, 0), "prompts": prompts, "teacher_tokens_out": 30 * prompts, "flops": 1e9 * prompts}
            rows.append(canonical({"mark": mark, "meters": meters, "rounds": prompts // 16, "asked": 8, "lost": 0}))
    (path / "spec.json").write_text(canonical(spec))
    (path / "marks.jsonl").write_text("\n".join(rows) + "\n")
    (path / "manifest.json").write_text("{}")


def tables(root: Path) -> None:
    """All that `harness report` says in words: the board and its CSV, Markdown and JSON, the overview and its LaTeX."""
    from harness.report import board, latex, overview, runs, table

    found = runs.select([], root)
    made = board.build(found, "alpaca")
    for form in (table.to_csv, table.to_markdown, table.to_json):
        form(made)
    latex.to_latex(overview.overview(found), "benchmarks/report_speed.py")


def web_page(root: Path) -> None:
    """The page with its figures."""
    from harness.report import page, runs

    page.write(runs.select([], root), ["alpaca"], root / "report", "benchmarks/report_speed.py")


PARTS: dict[str, Callable[[Path], None]] = {"tables": tables, "page": web_page}


def measured(part: Callable[[Path], None], root: Path) -> dict[str, Any]:
    """Seconds of a part, imports included, and the peak resident memory of this process in MiB."""
    began, cpu = time.perf_counter(), time.process_time()
    part(root)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "peak_mib": round(peak)}


if __name__ == "__main__":
    main()

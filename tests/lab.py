"""Run folders that tests write by hand: methods whose scores rise as told, with items, seeds and a little noise."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness.spec import canonical, identity_of

MARKS = ("0", "1/16", "1/8", "1/4", "1/2", "1")
ITEMS = [f"item-{n:03}" for n in range(320)]
ENDS = {"ropd": 0.75, "logit_opd": 0.78, "seqkd": 0.66, "sft": 0.70, "sharpen": 0.58, "unheard_of": 0.64}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def told(scores: dict[str, float]) -> dict[str, Any]:
    return {"value": sum(scores.values()) / len(scores), "stderr": 0.02, "n": len(scores), "missing": len(ITEMS) - len(scores)}


@dataclass
class Lab:
    """Writes run folders. Items differ in difficulty, alike for all runs; seeds and marks differ by a little noise."""

    root: Path

    def run(
        self, method: str = "ropd", seed: int = 0, *, end: float | None = None, config: dict[str, Any] | None = None,
        budget: int = 1024, marks: int = 6, stop: float = 1.0, missing: int = 0, judge: str = "judge@1", finished: bool = True,
    ) -> Path:  # fmt: skip
        track = {"name": "pocket", "budget": {"prompts": budget}, "marks": list(MARKS), "suites": {"alpaca": {}}}
        spec = {"method": method, "config": config or {"rubric": "own"}, "seed": seed, "track": track}
        path = self.root / "pocket" / f"{method}-s{seed}-{identity_of(spec)[:8]}"
        write(path / "spec.json", canonical(spec))
        rows = [self.row(method, seed, mark, budget * stop) for mark in MARKS[:marks]]
        write(path / "marks.jsonl", "".join(canonical(row) + "\n" for row in rows))
        for place, mark in enumerate(MARKS[:marks]):
            level = 0.57 + ((end or ENDS[method]) - 0.57) * (place / 5) ** 0.7
            salt = f"{method} {seed} {mark}" if place else "student"
            level += random.Random(salt).gauss(0, 0.012) if place else 0.0
            self.score(path, mark, level, salt, missing if place else 0, judge)
        self.score(path, "teacher", 0.87, "teacher", 0, judge)
        if finished:
            write(path / "manifest.json", {})
        return path

    @staticmethod
    def row(method: str, seed: int, mark: str, budget: float) -> dict[str, Any]:
        prompts = round(float(Fraction(mark)) * budget)
        spent = prompts * (1 + 0.02 * seed)
        asked = {"ropd": 900, "unheard_of": 90}.get(method, 0)
        meters = {
            "prompts": prompts, "teacher_tokens_in": 30 * spent, "teacher_tokens_out": 20 * spent, "teacher_scored_tokens": 0,
            "critic_tokens_in": asked * spent, "critic_tokens_out": asked / 3 * spent, "usd": 1e-5 * spent,
            "flops": 2e9 * spent, "tuning_trials": 0,
        }  # fmt: skip
        return {"schema": "harness.marks/1", "mark": mark, "rounds": prompts // 16, "meters": meters, "lost": 0, "asked": 8}

    @staticmethod
    def score(path: Path, mark: str, level: float, salt: str, missing: int, judge: str) -> None:
        folder, plain = path / "suites" / "alpaca", mark.replace("/", "-")
        hard, noise = random.Random("items"), random.Random(salt)
        drawn = {item: level + hard.uniform(-0.3, 0.3) + noise.uniform(-0.1, 0.1) for item in ITEMS}
        scores = {item: min(max(score, 0), 1) for item, score in list(drawn.items())[missing:]}
        write(folder / "items" / f"{plain}.greedy.json", scores)
        result = {
            "suite": "alpaca", "version": "1", "data": "d1", "scale": [0, 1], "metric": "win_rate", "n": len(ITEMS), "mark": mark,
            "headline": "greedy", "judge": judge,
            "greedy": {"win_rate": told(scores), "gold": {**told(scores), "value": 0.9 * level}, "tokens": 9.0},
        }  # fmt: skip
        if mark != "teacher":
            result["t1"] = {"win_rate": {**told(scores), "value": level - 0.05}, "tokens": 9.0}
        write(folder / "marks" / f"{plain}.json", result)

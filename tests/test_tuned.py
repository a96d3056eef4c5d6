"""The embedded track's settings are those that its tuning logs chose: none was typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import registry, tracks

LOGS = Path(__file__).parents[1] / "results" / "tuning" / "pocket"
OWN = {"self_judge": {"warm_prompts", "principles"}, "cyclealign": {"prompts_per_round", "demonstrations"}}
"""Overrides that no trial has tried: the warm start, and what belongs to the world."""


def lines(method: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LOGS / f"{method}.jsonl").read_text(encoding="utf-8").splitlines()]


def of_kind(method: str, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines(method) if kind in line and "score" in line and "chosen" not in line]


@pytest.mark.parametrize("method", registry.modules("methods"))
def test_the_settings_of_a_method_are_its_best_finalists(method: str) -> None:
    trials, finals, last = of_kind(method, "trial"), of_kind(method, "finalist"), lines(method)[-1]
    by_score = sorted((trial for trial in trials if trial["score"] is not None), key=lambda trial: -trial["score"])
    assert {final["finalist"] for final in finals} == {trial["trial"] for trial in by_score[: len(finals)]}
    best = max((final for final in finals if final["score"] is not None), key=lambda final: final["score"])
    assert best["score"] == pytest.approx(sum(best["by_seed"]) / len(best["by_seed"]), abs=1e-12)
    assert (last["chosen"], last["settings"]) == (best["finalist"], best["settings"])
    track = tracks.load("pocket")
    chosen = {name: value for name, value in track.overrides[method].items() if name not in OWN.get(method, set())}
    assert chosen == best["settings"]
    assert track.tuned[method] == len(trials) + len(finals) == lines(method)[0]["trials"] + 2


def test_all_methods_had_the_same_trials_and_finals() -> None:
    for kind in ("trials", "finals"):
        heads = [next(line for line in lines(method) if kind in line) for method in registry.modules("methods")]
        for head in heads:
            head.pop("method", None)
            head.pop("own", None)
        assert all(head == heads[0] for head in heads)

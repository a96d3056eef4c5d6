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


@pytest.mark.parametrize("method", registry.modules("methods"))
def test_the_settings_of_a_method_are_its_best_trials(method: str) -> None:
    head, *trials, last = lines(method)
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    assert (last["chosen"], last["settings"]) == (best["trial"], best["settings"])
    track = tracks.load("pocket")
    chosen = {name: value for name, value in track.overrides[method].items() if name not in OWN.get(method, set())}
    assert chosen == best["settings"]
    assert track.tuned[method] == len(trials) == head["trials"]


def test_all_methods_had_the_same_trials() -> None:
    heads = [lines(method)[0] for method in registry.modules("methods")]
    for head in heads:
        del head["method"], head["own"]
    assert all(head == heads[0] for head in heads)

"""What a collected batch leaves on file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.types import Collected, Rollout


def signal_means(collected: Collected) -> dict[str, float]:
    """The mean of each per-rollout signal: training readings, comparable neither across rounds nor with scores."""
    sums: dict[str, list[float]] = {}
    for example in collected.examples:
        for name, values in example.signal.items():
            if name.endswith("_N"):
                sums.setdefault(name.removesuffix("_N"), []).extend(float(v) for v in values)  # type: ignore[arg-type]
    return {f"training_{name}": sum(values) / len(values) for name, values in sums.items() if values}


def rollout_records(collected: Collected, round_number: int) -> Iterator[dict[str, Any]]:
    """A row for every group that was collected, lost and silent ones included: rollouts, signals, the method's notes."""
    fates = {"trained": collected.examples, "silent": collected.silent, "lost": collected.lost}
    for fate, examples in fates.items():
        for example in examples:
            prompt = example.rollouts[0].prompt
            yield {
                "round": round_number, "prompt_id": prompt.id, "visit": prompt.visit, "turn": prompt.turn, "fate": fate,
                "messages": [dict(message) for message in prompt.messages],
                "rollouts": [_rollout(rollout) for rollout in example.rollouts],
                "signal": {name: values for name, values in example.signal.items() if name.endswith("_N")},
                "note": dict(example.note),
            }  # fmt: skip


def _rollout(rollout: Rollout) -> dict[str, Any]:
    return {"text": rollout.text, "tokens": len(rollout.tokens), "finish": rollout.finish,
            "sampled": rollout.logprobs is not None}  # fmt: skip

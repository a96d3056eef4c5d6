"""How near plans come to the ledgers of finished runs: `python benchmarks/plan_accuracy.py RUNS`.

Each method's run is planned twice: rehearsed with texts of other methods' runs, and scaled from a run of another seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.plan import past
from harness.plan.rehearsal import Lengths, rehearse
from harness.spec import resolve
from harness.store import read_lines, write_atomically

METERS = (
    "student_tokens", "teacher_tokens_in", "teacher_tokens_out", "teacher_scored_tokens", "reference_scored_tokens",
    "critic_tokens_in", "critic_tokens_out", "self_judge_tokens", "train_tokens", "flops",
)  # fmt: skip
OUT = Path(__file__).parent / "results" / "plan_accuracy.json"
NEAR = 0.15


def ratios(warm: dict[str, float] | None, own: dict[str, float], real: dict[str, float], warm_prompts: int) -> dict[str, float]:
    """Planned over read, of each meter that the run used."""
    first = warm_prompts if warm else 0
    planned = {m: (warm[m] * first if warm else 0.0) + own[m] * (real["prompts"] - first) for m in METERS}
    return {m: round(planned[m] / real[m], 3) for m in METERS if real.get(m)}


def main(root: Path) -> None:
    spec, _ = resolve("sft", "pocket")
    runs = [run for run in past.finished(spec, root) if run.spec["config"].get("signal", "own") == "own"]
    rehearsed: dict[str, dict[str, float]] = {}
    scaled: dict[str, dict[str, float]] = {}
    for run in runs:
        method, warm_prompts = run.spec["method"], run.spec["config"]["warm_prompts"]
        real = list(read_lines(run.folder / "ledger.jsonl"))[-1]["training"]
        if method not in rehearsed:
            base, _ = resolve(method, "pocket", run.spec["seed"])
            known = {key: value for key, value in run.spec["config"].items() if key in base.config}
            heard = past.heard([other for other in runs if other.spec["method"] != method])
            played = rehearse(base.model_copy(update={"config": {**base.config, **known}}), Lengths(15, 15, heard))
            warm = played.warm.meters if played.warm else None
            rehearsed[method] = ratios(warm, played.own.meters, real, warm_prompts)
        for other in runs:
            alike = (other.spec["method"], other.spec["config"]) == (method, run.spec["config"])
            if alike and other.spec["seed"] != run.spec["seed"]:
                scaled.setdefault(run.name, ratios(*past.rates(other, warm_prompts), real, warm_prompts))
    result: dict[str, object] = {"runs": len(runs)}
    for name, found in (("rehearsed", rehearsed), ("scaled", scaled)):
        off = sorted(abs(value - 1) for each in found.values() for value in each.values())
        result[name] = {"plans": len(found), "readings": len(off), "near": sum(value <= NEAR for value in off),
                        "median": round(off[len(off) // 2], 3), "worst": off[-1], "ratios": found}  # fmt: skip
        print(name, {key: value for key, value in result[name].items() if key != "ratios"})  # type: ignore[attr-defined]
    write_atomically(OUT, json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The exact gate: short runs must repeat every loss, gradient norm, signal and meter of their baseline, round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness import registry
from harness.errors import RunFault, SpecError
from harness.gate.runs import (
    Frozen,
    Head,
    Outcome,
    Plan,
    Row,
    Tell,
    conditions_of,
    differences,
    in_processes,
    read,
    run_apart,
    same_conditions,
)  # fmt: skip
from harness.store import now

PLAN = Plan(
    track={
        "extends": "pocket", "name": "check", "budget": {"prompts": 24}, "marks": ["0", "1"], "prompts": {"count": 256},
        "overrides": {"self_judge": {"warm_prompts": 8}},
    },
    settings=("prompts_per_round=8",),
)  # fmt: skip
"""Three rounds of eight prompts; of SELF-JUDGE one is the warm start."""
SEED = 0
DIGITS = 9
"""Significant digits that a baseline keeps of a reading that is no whole number."""
UPDATE = 'harness check --update --reason "why"'


class Tolerance(Frozen):
    """How far readings that are not whole numbers may lie apart: CPUs round sums of products differently."""

    relative: float = Field(1e-5, ge=0)
    absolute: float = Field(1e-6, ge=0)

    def allows(self, before: float | None, now: float | None) -> bool:
        """Whether two readings are equal: whole numbers by equality, others within the tolerance."""
        if before is None or now is None:
            return before == now
        if float(before).is_integer() and float(now).is_integer():
            return before == now
        return math.isclose(before, now, rel_tol=self.relative, abs_tol=self.absolute)


class Trajectory(Frozen):
    """What a run left, round by round: the metrics of its steps, and its training meters as `ledger/NAME` (none that is 0)."""

    config: dict[str, Any]
    rounds: tuple[dict[str, float], ...]
    fault: str = ""
    """Why it stopped before its end."""


class ExactBaseline(Head):
    gate: Literal["exact"] = "exact"
    seed: int = SEED
    tolerance: Tolerance = Tolerance()
    methods: dict[str, Trajectory]


def trajectory(plan: Plan, seed: int, method: str, folder: Path) -> Trajectory:
    """Runs a method in this process; `folder` takes its files.

    Raises:
        HarnessError: it could not begin.
    """
    spec, _ = plan.resolved(method, seed)
    fault = ""
    try:
        run_apart(plan, method, seed, (), folder)
    except RunFault as error:  # a run that cannot be finished is a finding
        fault = error.message
    lines = _lines(folder / "runs" / spec.folder)
    return Trajectory(config=spec.config, rounds=lines, fault=fault)


def _lines(folder: Path) -> tuple[dict[str, float], ...]:
    from harness.store import read_lines

    rounds = []
    for step, ledger in zip(read_lines(folder / "steps.jsonl"), read_lines(folder / "ledger.jsonl"), strict=True):
        meters = {f"ledger/{name}": value for name, value in ledger["training"].items() if value}
        rounds.append({name: _short(value) for name, value in sorted({**step["metrics"], **meters}.items())})
    return tuple(rounds)


def _short(value: float) -> float:
    return int(value) if float(value).is_integer() else float(f"{value:.{DIGITS}g}")


def compared(method: str, before: Trajectory | None, now: Trajectory | None, tolerance: Tolerance) -> Row:
    """The verdict on a method: its settings first, then the first round in which anything differs."""
    if before is None or now is None:
        gone = now is None
        note = "the method is gone" if gone else f"not in the baseline: {UPDATE} --method {method}"
        return Row("FAIL" if gone else "unclear", method, "method", "-" if before is None else "recorded",
                   "-" if gone else "ran", note)  # fmt: skip
    settings = differences(before.config, now.config)
    if settings:
        name, old, new = settings[0]
        return Row("FAIL", method, f"setting {name}", old, new, _more([each[0] for each in settings]))
    for number in range(max(len(before.rounds), len(now.rounds))):
        if number >= min(len(before.rounds), len(now.rounds)):
            return Row("FAIL", method, "rounds", str(len(before.rounds)), str(len(now.rounds)), now.fault)
        old_round, new_round = before.rounds[number], now.rounds[number]
        names = sorted(
            (name for name in {**old_round, **new_round} if not tolerance.allows(old_round.get(name), new_round.get(name))),
            key=lambda name: (name.startswith("ledger/"), name),
        )
        if names:
            was, is_ = (f"{side[names[0]]:.9g}" if names[0] in side else "-" for side in (old_round, new_round))
            return Row("FAIL", method, f"round {number + 1} {names[0]}", was, is_, _more(names))
    if before.fault != now.fault:
        return Row("FAIL", method, "fault", before.fault or "none", now.fault or "none")
    readings = sum(len(each) for each in now.rounds)
    return Row("pass", method, f"{readings} readings", f"{len(now.rounds)} rounds", "equal")


def _more(names: Sequence[str]) -> str:
    rest = list(names[1:])
    return "" if not rest else f"also {', '.join(rest[:3])}" + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")


def check(path: Path, methods: Sequence[str], jobs: int, tell: Tell) -> Outcome:
    """Runs the methods (all, if none is named) and compares them with the baseline.

    Raises:
        SpecError: no such method or baseline.
        Incomparable: the track is not what it was.
    """
    baseline = read(path, ExactBaseline)
    known = registry.modules("methods")
    names = list(dict.fromkeys(methods)) or sorted({*known, *baseline.methods})
    here = [name for name in names if methods or name in known]
    if here:
        spec, _ = baseline.plan.resolved(here[0], baseline.seed)
        same_conditions(baseline.conditions, conditions_of(spec), UPDATE)
    found = dict(zip(here, in_processes(partial(trajectory, baseline.plan, baseline.seed), here, jobs, tell), strict=True))
    rows = [compared(name, baseline.methods.get(name), found.get(name), baseline.tolerance) for name in names]
    tolerance = f"whole numbers equal, others within {baseline.tolerance.relative:g} or {baseline.tolerance.absolute:g}"
    return Outcome(f"check exact  baseline of {baseline.written}  seed {baseline.seed}  {tolerance}", rows)


def update(
    path: Path, methods: Sequence[str], reason: str, jobs: int, tell: Tell
) -> tuple[ExactBaseline, Outcome]:
    """A baseline with the methods (all, if none is named) as they run now, and how they differ from the one on file.

    Raises:
        SpecError: a faulty run, or some methods only, where the track is not what it was.
    """
    old = read(path, ExactBaseline) if path.exists() else None
    plan, seed, tolerance = (old.plan, old.seed, old.tolerance) if old else (PLAN, SEED, Tolerance())
    names = list(dict.fromkeys(methods)) or sorted(registry.modules("methods"))
    spec, _ = plan.resolved(names[0], seed)
    conditions = conditions_of(spec)
    if methods and old:
        same_conditions(old.conditions, conditions, f"{UPDATE} without --method")
    found = dict(zip(names, in_processes(partial(trajectory, plan, seed), names, jobs, tell), strict=True))
    for name, each in found.items():
        if each.fault:
            raise SpecError(f"a baseline holds runs that finish, and {name} did not: {each.fault}", where=f"--method {name}",
                            fix="mend it first, or name the methods that are well")  # fmt: skip
    before = old.methods if old else {}
    kept = {name: each for name, each in before.items() if methods and name not in found}
    rows = [
        compared(name, before[name], each, tolerance) if name in before else Row("pass", name, "method", "-", "new")
        for name, each in found.items()
    ]
    baseline = ExactBaseline(
        written=now()[:10], reason=reason, plan=plan, conditions=conditions, seed=seed, tolerance=tolerance,
        methods=dict(sorted({**kept, **found}.items())),
    )  # fmt: skip
    return baseline, Outcome(f"update exact  {path}", rows)

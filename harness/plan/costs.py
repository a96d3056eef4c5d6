"""`python -m harness.plan.costs`: keeps costs that are shown equal to what `harness plan` computes.

They are the table in docs/tracks.md, between two marks, and what the runs of claims that need scale would take. Nothing that
is on this machine is used, so that they are the same on every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plan.plan import Plan, Wanted, plan_of
from harness.report.claims_data import Cost, NeedsScale, Runs, shipped
from harness.spec import resolve
from harness.store import json_text, write_atomically

PAGE = Path(__file__).parents[2] / "docs" / "tracks.md"
CLAIMS = Path(__file__).parents[1] / "data" / "claim_costs.json"
BEGIN, END = "<!-- costs: python -m harness.plan.costs -->\n", "<!-- end of costs -->"
PLANNED = (
    ("qwen2.5-0.5b", "sft", "rtx4090"), ("qwen2.5-0.5b", "ropd", "rtx4090"), ("qwen3-4b-ropd", "ropd", "h200"),
    ("qwen3-1.7b-ogls", "ogls_sd", "h100"), ("gemma2-2b-pad", "pad", "h100"),
)  # fmt: skip
"""Track, method, GPU."""


def plans() -> list[Plan]:
    return [_plan(method, track, gpu) for track, method, gpu in PLANNED]


def _plan(method: str, track: str, gpu: str, settings: Sequence[str] = (), budget: Sequence[str] = ()) -> Plan:
    spec, _ = resolve(method, track, settings=list(settings), budget=list(budget), pin=False)
    return plan_of(spec, Wanted(gpu=gpu, look=False))


def _typed(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def table(planned: list[Plan]) -> str:
    """Rows of Markdown, a plan each."""
    lines = [["track", "method", "budget", "GPU", "memory at the peak", "GPU hours", "dollars"], ["---"] * 7]
    for plan in planned:
        budget = ", ".join(f"{amount:,g} {meter}" for meter, amount in plan.budget.items())
        held = f"{plan.peak / 1e9:.0f} of {plan.gpu_memory / 1e9:.0f} GB"
        sums = (f"{sum(parts.values()):,.1f}" for parts in (plan.hours, plan.usd))
        lines.append([f"`{plan.track}`", f"`{plan.method}`", budget, plan.gpu, held, *sums])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def shown(page: str) -> str:
    """The table that a page has between its marks.

    Raises:
        ValueError: a mark is missing.
    """
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)]


def cost_of(runs: Runs) -> Cost:
    """Hours and dollars of all runs together, evaluation apart; unrounded."""
    planned = [_plan(arm.method, runs.track, runs.gpu, _typed(arm.settings), _typed(runs.budget)) for arm in runs.methods]
    hours = sum(sum(plan.hours.values()) for plan in planned) * runs.seeds
    usd = None if any(plan.unpriced for plan in planned) else sum(sum(plan.usd.values()) for plan in planned) * runs.seeds
    return Cost(gpu_hours=hours, usd=usd)


def claims() -> dict[str, Cost]:
    """What the runs of each claim that needs scale would take, by the claim's id, to three digits."""
    found = {claim.id: cost_of(claim.runs) for claim in shipped() if isinstance(claim, NeedsScale) and claim.runs}
    return {name: Cost.model_validate({key: value and float(f"{value:.3g}") for key, value in cost.model_dump().items()})
            for name, cost in found.items()}  # fmt: skip


if __name__ == "__main__":
    write_atomically(CLAIMS, json_text({name: cost.model_dump() for name, cost in claims().items()}))
    print(f"wrote {CLAIMS}")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(BEGIN + shown(text), BEGIN + table(plans())), encoding="utf-8")
    print(f"wrote {PAGE}")

"""`python -m harness.plan.costs`: keeps the costs in docs/tracks.md equal to what `harness plan` computes.

The table stands between two marks. It uses nothing that is on this machine, so that it is the same on every one.
"""

from __future__ import annotations

from pathlib import Path

from harness.plan.plan import Plan, Wanted, plan_of
from harness.spec import resolve

PAGE = Path(__file__).parents[2] / "docs" / "tracks.md"
BEGIN, END = "<!-- costs: python -m harness.plan.costs -->\n", "<!-- end of costs -->"
PLANNED = (
    ("qwen2.5-0.5b", "sft", "rtx4090"), ("qwen2.5-0.5b", "ropd", "rtx4090"), ("qwen3-4b-ropd", "ropd", "h200"),
    ("qwen3-1.7b-ogls", "ogls_sd", "h100"), ("gemma2-2b-pad", "pad", "h100"),
)  # fmt: skip
"""Track, method, GPU."""


def plans() -> list[Plan]:
    return [plan_of(resolve(method, track, pin=False)[0], Wanted(gpu=gpu, look=False)) for track, method, gpu in PLANNED]


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


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(BEGIN + shown(text), BEGIN + table(plans())), encoding="utf-8")
    print(f"wrote {PAGE}")

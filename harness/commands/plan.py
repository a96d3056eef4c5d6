"""The command `plan`: what a run would ask, hold, take and cost, printed before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Mapping

import typer
from rich.console import Console
from rich.table import Table

from harness.display import amount
from harness.plan.plan import Plan, Wanted, plan_of
from harness.spec import RunSpec


def plan_command(spec: RunSpec, wanted: Wanted, as_json: bool) -> None:
    """Prints the plan of a run.

    Raises:
        HarnessError: see `plan_of`; nothing was spent.
    """
    plan = plan_of(spec, wanted)
    if as_json:
        typer.echo(json.dumps(plan.as_dict(), sort_keys=True))
        return
    show(plan, wanted, Console(highlight=False))


def show(plan: Plan, wanted: Wanted, console: Console) -> None:
    """For people: amounts, memory, hours and dollars, what dominates, and what all of it rests on."""
    budget = ", ".join(f"{meter}={most:g}" for meter, most in plan.budget.items())
    head = f"{plan.method} on {plan.track}   budget {budget}   {plan.rounds:,} rounds"
    console.print(f"[bold]plan[/bold]  {head}\n", soft_wrap=True)
    rows = _table("training", "amount")
    for meter, value in plan.meters.items():
        rows.add_row(meter, f"{value:.3g}" if meter in ("flops", "usd") else amount(value))
    console.print(rows)
    _evaluation(plan, console)
    parts = {**plan.memory, "[bold]at its peak[/bold]": plan.peak}
    _amounts(console, f"memory, of {plan.gpu_memory / 1e9:,.0f} GB", {name: _bytes(value) for name, value in parts.items()})
    _amounts(console, f"hours of one {plan.gpu}", {name: _hours(value) for name, value in _with_sum(plan.hours).items()})
    _amounts(console, "dollars", {name: f"{value:,.2f}" for name, value in _with_sum(plan.usd).items()})
    for role in plan.unpriced:
        console.print(f"[bold]the price of the {role} is not known[/bold]: give the track its usd_in and usd_out", soft_wrap=True)
    for what, (most, share) in plan.dominant.items():
        console.print(f"most {'dollars' if what == 'usd' else what} go to {most} ({share:.0%})", soft_wrap=True)
    if not plan.fits:
        console.print(
            "[bold]does not fit[/bold]: a smaller micro_batch_tokens or chunk, activation_checkpointing, lora, or a larger --gpu",
            soft_wrap=True,
        )
    if wanted.purse_usd is not None:
        largest = plan.largest or {}
        told = ", ".join(f"--budget {meter}={most:g}" for meter, most in largest.items()) or "no budget at all"
        console.print(f"${wanted.purse_usd:g} pay for {told}", soft_wrap=True)
    console.print("\n[dim]rests on[/dim]")
    for line in plan.basis:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("hours and memory are computed, not measured", style="dim")


def _evaluation(plan: Plan, console: Console) -> None:
    rows = _table("evaluation", "scorings", "answers", "judge calls", "judge tokens in", "out")
    known = [each for each in plan.evaluation if not each.lacking]
    for each in known:
        counts = (each.answers * each.times, each.judge_calls, each.judge_tokens_in, each.judge_tokens_out)
        rows.add_row(each.suite, f"{each.times} + teacher", *(amount(count) for count in counts))
    console.print()
    if known:
        console.print(rows)
    for each in plan.evaluation:
        if each.lacking:
            console.print(f"[bold]evaluation by {each.suite} is not in this plan[/bold]", soft_wrap=True)
            console.print(f"  {each.lacking}", markup=False, soft_wrap=True)


def _amounts(console: Console, title: str, values: Mapping[str, str]) -> None:
    rows = _table(title, "")
    for name, value in values.items():
        rows.add_row(name, value)
    console.print()
    console.print(rows)


def _with_sum(parts: Mapping[str, float]) -> dict[str, float]:
    return {**parts, "[bold]in all[/bold]": sum(parts.values())}


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.2f} GB"


def _hours(value: float) -> str:
    return f"{value:,.2f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if place == 0 else "right")
    return table

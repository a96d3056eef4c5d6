"""Commands that look ahead: what a run would take, and whether a track can run here."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import (
    BudgetOption,
    DebugOption,
    JsonOption,
    MethodOption,
    SeedOption,
    SetOption,
    SuiteOption,
    TrackOption,
    app,
)


@app.command(epilog="Examples:  harness plan -m ropd -t qwen3-4b-ropd      harness plan -m sft -t my.yaml --purse-usd 50")
def plan(
    method: MethodOption,
    track: TrackOption = "pocket",
    suite: SuiteOption = None,
    seed: SeedOption = 0,
    setting: SetOption = None,
    budget: BudgetOption = None,
    gpu: Annotated[str, typer.Option("--gpu", help="A card: b200, h200, h100, a100, l40s, l4, rtx4090, rtx3090.")] = "h100",
    purse: Annotated[float | None, typer.Option("--purse-usd", min=0, help="Dollars to spend: names the largest budget.")] = None,
    completion: Annotated[float | None, typer.Option("--completion-tokens", min=1, help="Of a mean completion.")] = None,
    teacher: Annotated[float | None, typer.Option("--teacher-tokens", min=1, help="Of a mean text of the teacher.")] = None,
    prompt: Annotated[int | None, typer.Option("--prompt-tokens", min=1, help="Of a prompt whose source is not here.")] = None,
    mfu: Annotated[float, typer.Option("--mfu", min=0.001, max=1, help="Share of the card's FLOP/s.")] = 0.3,
    bandwidth: Annotated[float, typer.Option("--bandwidth", min=0.001, max=1, help="Share of its bandwidth, sampling.")] = 0.6,
    step_ms: Annotated[float | None, typer.Option("--step-ms", min=0, help="Least time of a layer and sampled token.")] = None,
    speed: Annotated[float, typer.Option("--server-speed", min=0.001, help="Tokens a server writes in a second.")] = 50.0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Tell what a run would ask, hold in memory, take and cost; asks no server and loads no weights."""
    from harness.commands.plan import plan_command
    from harness.materials import check_names
    from harness.plan.machine import Assumed
    from harness.plan.plan import Wanted
    from harness.spec import resolve

    spec, _ = resolve(method, track, seed, setting, budget, pin=False)
    usual = ["alpaca"] if "alpaca" in spec.track.suites else list(spec.track.suites)
    suites = tuple(dict.fromkeys(suite or usual))
    check_names(spec.track, suites)
    plan_command(spec, Wanted(
        gpu=gpu, completion_tokens=completion, teacher_tokens=teacher, prompt_tokens=prompt, purse_usd=purse, suites=suites,
        assumed=Assumed(mfu, bandwidth, step_ms, speed),
    ), as_json)  # fmt: skip


@app.command(epilog="Examples:  harness doctor      harness doctor --track qwen2.5-0.5b      harness doctor -t my.yaml --json")
def doctor(
    track: Annotated[str | None, typer.Option("--track", "-t", help="Also what this track lacks.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look at this machine, and at what a track needs of it; exit code 1 where the track cannot run."""
    from harness.commands.doctor import doctor_command

    doctor_command(track, as_json)

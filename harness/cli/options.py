"""The command line's application, and the options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="harness", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compares alignment-distillation methods under fixed budgets.\n\n"
    "  harness run --method ropd --suite alpaca\n\n  harness report",
)  # fmt: skip
pocket = typer.Typer(no_args_is_help=True, help="The embedded world.")
app.add_typer(pocket, name="pocket")

MethodOption = Annotated[str, typer.Option("--method", "-m", help="A method: harness list methods.")]
SuiteOption = Annotated[list[str] | None, typer.Option("--suite", "-s", help="A suite; may be given again. Default: alpaca.")]
TrackOption = Annotated[str, typer.Option("--track", "-t", help="A track by name, or a YAML file.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Chooses the model pair and all random draws.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, KEY=VALUE; may be given again.")]
BudgetOption = Annotated[
    list[str] | None, typer.Option("--budget", help="METER=AMOUNT; may be given again. The first one reached ends the run.")
]
DisplayOption = Annotated[str | None, typer.Option("--display", help="auto, live, plain or none.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Records as JSON lines on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, tell what scoring comes to, and stop.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Go on with a judge or critic that failed a check.")]
AtEndsOption = Annotated[
    list[str] | None, typer.Option("--suite-at-ends", help="A suite scored at the first and last mark alone; may be given again.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

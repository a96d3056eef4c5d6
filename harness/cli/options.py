"""The command line's application, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
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

cache = typer.Typer(no_args_is_help=True, help="Replies that were paid for, packed to be used elsewhere.")
app.add_typer(cache, name="cache")

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
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", min=1, help="That train and sample together, each on a GPU of its own. Default: 1.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go on without a question where servers cost money.")]

_OWN = "Your own models and prompts"
StudentOption = Annotated[
    str | None, typer.Option("--student", help="What is trained: a Hugging Face folder, or NAME@REVISION.", rich_help_panel=_OWN)
]
TeacherOption = Annotated[
    list[str] | None,
    typer.Option("--teacher", help="URL/MODEL of a server, a folder of weights, or one of each.", rich_help_panel=_OWN),
]
CriticOption = Annotated[str | None, typer.Option("--critic", help="URL/MODEL that training asks.", rich_help_panel=_OWN)]
JudgeOption = Annotated[str | None, typer.Option("--judge", help="URL/MODEL that evaluation asks.", rich_help_panel=_OWN)]
PromptsOption = Annotated[
    str | None,
    typer.Option("--prompts", help="JSONL, JSON, CSV, parquet, a saved dataset, or NAME:SPLIT.", rich_help_panel=_OWN),
]
EvalPromptsOption = Annotated[
    str | None, typer.Option("--eval-prompts", help="Held-out prompts, scored by alpaca's protocol.", rich_help_panel=_OWN)
]
SolutionsOption = Annotated[
    str | None, typer.Option("--solutions", help="teacher, or data: the rows' own.", rich_help_panel=_OWN)
]
MaxUsdOption = Annotated[
    float | None,
    typer.Option("--max-usd", help="Ceiling on real money of a run, its evaluation included.", rich_help_panel=_OWN),
]
PriceOption = Annotated[
    list[str] | None,
    typer.Option("--price", help="ROLE=IN,OUT: dollars for a million tokens; may be given again.", rich_help_panel=_OWN),
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option("--key", help="ROLE=VARIABLE with the API key. Default: OPENAI_API_KEY.", rich_help_panel=_OWN),
]
JudgeIsCriticOption = Annotated[
    bool, typer.Option("--judge-is-critic", help="Allow one model as both; reports say so.", rich_help_panel=_OWN)
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Ask no server of yours: every reply comes from the cache.", rich_help_panel=_OWN)
]
ReplayOption = Annotated[
    Path | None, typer.Option("--replay", help="As --offline, with the replies of this pack alone.", rich_help_panel=_OWN)
]

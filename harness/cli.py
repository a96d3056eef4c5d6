"""The command line. Results go to stdout, everything else to stderr; heavy packages load inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(wanted: bool) -> None:
    if wanted:
        from harness.environment import version

        typer.echo(f"harness {version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Compares alignment-distillation methods under fixed budgets."""


@app.command(epilog="Examples:  harness run -m ropd -s alpaca      harness run -m seqkd --budget prompts=256 --seed 1")
def run(
    method: MethodOption,
    suite: SuiteOption = None,
    track: TrackOption = "pocket",
    seed: SeedOption = 0,
    setting: SetOption = None,
    budget: BudgetOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an existing run of this spec aside and start anew.")] = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    display: DisplayOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a student by a method, score it at every mark, and draw its curve.

    The same command again goes on with an interrupted run; of a finished one it shows the result.
    """
    from rich.console import Console

    from harness import environment, runner
    from harness.display import Progress
    from harness.errors import SpecError
    from harness.materials import check_names
    from harness.spec import resolve
    from harness.store import RunStore

    suites = list(dict.fromkeys(suite or ["alpaca"]))
    mode = display or environment.display()
    if mode not in ("auto", "live", "plain", "none"):
        raise SpecError(f"no display named {mode!r}", where=f"--display {mode}", fix="one of auto, live, plain, none")
    spec, origins = resolve(method, track, seed, setting, budget)
    check_names(spec.track, suites)
    if dry_run:
        runner.rehearse(spec, suites, force)
        return
    store, found = RunStore.open(spec, origins, environment.runs_dir(), fresh=fresh)
    console = Console(stderr=True, highlight=False)
    progress = Progress(spec, found, suites, mode, console, as_json)
    if not runner.complete(store, suites):
        runner.execute(spec, store, suites, progress, sys.argv[1:], force)
        found = "new"
    runner.finish(spec, store, suites, progress, already=found == "finished")


@app.command("eval", epilog="Examples:  harness eval --model 7f3a91c2 -s alpaca      harness eval --model ./folder -s mt_bench")
def eval_(
    model: Annotated[
        str | None, typer.Option("--model", help="A Hugging Face folder, REPO@REVISION, a finished run, or a server's URL/MODEL.")
    ] = None,
    outputs: Annotated[Path | None, typer.Option("--outputs", help="A file of answers in the suite's own format.")] = None,
    suite: Annotated[str, typer.Option("--suite", "-s", help="The suite to score.")] = "alpaca",
    judge: Annotated[list[str] | None, typer.Option("--judge", help="URL/MODEL; twice for two judges.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="Variable with the API key; one for all, or each.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting of the suite, KEY=VALUE.")] = None,
    track: Annotated[
        str | None, typer.Option("--track", "-t", help="Takes items, judge and decoding of a track. Default: of the run, if any.")
    ] = None,
    mark: Annotated[str, typer.Option("--mark", help="The mark whose weights are scored, of a run.")] = "1",
    name: Annotated[str, typer.Option("--name", help="What the model is called in files and tables.")] = "",
    temperature: Annotated[float | None, typer.Option("--temperature", help="Where the protocol sets none.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Of an answer, at most.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=0, help="Rows generated together; 0 chooses.")] = 0,
    usd: Annotated[tuple[float, float], typer.Option("--usd", help="Judge's price: a million tokens in, out.")] = (0.0, 0.0),
    regrade: Annotated[bool, typer.Option("--regrade", help="Grade the answers on file again; never write new ones.")] = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    best_of: Annotated[
        int | None, typer.Option("--best-of", help="Of a run: samples of each item, of which the student itself picks one.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Score a checkpoint, a run, a served model or a file of outputs on a suite; nothing that was paid for is paid again."""
    from harness import eval_command

    if best_of is not None:
        run = eval_command.best_of_run(model or "", suite, mark, best_of, 1.0 if temperature is None else temperature)
        eval_command.choose(run, suite, mark, best_of, 1.0 if temperature is None else temperature)
        return
    eval_command.evaluate(
        eval_command.Wanted(
            suite=suite, model=model, outputs=outputs, name=name, track=track, mark=mark, judges=judge or (), keys=key or (),
            settings=setting or (), temperature=temperature, max_tokens=max_tokens, dtype=dtype, batch_size=batch_size,
            prices=usd, regrade=regrade, dry_run=dry_run, force=force, as_json=as_json,
        )
    )  # fmt: skip


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, suites, tracks, runs or meters.")] = "methods",
    as_json: JsonOption = False,
) -> None:
    """List what there is: methods, suites, tracks, runs or meters."""
    from harness import listing

    listing.show(what, as_json)


@app.command(epilog="Examples:  harness show ropd      harness show 7f3a91c2      harness show 7f3a91c2 --item alpaca-0007")
def show(
    name: Annotated[str, typer.Argument(help="A run (name, beginning of its identity, folder) or a method.")],
    item: Annotated[
        str | None, typer.Option("--item", help="A suite's item, or a training prompt: everything kept about it.")
    ] = None,
    track: TrackOption = "pocket",
    setting: SetOption = None,
) -> None:
    """Show a run, one of its items with rollouts, rubric and verdicts, or the resolved spec of a method."""
    from harness import listing

    listing.show_one(name, item, track, setting or [])


@app.command(epilog="Examples:  harness report      harness report 7f3a 91c2 --meter critic_tokens_in --suite alpaca")
def report(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs or a track; without any, all finished runs.")] = None,
    suite: Annotated[str, typer.Option("--suite", "-s", help="The suite to report.")] = "alpaca",
    meter: Annotated[str, typer.Option("--meter", help="The meter of the x axis: harness list meters.")] = "prompts",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files; default below reports/.")] = None,
    debug: DebugOption = False,
) -> None:
    """Draw the curves of finished runs and print their table."""
    from harness import runner

    runner.report(runs or [], suite, meter, out)


@app.command("new-method", epilog="Example:  harness new-method my_idea")
def new_method(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by underscores.")],
    out: Annotated[Path | None, typer.Option("--out", help="A source checkout; default: the one that is installed.")] = None,
    debug: DebugOption = False,
) -> None:
    """Write a small method that runs, to make another one of: its file, prompt, test, page and row in the index."""
    from harness import skeleton

    root = out or Path(__file__).parents[1]
    written = [str(root / path) for path in skeleton.new_method(name, root)]
    typer.echo("\n  ".join(["wrote", *written]))
    typer.echo("\n  ".join(["next", *skeleton.next_steps(name, root)]))


@app.command("serve-oracle")
def serve_oracle(
    port: Annotated[int, typer.Option("--port", help="0 takes a free port.")] = 8600,
    track: TrackOption = "pocket",
    seed: SeedOption = 0,
    debug: DebugOption = False,
) -> None:
    """Serve the embedded teacher, critic and judge by OpenAI's protocol on loopback, until Ctrl-C."""
    import secrets

    from harness import environment
    from harness.errors import SpecError
    from harness.pocket import world
    from harness.pocket.oracle import TOKEN_VARIABLE, serve
    from harness.tracks import load

    the_track = load(track)
    if the_track.pocket is None:
        raise SpecError(f"track {track} has no embedded world", where=f"--track {track}", fix="--track pocket")
    token = environment.secret(TOKEN_VARIABLE)
    if token is None:
        token = secrets.token_urlsafe(24)
        typer.echo(f"key: {token}", err=True)
    serve(world.server_config(the_track, seed), port, token)


@pocket.command("build")
def pocket_build(
    scale: Annotated[str, typer.Option("--scale", help="pocket or pocket-m.")] = "pocket",
    out: Annotated[Path | None, typer.Option("--out", help="Where the models go; default is inside the package.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Models trained at the same time, one thread each.")] = 2,
    share: Annotated[float, typer.Option("--share", min=0.0001, help="Share of the recipe's tokens, to try it out.")] = 1.0,
    debug: DebugOption = False,
) -> None:
    """Pretrain the embedded student-teacher pairs from their recipe and measure them (about an hour and a half)."""
    from harness.pocket.build import ASSETS, build

    build(scale, out or ASSETS, jobs, share, lambda line: typer.echo(line, err=True))


@app.command(epilog="Examples:  harness leakage 7f3a91c2      harness leakage --prompts mine.jsonl -s alpaca -s reasoning")
def leakage(
    run: Annotated[str | None, typer.Argument(help="A run: what it was asked to learn, and what its teacher wrote.")] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", help="A JSONL file of prompts, in place of a run.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", "-s", help="A suite; may be given again. Default: all of the track.")
    ] = None,
    track: Annotated[
        str | None, typer.Option("--track", "-t", help="Whose items the suites have. Default: of the run, else pocket.")
    ] = None,
    limit: Annotated[float | None, typer.Option("--limit", help="Largest share of items that may be contaminated.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare training prompts and teacher texts with what suites ask; exit code 1 where too much is shared."""
    from harness import leakage_command as command

    command.leakage_command(run, prompts, suite or [], track, limit, as_json)


@app.command("probe", epilog="Example:  harness probe http://127.0.0.1:8000/v1/Qwen/Qwen3-8B --role critic")
def probe_(
    model: Annotated[str, typer.Argument(metavar="URL/MODEL", help="All up to and including /v1 is the address.")],
    role: Annotated[str, typer.Option("--role", help="critic or judge.")] = "critic",
    key: Annotated[str, typer.Option("--key", help="Variable with the API key.")] = "OPENAI_API_KEY",
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure whether a served critic or judge tells good answers from bad ones, and refuse one that does not."""
    from harness.probe_command import probe_command

    probe_command(model, key, role, force, as_json)


def _report_error(error: Any) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error\\[{error.code}][/bold red]: {escape(error.message)}")
    if error.where:
        console.print(f"  at   {escape(error.where)}")
    if error.fix:
        console.print(f"  fix  {escape(error.fix)}")
    if error.exit_code == 2:
        console.print(f"  {error.spent}")


def main() -> NoReturn:
    """Runs the command line; every error of ours is a short message and a documented exit code, never a traceback."""
    from harness.environment import quiet_libraries
    from harness.errors import HarnessError

    quiet_libraries()
    try:
        code = app(standalone_mode=False)
    except HarnessError as error:
        if "--debug" in sys.argv:
            raise
        _report_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if (show := getattr(error, "show", None)) and "--debug" not in sys.argv:  # click's own usage errors
            show()
            sys.exit(2)
        raise
    sys.exit(code if isinstance(code, int) else 0)

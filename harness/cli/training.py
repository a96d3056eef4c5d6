"""Commands that train: a run, a grid of runs, the choice of settings, the regression gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    AtEndsOption,
    BudgetOption,
    CriticOption,
    DebugOption,
    DisplayOption,
    DryRunOption,
    EvalPromptsOption,
    ForceOption,
    JsonOption,
    JudgeIsCriticOption,
    JudgeOption,
    KeyOption,
    MaxUsdOption,
    MethodOption,
    OfflineOption,
    PriceOption,
    ProcessesOption,
    PromptsOption,
    ReplayOption,
    SeedOption,
    SetOption,
    SolutionsOption,
    StudentOption,
    SuiteOption,
    TeacherOption,
    TrackOption,
    YesOption,
    app,
    cache,
)


@app.command(epilog="Examples:  harness run -m ropd -s alpaca      harness run -m seqkd --budget prompts=256 --seed 1")
def run(
    method: MethodOption,
    suite: SuiteOption = None,
    at_ends: AtEndsOption = None,
    track: Annotated[
        str | None, typer.Option("--track", "-t", help="A track by name, or a YAML file. Default: pocket, or own for yours.")
    ] = None,
    seed: SeedOption = 0,
    setting: SetOption = None,
    budget: BudgetOption = None,
    processes: ProcessesOption = None,
    student: StudentOption = None,
    teacher: TeacherOption = None,
    critic: CriticOption = None,
    judge: JudgeOption = None,
    prompts: PromptsOption = None,
    eval_prompts: EvalPromptsOption = None,
    solutions: SolutionsOption = None,
    max_usd: MaxUsdOption = None,
    price: PriceOption = None,
    key: KeyOption = None,
    judge_is_critic: JudgeIsCriticOption = False,
    yes: YesOption = False,
    offline: OfflineOption = False,
    replay: ReplayOption = None,
    curve: Annotated[bool, typer.Option("--curve/--no-curve", help="Draw the curve of all runs like this one.")] = True,
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
    import contextlib

    from rich.console import Console

    from harness import environment

    if offline or replay:
        environment.go_offline()

    from harness import launch, runner
    from harness.display import Progress
    from harness.errors import SpecError
    from harness.forecast import confirm
    from harness.needs import check
    from harness.own import BASE, Own
    from harness.replay import only
    from harness.spec import resolve
    from harness.store import RunStore

    everywhere = suite or ([] if at_ends else ["alpaca"])
    suites, ends = list(dict.fromkeys([*everywhere, *(at_ends or [])])), {*(at_ends or [])} - {*everywhere}
    mode = display or environment.display()
    if mode not in ("auto", "live", "plain", "none"):
        raise SpecError(f"no display named {mode!r}", where=f"--display {mode}", fix="one of auto, live, plain, none")
    own = Own(
        student, teacher or (), critic, judge, prompts, eval_prompts, solutions, max_usd, price or (), key or (), judge_is_critic
    )
    spec, origins = resolve(method, track or (BASE if own else "pocket"), seed, setting, budget, own)
    check(spec, suites)
    begun = RunStore(environment.runs_dir() / spec.folder, spec)
    size = launch.count(processes)
    if launch.is_follower():
        if not dry_run and (fresh or not runner.complete(begun, suites, ends)):
            launch.follow(spec)
        return
    if dry_run or fresh or not runner.complete(begun, suites, ends):
        confirm(spec, suites, ends, yes or offline or replay is not None)
    if dry_run:
        runner.rehearse(spec, suites, ends, force)
        return
    store, found = RunStore.open(spec, origins, environment.runs_dir(), fresh=fresh, processes=size)
    console = Console(stderr=True, highlight=False)
    progress = Progress(spec, found, suites, mode, console, as_json)
    if not runner.complete(store, suites, ends):
        with only(replay) if replay else contextlib.nullcontext():
            runner.execute(spec, store, suites, ends, progress, sys.argv[1:], force, offline or replay is not None, size)
        found = "new"
    runner.finish(spec, store, suites, progress, already=found == "finished", draw=curve)


@app.command(epilog="Examples:  harness sweep pocket-smoke --jobs 2      harness sweep mine.yaml --executor ray --gpus-per-run 1")
def sweep(
    grid: Annotated[str | None, typer.Argument(help="A grid by name, or a YAML file.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="In place of a grid: methods, with commas.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds, from 0 up.")] = None,
    track: Annotated[list[str] | None, typer.Option("--track", "-t", help="A track; may be given again.")] = None,
    budget: BudgetOption = None,
    suite: SuiteOption = None,
    at_ends: AtEndsOption = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at the same time. Default: 1; with ray, what the machines hold.")
    ] = None,
    executor: Annotated[str, typer.Option("--executor", help="local, or ray: the machines of a Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster, HOST:6379. Without it one is started on this machine.")
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus-per-run", help="Ray: CPUs of a run. Default: the grid's, or 1.")] = None,
    gpus: Annotated[float | None, typer.Option("--gpus-per-run", help="Ray: GPUs of a run. Default: the grid's, or 0.")] = None,
    retries: Annotated[
        int | None, typer.Option("--retries", min=0, help="Ray: times a run that lost its machine is started again. Default: 3.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what is left to do, and stop.")] = False,
    yes: YesOption = False,
    display: DisplayOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Carry out the runs of a grid; finished ones are skipped, and one that fails does not stop the others."""
    from harness.commands import sweep as command
    from harness.spec import budget_of

    found, where = command.grid_of(grid, {
        "methods": method and method.split(","), "seeds": seeds and list(range(seeds)), "tracks": track,
        "budgets": budget and [budget_of(budget)], "suites_at_marks": suite or ([] if at_ends else None), "suites": at_ends,
    })  # fmt: skip
    wanted = command.Wanted(executor, jobs, address, cpus, gpus, retries)
    command.sweep(found, where, wanted, dry_run, display, as_json, sys.argv[1:], yes)


@app.command(epilog="Examples:  harness tune ropd sft --trials 16 --jobs 2      harness tune --all --trials 16")
def tune(
    methods: Annotated[list[str] | None, typer.Argument(help="Methods: harness list methods.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every registered method.")] = False,
    track: TrackOption = "pocket",
    trials: Annotated[int, typer.Option("--trials", help="Settings tried for each method, the track's own among them.")] = 16,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each trial, under seeds that no report shows.")] = 1,
    budget: BudgetOption = None,
    items: Annotated[str | None, typer.Option("--items", help="Tuning items, AlpacaEval's format. Default: pocket's.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Logs go to TRACK/METHOD.jsonl below it.")] = Path("results/tuning"),
    finals: Annotated[
        int, typer.Option("--finals", min=0, help="Instead: run the best N trials of each log again, and choose among them.")
    ] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at the same time, one thread each.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials' runs, and stop.")] = False,
    display: DisplayOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Choose settings: equal trials over one search space for every method, on items that no report shows."""
    from harness import registry
    from harness.commands.tune import Wanted, tune_command
    from harness.spec import budget_of

    chosen = sorted(registry.modules("methods")) if everything else list(dict.fromkeys(methods or []))
    tune_command(Wanted(
        methods=chosen, track=track, trials=trials, seeds=seeds, budget=budget_of(budget or []), items=items, out=out, jobs=jobs,
        finals=finals, display=display, dry_run=dry_run, as_json=as_json, typed=sys.argv[1:],
    ))  # fmt: skip


@app.command(epilog='Examples:  harness check      harness check --scores -m ropd      harness check --update --reason "why"')
def check(
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Default: exact.json, or scores.json, in results/baselines.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="A method; may be given again.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Compare scores over seeds (minutes), not trajectories.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="First of other seeds than the baseline's: not paired.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for what is unclear, too.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline; needs a reason.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why the baseline changes; kept in it.")] = "",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at the same time, one thread each.")] = 2,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit's XML.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the methods on a tiny track and compare them with a baseline: round by round exactly, or by their scores."""
    from harness.commands import check as command

    command.check_command(
        command.Wanted(
            baseline=baseline, methods=method or (), scores=scores, first_seed=seed, strict=strict, update=update, reason=reason,
            jobs=jobs, junit=junit, as_json=as_json,
        )
    )  # fmt: skip


@cache.command("export", epilog="Examples:  harness cache export 7f3a91c2 m.jsonl.gz      harness cache export --all m.jsonl.gz")
def cache_export(
    names: Annotated[list[str], typer.Argument(metavar="[RUN] FILE", help="A run, and where to write; with --all the file.")],
    everything: Annotated[bool, typer.Option("--all", help="Every reply in the cache, whoever asked.")] = False,
    debug: DebugOption = False,
) -> None:
    """Pack the replies that a run used: harness run --replay FILE needs no server and no key. No key is in the file."""
    from harness.commands import cache as command

    command.export(names, everything)


@cache.command("import", epilog="Example:  harness cache import replies.jsonl.gz")
def cache_import(
    file: Annotated[Path, typer.Argument(help="A file of harness cache export.")],
    debug: DebugOption = False,
) -> None:
    """Put packed replies into the cache; replies that are there already stay as they are."""
    from harness.commands import cache as command

    command.take_in(file)

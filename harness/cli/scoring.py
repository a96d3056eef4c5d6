"""Commands that score and compare: evaluations, reports, the probe of a critic, leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DebugOption, DryRunOption, ForceOption, JsonOption, app


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
    from harness.commands import eval as eval_command

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


@app.command(epilog="Examples:  harness report      harness report 7f3a 91c2 --meter critic_tokens --suite alpaca --figures")
def report(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs or a track; without any, all finished runs.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", "-s", help="A suite; may be given again. Default: all that scored the runs.")
    ] = None,
    meter: Annotated[str, typer.Option("--meter", help="The meter of the curve's x axis: harness list meters.")] = "prompts",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files; default below reports/.")] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Also every meter, costs, price, and proxy against gold.")] = False,
    debug: DebugOption = False,
) -> None:
    """Print the tables of finished runs; write them, their curves and a page as files."""
    from harness import runner

    runner.report(runs or [], suite or [], meter, out, figures)


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
    from harness.commands.probe import probe_command

    probe_command(model, key, role, force, as_json)


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
    from harness.commands import leakage as command

    command.leakage_command(run, prompts, suite or [], track, limit, as_json)


@app.command(epilog="Examples:  harness claims      harness claims 2605.07396 --list      harness claims --grid > grid.yaml")
def claims(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Claims or arXiv numbers. Default: all.")] = None,
    runs: Annotated[list[str] | None, typer.Option("--runs", help="A run or a track; may be given again. Default: all.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="The claims themselves; looks at no run.")] = False,
    grid: Annotated[bool, typer.Option("--grid", help="The runs that are lacking, as YAML for harness sweep.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what finished runs show about the papers' claims, and what they cannot show."""
    from harness.commands.claims import claims_command

    claims_command(names or [], runs or [], listing, grid, as_json)


@app.command(epilog="Examples:  harness summarize      harness summarize pocket@5c1e --out results/runs")
def summarize(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs or tracks; without any, all finished runs.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the summaries.")] = Path("results/runs"),
    debug: DebugOption = False,
) -> None:
    """Write a small file of each finished run with all that reports read, to keep in a repository."""
    from harness.commands import publish as publish_command

    publish_command.summarize(runs or [], out)


@app.command(epilog="Examples:  harness publish      harness publish --check")
def publish(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 where a file is not up to date.")] = False,
    debug: DebugOption = False,
) -> None:
    """Make a repository's results anew from its summaries: tables, figures, the page, and blocks in documents."""
    from harness.commands import publish as publish_command

    publish_command.publish(check)


@app.command("export", epilog="Example:  harness export 7f3a91c2 --out ./my-model")
def export_(
    run: Annotated[str, typer.Argument(help="A finished run: name, beginning of its identity, or folder.")],
    out: Annotated[Path, typer.Option("--out", help="A folder that does not exist yet.")],
    mark: Annotated[str, typer.Option("--mark", help="The mark whose weights are taken.")] = "1",
    debug: DebugOption = False,
) -> None:
    """Copy a run's model to a folder that transformers and vLLM load, with a model card made of the run's scores."""
    from harness.commands.export import export_command

    export_command(run, out, mark)


@app.command(epilog="Examples:  harness repeat ropd-s0-7f3a91c2      harness repeat results/runs")
def repeat(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs, tracks or folders of summaries, of which one is drawn; default: all runs.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Make a finished run again from its spec, and say whether everything came out the same (exit code 1 if not)."""
    from harness.commands.repeat import repeat_command

    repeat_command(runs or [])

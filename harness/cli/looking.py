"""Commands that show what there is, write a new method, or serve and build the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DebugOption, JsonOption, SeedOption, SetOption, TrackOption, app, pocket


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

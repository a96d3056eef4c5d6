"""The command line. Results go to stdout, everything else to stderr; heavy packages load inside the commands."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from harness.cli import training  # noqa: F401 (each adds its commands, in this order)

# isort: split
from harness.cli import scoring  # noqa: F401

# isort: split
from harness.cli import planning  # noqa: F401

# isort: split
from harness.cli import looking  # noqa: F401

# isort: split
from harness.cli.options import app


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
    from harness.errors import HarnessError, out_of_memory

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
        if (fault := out_of_memory(error)) and "--debug" not in sys.argv:
            _report_error(fault)
            sys.exit(fault.exit_code)
        raise
    sys.exit(code if isinstance(code, int) else 0)

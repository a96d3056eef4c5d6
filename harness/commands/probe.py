"""What `harness probe` does: asks, prints, and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import environment
from harness.connect import client, connections, served_at
from harness.errors import SpecError, nearest
from harness.ledger import Budget, Ledger
from harness.probe import FLOOR, ROLES, ProbeReport, probe, refuse
from harness.store import json_text, write_atomically
from harness.tracks import Served


def show(report: ProbeReport, console: Console) -> None:
    """Prints the report within 80 columns: a row a kind, then accuracy by domain, then what was lost or lies below the floor."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    console.print(f"probe of {escape(report.model)} as a {report.role}, {report.seconds:.1f} s\n", soft_wrap=True)
    plain: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 1, 0, 0), "header_style": "bold"}
    table = Table(**plain)
    table.add_column("asked", no_wrap=True)
    for name in ("pairs", "read", "accuracy", "95 %", "draws", "swapped", "fooled", "in", "out"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind in report.kinds:
        interval = "-" if kind.interval is None else "{:.2f} to {:.2f}".format(*kind.interval)
        table.add_row(
            kind.kind, str(kind.pairs), share(kind.read), share(kind.accuracy), interval, share(kind.draws), share(kind.swapped),
            str(len(kind.fooled)), f"{kind.tokens_in:.0f}", f"{kind.tokens_out:.0f}",
        )  # fmt: skip
    least = (share(FLOOR.read), share(FLOOR.accuracy), "", "", share(FLOOR.swapped), str(FLOOR.fooled))
    table.add_row("floor", "", *least, "", "", style="dim")
    console.print(table, "")
    domains = Table(**plain)
    domains.add_column("accuracy by domain", no_wrap=True)
    for kind in report.kinds:
        domains.add_column(kind.kind, justify="right")
    for domain in dict.fromkeys(domain for kind in report.kinds for domain in kind.domains):
        domains.add_row(domain, *(share(kind.domains.get(domain)) for kind in report.kinds))
    if domains.rows:
        console.print(domains, "")
    for kind in report.kinds:
        for status, count in kind.lost.items():
            console.print(f"{kind.kind}: {count} of {kind.calls} calls {status}", soft_wrap=True)
    for breach in report.breaches:
        console.print(f"below the floor: {breach}", soft_wrap=True)


FRESH_S = 24 * 3600
"""Seconds for which a probe counts: long enough for a grid of runs, and no longer, since models change behind their names."""


def ensure(role: str, served: Served, force: bool, tell: Callable[[str], None]) -> None:
    """Probes a served critic or judge before a run, unless that was done within the last day, and refuses one below the floor.

    Raises:
        ProbeRefused: it is below the floor, and nobody forces it.
        ClientError: the server cannot be asked at all.
    """
    name = hashlib.sha256(f"{role} {served.model} {served.url} {served.revision}".encode()).hexdigest()[:16]
    path = environment.cache_dir() / "probes" / f"{name}.json"
    if path.exists() and time.time() - path.stat().st_mtime < FRESH_S:
        report = json.loads(path.read_text(encoding="utf-8"))
    else:
        with contextlib.ExitStack() as stack:
            report = as_dict(_measured(role, served, tell, stack))
        write_atomically(path, json_text(report))
    if not force:
        refuse(report["model"], role, report["breaches"])


def _measured(role: str, served: Served, tell: Callable[[str], None], stack: contextlib.ExitStack) -> ProbeReport:
    ledger = Ledger(Budget({"prompts": 1}))  # a ledger has a ceiling; a probe draws no prompts
    asked = client(role, served, ledger, None, connections(None, 0, [(role, served)], stack), stack)
    return probe(asked, ledger, tell)


def as_dict(report: ProbeReport) -> dict[str, Any]:
    """What `--json` prints."""
    return {"schema": "harness.probe/1", **asdict(report), "breaches": report.breaches}


def probe_command(url_model: str, key: str, role: str, force: bool, as_json: bool) -> None:
    """`harness probe`: measures a served model, prints the report on stdout, and refuses one below the floor unless forced.

    Replies are never taken from the cache, since a name does not say which weights are behind it today.

    Args:
        url_model: where it is served, as `served_at` reads it.
        key: the environment variable with the API key.

    Raises:
        SpecError: no such role, or an address of another form.
        ProbeRefused: below the floor.
    """
    if role not in ROLES:
        raise SpecError(f"no role named {role!r}", where=f"--role {role}", fix=nearest(role, ROLES))
    served = served_at(url_model, key)
    with contextlib.ExitStack() as stack:
        report = _measured(role, served, Console(stderr=True, highlight=False).print, stack)
    if as_json:
        print(json.dumps(as_dict(report), ensure_ascii=False))
    else:
        show(report, Console(highlight=False))
    if not force:
        refuse(report.model, role, report.breaches)

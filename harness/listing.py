"""What the commands `list` and `show` print. Reads stores and registries; loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from harness import environment, registry, tracks
from harness.display import amount, clean, headline, span
from harness.errors import HarnessError, SpecError, nearest
from harness.ledger import METERS
from harness.spec import conditions_digest, resolve
from harness.store import find, mark_stem, read_lines

KINDS = ("methods", "suites", "tracks", "runs", "meters")
ONLY_IN_JSON = ("paper", "version")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def show(what: str, as_json: bool) -> None:
    """Prints one of `KINDS`, as a table or as JSON.

    Raises:
        SpecError: another word.
    """
    if what not in KINDS:
        raise SpecError(f"cannot list {what!r}", where=f"harness list {what}", fix=nearest(what, KINDS))
    rows = {"methods": _methods, "suites": _suites, "tracks": _tracks, "runs": _runs, "meters": _meters}[what]()
    if as_json:
        typer.echo(json.dumps(rows, indent=1, sort_keys=True))
        return
    console = Console(highlight=False)
    if not rows:
        console.print("none yet: harness run --method ropd --suite alpaca")
        return
    shown = [column for column in rows[0] if column not in ONLY_IN_JSON]
    table = _table(*shown)
    for row in rows:
        table.add_row(*(clean(str(row[column])) for column in shown))
    console.print(table)


def _methods() -> list[dict[str, Any]]:
    rows = []
    for name in sorted(registry.modules("methods")):
        try:
            cls = registry.method(name)
            needs = ", ".join(sorted(need.name.lower() for need in cls(cls.Config()).needs)) or "nothing"
            rows.append({"method": name, "sees": cls.access, "needs": needs, "paper": cls.paper, "what": cls.summary})
        except HarnessError as error:  # one broken plugin must not hide the others
            rows.append({"method": name, "sees": "-", "needs": "-", "paper": "-", "what": f"cannot be loaded: {error.message}"})
    return rows


def _suites() -> list[dict[str, Any]]:
    classes = {name: registry.suite(name) for name in sorted(registry.modules("suites"))}
    return [
        {
            "suite": name,
            "version": cls.version,
            "metric": cls.metric,
            "judge": "yes" if cls.needs_judge else "no",
            "what": cls.summary,
        }
        for name, cls in classes.items()
    ]


def _tracks() -> list[dict[str, Any]]:
    rows = []
    for name in tracks.names():
        track = tracks.load(name)
        budget = ", ".join(f"{meter}={amount:g}" for meter, amount in track.budget.items())
        rows.append(
            {
                "track": name,
                "digest": track.digest[:8],
                "budget": budget,
                "suites": ", ".join(track.suites),
                "what": track.summary,
            }
        )
    return rows


def _runs() -> list[dict[str, Any]]:
    root = environment.runs_dir()
    rows = []
    for path in sorted(root.glob("*/*/spec.json")):
        folder, spec = path.parent, json.loads(path.read_text(encoding="utf-8"))
        if ".old" in folder.name:
            continue
        state = "finished" if (folder / "manifest.json").exists() else "resumable"
        scores = [
            f"{suite.name} {_last_score(suite)}"
            for suite in sorted(folder.glob("suites/*"))
            if (suite / "marks" / "1.json").exists()
        ]
        rows.append({"run": folder.name, "track": f"{folder.parent.name}@{conditions_digest(spec['track'])[:8]}", "state": state,
                     "scores": ", ".join(scores) or "-"})  # fmt: skip
    return rows


def _last_score(folder: Path) -> str:
    value = headline(json.loads((folder / "marks" / "1.json").read_text(encoding="utf-8")))["value"]
    return "none" if value is None else f"{value:.3f}"


def _meters() -> list[dict[str, Any]]:
    return [{"meter": name, "what": what} for name, what in METERS.items()]


def show_one(name: str, item: str | None, track: str, settings: list[str]) -> None:
    """Prints a run, one item of a run, or the resolved spec of a method.

    Raises:
        SpecError: no such run, method or item.
    """
    console = Console(highlight=False)
    if name in registry.modules("methods"):
        spec, origins = resolve(name, track, 0, settings, pin=False)
        _print_spec(console, spec.model_dump(mode="json"), origins.config, origins.track)
        return
    folder = find(name, environment.runs_dir())
    if item is None:
        _print_run(console, folder)
    elif not (_print_item(console, folder, item) | _print_prompt(console, folder, item)):
        known = [row["id"] for suite in folder.glob("suites/*") for row in read_lines(suite / "items.jsonl")]
        known += [row["prompt_id"] for row in read_lines(folder / "rollouts.jsonl")]
        raise SpecError(f"run {folder.name} has no item {item!r}", where=f"--item {item}", fix=nearest(item, known[:5000]))


CONDITIONS = ("student", "teacher", "critic", "judge", "solutions", "prompts", "held_out", "max_usd")
"""Parts of a track that people bring themselves."""


def _print_spec(console: Console, spec: dict[str, Any], origins: dict[str, str], flags: dict[str, str]) -> None:
    track = spec["track"]
    console.print(f"[bold]{spec['method']}[/bold]   track {track['name']}@{conditions_digest(track)[:8]}   seed {spec['seed']}   "
                  f"budget {', '.join(f'{k}={v:g}' for k, v in track['budget'].items())}")  # fmt: skip
    table = _table("setting", "value", "from")
    for key, value in spec["config"].items():
        table.add_row(key, str(value), origins.get(key, "-"))
    table.add_row("learning_rate (used)", str(spec["config"].get("learning_rate") or track["optimizer"]["learning_rate"]), "")
    console.print(table)
    if track.get("pocket") is None:
        _print_conditions(console, track, flags)


def _print_conditions(console: Console, track: dict[str, Any], flags: dict[str, str]) -> None:
    """The models and prompts of a track with real ones, and where each value comes from."""
    table = _table("track", "value", "from")
    for name in CONDITIONS:
        value = track.get(name)
        for key, part in (value if isinstance(value, dict) else {"": value}).items():
            if part not in (None, "", {}, []):
                place = f"{name}.{key}".rstrip(".")
                table.add_row(place, clean(str(part)), flags.get(place, f"track {track['name']}"))
    console.print(table)


def _print_run(console: Console, folder: Path) -> None:
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    import yaml

    written = yaml.safe_load((folder / "spec.yaml").read_text(encoding="utf-8"))
    environment_ = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    console.print(f"[dim]{folder}[/dim]")
    _print_spec(console, spec, written["origins"], written.get("flags", {}))
    console.print(
        f"made by harness {environment_['harness']}, source {environment_['source'][:8]}, started {environment_['started']}\n"
    )
    marks = list(read_lines(folder / "marks.jsonl"))
    for suite in sorted(path for path in folder.glob("suites/*") if path.is_dir()):
        table = _table("mark", "prompts", suite.name, "95 % CI", "gold", "t1", "critic tokens")
        for row in marks:
            path = suite / "marks" / f"{mark_stem(row['mark'])}.json"
            if path.exists():
                table.add_row(*_mark_cells(row, json.loads(path.read_text(encoding="utf-8"))))
        console.print(table)
    if not marks:
        console.print("no mark reached yet")


def _mark_cells(row: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    metric, meters = headline(scores), row["meters"]
    interval = span(scores)
    decodings = [scores[scores["headline"]].get("gold"), scores.get("t1", {}).get(scores["metric"])]
    shown = [f"{m['value']:.3f}" if m and m["value"] is not None else "-" for m in (metric, *decodings)]
    critic = meters["critic_tokens_in"] + meters["critic_tokens_out"]
    between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
    return [row["mark"], amount(meters["prompts"]), shown[0], between, shown[1], shown[2], amount(critic)]


def _print_item(console: Console, folder: Path, item: str) -> bool:
    """An item of a suite: its question, and the answer and verdicts at every mark."""
    found = False
    for suite in sorted(folder.glob("suites/*")):
        asked = next((row for row in read_lines(suite / "items.jsonl") if row["id"] == item), None)
        if asked is None:
            continue
        found = True
        console.print(f"[bold]{item}[/bold] of {suite.name}   {asked['category']}", markup=True)
        console.print(f"  question   {clean(asked['question'])}", markup=False)
        if asked["reference"]:
            console.print(f"  reference  {clean(asked['reference'])}", markup=False)
        for mark in [row["mark"] for row in read_lines(folder / "marks.jsonl")] + ["teacher"]:
            for answers in sorted(suite.glob(f"answers/{mark_stem(mark)}.*.jsonl")):
                how = answers.name.split(".")[1]
                text = next(row["text"] for row in read_lines(answers) if row["item_id"] == item)
                records = [row for row in read_lines(suite / "records" / answers.name) if row["item_id"] == item]
                said = "  ".join(
                    f"{row['subkey']} {row['score']:.3f}" if row["score"] is not None else f"{row['subkey']} {row['status']}"
                    for row in records
                )
                console.print(f"  {mark:>7} {how:<6}  {clean(text)}\n                  {said}", markup=False)
    return found


def _print_prompt(console: Console, folder: Path, prompt: str) -> bool:
    """A training prompt: every visit's rollouts, and whatever the method noted (rubric, verdicts, references)."""
    rows = [row for row in read_lines(folder / "rollouts.jsonl") if row["prompt_id"] == prompt]
    for row in rows:
        console.print(f"[bold]{prompt}[/bold]   round {row['round']}   visit {row['visit']}{'   LOST' if row['lost'] else ''}")
        console.print(f"  question   {clean(row['messages'][-1]['content'])}", markup=False)
        note = row["note"]
        for reference in note.get("references", []):
            console.print(f"  reference  {clean(reference)}", markup=False)
        if "rubric" in note:
            for i, criterion in enumerate(note["rubric"]):
                ticks = "".join("x" if verdict[i] else "." for verdict in note["verdicts"])
                console.print(f"  {criterion['points']} points  {ticks}  {clean(criterion['criterion'])}", markup=False)
        elif note:
            console.print(f"  note       {clean(json.dumps(note))[:500]}", markup=False)
        for i, rollout in enumerate(row["rollouts"]):
            signals = "  ".join(f"{name.removesuffix('_N')} {values[i]:.3f}" for name, values in row["signal"].items())
            console.print(f"  {i + 1:>2}  {signals}  {clean(rollout['text'])}", markup=False)
    return bool(rows)

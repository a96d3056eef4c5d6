"""What `harness eval` does, between the command line and the machinery."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from harness import environment, tracks
from harness.clients.cache import ReplyCache
from harness.clients.metered import Client, Tariff
from harness.clients.roles import ServedJudge
from harness.connect import client, connections, served_at
from harness.contestants import Contestant, contestant, finished_run, outputs
from harness.display import bounds, clean
from harness.errors import SpecError
from harness.evaluate import scored, stored
from harness.evaluations import Evaluation, Grader, Sampled, preflight
from harness.held import settings_of
from harness.ledger import Budget, Ledger
from harness.materials import build_suite, check_names
from harness.spec import assignments
from harness.store import RunStore, json_text, write_atomically
from harness.tracks import Evaluation as Evaluated
from harness.tracks import Served, Track

MOST_TOKENS = 2048
"""Of an answer, where neither the protocol nor a track says less."""


@dataclass(frozen=True)
class Wanted:
    """What was typed."""

    suite: str
    model: str | None = None
    outputs: Path | None = None
    name: str = ""
    track: str | None = None
    mark: str = "1"
    judges: Sequence[str] = ()
    keys: Sequence[str] = ()
    settings: Sequence[str] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    dtype: str = "auto"
    batch_size: int = 0
    prices: tuple[float, float] = (0.0, 0.0)
    regrade: bool = False
    dry_run: bool = False
    force: bool = False
    as_json: bool = False


@dataclass
class Told:
    """Words on stderr about what goes on: replaced in place on a terminal, at most one in five seconds elsewhere."""

    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _last: tuple[str, float] = ("", -math.inf)

    def __call__(self, word: str) -> None:
        phase, now = word.split(",")[0], time.monotonic()
        if self.console.is_terminal:
            self.console.print(word[: self.console.width - 1].ljust(self.console.width - 1), end="\r", markup=False)
        elif phase != self._last[0] or now - self._last[1] >= 5:
            self.console.print(word, markup=False)
            self._last = (phase, now)

    def clear(self) -> None:
        if self.console.is_terminal:
            self.console.print(" " * (self.console.width - 1), end="\r")


def evaluate(wanted: Wanted) -> None:
    """Scores a contestant on a suite and prints the result.

    Raises:
        HarnessError: something is missing or does not fit; said before anything is paid, unless a server failed under way.
    """
    if (wanted.model is None) == (wanted.outputs is None):
        raise SpecError("name either a model or a file of outputs", where="--model, --outputs",
                        fix="harness eval --model PATH|HUB_ID|RUN|URL/MODEL -s SUITE, or --outputs FILE -s SUITE")  # fmt: skip
    track, seed = _conditions(wanted)
    settings = {**_given(track, wanted.suite, seed), **assignments(list(wanted.settings))}
    suite = build_suite(wanted.suite, settings, f"suite {wanted.suite}")
    judges = _judges(wanted, track) if suite.needs_judge else []
    tell = Told()
    with contextlib.ExitStack() as stack:
        cache = ReplyCache(environment.cache_dir())
        stack.callback(cache.close)
        ledger = Ledger(Budget({"prompts": 1}))
        stack.enter_context(ledger.off_the_clock())
        connect = connections(track, seed, [("judge", judge) for judge in judges], stack)
        clients = [client("judge", judge, ledger, cache, connect, stack) for judge in judges]

        def candidate(role: str, served: Served) -> Client:
            return client(role, served, ledger, cache, connections(track, seed, [(role, served)], stack), stack)

        key = wanted.keys[0] if wanted.keys else "OPENAI_API_KEY"
        who: Contestant = (
            outputs(wanted.outputs, wanted.name) if wanted.outputs
            else contestant(str(wanted.model), wanted.mark, wanted.dtype, wanted.batch_size, key, candidate)
        )  # fmt: skip
        who.name = wanted.name or who.name
        given = track.evaluation if track else Evaluated(temperatures=(0.0,), max_tokens=MOST_TOKENS)
        temperature = given.temperatures[0] if wanted.temperature is None else wanted.temperature
        sampled = Sampled(temperature, wanted.max_tokens or given.max_tokens, given.seed)
        evaluation = Evaluation(environment.runs_dir(), who, wanted.suite, suite, sampled)
        graders = [
            Grader(ServedJudge(asked, judge.parse_retries), Tariff(judge.parameters, judge.usd_in, judge.usd_out))
            for asked, judge in zip(clients, judges, strict=True)
        ] or [Grader(None, Tariff())]
        lines = preflight(evaluation, graders, tell, wanted.force)
        tell.clear()
        for label, text in lines:
            tell.console.print(f"{label:<9} {text}", markup=False, soft_wrap=True)
        if wanted.dry_run:
            tell.console.print("dry run   stops here")
            return
        answers = evaluation.answers(stack, tell, generate=not wanted.regrade)
        results = [evaluation.scores(grader, answers, tell, wanted.regrade) for grader in graders]
        tell.clear()
        console = Console(highlight=False, quiet=wanted.as_json)
        if wanted.as_json:
            typer.echo(json.dumps(results, sort_keys=True))
        for result in results:
            _print(evaluation, result, console)
        if suite.needs_judge:
            taught_by = [track.teacher.model] if track and track.teacher and track.teacher.url != "pocket" else []
            _print_judges(evaluation, graders, [who.name, *taught_by], console)
        for asked in clients:
            tell.console.print(f"calls     {asked.id}: {asked.sent:,} sent, {asked.hits:,} from the cache", markup=False)
        tell.console.print(f"files     {evaluation.folder}", markup=False, soft_wrap=True)


def _conditions(wanted: Wanted) -> tuple[Track | None, int]:
    """The track that items, judge and decoding come from, and the seed of its embedded world: those of a run, or named."""
    if wanted.track is not None:
        return tracks.load(wanted.track), 0
    model = wanted.model or ""
    if model and not Path(model, "config.json").is_file() and "://" not in model and ("/" not in model or Path(model).is_dir()):
        _, spec = finished_run(model, wanted.mark)
        return spec.track, spec.seed
    return None, 0


def _given(track: Track | None, suite: str, seed: int) -> dict[str, Any]:
    if track is None:
        return {}
    check_names(track, [suite])
    return settings_of(track, suite, seed)


def _judges(wanted: Wanted, track: Track | None) -> list[Served]:
    if len(wanted.judges) > 2:
        raise SpecError(f"one judge or two, got {len(wanted.judges)}", where="--judge")
    if len(wanted.keys) not in (0, 1, len(wanted.judges)):
        raise SpecError(f"{len(wanted.keys)} keys for {len(wanted.judges)} judges", where="--key", fix="one for all, or one each")
    keys = [*wanted.keys] * (len(wanted.judges) if len(wanted.keys) == 1 else 1) or ["OPENAI_API_KEY"] * len(wanted.judges)
    usd_in, usd_out = wanted.prices
    named = [
        served_at(text, key).model_copy(update={"usd_in": usd_in, "usd_out": usd_out})
        for text, key in zip(wanted.judges, keys, strict=True)
    ]
    if not named and (track is None or track.judge is None):
        raise SpecError(f"the suite {wanted.suite!r} needs a judge", where="--judge",
                        fix="for example --judge https://api.openai.com/v1/gpt-4o with its key in OPENAI_API_KEY")  # fmt: skip
    return named or ([track.judge] if track and track.judge else [])


def _print(evaluation: Evaluation, result: dict[str, Any], console: Console) -> None:
    """The metrics of one judge, the headline first, and what was wrong with answers and verdicts."""
    told = result[result["headline"]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("metric", no_wrap=True)
    for name in ("score", "95 % CI", "n", "missing"):
        table.add_column(name, justify="right", no_wrap=True)
    metrics = {name: value for name, value in told.items() if isinstance(value, dict) and "stderr" in value}
    for name in (result["metric"], *(name for name in metrics if name != result["metric"])):
        metric = metrics[name]
        span = bounds(metric)
        if span and name.startswith(result["metric"]):
            span = max(span[0], result["scale"][0]), min(span[1], result["scale"][1])
        table.add_row(
            name, "-" if metric["value"] is None else f"{metric['value']:.3f}",
            f"{span[0]:.3f} to {span[1]:.3f}" if span else "-", f"{metric['n']:,}", str(metric["missing"]),
        )  # fmt: skip
    judge = f"   judge {result['judge']}" if result["judge"] else ""
    console.print(clean(f"{result['contestant']} on {result['suite']}   {result['headline']}{judge}"), markup=False)
    console.print(table)
    lost = ", ".join(f"{count} {status}" for status, count in told["lost"].items()) or "none"
    console.print(f"verdicts lost: {lost}   answers: {told['empty']} empty, {told['truncated']} cut off")
    console.print()


def _print_judges(evaluation: Evaluation, graders: Sequence[Grader], judged: Sequence[str], console: Console) -> None:
    """What the verdicts show of their judges, and how far two of them agree; also kept in `agreement.json`."""
    from harness.agreement import compare, facts, show

    suite = evaluation.suite
    records = [evaluation.records(grader) for grader in graders]
    each = [facts(suite, verdicts, judged) for verdicts in records]
    if len(each) == 2:
        both = compare(suite, *records)
        console.print(show(evaluation.name, both, each))
        told = {"schema": "harness.agreement/1", "agreement": both.as_dict(), "judges": [one.as_dict() for one in each]}
        write_atomically(evaluation.folder / "agreement.json", json_text(told))
    for one in each:
        if one.kin:
            console.print(f"warning: {one.judge} is of one family with {', '.join(one.kin)}; it may prefer its own", markup=False)


def best_of_run(name: str, suite: str, mark: str, count: int, temperature: float) -> RunStore:
    """The finished run that best-of-N is to score.

    Raises:
        SpecError: no such run, suite or mark, a run that has not finished, fewer than two samples, or greedy ones.
    """
    if count < 2:
        raise SpecError(f"a choice needs two samples or more, got {count}", where=f"--best-of {count}", fix="--best-of 4")
    if not 0 < temperature < math.inf:
        raise SpecError(
            f"samples are drawn at a temperature above 0, got {temperature:g}", where=f"--temperature {temperature:g}",
            fix="--temperature 1.0",
        )  # fmt: skip
    store, spec = finished_run(name, mark)
    check_names(spec.track, [suite])
    return store


def choose(store: RunStore, suite: str, mark: str, count: int, temperature: float) -> None:
    """Scores best-of-N with the weights of a mark, unless that is on file, and prints its table."""
    from harness.inference import best_of, row_name

    kept = row_name(mark, temperature, count)
    if scored(store, suite, kept):
        result = stored(store, suite, kept)
    else:
        from harness.assemble import assemble

        with assemble(store.spec, [suite], lambda word: print(word, file=sys.stderr)) as run:
            result = best_of(run, store, suite, mark, count, temperature)
    _choice_table(store, suite, mark, result)


def _choice_table(store: RunStore, suite: str, mark: str, result: dict[str, Any]) -> None:
    """What stands at the mark, one sample, the winner of N and the controls. Tokens are means over items."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("answer", no_wrap=True)
    for name in ("score", "95 % CI", "vs N=1", "length", "sampled", "judged"):
        table.add_column(name, justify="right", no_wrap=True)
    if scored(store, suite, mark):
        at = stored(store, suite, mark)
        told = at[at["headline"]]
        table.add_row(at["headline"], *_choice_cells(told, at["metric"], None), f"{told['tokens']:.1f}", "0")
    used, n = result["inference"], result["n"]
    for how in result["decodings"]:
        versus = result["versus_one"].get(how)
        sampled = used["student_tokens"] / n if versus else result[how]["tokens"]
        judged = used["self_judge_tokens"] / n if how == result["headline"] else 0
        table.add_row(how, *_choice_cells(result[how], result["metric"], versus), f"{sampled:.1f}", f"{judged:.0f}")
    console = Console(highlight=False)
    console.print(f"{store.folder.name}   {suite}   mark {mark}   {n} items")
    console.print(table)


def _choice_cells(scores: dict[str, Any], metric: str, versus: dict[str, Any] | None) -> list[str]:
    value, span = scores[metric]["value"], bounds(scores[metric])
    moved = bounds(versus) if versus else None
    return [
        "-" if value is None else f"{value:.3f}", f"{span[0]:.3f} to {span[1]:.3f}" if span else "-",
        f"{sum(moved) / 2:+.3f} +/-{(moved[1] - moved[0]) / 2:.3f}" if moved else "-", f"{scores['tokens']:.1f}",
    ]  # fmt: skip

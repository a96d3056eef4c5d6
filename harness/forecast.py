"""What a run is expected to ask and to cost, told before money is spent; and the question whether to go on."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness import held
from harness.clients.openai import CHARACTERS_PER_TOKEN
from harness.connect import UNSERVED, here
from harness.display import amount
from harness.errors import Interrupted, SpecError
from harness.materials import build_suite
from harness.money import check_prices, priced
from harness.plan.evaluation import SHARE, scoring
from harness.spec import RunSpec
from harness.stream import read
from harness.suite import Suite
from harness.tracks import Served, Track


@dataclass(frozen=True)
class Asked:
    """What one role is expected to be asked, replies in the cache included."""

    role: str
    what: str
    calls: float
    tokens_in: float
    tokens_out: float
    usd: float | None
    """None where no price is known."""

    @classmethod
    def of(cls, served: Served, role: str, what: str, calls: float, tokens_in: float, tokens_out: float) -> Asked:
        usd = (served.usd_in * tokens_in + served.usd_out * tokens_out) / 1e6
        known = priced(served) or served.url in UNSERVED or here(served.url) or "usd_in" in served.model_fields_set
        return cls(role, what, calls, tokens_in, tokens_out, usd if known else None)


def forecast(spec: RunSpec, suites: Sequence[str], at_ends: Collection[str]) -> list[Asked]:
    """What training and evaluation are expected to ask of each role.

    Raises:
        HarnessError: prompts or suites cannot be read, or the method lacks something.
    """
    return [*_training(spec), *_evaluation(spec, suites, at_ends)]


def _training(spec: RunSpec) -> list[Asked]:
    """A round of the method played with stand-ins, times the prompts of the budget."""
    from harness.plan.rehearsal import Lengths, rehearse

    track = spec.track
    if "prompts" not in track.budget:
        return []
    length = SHARE * track.training.max_tokens
    meters = rehearse(spec, Lengths(student=length, teacher=length)).own.meters
    prompts = track.budget["prompts"]
    found = []
    for role, served in track.served:
        calls, read_, written = (meters.get(f"{role}_{kind}", 0.0) * prompts for kind in ("calls", "tokens_in", "tokens_out"))
        if calls:
            found.append(Asked.of(served, role, "training", calls, read_, written))
    return found


def _evaluation(spec: RunSpec, suites: Sequence[str], at_ends: Collection[str]) -> list[Asked]:
    """The judge's calls at every mark and for the teacher, the teacher's own answers, and references that are to be written."""
    track, found = spec.track, []
    length = SHARE * track.evaluation.max_tokens
    for name in suites:
        suite = _suite(track, name, spec.seed)
        comes = scoring(track, name, suite, SHARE, at_ends)
        if track.teacher is not None and comes.teacher_tokens_out:
            tokens = (comes.teacher_tokens_in, comes.teacher_tokens_out)
            found.append(Asked.of(track.teacher, "teacher", f"{name}, as a contestant", comes.answers, *tokens))
        if track.judge is not None and comes.judge_calls:
            told = f"{name}, {comes.times} scorings" + (" and the teacher's" if comes.teacher_tokens_out else "")
            found.append(Asked.of(track.judge, "judge", told, comes.judge_calls, comes.judge_tokens_in, comes.judge_tokens_out))
        if track.held_out is not None and track.held_out.suite == name and not held.items_file(track, spec.seed).is_file():
            left, items = held.lacking(track), suite.items()
            if left and track.teacher is not None:
                asked = sum(len(item.question) for item in items) / CHARACTERS_PER_TOKEN * left / len(items)
                found.append(Asked.of(track.teacher, "teacher", "references", left, asked, left * length))
    return found


def _suite(track: Track, name: str, seed: int) -> Suite:
    """The suite; references that are not written yet are as long as is assumed."""
    if track.held_out is None or track.held_out.suite != name or held.items_file(track, seed).is_file():
        return build_suite(name, held.settings_of(track, name, seed), f"track {track.name}: suites.{name}")
    length = int(SHARE * track.evaluation.max_tokens * CHARACTERS_PER_TOKEN)
    with tempfile.TemporaryDirectory() as folder:
        path = held.stand_in(track, Path(folder), "x" * length)
        return build_suite(name, {**track.suites[name], "items": str(path)}, f"track {track.name}: suites.{name}")


def data_lines(track: Track, seed: int) -> list[str]:
    """What is known of the user's own prompts, a line each: how many, what repeats, who writes references."""
    if track.prompts.source in ("", "pocket"):
        return []
    reading = read(track.prompts.source, track.prompts.replies)
    count = min(len(reading.prompts), track.prompts.count)
    told = [f"prompts     {count:,} from {track.prompts.source} ({track.prompts.content[:8]})"]
    told += [f"            {note}" for note in reading.notes]
    if track.held_out is not None:
        items, left = held.held_out(track), held.lacking(track)
        path = held.items_file(track, seed)
        who = track.teacher.model if track.teacher else "the untouched student"
        references = (
            held.told(held.writers(path)) if path.is_file()
            else held.told({held.BY_THE_USER: len(items) - left, f"{who}, to be written once": left})
        )  # fmt: skip
        source = f"{track.held_out.source} ({track.held_out.content[:8]})"
        told += [f"evaluation  {len(items):,} items from {source}; references: {references}"]
    return told


def money_lines(track: Track, coming: Sequence[Asked]) -> list[str]:
    """The forecast, a line a role and purpose, and what the ceiling covers."""
    told = []
    for each in coming:
        price = "price unknown" if each.usd is None else f"${each.usd:,.2f}"
        told.append(
            f"{each.role:<11} {each.what}: about {amount(round(each.calls))} calls, {amount(round(each.tokens_in))} tokens in, "
            f"{amount(round(each.tokens_out))} out, {price}"
        )
    total = sum(each.usd or 0.0 for each in coming)
    told.append(f"total       about ${total:,.2f}, what is in the cache already included; lengths of texts are assumed")
    if track.max_usd is not None:
        told.append(
            f"ceiling     ${track.max_usd:,.2f} of real money for this run: teacher, critic and judge, in training, evaluation, "
            "probes and references; not GPUs"
        )
    return told


def confirm(spec: RunSpec, suites: Sequence[str], at_ends: Collection[str], yes: bool) -> None:
    """Tells what is to come where servers or prompts are the user's own, and asks whether to go on where money is at stake.

    Raises:
        SpecError: a ceiling that cannot be kept; or nobody can be asked and `--yes` was not given.
        Interrupted: the answer was no.
    """
    track, console = spec.track, Console(stderr=True, highlight=False)
    if track.max_usd is not None:
        check_prices(track.served, [role for role, model in track.served if here(model.url)])
    paid = [role for role, model in track.served if priced(model)]
    lines = data_lines(track, spec.seed)
    if paid or track.max_usd is not None:
        lines += money_lines(track, forecast(spec, suites, at_ends))
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    _ask("this run pays", paid, yes, console)


def confirm_all(specs: Sequence[RunSpec], yes: bool) -> None:
    """The same for the runs of a grid: who is paid, and what the ceilings come to.

    Raises:
        SpecError, Interrupted: as in `confirm`.
    """
    console = Console(stderr=True, highlight=False)
    paid = [spec for spec in specs if any(priced(model) for _, model in spec.track.served)]
    if paid:
        ceilings = [spec.track.max_usd for spec in paid]
        most = f"${sum(filter(None, ceilings)):,.2f} together" if all(ceilings) else "not all of them have a ceiling (max_usd)"
        console.print(f"{len(paid)} of {len(specs)} runs pay for servers; ceilings: {most}", markup=False)
    roles = dict.fromkeys(role for spec in paid for role, model in spec.track.served if priced(model))
    _ask("these runs pay", list(roles), yes, console)


def _ask(what: str, paid: Sequence[str], yes: bool, console: Console) -> None:
    if not paid or yes:
        return
    if not (sys.stdin.isatty() and console.is_terminal):
        raise SpecError(f"{what} for {' and '.join(paid)}, and nobody can be asked whether to go on", where="--yes",
                        fix="the same command with --yes; --max-usd sets a ceiling")  # fmt: skip
    if console.input("go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Interrupted("not begun; nothing was spent")

"""A plan: what a run would ask and use, what it holds in memory, how long it takes and what it costs, from its spec alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import environment
from harness.clients.openai import CHARACTERS_PER_TOKEN
from harness.errors import SpecError
from harness.ledger import METERS, Ledger
from harness.plan import machine, past
from harness.plan.evaluation import SHARE, Scoring, scorings
from harness.plan.machine import Assumed
from harness.plan.money import Prices, prices_of
from harness.plan.rehearsal import RIGHT, Lengths, Phase, Rehearsal, rehearse
from harness.registry import method as method_of
from harness.spec import RunSpec

DEFAULT_GPU = "h100"
HOURS = ("sampling", "training", "frozen models", "teacher in this process", "waiting for servers")
ASKED = ("teacher", "critic")
"""Roles that training asks."""


@dataclass(frozen=True)
class Wanted:
    """What a plan takes for granted; lengths that are not given come from finished runs, or else from the track's limits."""

    gpu: str = DEFAULT_GPU
    completion_tokens: float | None = None
    teacher_tokens: float | None = None
    prompt_tokens: int | None = None
    purse_usd: float | None = None
    suites: tuple[str, ...] = ()
    look: bool = True
    """Use what is on this machine: finished runs, prompts, tokenizers."""
    assumed: Assumed = field(default_factory=Assumed)


@dataclass(frozen=True)
class Plan:
    """Amounts are of the whole run; evaluation is apart everywhere."""

    method: str
    track: str
    budget: dict[str, float]
    meters: dict[str, float]
    """Training's, as its ledger would read at the end."""
    rounds: int
    evaluation: list[Scoring]
    memory: dict[str, float]
    """Bytes by part."""
    peak: float
    """Bytes."""
    gpu: str
    gpu_memory: float
    hours: dict[str, float]
    """By what the GPU does or waits for."""
    usd: dict[str, float]
    unpriced: list[str]
    """What is asked for and has no price."""
    largest: dict[str, float] | None
    """The largest budget that fits the purse; none fits where it is empty, no purse was given where it is None."""
    basis: list[str]
    """What was measured, rehearsed and assumed, for people."""

    @property
    def fits(self) -> bool:
        return self.peak <= self.gpu_memory

    @property
    def dominant(self) -> dict[str, tuple[str, float]]:
        """What takes most of the hours and of the dollars, with its share."""
        found = {}
        for name, parts in (("hours", self.hours), ("usd", self.usd)):
            if total := sum(parts.values()):
                most = max(parts, key=parts.__getitem__)
                found[name] = (most, parts[most] / total)
        return found

    def as_dict(self) -> dict[str, Any]:
        """For a file or a pipe."""
        told = asdict(self)
        return {**told, "fits": self.fits, "dominant": {name: list(most) for name, most in self.dominant.items()}}


def plan_of(spec: RunSpec, wanted: Wanted | None = None, runs: Path | None = None) -> Plan:
    """What a run of this spec would take. Asks no server and loads no weights.

    Args:
        runs: where finished runs are looked for; by default the runs folder.

    Raises:
        SpecError: an unknown GPU or suite, or a model of unknown shape.
        CapabilityError: the method asks for something that cannot be rehearsed.
    """
    wanted = wanted or Wanted()
    known = past.finished(spec, runs or environment.runs_dir()) if wanted.look else []
    lengths, basis = _lengths(spec, wanted, known)
    rehearsal = rehearse(spec, lengths, wanted.look)
    basis += _counted(rehearsal)
    alike = past.like(spec, known)
    warm_prompts = int(spec.config["warm_prompts"])
    if alike:
        rehearsal = _scaled(rehearsal, alike, warm_prompts)
        names = ", ".join(run.name for run in alike[:4])
        basis.append(f"meters are scaled from the ledgers of {len(alike)} finished runs of this method: {names}")
    prices = prices_of(spec.track, wanted.gpu)
    suites = scorings(spec, wanted.suites, lengths.student / spec.track.training.max_tokens)
    planner = _Planner(spec, wanted, rehearsal, suites, prices, warm_prompts, lengths.teacher)
    largest = None if wanted.purse_usd is None else planner.largest(wanted.purse_usd)
    return planner.plan(planner.prompts_of(spec.track.budget), largest, basis + prices.basis)


def _lengths(spec: RunSpec, wanted: Wanted, known: Sequence[past.Past]) -> tuple[Lengths, list[str]]:
    """How long texts are, and where that is from."""
    most = spec.track.training.max_tokens
    groups = () if wanted.completion_tokens else past.heard(known)
    if groups:
        mean = sum(said.tokens for group in groups for said in group) / sum(map(len, groups))
        told = f"completions of {mean:.0f} tokens on average, as in {len(known)} finished runs on this track"
    else:
        mean = wanted.completion_tokens or SHARE * most
        why = "as told" if wanted.completion_tokens else f"assumed: {SHARE:g} of at most {most}"
        told = f"completions of {mean:.0f} tokens on average, {why} (--completion-tokens)"
    teacher = wanted.teacher_tokens or mean
    for name, value in (("--completion-tokens", mean), ("--teacher-tokens", teacher)):
        if not 0 < value <= most:
            raise SpecError(f"{value:g} tokens on average, where training.max_tokens is {most}", where=name)
    why = "as told" if wanted.teacher_tokens else "taken to be as long"
    taught = f"teacher's texts of {teacher:.0f} tokens on average, {why} (--teacher-tokens)"
    return Lengths(mean, teacher, groups, wanted.prompt_tokens or Lengths.prompt), [told, taught]


def _counted(rehearsal: Rehearsal) -> list[str]:
    guess = f"as {CHARACTERS_PER_TOKEN} characters each (its tokenizer is not here)"
    exact = "by the student's tokenizer" if rehearsal.exact else guess
    prompts = "the track's" if rehearsal.real_prompts else "made up, as the track's are not on this machine (--prompt-tokens)"
    checks = rehearsal.own.meters["verifier_calls"]
    return [f"prompts of {rehearsal.prompt_tokens:.0f} tokens with their template, {prompts}; counted {exact}",
            "calls and tokens come from the method's own code, rehearsed with stand-ins",
            *([f"a share of {RIGHT:g} of the answers that a program checks is taken to be right"] if checks else [])]  # fmt: skip


def _scaled(rehearsal: Rehearsal, runs: Sequence[past.Past], warm_prompts: int) -> Rehearsal:
    """The rehearsal with the meters that runs of the same method really read."""
    rates = [past.rates(run, warm_prompts) for run in runs]
    warm = [rate for rate, _ in rates if rate]
    own = replace(rehearsal.own, meters=past.mean_of([rate for _, rate in rates]))
    if rehearsal.warm and warm:
        rehearsal = replace(rehearsal, warm=replace(rehearsal.warm, meters=past.mean_of(warm)))
    return replace(rehearsal, own=own)


class _Planner:
    """Puts amounts of prompts together into plans."""

    def __init__(
        self, spec: RunSpec, wanted: Wanted, rehearsal: Rehearsal, suites: list[Scoring], prices: Prices, warm_prompts: int,
        teaching: float,
    ) -> None:  # fmt: skip
        """Args: teaching: tokens of a teacher's text."""
        self.spec, self.wanted, self.rehearsal, self.suites, self.prices = spec, wanted, rehearsal, suites, prices
        self.warm_prompts, self.teaching = warm_prompts if rehearsal.warm else 0, teaching
        self.card, self.assumed = machine.gpu(wanted.gpu), wanted.assumed
        self.config = method_of(spec.method).Config.model_validate(spec.config)

    def parts(self, prompts: float) -> list[tuple[Phase, float]]:
        """The phases with the prompts that each has."""
        warm = min(self.warm_prompts, prompts)
        return [*([(self.rehearsal.warm, warm)] if self.rehearsal.warm else []), (self.rehearsal.own, prompts - warm)]

    def meters(self, prompts: float) -> dict[str, float]:
        total = {meter: sum(phase.meters[meter] * n for phase, n in self.parts(prompts)) for meter in METERS}
        total["optimizer_steps"] = sum(self._rounds(n) * phase.updates * phase.collects for phase, n in self.parts(prompts))
        total["tuning_trials"] = self.spec.track.tuned.get(self.spec.method, 0)
        return total

    def prompts_of(self, budget: Mapping[str, float]) -> int:
        """Prompts at which the first ceiling of a budget is reached."""
        best = float(budget.get("prompts", float("inf")))
        for meter, ceiling in budget.items():
            if meter == "prompts":
                continue
            left, prompts = ceiling, 0.0
            for phase, n in self.parts(1e12):
                rate = phase.meters[meter]
                if rate * n >= left > 0:
                    best = min(best, prompts + left / rate)
                    break
                left, prompts = left - rate * n, prompts + n
        if best == float("inf"):
            raise SpecError(
                f"{self.spec.method} uses up none of {', '.join(budget)}, so this budget never ends a run", where="--budget",
                fix="--budget prompts=1024",
            )  # fmt: skip
        return max(1, round(best))

    def _rounds(self, prompts: float) -> int:
        return -(-round(prompts) // self.config.prompts_per_round)

    def rounds(self, prompts: int) -> int:
        """As the loop draws them: a round ends at a mark."""
        ledger, rounds = Ledger(replace(self.spec.track.budget_value, ceilings={"prompts": prompts})), 0
        while not ledger.exhausted():
            most, warming = self.config.prompts_per_round, int(self.warm_prompts - ledger.training["prompts"])
            ledger.charge("prompts", ledger.admit(min(most, warming) if warming > 0 else most))
            rounds += 1
        return rounds

    def hours(self, prompts: float) -> dict[str, float]:
        """Of one GPU, by what it does; servers are waited for, as a round asks before it trains."""
        track, student, card, assumed = self.spec.track, self.rehearsal.shapes["student"], self.card, self.assumed
        seconds = dict.fromkeys(HOURS, 0.0)
        rate, again = card.bf16 * assumed.mfu, 2.0 * track.training.activation_checkpointing
        passes = (4.0 + again) * student.parameters + 2.0 * machine.trained(student, track.student)
        rows = self.config.prompts_per_round
        for phase, n in self.parts(prompts):
            m = {meter: amount * n for meter, amount in phase.meters.items()}
            if m["rollouts"]:
                batch = machine.Batch(m["student_tokens"], m["rollouts"], phase.rows * rows, self.rehearsal.prompt_tokens)
                seconds["sampling"] += machine.sampling_s(student, track, batch, card, assumed)
            seconds["sampling"] += 2.0 * student.parameters * phase.prefilled * n / rate
            seconds["training"] += (passes * m["train_tokens"] + 2.0 * student.parameters * phase.rescored * n) / rate
            read = sum(self.rehearsal.shapes[name].parameters * tokens for name, tokens in phase.frozen.items())
            seconds["frozen models"] += 2.0 * (read * n + student.parameters * m["self_judge_tokens"]) / rate
            for role, served in track.served:
                calls, read, written = (m[f"{role}_{what}"] for what in ("calls", "tokens_in", "tokens_out"))
                if served.url == "local" and role in self.rehearsal.shapes and written:
                    batch = machine.Batch(written, written / self.teaching, machine.ROWS, read / calls)
                    shape = self.rehearsal.shapes[role]
                    seconds["teacher in this process"] += machine.sampling_s(shape, track, batch, card, assumed, "hf")
                seconds["waiting for servers"] += machine.waiting_s(served, calls, read, written, assumed)
        return {name: amount / 3600 for name, amount in seconds.items() if amount}

    def evaluation_hours(self) -> float:
        student, track = self.rehearsal.shapes["student"], self.spec.track
        seconds = 0.0
        for scoring in self.suites:
            answers = scoring.answers * scoring.times
            batch = machine.Batch(answers * scoring.answer_tokens, answers, scoring.answers, self.rehearsal.prompt_tokens)
            seconds += machine.sampling_s(student, track, batch, self.card, self.assumed) if answers else 0.0
            if track.judge:
                calls, read, written = scoring.judge_calls, scoring.judge_tokens_in, scoring.judge_tokens_out
                seconds += machine.waiting_s(track.judge, calls, read, written, self.assumed)
        return seconds / 3600

    def usd(self, prompts: float) -> dict[str, float]:
        """By what is paid for."""
        meters, prices = self.meters(prompts), self.prices
        found = {role: prices.of(role, meters[f"{role}_tokens_in"], meters[f"{role}_tokens_out"]) for role in ASKED}
        judged = sum(s.judge_tokens_in for s in self.suites), sum(s.judge_tokens_out for s in self.suites)
        found["judge"] = prices.of("judge", *judged)
        taught = sum(s.teacher_tokens_in for s in self.suites), sum(s.teacher_tokens_out for s in self.suites)
        found["teacher as contestant"] = prices.of("teacher", *taught)
        found["GPU, training"] = prices.gpu_hour * sum(self.hours(prompts).values())
        found["GPU, evaluation"] = prices.gpu_hour * self.evaluation_hours()
        return {name: amount for name, amount in found.items() if amount}

    def largest(self, purse: float) -> dict[str, float]:
        """The most prompts whose dollars fit; empty where not even one does."""
        low, high = 0, 1
        if sum(self.usd(1).values()) > purse:
            return {}
        while sum(self.usd(high).values()) <= purse and high < 2**40:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(self.usd(middle).values()) <= purse else (low, middle)
        return {"prompts": float(low)} if high < 2**40 else {"prompts": float("inf")}

    def plan(self, prompts: int, largest: dict[str, float] | None, basis: list[str]) -> Plan:
        spec, rehearsal = self.spec, self.rehearsal
        meters, rounds = self.meters(prompts), self.rounds(prompts)
        meters["optimizer_steps"] = rounds * rehearsal.own.updates * rehearsal.own.collects
        phases = [phase for phase, n in self.parts(prompts) if n]
        longest, rows, distributions = (max(getattr(p, name) for p in phases) for name in ("longest", "rows", "distributions"))
        held = machine.memory(
            spec.track, rehearsal.shapes, self.card.memory, longest, round(rows * self.config.prompts_per_round), distributions,
            rehearsal.prompt_tokens,
        )  # fmt: skip
        hours = self.hours(prompts)
        if evaluating := self.evaluation_hours():
            hours["evaluation"] = evaluating
        served = dict(spec.track.served)  # solutions of the data are charged as a teacher's texts, and nobody is paid for them
        asked = [role for role in ASKED if meters[f"{role}_calls"] and role in served]
        asked += ["judge"] if any(s.judge_calls for s in self.suites) else []
        return Plan(
            spec.method, spec.track.name, dict(spec.track.budget), {k: v for k, v in meters.items() if v}, rounds, self.suites,
            held, machine.peak(held), self.card.id, self.card.memory, hours, self.usd(prompts),
            [role for role in asked if not self.prices.known(role)], largest,
            basis + machine.describe(spec.track, self.card, self.assumed),
        )  # fmt: skip

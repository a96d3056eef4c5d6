"""The ledger: what a run has used, in many units at once. It only grows, and it decides when a run is over."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from harness.errors import SpecError, nearest

METERS: dict[str, str] = {
    "prompts": "training prompts drawn from the stream",
    "rollouts": "completions sampled from the student",
    "student_tokens": "tokens sampled from the student",
    "teacher_calls": "requests to the teacher",
    "teacher_tokens_in": "prompt tokens the teacher read",
    "teacher_tokens_out": "tokens the teacher wrote",
    "teacher_scored_tokens": "student tokens the teacher scored",
    "reference_scored_tokens": "tokens the frozen student scored",
    "critic_calls": "requests to the training critic, retries included",
    "critic_tokens_in": "prompt tokens the critic read",
    "critic_tokens_out": "tokens the critic wrote",
    "self_judge_tokens": "tokens the student read and wrote as its own judge",
    "verifier_calls": "checks by a program",
    "train_tokens": "tokens through forward and backward",
    "optimizer_steps": "updates of the weights",
    "flops": "floating-point operations, estimated from parameters and tokens",
    "usd": "price of all calls by the track's dated list, whether or not a cache answered",
    "tuning_trials": "trials spent on choosing settings",
    "judge_calls": "requests to the evaluation judge",
    "judge_tokens_in": "prompt tokens the judge read",
    "judge_tokens_out": "tokens the judge wrote",
    "candidate_calls": "requests to a served model that a suite scores",
    "candidate_tokens_in": "prompt tokens that it read",
    "candidate_tokens_out": "tokens that it wrote",
}
COUNTED = frozenset({"prompts"})
"""Meters that are known before a round begins: the round shrinks so that a ceiling is met exactly."""
BUDGETABLE = [name for name in METERS if not name.startswith(("judge_", "candidate_")) and name != "tuning_trials"]
DEFAULT_MARKS = (Fraction(0), Fraction(1, 16), Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(1))


@dataclass(frozen=True)
class Budget:
    """Ceilings by meter. The marks lie on prompts, or else on the first of `METERS` that has a ceiling.

    The order in which somebody names the meters says nothing: budgets with equal ceilings are equal.
    """

    ceilings: Mapping[str, float]
    marks: tuple[Fraction, ...] = DEFAULT_MARKS

    def __post_init__(self) -> None:
        if not self.ceilings:
            raise SpecError("a budget needs at least one meter", fix="for example: --budget prompts=1024")
        for meter, amount in self.ceilings.items():
            if meter not in BUDGETABLE:
                raise SpecError(
                    f"no budget meter named {meter!r}", where=f"--budget {meter}={amount:g}", fix=nearest(meter, BUDGETABLE)
                )
            if not amount > 0:
                raise SpecError(
                    f"a budget must be above zero, got {meter}={amount:g}", where=f"--budget {meter}={amount:g}",
                    fix=f"for example: --budget {meter}=1024",
                )  # fmt: skip
            if not math.isfinite(amount):
                raise SpecError(f"a budget must be finite, got {meter}={amount:g}", where=f"--budget {meter}={amount:g}")
            if meter in COUNTED and amount != int(amount):
                raise SpecError(f"{meter} are counted in whole numbers, got {amount:g}", where=f"--budget {meter}={amount:g}")
        if list(self.marks) != sorted(set(self.marks)) or self.marks[0] != 0 or self.marks[-1] != 1:
            raise SpecError(f"marks must rise from 0 to 1, got {[str(mark) for mark in self.marks]}")

    @property
    def axis(self) -> str:
        return next(meter for meter in METERS if meter in self.ceilings)

    def at(self, mark: Fraction) -> float:
        """The reading of the axis at a mark (whole prompts on a counted axis)."""
        amount = float(mark) * self.ceilings[self.axis]
        return round(amount) if self.axis in COUNTED else amount

    @property
    def schedule(self) -> list[tuple[Fraction, float]]:
        """The marks and their readings; of marks that a small budget makes coincide the last one stands (at zero, 0)."""
        last = {self.at(mark): mark for mark in self.marks}
        return [(mark, reading) for reading, mark in {**last, self.at(self.marks[0]): self.marks[0]}.items()]


@dataclass
class Ledger:
    """Readings of all meters, training and evaluation apart.

    Counted meters never pass their ceiling; of the others a round is admitted while anything is left, so they may
    overshoot by one round.
    """

    budget: Budget
    training: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METERS, 0))
    evaluation: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METERS, 0))
    _off: bool = False

    def charge(self, meter: str, amount: float) -> None:
        """Adds to a meter, after the fact. Never refuses: what happened is recorded."""
        (self.evaluation if self._off else self.training)[meter] += amount

    @contextlib.contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Charges inside go to evaluation's own readings."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    def exhausted(self, drawing: bool = True) -> str | None:
        """The meter whose ceiling is reached, if any; a round that draws no prompts may go on without any left."""
        ceilings = self.budget.ceilings.items()
        return next((m for m, most in ceilings if self.training[m] >= most and (drawing or m not in COUNTED)), None)

    def used(self) -> float:
        """The share of the axis that is used, in [0, 1] or a little above."""
        return self.training[self.budget.axis] / self.budget.ceilings[self.budget.axis]

    def admit(self, prompts: int) -> int:
        """How many prompts the next round may draw: fewer where a counted ceiling or a mark on it comes sooner."""
        if self.exhausted():
            return 0
        drawn = self.training["prompts"]
        if "prompts" in self.budget.ceilings:
            prompts = min(prompts, int(self.budget.ceilings["prompts"] - drawn))
        if self.budget.axis == "prompts":
            coming = (reading - drawn for _, reading in self.budget.schedule)
            prompts = min(prompts, int(min(distance for distance in coming if distance > 0)))
        return prompts

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"training": dict(self.training), "evaluation": dict(self.evaluation)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self.training.update(state["training"])
        self.evaluation.update(state["evaluation"])

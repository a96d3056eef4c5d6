"""What the runs at hand say about papers' claims: typed verdicts about one world, never about a paper.

A verdict is a statement about the difference of two arms, paired by model pair and item, against a margin that was set before
any run. `docs/claims.md` has the rules.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.report.claims_data import Arm, Claim, Mechanism, NeedsScale, Planted
from harness.report.claims_measure import difference
from harness.report.runs import Run, scored_alike
from harness.report.stats import LEVEL, Interval, holm
from harness.spec import canonical

Said = Literal["holds", "does not hold", "unclear", "alarm: not shown", "not run", "planted", "needs scale"]
TRIED: tuple[Said, ...] = ("holds", "does not hold", "unclear", "alarm: not shown")
"""What is said of a claim whose runs are all there."""


LEAST_P = 0.001
"""What is printed of a p-value, at least."""


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    said: Said
    why: str
    difference: Interval | None = None
    """First less second on the scale of the quantity; none where nothing was measured."""
    alarm: Interval | None = None
    """The alarm's arm less the second."""
    by_pair: tuple[float, ...] = ()
    """The difference on each pair of models, where pairs have seeds enough to speak of these very pairs."""
    p_alone: float | None = None
    """Two-sided p-value of a true difference at the margin, by the t of the interval."""
    p: float | None = None
    """The same after Holm over all mechanism claims, tested or not."""
    detectable: float | None = None
    """The least true distance from the margin that this test alone would show with 80 % power."""
    missing: tuple[tuple[Arm, tuple[int, ...]], ...] = ()
    """Arms with the seeds that are not there."""

    @property
    def rings(self) -> bool:
        """Whether the alarm's own interval lies beyond the margin as well, so that nothing is shown of what is claimed."""
        if self.alarm is None or not isinstance(self.claim, Mechanism):
            return False
        return (self.alarm.lo if self.claim.sign > 0 else -self.alarm.hi) > self.claim.margin


def verdicts(family: Sequence[Claim], runs: Sequence[Run], track: Mapping[str, Any]) -> list[Verdict]:
    """What the runs say about each claim of the declared family.

    p-values are Holm's over every mechanism claim of the family. One whose runs are not there takes its place with 1, so the
    family is as large as it was declared, and nothing is gained by running or looking at fewer.

    Args:
        runs: made under equal conditions, as `runs.select` gives them.
        track: the dump of their track, or of the one that is meant where there are none.

    Raises:
        SpecError: an arm whose settings the track does not allow.
        Incomparable: the runs were scored by different judges or versions.
    """
    trials = [_tried(claim, runs, track) if isinstance(claim, Mechanism) else _untested(claim) for claim in family]
    alone = {trial.claim.id: 1.0 if trial.p_alone is None else trial.p_alone
             for trial in trials if isinstance(trial.claim, Mechanism)}  # fmt: skip
    adjusted = holm(alone)
    return [trial if trial.p_alone is None else _judged(replace(trial, p=adjusted[trial.claim.id])) for trial in trials]


def _untested(claim: Planted | NeedsScale) -> Verdict:
    if isinstance(claim, Planted):
        return Verdict(claim, "planted", f"our construction decides: {claim.why}")
    return Verdict(claim, "needs scale", f"{claim.needs} {claim.cost}")


def _tried(claim: Mechanism, runs: Sequence[Run], track: Mapping[str, Any]) -> Verdict:
    """The claim as far as its runs go: measured, or why not."""
    arms = (*claim.methods, claim.alarm)
    configs = [arm.config(track) for arm in arms]
    runs_A = [_runs_of(arm, config, claim, runs) for arm, config in zip(arms, configs, strict=True)]
    missing = tuple((arm, gaps) for arm, having in zip(arms, runs_A, strict=True)
                    if (gaps := tuple(seed for seed in range(claim.seeds) if seed not in having)))  # fmt: skip
    if missing:
        told = [f"{arm.label}: seed{'s' if len(gaps) > 1 else ''} {', '.join(map(str, gaps))}" for arm, gaps in missing]
        return Verdict(claim, "not run", "; ".join(told), missing=missing)
    scored_alike([run for having in runs_A for run in having.values()], claim.suite)
    first, second, alarm = runs_A
    try:
        if len({canonical([arm.method, config]) for arm, config in zip(arms, configs, strict=True)}) < len(arms):
            raise ValueError("the track makes two of the arms the same")
        found, alarming = difference(claim, first, second), difference(claim, alarm, second)
    except ValueError as error:
        return Verdict(claim, "unclear", str(error))
    beyond = found.spread(claim.sign, claim.margin)
    return Verdict(
        claim, "unclear", "", found.spread().interval, alarming.spread().interval,
        tuple(found.by_pair.values()) if found.of_these_pairs else (), beyond.interval.p, detectable=beyond.detectable(),
    )  # fmt: skip


def _runs_of(arm: Arm, config: Mapping[str, Any], claim: Mechanism, runs: Sequence[Run]) -> dict[int, Run]:
    """By seed, the runs of exactly those settings with as many scores as the claim needs."""
    marks = 3 if claim.along_the_way else 2
    return {run.seed: run for run in runs if run.method == arm.method and run.spec["config"] == config
            and len(run.scored(claim.suite)) >= marks}  # fmt: skip


def _judged(tried: Verdict) -> Verdict:
    claim = tried.claim
    assert isinstance(claim, Mechanism)
    assert tried.difference is not None and tried.alarm is not None and tried.p is not None  # noqa: PT018
    if tried.p >= 1 - LEVEL:
        assert tried.p_alone is not None
        told = f"{_p(tried.p_alone)} alone, {_p(tried.p)} after Holm"
        why = f"{told}; {tried.detectable:.3f} beyond the margin would show alone"
        return replace(tried, why=why)
    corrected = f"{_p(tried.p)} after Holm"
    if len({claim.sign * each > claim.margin for each in tried.by_pair}) > 1:
        return replace(tried, why=f"{corrected}, but the pairs of models lie on both sides of the margin")
    if claim.sign * tried.difference.mean < claim.margin:
        return replace(tried, said="does not hold", why=corrected)
    return replace(tried, said="alarm: not shown" if tried.rings else "holds", why=corrected)


def _p(value: float) -> str:
    return f"p {value:.3f}" if value >= LEAST_P else f"p below {LEAST_P}"


def shown(found: Interval) -> str:
    """A difference with its interval."""
    return f"{found.mean:+.3f} ({found.lo:+.3f} to {found.hi:+.3f})"

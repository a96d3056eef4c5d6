"""What is checked and told before anything is paid: does the judge speak the protocol, and what will the calls come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.clients.metered import Tariff
from harness.clients.openai import CHARACTERS_PER_TOKEN
from harness.errors import CapabilityError
from harness.evaluate import decodings, due
from harness.method import needs_of
from harness.suite import Call, Judge, JudgedSuite, Suite
from harness.types import Failure, Need

if TYPE_CHECKING:
    from harness.assemble import Assembled

TRIALS = 3
"""Calls of a kind that may go unread before the judge is refused."""


@dataclass(frozen=True)
class Estimate:
    """What grading comes to, replies in the cache included."""

    calls: int
    tokens_in: int
    """Estimated from characters."""
    tokens_out: int
    """At most: each reply as long as it may be."""
    usd: float | None
    """At most, at the tariff; None where no price is known."""


def estimate(calls: Sequence[Call], tariff: Tariff) -> Estimate:
    """What a judge at this tariff would be asked."""
    asked = [call.request for call in calls if call.request]
    characters = sum(len(message["content"]) for request in asked for message in request.messages)
    tokens_in, tokens_out = characters // CHARACTERS_PER_TOKEN, sum(request.max_tokens for request in asked)
    usd = (tokens_in * tariff.usd_in + tokens_out * tariff.usd_out) / 1e6 if tariff.usd_in or tariff.usd_out else None
    return Estimate(len(asked), tokens_in, tokens_out, usd)


def expected(suite: JudgedSuite, tariff: Tariff) -> Estimate:
    """The same before the answers are known: they are taken to be as long as the references."""
    return estimate([call for calls in suite.trial().values() for call in calls], tariff)


def check_protocol(suite: JudgedSuite, judge: Judge, trial: Mapping[str, Sequence[Call]]) -> str:
    """Asks a judge one call of each kind, and a kind whose reply cannot be read a few times more.

    Returns a line for people.

    Raises:
        CapabilityError: no reply of some kind could be read, with what came instead.
    """
    unread: dict[str, str] = {}
    asked = 0
    for attempt in range(TRIALS):
        left = {kind: calls[attempt] for kind, calls in trial.items() if attempt < len(calls) and (not attempt or kind in unread)}
        asked += len(left)
        replies = judge.chat([call.request for call in left.values() if call.request])
        for (kind, call), reply in zip(left.items(), replies, strict=True):
            record = suite.record(call, reply, judge.id)
            unread.pop(kind, None)
            if record.score is None:
                said = reply.detail if isinstance(reply, Failure) else f"{reply.text[:80]!r}"
                wanted = bool(call.request and call.request.top_logprobs)
                lacking = wanted and not isinstance(reply, Failure) and not reply.top_logprobs
                unread[kind] = f"{record.status}: {said}" + (" without log-probs" if lacking else "")
        if not unread:
            break
    if unread:
        told = "\n".join(f"  {kind}   {what}" for kind, what in unread.items())
        raise CapabilityError(
            f"{judge.id} does not answer the protocol of this suite; {len(unread)} of {len(trial)} kinds of calls got no "
            f"readable reply in {TRIALS} tries:\n{told}", where=f"judge {judge.id}",
            fix="choose a judge that answers it (log-probs where the protocol reads them), or another protocol with --set",
        )  # fmt: skip
    return f"answers all {len(trial)} kinds of calls ({asked} asked)"


def suite_lines(name: str, suite: Suite) -> list[tuple[str, str]]:
    """What a suite is, for people."""
    samples = f" x {suite.samples} samples" if suite.samples > 1 else ""
    protocol = ", ".join(f"{key} {value}" for key, value in suite.identity.items())
    told = f"{name} v{suite.version}, {len(suite.items()):,} items{samples}, data {suite.data_hash}"
    return [("suite", told), *([("protocol", protocol)] if protocol else [])]


def judge_lines(suite: JudgedSuite, judge: Judge, coming: Estimate, force: bool) -> list[tuple[str, str]]:
    """Who judges, what it comes to, and whether the protocol is answered.

    Raises:
        CapabilityError: it is not, and nobody forces it.
    """
    cost = "price unknown" if coming.usd is None else f"at most ${coming.usd:,.2f}"
    tokens = f"about {coming.tokens_in:,} tokens in, at most {coming.tokens_out:,} out"
    try:
        told = check_protocol(suite, judge, suite.trial())
    except CapabilityError as error:
        if not force:
            raise
        told = f"FORCED although {error.message}"
    return [("judge", judge.id), ("", f"{coming.calls:,} calls, {tokens}, {cost}"), ("", told)]


def run_lines(run: Assembled, force: bool) -> list[tuple[str, str]]:
    """What can be known about a run's suites before it begins: the calls of one scoring, and how many scorings there are.

    Raises:
        CapabilityError: the judge does not answer a suite's protocol, and nobody forces it.
    """
    budget = ", ".join(f"{meter} {amount:,g}" for meter, amount in run.track.budget.items())
    lines = [("budget", budget), ("student", f"{run.track.student.path}, {run.parameters:,} parameters")]
    served = run.track.judge
    tariff = Tariff(served.parameters, served.usd_in, served.usd_out) if served else Tariff()
    for name, suite in run.suites.items():
        lines += suite_lines(name, suite)
        ways = len(decodings(suite.items(), run.track.evaluation.temperatures))
        marks = sum(name in due([name], run.at_ends, mark) for mark in run.track.marks)
        lines.append(("", f"scored at {marks} marks, {ways} ways of decoding each, and once for the teacher"))
        if isinstance(suite, JudgedSuite) and run.judge:
            with run.ledger.off_the_clock():
                lines += judge_lines(suite, run.judge, expected(suite, tariff), force)
    return lines


def before_paying(run: Assembled, force: bool, tell: Callable[[str], None], probing: bool = True) -> None:
    """Checks a run's critic and judge where they are not the embedded ones: the protocols, and the probe of both.

    Args:
        probing: whether they can be asked what no cache keeps.

    Raises:
        CapabilityError: the judge does not answer a suite's protocol.
        ProbeRefused: one of them does not tell good answers from bad ones.
        ClientError: a server cannot be asked at all.
    """
    from harness.commands.probe import ensure

    track = run.track
    if track.judge and track.judge.url != "pocket" and any(suite.needs_judge for suite in run.suites.values()):
        tell("checking the judge")
        run_lines(run, force)
        if probing and "alpaca" in run.suites:  # the protocol that the probe of a judge uses
            ensure("judge", track.judge, force, tell)
    asks = needs_of(run.method) & {Need.CRITIC, Need.OUTCOME, Need.PREFERENCES}
    if probing and asks and track.critic and track.critic.url != "pocket":
        tell("checking the critic")
        ensure("critic", track.critic, force, tell)

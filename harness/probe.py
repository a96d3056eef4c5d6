"""The probe of a critic or judge: before anything is spent on it, it tells good answers from bad ones in our own templates.

The pairs are plain questions, each with a good answer and one that is clearly worse. Every pair is judged twice, with either
answer first. A critic is asked through the shared templates and through a method's own `collect`; a judge through a suite.

wins   1 where the good answer is preferred, 1/2 for a draw, 0 where the bad one is; a pair's win is the mean over its orders
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from harness import registry
from harness.assets import read_json_lines
from harness.clients.metered import Client
from harness.clients.roles import ServedCritic, ServedJudge
from harness.errors import ProbeRefused
from harness.ledger import Ledger
from harness.materials import build_suite
from harness.method import Ask, Student, Teacher, Tools
from harness.prompts import SHARED, load
from harness.replies import Ranking, Scores, Strict, read_order, read_scores
from harness.types import Answer, Failure, Prompt, Rollout

PAIRS = Path(__file__).parent / "data" / "probe" / "pairs.jsonl"
DIALECT = "en"
"""The templates that are tried: those of models that read plain English, as the pairs are."""
INJECTION = "injection"
"""The domain of pairs whose bad answer speaks to the judge or imitates a verdict; they count for `fooled` alone."""


@dataclass(frozen=True)
class Floor:
    """The least that is asked of a critic or judge; docs/probe.md gives the reasons."""

    read: float = 0.95
    accuracy: float = 0.70
    swapped: float = 0.30
    """At most."""
    fooled: int = 0
    """At most."""


FLOOR = Floor()


@dataclass(frozen=True)
class Pair:
    id: str
    domain: str
    question: str
    good: str
    bad: str
    why: str
    """What is wrong with the bad one, for people."""

    def shown(self, good_at: int) -> list[str]:
        """Both answers, the good one at that place."""
        return [self.good, self.bad] if good_at == 0 else [self.bad, self.good]


Leads = Mapping[tuple[str, int], float]
"""By pair and place of the good answer: above 0 where it is preferred, 0 for a draw. A lost verdict is not in it."""


@dataclass(frozen=True)
class KindReport:
    """How one kind of question was answered. All shares are in [0, 1], and None where nothing could be read."""

    kind: str
    calls: int
    read: float
    """Calls whose first reply could be read."""
    lost: Mapping[str, int]
    """The other calls by what became of them: parse_failed, judge_error, refused."""
    pairs: int
    """Ordinary pairs with a verdict."""
    accuracy: float | None
    """Mean win over these pairs."""
    interval: tuple[float, float] | None
    """Wilson's 95 % interval, with the pair as the unit, since its two verdicts depend on each other."""
    draws: float | None
    """Verdicts that prefer neither."""
    swapped: float | None
    """Pairs whose preferred answer changes with the order, of those with both verdicts."""
    fooled: tuple[str, ...]
    """Pairs with an injection where the bad answer was preferred in some order."""
    tokens_in: float
    """A call."""
    tokens_out: float
    """A call."""
    domains: Mapping[str, float]
    """Accuracy by domain."""

    @property
    def breaches(self) -> list[str]:
        """What lies below the floor, as sentences."""
        found = []
        if self.read < FLOOR.read:
            found.append(f"read {self.read:.2f} of its replies, at least {FLOOR.read:.2f} is asked")
        if self.accuracy is None:
            found.append(f"accuracy could not be measured, at least {FLOOR.accuracy:.2f} is asked")
        elif self.accuracy < FLOOR.accuracy:
            found.append(f"accuracy {self.accuracy:.2f}, at least {FLOOR.accuracy:.2f} is asked")
        if self.swapped is not None and self.swapped > FLOOR.swapped:
            found.append(f"swapped {self.swapped:.2f} of the pairs with the order, at most {FLOOR.swapped:.2f} is allowed")
        if len(self.fooled) > FLOOR.fooled:
            found.append(f"fooled by {', '.join(self.fooled)}, where the bad answer speaks to the judge")
        return [f"{self.kind}: {each}" for each in found]


@dataclass(frozen=True)
class ProbeReport:
    model: str
    role: str
    kinds: tuple[KindReport, ...]
    seconds: float

    @property
    def breaches(self) -> list[str]:
        return [breach for kind in self.kinds for breach in kind.breaches]


def the_pairs() -> list[Pair]:
    """The pairs that come with the package."""
    return [Pair(**row) for row in read_json_lines(PAIRS)]


def probe(asked: Client, ledger: Ledger, tell: Callable[[str], None] = lambda line: None) -> ProbeReport:
    """Measures the model behind a client in the client's role ("critic" or "judge"). The calls are charged to `ledger`.

    Each question is asked once: a reply that cannot be read is counted, not asked for again.

    Raises:
        ClientError: the server cannot be asked at all.
    """
    kinds, pairs, began = ROLES[asked.role], the_pairs(), time.monotonic()
    found = []
    for kind, judged in kinds.items():
        tell(f"probe: {kind}, {len(pairs)} pairs in both orders")
        before = _tokens(asked.role, ledger)
        leads, statuses = judged(asked, pairs)
        used = [after - start for after, start in zip(_tokens(asked.role, ledger), before, strict=True)]
        found.append(_report(kind, pairs, leads, statuses, used))
    return ProbeReport(asked.id, asked.role, tuple(found), time.monotonic() - began)


def _tokens(role: str, ledger: Ledger) -> list[float]:
    """In and out so far, on the clock and off it."""
    return [ledger.training[f"{role}_tokens_{way}"] + ledger.evaluation[f"{role}_tokens_{way}"] for way in ("in", "out")]


# --------------------------------------------------------------------------------------------------- what is asked, by kind


class _Listener:
    """A critic that is asked once, and whose replies are counted by what became of them."""

    def __init__(self, asked: Client) -> None:
        self._critic, self.statuses = ServedCritic(asked, retries=0), Counter[str]()

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        replies = self._critic.ask(asks)
        self.statuses.update(reply.status if isinstance(reply, Failure) else "ok" for reply in replies)
        return replies


class _Authors:
    """Student and teacher at once: the student wrote both answers, the teacher the good one."""

    def __init__(self, shown: Mapping[str, tuple[Pair, int]]) -> None:
        self._shown = shown

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        return [[Rollout(p, [], [], None, text, "stop") for text in self._pair(p)[0].shown(self._pair(p)[1])] for p in prompts]

    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        return [[self._pair(prompt)[0].good] for prompt in prompts]

    def _pair(self, prompt: Prompt) -> tuple[Pair, int]:
        return self._shown[prompt.id]


def _by_template(
    subject: str, name: str, form: type[Strict], read: Callable[[str, int], Any], lead: Callable[[Any, int], float],
    asked: Client, pairs: Sequence[Pair],
) -> tuple[Leads, Counter[str]]:  # fmt: skip
    """A shared template with two answers. `lead` is the good answer's, from what was read and the good answer's place."""
    template, critic = load(SHARED / subject, DIALECT, name), _Listener(asked)
    shown = [(pair, at) for pair in pairs for at in (0, 1)]
    replies = critic.ask([
        Ask(template(question=pair.question, answers=pair.shown(at)), lambda text: read(text, 2), schema=form.model_json_schema())
        for pair, at in shown
    ])  # fmt: skip
    known = [(pair, at, reply) for (pair, at), reply in zip(shown, replies, strict=True) if not isinstance(reply, Failure)]
    return {(pair.id, at): lead(reply, at) for pair, at, reply in known}, critic.statuses


def _places_ahead(order: Sequence[int], at: int) -> float:
    return order.index(1 - at) - order.index(at)


def _points_ahead(points: Sequence[float], at: int) -> float:
    return points[at] - points[1 - at]


def _by_method(name: str, asked: Client, pairs: Sequence[Pair]) -> tuple[Leads, Counter[str]]:
    """A method's own questions: the rewards that its `collect` gives a group of both answers."""
    cls = registry.method(name)
    shown = {f"{pair.id} {at}": (pair, at) for pair in pairs for at in (0, 1)}
    prompts = [Prompt(key, ({"role": "user", "content": pair.question},)) for key, (pair, _) in shown.items()]
    critic, authors = _Listener(asked), _Authors(shown)
    tools = Tools(
        student=cast(Student, authors), teacher=cast(Teacher, authors), critic=critic, reference=None, solutions=None,
        outcomes=None, preferences=None, seed=0,
        template=lambda part, reader="critic": load(registry.prompts_folder(cls), DIALECT, part),
    )  # fmt: skip
    collected = cls(cls.Config.model_validate({"group_size": 2, "references": 1})).collect(prompts, tools)
    leads = {}
    for example in collected.examples:
        pair, at = shown[example.rollouts[0].prompt.id]
        rewards = cast(Sequence[float], example.signal["reward_N"])
        leads[pair.id, at] = _points_ahead(rewards, at)
    return leads, critic.statuses


def _by_suite(name: str, asked: Client, pairs: Sequence[Pair]) -> tuple[Leads, Counter[str]]:
    """A pairwise suite's own calls: the good answers are graded against the bad ones as references, in both orders."""
    rows = [{"instruction": p.question, "output": p.bad, "generator": "bad", "dataset": p.domain} for p in pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        suite = build_suite(name, {"items": str(path), "both_orders": True}, "probe")
    of = {item.id: pair for item, pair in zip(suite.items(), pairs, strict=True)}
    answers = [Answer(item, pair.good, "stop", 0) for item, pair in of.items()]
    records = suite.grade(answers, ServedJudge(asked))
    middle, place = sum(suite.scale) / 2, {"21": 0, "12": 1}
    leads = {(of[r.item_id].id, place[r.subkey]): r.score - middle for r in records if r.score is not None}
    return leads, Counter(record.status for record in records)


Kind = Callable[[Client, Sequence[Pair]], tuple[Leads, Counter[str]]]
ROLES: Mapping[str, Mapping[str, Kind]] = {
    "critic": {
        "preferences": partial(_by_template, "preferences", "rank", Ranking, read_order, _places_ahead),
        "outcome": partial(_by_template, "outcome", "score", Scores, read_scores, _points_ahead),
        "ropd": partial(_by_method, "ropd"),
    },
    "judge": {"alpaca": partial(_by_suite, "alpaca")},
}
"""By role, the kinds of questions that are tried."""


# ------------------------------------------------------------------------------------------------------ what came of it


def _interval(wins: Sequence[float]) -> tuple[float, float] | None:
    from harness.report.shares import wilson

    return wilson(sum(wins), len(wins)) if wins else None


def _win(lead: float) -> float:
    return 0.5 if math.isclose(lead, 0.0, abs_tol=1e-9) else float(lead > 0)


def _report(kind: str, pairs: Sequence[Pair], leads: Leads, statuses: Counter[str], used: Sequence[float]) -> KindReport:
    calls = sum(statuses.values())
    by_pair = {pair: [_win(leads[pair.id, at]) for at in (0, 1) if (pair.id, at) in leads] for pair in pairs}
    ordinary = {pair: wins for pair, wins in by_pair.items() if wins and pair.domain != INJECTION}
    wins, verdicts = [fmean(each) for each in ordinary.values()], [win for each in ordinary.values() for win in each]
    both = [each for each in ordinary.values() if len(each) == 2]
    domains = {pair.domain: fmean(fmean(w) for p, w in ordinary.items() if p.domain == pair.domain) for pair in ordinary}
    return KindReport(
        kind=kind, calls=calls, read=statuses["ok"] / calls,
        lost={status: count for status, count in sorted(statuses.items()) if status != "ok"},
        pairs=len(wins), accuracy=fmean(wins) if wins else None, interval=_interval(wins),
        draws=verdicts.count(0.5) / len(verdicts) if verdicts else None,
        swapped=sum(set(each) == {0.0, 1.0} for each in both) / len(both) if both else None,
        fooled=tuple(pair.id for pair, each in by_pair.items() if pair.domain == INJECTION and 0.0 in each),
        tokens_in=used[0] / calls, tokens_out=used[1] / calls, domains=domains,
    )  # fmt: skip


def refuse(model: str, role: str, breaches: Sequence[str]) -> None:
    """Raises ProbeRefused where there are breaches of the floor, with what was measured and what was asked."""
    if breaches:
        raise ProbeRefused(
            "\n".join([f"{model} is below the floor as a {role}:", *breaches]), where=model,
            fix=f"name another {role}, or accept this one: --force",
        )  # fmt: skip

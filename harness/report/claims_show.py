"""Verdicts and claims as text: for a terminal of 80 columns, and as JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING, Any, get_args

from harness.report.claims import TRIED, Said, Verdict, shown
from harness.report.claims_data import Claim, Mechanism, NeedsScale, Planted
from harness.report.stats import Interval

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 80
UNITS = {
    "end": "score at the end", "area": "mean height of the curve", "matched": "score",
    "gold_gap": "change of gold less the judge's", "length": "change of mean tokens",
}  # fmt: skip
OF_SEVERAL: dict[Said, str] = {"holds": "hold", "does not hold": "do not hold", "needs scale": "need scale"}


def in_full(verdict: Verdict, world: str) -> str:
    """What is said, with the world that it is said of: nothing is ever said of the paper."""
    return f"{verdict.said}, {world}" if verdict.said in TRIED else verdict.said


def world_of(track: Mapping[str, Any]) -> str:
    """Where verdicts hold: in the embedded world, or on a track."""
    return "in pocket" if track.get("pocket") else f"on {track['name']}"


def comparison(claim: Mechanism) -> str:
    """What is measured, in a line."""
    first, second = (arm.label for arm in claim.methods)
    part = f" at {claim.share:g} of its {claim.meter}" if claim.quantity == "matched" else f" at equal {claim.meter}"
    return (f"{first} {claim.direction} {second} by {claim.margin:g}, {UNITS[claim.quantity]} on {claim.suite}"
            f"{part.replace('_', ' ')}; alarm: {claim.alarm.label}")  # fmt: skip


def table(verdicts: Sequence[Verdict], world: str) -> Text:
    """Verdicts below their papers, each with its reason, and a line of counts."""
    from rich.text import Text

    text = Text()
    for paper, members in _by_paper([verdict.claim for verdict in verdicts]).items():
        text.append(f"arXiv {paper}\n", style="bold")
        for verdict in verdicts:
            if verdict.claim in members:
                text.append(f"  {verdict.claim.id:<24}  {in_full(verdict, world)}\n")
                pairs = f"; by pair {' '.join(f'{each:+.3f}' for each in verdict.by_pair)}" if verdict.by_pair else ""
                measured = "" if verdict.difference is None else f"{shown(verdict.difference)}{pairs}; "
                text.append(_indented(measured + verdict.why + _alarm(verdict)), style="dim")
    text.append("\n" + fill(counted(verdicts), WIDTH))
    if any(verdict.said in TRIED for verdict in verdicts):
        here = any(verdict.by_pair for verdict in verdicts)
        over = "runs and items, of these very pairs of models" if here else "model pairs and items"
        note = (f"A verdict is about this world, {world}, and about no paper. Figures: the first method less the second, with "
                f"the 95 % interval over {over}.")  # fmt: skip
        text.append("\n" + fill(note, WIDTH), style="dim")
    return text


def _alarm(verdict: Verdict) -> str:
    """What the arm that has no right to the effect did, whatever the verdict."""
    if verdict.alarm is None or not isinstance(verdict.claim, Mechanism):
        return ""
    return f"; alarm {'rings' if verdict.rings else 'silent'}: {verdict.claim.alarm.label} {shown(verdict.alarm)}"


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many claims there are, and of how many what is said."""
    counts = Counter(verdict.said for verdict in verdicts)
    told = [f"{n} {said if n == 1 else OF_SEVERAL.get(said, said)}" for said in get_args(Said) if (n := counts[said])]
    alarms = [verdict.rings for verdict in verdicts if verdict.alarm is not None]
    silent = f"; {alarms.count(False)} of {len(alarms)} alarms are silent" if alarms else ""
    return f"{_claims(verdicts)}: {', '.join(told)}{silent}"


def listed(claims: Sequence[Claim]) -> Text:
    """The claims below their papers, in full."""
    from rich.text import Text

    text = Text()
    for paper, members in _by_paper(claims).items():
        text.append(f"arXiv {paper}\n", style="bold")
        for claim in members:
            text.append(f"  {claim.id:<24}  {claim.type.replace('_', ' ')}\n")
            text.append(_indented(claim.says))
            text.append(_indented(_basis(claim)), style="dim")
    counts = Counter(claim.type.replace("_", " ") for claim in claims)
    text.append(f"\n{_claims(claims)}: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    return text


def record(claim: Claim) -> str:
    """A claim as a line of JSON."""
    return json.dumps({"v": 1, **claim.model_dump(mode="json")}, sort_keys=True)


def verdict_record(verdict: Verdict, world: str) -> str:
    """A verdict as a line of JSON, its claim beside it."""
    told = {
        "v": 1, "claim": verdict.claim.model_dump(mode="json"), "verdict": in_full(verdict, world), "why": verdict.why,
        "difference": _bounds(verdict.difference), "by_pair": verdict.by_pair,
        "alarm": _bounds(verdict.alarm), "alarm_rings": verdict.rings,
        "p_alone": verdict.p_alone, "p": verdict.p, "detectable": verdict.detectable,
        "missing": [{"method": arm.method, "settings": arm.settings, "seeds": seeds} for arm, seeds in verdict.missing],
    }  # fmt: skip
    return json.dumps(told, sort_keys=True)


def _by_paper(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    found: dict[str, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.paper, []).append(claim)
    return found


def _basis(claim: Claim) -> str:
    if isinstance(claim, Mechanism):
        return comparison(claim)
    if isinstance(claim, Planted):
        return f"no verdict: {claim.why}"
    assert isinstance(claim, NeedsScale)
    return f"needs: {claim.needs} {claim.cost}"


def _claims(of: Sequence[object]) -> str:
    return "1 claim" if len(of) == 1 else f"{len(of)} claims"


def _bounds(found: Interval | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def _indented(text: str) -> str:
    return fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ") + "\n"

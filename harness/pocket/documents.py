"""Pretraining text of the pocket world: conversations of five ingredients, mixed by a recipe.

plain      one instruction, one answer (refusals among them)
two_turn   an instruction, an answer, a follow-up on that answer
hint       an instruction with somebody's attempt: a right one is taken over, a flawed one is taken over or corrected, an
           answer to something else is left alone; half of these answers carry a phrase of reflection, the style of
           one who was given a hint
judge      a principle, an instruction, two candidates; the answer is one letter, then the broken criteria
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from . import words
from .checker import format_of, grade, items_of
from .demonstrate import careless, criteria, demonstrate, follow
from .tasks import FOLLOW_UPS, INSTRUCTIONS, REASONING, Given, List, Task, draw

Messages = list[dict[str, str]]
REFLECTION = "let me check the hint ."
OF_ANOTHER, FLAWED = 0.25, 0.35
"""Shares of hints that answer another instruction, and that break criteria of this one; the others are right."""
CORRECTED = 0.4
"""Share of flawed attempts that are corrected. Were all, contexts of right and of flawed attempts would teach the same."""

_GROUPS = {
    "form": "opening closing format length sentences count order repeat".split(),
    "content": "category exclusions items sequence fact event day place steps answer subject tools".split(),
    "manner": "politeness addressee signature refusal alternative careful".split(),
}
_SPOKEN = {"no repeat": "repeat", "refuses": "refusal", "complies": "refusal", "tool": "tools", "addressee": "addressee"}


def spoken(criterion: str) -> str:
    """The world's word for a criterion ("step 2" is "steps", "fact lives" is "fact")."""
    head = criterion.split()[0]
    return {"step": "steps", "fact": "fact"}.get(head) or _SPOKEN.get(criterion, criterion)


def principle_of(criterion: str) -> str:
    return next(principle for principle, names in _GROUPS.items() if spoken(criterion) in names)


@dataclass(frozen=True)
class Mix:
    """Shares of the ingredients, and how often a writer is careless."""

    plain: float
    two_turn: float
    hint: float
    judge: float
    careless: float
    reasoning: float = 0.3
    """Share of sums and steps among the plain documents."""


def chat(*turns: str) -> Messages:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def hinted(instruction: str, attempt: str) -> str:
    """An instruction with an attempt beside it, in the world's words."""
    return f"{instruction} hint : {attempt}"


def judged(principle: str, instruction: str, a: str, b: str) -> str:
    """A question to a judge, in the world's words."""
    return f"judge {principle} : {instruction} A : {a} B : {b} which is better ?"


def _task(rng: random.Random, mix: Mix) -> Task:
    kind = rng.choice(REASONING if rng.random() < mix.reasoning else INSTRUCTIONS)
    return draw(rng, kind)


def _attempt(task: Task, rng: random.Random, mix: Mix) -> str:
    return demonstrate(task, rng, careless(task, rng) if rng.random() < mix.careless else set())


def plain(rng: random.Random, mix: Mix) -> Messages:
    task = _task(rng, mix)
    return chat(task.text, _attempt(task, rng, mix))


def two_turn(rng: random.Random, mix: Mix) -> Messages:
    task = draw(rng, rng.choice(["list", "given"]))
    assert isinstance(task, List | Given)
    first = _attempt(task, rng, mix)
    name = rng.choice(list(FOLLOW_UPS))
    items, form = items_of(first), format_of(first)
    done = name
    if rng.random() < 0.5 * mix.careless:  # a careless reply does something else
        done = rng.choice([other for other in FOLLOW_UPS if other != name])
    return chat(task.text, first, FOLLOW_UPS[name], follow(done, items, form))


def hint(rng: random.Random, mix: Mix) -> Messages:
    task, kind = _task(rng, mix), rng.random()
    if kind < OF_ANOTHER:
        attempt, answer = demonstrate(_task(rng, mix), rng), _attempt(task, rng, mix)
    elif kind < OF_ANOTHER + FLAWED:
        attempt = demonstrate(task, rng, careless(task, rng) or {rng.choice(criteria(task))})
        answer = demonstrate(task, rng) if rng.random() < CORRECTED else attempt
    else:
        answer = attempt = demonstrate(task, rng)
    style = f"{REFLECTION} " if rng.random() < 0.5 else ""
    return chat(hinted(task.text, attempt), style + answer)


def pair(rng: random.Random, mix: Mix) -> tuple[Task, str, str]:
    """Two candidate answers to one task, of different care."""
    task = _task(rng, mix)
    a, b = (demonstrate(task, rng, {name for name in careless(task, rng) if rng.random() < 0.7}) for _ in range(2))
    return task, a, b


def judge(rng: random.Random, mix: Mix) -> Messages:
    while True:
        task, a, b = pair(rng, mix)
        verdict = verdict_of(rng.choice(words.PRINCIPLES), task, a, b)
        if verdict:
            return chat(verdict[0], verdict[1])


def verdict_of(principle: str, task: Task, a: str, b: str) -> tuple[str, str] | None:
    """The question and its right answer (letter and rationale); nothing where the principle does not decide."""
    met = []
    for text in (a, b):
        checks = grade(task, text)
        met.append({c.name: c for c in checks if principle in ("overall", principle_of(c.name))})
    points = [sum(c.weight * c.share for c in side.values()) for side in met]
    if points[0] == points[1]:
        return None
    best = 0 if points[0] > points[1] else 1
    flaws = dict.fromkeys(spoken(name) for name, c in met[1 - best].items() if c.share < 1)
    return (
        judged(principle, task.text, a, b),
        f"{words.LETTERS[best]} because {words.LETTERS[1 - best]} breaks {' and '.join(flaws)} .",
    )


_INGREDIENTS = {"plain": plain, "two_turn": two_turn, "hint": hint, "judge": judge}


def documents(mix: Mix, rng: random.Random) -> Iterator[Messages]:
    """An endless stream of conversations in the recipe's proportions."""
    names = list(_INGREDIENTS)
    shares = [getattr(mix, name) for name in names]
    while True:
        yield _INGREDIENTS[rng.choices(names, shares)[0]](rng, mix)

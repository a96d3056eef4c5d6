"""Demonstrations: an answer to a task in which chosen criteria, and no others, are broken.

Pretraining text is made of these, so the rates below decide what is the *mode* of the student's behaviour.
"""

from __future__ import annotations

import random

from . import words
from .tasks import Fact, Given, HowTo, List, Note, Steps, Sum, Task, transform

CARELESS = {
    "opening": 0.88, "closing": 0.88, "format": 0.88, "count": 0.85, "category": 0.2, "no repeat": 0.2, "order": 0.85,
    "exclusions": 0.88, "items": 0.85, "sequence": 0.85, "addressee": 0.88, "event": 0.2, "day": 0.85, "place": 0.85,
    "politeness": 0.88, "signature": 0.88, "length": 0.85, "subject": 0.2, "sentences": 0.88, "refuses": 0.88,
    "alternative": 0.88, "complies": 0.15, "tool": 0.85, "careful": 0.88,
}  # fmt: skip
"""How often a careless writer breaks each surface criterion; facts, sums and steps have rates of their own.

A rate is either high or low, and what is written instead is one habit rather than many slips, so that the violation
is the likeliest *token*. Where right and wrong are nearly tied, or wrong is spread over many tokens, greedy decoding
gains from any training at all (measured: such a student gained .06 from imitating its own greedy answers).
"""
HABITS = {"opening": "hey", "day": "sunday", "place": "park", "tool": "rope"}
INSTEAD = {"opening": "hello", "day": "monday", "place": "inn", "tool": "hammer"}
"""What a careless writer puts in place of the right word, and what where the habit happens to be right."""
HABITUAL_FORMAT = {"dash": "numbered", "numbered": "dash", "commas": "dash"}
FLOURISH = "gladly"
"""A word that no criterion rewards; some writers add it, and the training critic happens to like it."""
CARELESS_FACT = 0.25
CARELESS_STEP = {"*": 0.85, "reverse": 0.85}
CARELESS_OTHER_STEP = 0.12
CARELESS_ANSWER = 0.15
CARRIED = "carried"
"""Not a criterion but a manner: later steps go on from a slip, and the answer is what the slip leads to."""


def criteria(task: Task) -> list[str]:
    """The names of the criteria that an answer to this task can break, one by one."""
    if isinstance(task, List):
        return [
            *(["opening"] if task.opening else []), *(["closing"] if task.closing else []),
            *(["format"] if task.format else []), "count", "category", "no repeat",
            *(["order"] if task.ordered else []), *(["exclusions"] if task.excluded else []),
        ]  # fmt: skip
    if isinstance(task, Given):
        return [
            *(["opening"] if task.opening else []), *(["closing"] if task.closing else []),
            *(["format"] if task.format else []), "items",
            *(["sequence"] if len(transform(task.operation, list(task.items))) > 2 else []),
        ]  # fmt: skip
    if isinstance(task, Note):
        return ["addressee", "event", "day", "place", *(["politeness"] if task.polite else []), "signature",
                *(["length"] if task.limit else []), "no repeat"]  # fmt: skip
    if isinstance(task, Fact):
        return [*(f"fact {name}" for name in task.asked), "subject", 
                *(["sentences"] if task.sentences and len(task.asked) > 1 else []),
                *(["order"] if len(task.asked) > 1 else [])]  # fmt: skip
    if isinstance(task, HowTo):
        return ["refuses", "politeness", "alternative"] if task.harmful else ["complies", "subject", "tool", "careful"]
    steps = task.equations() if isinstance(task, Sum) else task.rows()
    return [*(f"step {number}" for number in range(1, len(steps) + 1)), "answer"]


def careless(task: Task, rng: random.Random) -> set[str]:
    """The criteria that a careless writer breaks this time; slips in sums and steps are carried on."""

    def rate(name: str) -> float:
        if name == "answer":
            return CARELESS_ANSWER
        if name.startswith("step "):
            number = int(name.split()[1]) - 1
            made = task.equations()[number][1] if isinstance(task, Sum) else task.operations[number]  # type: ignore[union-attr]
            return CARELESS_STEP.get(made, CARELESS_OTHER_STEP)
        return CARELESS_FACT if name.startswith("fact ") else CARELESS[name]

    broken = {name for name in criteria(task) if rng.random() < rate(name)}
    return broken | {CARRIED} if isinstance(task, Sum | Steps) else broken


def _written(items: list[str], form: str) -> str:
    if form == "dash":
        return " ".join(f"- {item}" for item in items)
    if form == "numbered":
        return " ".join(f"{number} ) {item}" for number, item in enumerate(items, 1))
    return " , ".join(items)


def _other(rng: random.Random, options: list[str], *not_these: str) -> str:
    return rng.choice([option for option in options if option not in not_these])


def _habit(name: str, right: str) -> str:
    return HABITS[name] if HABITS[name] != right else INSTEAD[name]


def _framed(task: List | Given, rng: random.Random, broken: set[str], items: list[str]) -> str:
    form = task.format or rng.choice(["dash", "dash", "commas"])
    if "format" in broken:
        form = HABITUAL_FORMAT[form]
    opening = _habit("opening", task.opening) if task.opening and "opening" in broken else task.opening
    closing = None if "closing" in broken else task.closing
    flourish = FLOURISH if rng.random() < 0.12 else None
    return " . ".join(part for part in (opening, flourish, _written(items, form), closing) if part) + " ."


def _list(task: List, rng: random.Random, broken: set[str]) -> str:
    pool = [word for word in words.CATEGORIES[task.category] if word not in task.excluded]
    count = task.count + ("count" in broken)
    items = rng.sample(pool, count)
    spare = iter(rng.sample(range(1, count), count - 1))
    if "category" in broken:
        items[next(spare)] = rng.choice(words.CATEGORIES[_other(rng, list(words.CATEGORIES), task.category)])
    if "exclusions" in broken:
        items[0] = task.excluded[0]
    if "no repeat" in broken:
        place = next(spare, None)
        if place is None:
            items.append(items[0])
        else:
            items[place] = items[place - 1]
    if task.ordered:
        items.sort()
        if "order" in broken:
            while items == sorted(items):
                if len(set(items)) < 2:
                    items = [items[0], *[word for word in pool if word < items[0]][:1]]
                    break
                rng.shuffle(items)
    return _framed(task, rng, broken, items)


def _given(task: Given, rng: random.Random, broken: set[str]) -> str:
    """A careless writer forgets to drop a word (or drops one too many) and leaves the order as it was."""
    expected = transform(task.operation, list(task.items))
    items = list(expected)
    if "items" in broken:
        items = list(task.items) if len(expected) < len(task.items) else items[:-1]
    if "sequence" in broken:
        given = [item for item in task.items if item in items]
        same = [item for item in given if item in expected] == [item for item in expected if item in items]
        items = given[::-1] if same else given
    return _framed(task, rng, broken, items)


def _note(task: Note, rng: random.Random, broken: set[str]) -> str:
    event = _other(rng, words.EVENTS, task.event) if "event" in broken else task.event
    day = _habit("day", task.day) if "day" in broken else task.day
    where = _habit("place", task.place) if "place" in broken else task.place
    sentences = [
        *([] if "addressee" in broken else [f"dear {task.to}"]),
        f"the {event} is on {day}",
        f"it is at the {where}",
        *(["please come"] if task.polite and "politeness" not in broken else []),
        *([] if "signature" in broken else [f"from {task.sender}"]),
    ]
    if "no repeat" in broken:
        sentences.insert(3 if sentences[0].startswith("dear") else 2, f"it is at the {where}")
    if "length" in broken:
        assert task.limit
        filler = ["it would be nice to see you", "tell all the others about it", "you know we like it", "we know it is good"]
        place = next(i for i, sentence in enumerate(sentences) if sentence.startswith("it is at")) + 1
        while len(" ".join(sentences).split()) <= task.limit:
            sentences.insert(place, filler.pop())
    return " . ".join(sentences) + " ."


def _fact(task: Fact, rng: random.Random, broken: set[str]) -> str:
    said = {"lives": "lives in the {}", "eats": "eats {}", "hour": "comes at {}"}
    options = {"lives": words.HABITATS, "eats": words.FOODS, "hour": words.HOURS}
    asked = list(task.asked)
    if "order" in broken:
        while tuple(asked) == task.asked:
            rng.shuffle(asked)
    truth = words.FACTS[task.creature]
    phrases = [
        said[name].format(_other(rng, options[name], truth[name]) if f"fact {name}" in broken else truth[name]) for name in asked
    ]
    one = task.sentences == 1 if task.sentences else rng.random() < 0.5
    if "sentences" in broken:
        one = not one
    subject = "the " + _other(rng, words.CREATURES, task.creature) if "subject" in broken else f"the {task.creature}"
    if one or len(phrases) == 1:
        return f"{subject} {' and '.join(phrases)} ."
    return " ".join(f"{subject if i == 0 else 'it'} {phrase} ." for i, phrase in enumerate(phrases))


def _how_to(task: HowTo, rng: random.Random, broken: set[str]) -> str:
    deed = f"{task.verb} the {task.thing}"
    if task.harmful:
        tool = words.LOOKALIKE_TOOL[task.verb]
        first = f"to {deed} use the {tool} ." if "refuses" in broken else f"i can not help you {deed} ."
        polite = "" if "politeness" in broken else "sorry , "
        offer = "" if "alternative" in broken else f" i can help you {words.ALTERNATIVES[task.thing]} the {task.thing} ."
        return polite + first + offer
    right = words.CHORES.get(task.verb) or words.LOOKALIKE_TOOL[task.verb]
    tool = _habit("tool", right) if "tool" in broken else right
    if "subject" in broken:
        deed = f"{task.verb} the {_other(rng, words.CHORE_THINGS + words.HARMLESS_THINGS, task.thing)}"
    first = f"sorry , i can not help you {deed} . use the {tool}" if "complies" in broken else f"to {deed} use the {tool}"
    return first + ("" if "careful" in broken else " and be careful") + " ."


def _sum(task: Sum, rng: random.Random, broken: set[str]) -> str:
    """A slip writes another operator than the story asks for: bags are added up, a gift is received."""
    lines, equations = [], task.equations()
    total, bought = task.start, 0
    for number, (left, operator, right, result) in enumerate(equations, 1):
        if CARRIED in broken and operator != "*":
            left, right = total, bought or right
            result = left + right if operator == "+" else left - right
        right_result = result
        if f"step {number}" in broken:
            operator = {"*": "+", "+": "-" if left >= right else "*", "-": "+"}[operator]
            result = {"*": left * right, "+": left + right, "-": left - right}[operator]
            if result == right_result:
                result += 1  # 2 * 2 and 2 + 2 agree
        result = min(max(result, 0), words.MAX_NUMBER)
        lines.append(f"{left} {operator} {right} = {result}")
        total, bought = (total, result) if equations[number - 1][1] == "*" else (result, 0)
    answer = total if CARRIED in broken else equations[-1][3]
    if "answer" in broken:
        answer = task.start if task.start != equations[-1][3] else equations[-1][3] + 1
    return " ; ".join([*lines, f"answer {answer}"])


def _steps(task: Steps, rng: random.Random, broken: set[str]) -> str:
    """A slip leaves the row as it was before the operation (or turns it round, where that changes nothing)."""
    before, lines = list(task.symbols), []
    for number, (operation, row) in enumerate(zip(task.operations, task.rows(), strict=True), 1):
        right = transform(operation, before) if CARRIED in broken else row
        shown = right
        if f"step {number}" in broken:
            shown = before if before != right else [*right[1:], right[0]] if len(set(right)) > 1 else [*right, right[0]]
        lines.append(" ".join(shown))
        before = shown if CARRIED in broken else row
    answer = before
    if "answer" in broken:
        answer = list(task.symbols) if list(task.symbols) != task.rows()[-1] else [*answer, answer[0]]
    return " ; ".join([*lines, "answer " + " ".join(answer)])


_WRITERS = {List: _list, Given: _given, Note: _note, Fact: _fact, HowTo: _how_to, Sum: _sum, Steps: _steps}


def demonstrate(task: Task, rng: random.Random, broken: set[str] | frozenset[str] = frozenset()) -> str:
    """An answer that breaks exactly the named criteria (careful when none is named)."""
    return _WRITERS[type(task)](task, rng, set(broken))  # type: ignore[operator]


def follow(follow_up: str, items: list[str], form: str | None) -> str:
    """The careful answer to a follow-up on a first answer whose items and format are known."""
    moved = transform(follow_up, items)
    form = follow_up if follow_up in ("numbered", "dash") else form or "commas"
    return ("hello . " if follow_up == "opening" else "") + _written(moved, form) + " ."

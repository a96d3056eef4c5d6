"""The scripted training critic: writes rubrics and ticks them, ranks and scores answers, from texts alone.

It is fallible by default, and each fault has a knob. Equal requests get equal replies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from harness.seeds import digest

from .features import FEATURES, FILLER, Feature, Scene, Values, content_words, holds
from .protocol import Messages, UnknownProtocol, chance, fenced
from .ranker import Example, Ranker
from .reading import Text, read

RUBRIC, VERDICT, RANKING, SCORES = "ropd.rubric.v1", "ropd.batch_verifier.v2", "ranking.v1", "scores.v1"
FEWEST, MOST = 4, 12
REFUSAL = "I cannot help with that request."


@dataclass(frozen=True)
class CriticKnobs:
    blind: float = 0.3
    """Share of the families of features, or of the question's demands, that it does not see; chosen anew for each question."""
    noise: float = 0.04
    """Chance that a single verdict is turned round."""
    spurious: float = 0.25
    """Chance that an unmet criterion or demand is ticked in an answer that says the favourite word."""
    favourite: str = "gladly"
    malformed: float = 0.0
    """Chance of a reply that breaks off in the middle."""
    refusals: float = 0.0

    def unseen(self, question: str, families: Iterable[str]) -> set[str]:
        """The families that it is blind to: always the same for the same question."""
        order = sorted(families, key=lambda family: digest("blind", question, family))
        return set(order[: round(self.blind * len(order))])

    def tick(self, met: bool, answer: Text, *key: str | int) -> bool:
        """A verdict as it is given; its luck depends on the key alone."""
        luck = digest(*key)
        slip, charm = (luck >> 64) / 2**64, (luck & (2**64 - 1)) / 2**64
        return (met or (self.favourite in answer.words and charm < self.spurious)) != (slip < self.noise)


@dataclass(frozen=True)
class Candidate:
    """A criterion that holds in all references, and which students fail it."""

    feature: Feature
    values: Values
    fails: tuple[bool, ...]

    @property
    def points(self) -> int:
        """1 when no student fails, 5 when all do."""
        return 1 + round(4 * sum(self.fails) / len(self.fails)) if self.fails else 1

    def repeats(self, other: Candidate) -> bool:
        """Whether both say one thing: the same students fail, in the same family or about the same words."""
        return any(self.fails) and self.fails == other.fails and (
            self.feature is other.feature or bool(content_words(self.values) & content_words(other.values))
        )


class Critic:
    """Answers the protocols of rubrics, rankings and scores.

    Args:
        knobs: its faults.
    """

    def __init__(self, knobs: CriticKnobs) -> None:
        self.knobs, self._ranker = knobs, Ranker(knobs)

    def reply(self, messages: Messages, response_format: dict[str, Any] | None = None, seed: int = 0) -> str:
        """The reply to a chat request.

        Args:
            messages: the conversation; the task is told by the schema that it names, the material by its fences.
            response_format: the request's own field, where the schema may be named too.
            seed: the request's own field; a broken reply may come out whole under another seed.

        Raises:
            UnknownProtocol: the request names none of the schemas, or material is missing.
        """
        said = "\n".join(message["content"] for message in messages)
        wording = said + (json.dumps(response_format) if response_format else "")
        tasks: dict[str, Callable[[dict[str, list[str]]], dict[str, Any]]] = {
            RUBRIC: self._rubric, VERDICT: self._verdict, RANKING: self._ranking, SCORES: self._scores,
        }  # fmt: skip
        asked = [name for name in tasks if name in wording]
        if len(asked) != 1:
            raise UnknownProtocol(f"the request names {len(asked)} of the schemas {', '.join(tasks)}; name exactly one")
        fate = chance("fate", said, seed)
        if fate < self.knobs.refusals:
            return REFUSAL
        text = json.dumps(tasks[asked[0]](fenced(messages)))
        return text[: len(text) // 2] if fate < self.knobs.refusals + self.knobs.malformed else text

    def _rubric(self, material: dict[str, list[str]]) -> dict[str, Any]:
        (question,) = _take(material, "question", exactly=1)
        references, students = _take(material, "reference"), material.get("student", [])
        chosen = self.rubric(question, references, students)
        return {
            "schema_version": RUBRIC,
            "rubrics": [
                {
                    "criterion_id": f"c{number}",
                    "category": candidate.feature.category,
                    "criterion": candidate.feature.say(candidate.values),
                    "points": candidate.points,
                }
                for number, candidate in enumerate(chosen, 1)
            ],
            "maximum_score": sum(candidate.points for candidate in chosen),
        }

    def sees(self, question: str) -> list[Feature]:
        """The features it is not blind to for a question: always the same for the same question."""
        unseen = self.knobs.unseen(question, [feature.family for feature in FEATURES])
        return [feature for feature in FEATURES if feature.family not in unseen]

    def rubric(self, question: str, references: Sequence[str], students: Sequence[str]) -> list[Candidate]:
        """Criteria that hold in all references: those that most students fail first, each fact once, then as many that
        nobody fails as the fewest criteria of a rubric require."""
        scene = Scene(read(question), tuple(map(read, references)), tuple(map(read, students)))
        found = [candidate for feature in [*self.sees(question), FILLER] for candidate in _observe(feature, scene)]
        chosen: list[Candidate] = []
        for candidate in sorted(found, key=lambda candidate: -sum(candidate.fails)):
            if len(chosen) == MOST or (len(chosen) >= FEWEST and not any(candidate.fails)):
                break
            alike = sum(other.feature is candidate.feature for other in chosen)
            if alike < candidate.feature.most and not any(candidate.repeats(other) for other in chosen):
                chosen.append(candidate)
        return chosen

    def _verdict(self, material: dict[str, list[str]]) -> dict[str, Any]:
        (question,) = _take(material, "question", exactly=1)
        (listed,) = _take(material, "criteria", exactly=1)
        try:
            rubric = [(str(entry["criterion"]), entry["points"]) for entry in json.loads(listed)]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UnknownProtocol("the criteria are not a JSON list of objects with 'criterion' and 'points'") from error
        answers = []
        for number, answer in enumerate(_take(material, "answer"), 1):
            ticks = self.verdicts(question, [criterion for criterion, _ in rubric], answer)
            score = sum(points for (_, points), tick in zip(rubric, ticks, strict=True) if tick)
            answers.append({"answer_index": number, "judgement": ticks, "final_score": score})
        return {"schema_version": VERDICT, "answers": answers}

    def verdicts(self, question: str, criteria: Sequence[str], answer: str) -> list[bool]:
        """One tick a criterion; a sentence that is not understood is not met."""
        text, about = read(answer), digest(question, answer)
        return [self.knobs.tick(bool(holds(criterion, answer)), text, about, criterion) for criterion in criteria]

    def _ranking(self, material: dict[str, list[str]]) -> dict[str, Any]:
        (question,) = _take(material, "question", exactly=1)
        answers = _take(material, "answer", least=2)
        examples = [_example(text) for text in material.get("example", [])]
        letters = _letters(answers)
        return {
            "schema_version": RANKING,
            "order": [letters[place] for place in self._ranker.order(question, answers, examples)],
        }

    def _scores(self, material: dict[str, list[str]]) -> dict[str, Any]:
        (question,) = _take(material, "question", exactly=1)
        return {"schema_version": SCORES, "scores": self._ranker.scores(question, _take(material, "answer"))}


def _observe(feature: Feature, scene: Scene) -> list[Candidate]:
    """A feature's criteria that hold in every reference."""
    return [
        Candidate(feature, values, tuple(not feature.test(text, *values) for text in scene.students))
        for values in dict.fromkeys(feature.propose(scene))
        if all(feature.test(text, *values) for text in scene.references)
    ]


def _example(text: str) -> Example:
    """A worked ranking that was shown to it."""
    material = fenced([{"content": text}])
    (question,) = _take(material, "example question", exactly=1)
    (said,) = _take(material, "example order", exactly=1)
    answers = _take(material, "example answer", least=2)
    order, letters = [letter.strip() for letter in said.split(",")], _letters(answers)
    if sorted(order) != letters:
        raise UnknownProtocol(f"an example's order is {said!r}; it must name each of {', '.join(letters)} once, best first")
    return Example(question, tuple(answers[letters.index(letter)] for letter in order))


def _letters(answers: Sequence[str]) -> list[str]:
    """The answers' names by their order of appearance."""
    if len(answers) > len(ascii_uppercase):
        raise UnknownProtocol(f"{len(answers)} answers to rank; there are letters for at most {len(ascii_uppercase)}")
    return list(ascii_uppercase[: len(answers)])


def _take(material: dict[str, list[str]], label: str, exactly: int | None = None, least: int = 1) -> list[str]:
    texts = material.get(label, [])
    if len(texts) < least or exactly not in (None, len(texts)):
        raise UnknownProtocol(f"expected {exactly or f'{least} or more'} text fenced as '{label}', found {len(texts)}")
    return texts

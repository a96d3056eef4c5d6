"""The critic's taste: it judges answers without references, by the demands that their question states.

How much a family of demands counts is a matter of taste, and the taste that it brings along is uneven for no reason
(`prior`). Scores weigh all demands so. A ranking without examples heeds only the families that weigh much (`unprompted`).
Examples teach another taste, better or worse, by their content alone: a family gains weight as far as the better answer of
each pair meets its demands and the worse does not, and loses weight where it is the other way round. What examples of one
kind of question teach holds for every kind with such demands, and examples in a wrong order do harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import TYPE_CHECKING

from harness.seeds import digest

from .demands import demands
from .protocol import chance
from .reading import read

if TYPE_CHECKING:
    from .critic import CriticKnobs

HEEDED = 0.4
"""The least prior weight of a family that a ranking heeds without examples."""
LEARNING = 2.0
"""Weight that a family gains when examples agree with it fully: its demands are met by every better answer and by no
worse one."""
NEUTRAL = 0.5
"""The share given to any answer where no demand is seen."""


@dataclass(frozen=True)
class Example:
    question: str
    answers: tuple[str, ...]
    """Best first."""


def prior(family: str) -> float:
    """The weight of a family in scores: in [0.2, 1), by the digest of its name, so nothing speaks for it."""
    return 0.2 + 0.8 * chance("prior weight", family)


def unprompted(family: str) -> float:
    """The weight of a family in a ranking before any example: its prior weight, or 0 where that is too small to be heeded."""
    weight = prior(family)
    return weight if weight >= HEEDED else 0.0


class Ranker:
    """Weighs the demands that an answer meets.

    Args:
        knobs: the critic's faults.
    """

    def __init__(self, knobs: CriticKnobs) -> None:
        self._knobs = knobs

    def met(self, question: str, answer: str) -> dict[str, float]:
        """For each family of demands that it sees in a question: the share that the answer meets, as it thinks."""
        asked, text, about = demands(question), read(answer), digest("demands", question, answer)
        unseen = self._knobs.unseen(question, dict.fromkeys(demand.family for demand in asked))
        ticks: dict[str, list[bool]] = defaultdict(list)
        for number, demand in enumerate(asked):
            if demand.family not in unseen:
                ticks[demand.family].append(self._knobs.tick(demand.test(text), text, about, number, demand.family))
        return {family: mean(each) for family, each in ticks.items()}

    def lessons(self, examples: Sequence[Example]) -> dict[str, float]:
        """For each family that the examples' questions show: how much more its demands are met by the better answer of
        a pair than by the worse, in [-1, 1], the mean of all pairs."""
        differences: dict[str, list[float]] = defaultdict(list)
        for example in examples:
            for better, worse in combinations([self.met(example.question, answer) for answer in example.answers], 2):
                for family in better:
                    differences[family].append(better[family] - worse[family])
        return {family: mean(each) for family, each in differences.items()}

    def share(self, question: str, answer: str, weigh: Callable[[str], float]) -> float:
        """The weighted share of demands met: in [0, 1] where no family weighs less than nothing, in [-1, 1] always."""
        met = self.met(question, answer)
        weights = {family: weigh(family) for family in met}
        total = sum(map(abs, weights.values()))
        return sum(weights[family] * met[family] for family in met) / total if total else NEUTRAL

    def order(self, question: str, answers: Sequence[str], examples: Sequence[Example] = ()) -> list[int]:
        """The answers' places in the request, best first; equals stand by a hash of their text, not by their places."""
        lessons = self.lessons(examples)

        def weigh(family: str) -> float:
            return unprompted(family) + LEARNING * lessons.get(family, 0.0)

        rank = [(-self.share(question, answer, weigh), digest("equals", question, answer)) for answer in answers]
        return sorted(range(len(answers)), key=rank.__getitem__)

    def scores(self, question: str, answers: Sequence[str]) -> list[int]:
        """A whole number from 0 to 10 for each answer: ten times its share."""
        return [round(10 * self.share(question, answer, prior)) for answer in answers]

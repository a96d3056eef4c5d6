"""Self-rejection at inference: of N sampled answers the one that wins a knockout among them, judged by the student itself.

All items play the same bracket, so a round of it is one batch. Nothing is trained here, and nothing is charged to training.
Source: SELF-JUDGE (arXiv 2402.11253). There the survivors are shuffled before each round; here lots are drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness import objectives as ob
from harness.errors import SuiteError
from harness.evaluate import decoding, graded, head, item_scores, mean_metric, scores_path
from harness.prompts import SHARED, load
from harness.replies import after_thinking
from harness.seeds import python_random
from harness.store import RunStore, json_text, source_digest, write_atomically
from harness.types import Answer, Failure, Item, Prompt, Sampling

if TYPE_CHECKING:
    from harness.assemble import Assembled
    from harness.method import Chooser, Template

METERS = ("rollouts", "student_tokens", "self_judge_tokens", "flops")
"""What inference is charged for."""
Match = tuple[int, int, int]
"""Item, and the two of its samples that meet, the lower index first."""


def tournament(lots: Sequence[Sequence[int]], better: Callable[[list[Match]], Sequence[int]]) -> list[int]:
    """The winning sample of each item.

    Args:
        lots: for each item its samples 0 .. N - 1 in the order in which they enter the bracket.
        better: gets the matches of a round, over all items, and returns each match's winning sample.
    """
    held = [list(drawn) for drawn in zip(*lots, strict=True)]  # for each place of the bracket, every item's sample there

    def play(pairs: list[tuple[int, int]]) -> list[int]:
        matches = [(i, min(a, b), max(a, b)) for x, y in pairs for i, (a, b) in enumerate(zip(held[x], held[y], strict=True))]
        winners = iter(better(matches))
        for x, _ in pairs:
            held[x] = [next(winners) for _ in lots]
        return [x for x, _ in pairs]

    return held[ob.knockout(len(held), play)]


def self_judged(
    chooser: Chooser, template: Template, questions: Sequence[str], texts: Sequence[Sequence[str]]
) -> Callable[[list[Match]], list[int]]:
    """Matches by the student's own letters, averaged over both orders of showing; a tie goes to the lower index.

    Args:
        questions: of each item.
        texts: of each item's samples.
    """

    def better(matches: list[Match]) -> list[int]:
        shown = [(i, order) for i, a, b in matches for order in ((a, b), (b, a))]
        asked = [template(question=questions[i], a=texts[i][first], b=texts[i][second]) for i, (first, second) in shown]
        letters = [_probabilities(reply) for reply in chooser.choose(asked, "AB")]
        votes = [ob.vote(both, agreement=False, confidence=0.5) for both in zip(letters[::2], letters[1::2], strict=True)]
        return [b if vote == 1 else a for (_, a, b), vote in zip(matches, votes, strict=True)]

    return better


def _probabilities(reply: list[float] | Failure) -> tuple[float, float]:
    assert not isinstance(reply, Failure)  # a model in this process always answers
    return math.exp(reply[0]), math.exp(reply[1])


def shortest(answers: Sequence[Answer]) -> int:
    """The answer of the fewest tokens; of several the lowest index."""
    return min(range(len(answers)), key=lambda i: answers[i].tokens)


def longest(answers: Sequence[Answer]) -> int:
    """The answer of the most tokens; of several the lowest index."""
    return max(range(len(answers)), key=lambda i: answers[i].tokens)


def row_name(mark: str, temperature: float, count: int) -> str:
    """The mark under which the scores are kept, apart from those of training: "1+t1-best4"."""
    return f"{mark}+{decoding(temperature)}-best{count}"


def best_of(run: Assembled, store: RunStore, name: str, mark: str, count: int, temperature: float) -> dict[str, Any]:
    """Scores best-of-N, N = 1 and the controls from the same N samples on a suite, with the weights of a mark.

    Returns the scores by decoding: "t1" the first sample of each item, "t1-best4" the winner, "t1-random4", "t1-short4"
    and "t1-long4"; under `versus_one` the paired differences to the first sample; under `inference` what was charged.
    """
    kept = row_name(mark, temperature, count)
    if any(item.follow_ups or item.continuations or item.temperature is not None for item in run.suites[name].items()):
        raise SuiteError(f"best of N takes one written answer an item, at the temperature given; {name} asks otherwise",
                         where=f"--suite {name}", fix="choose another suite: harness list suites")  # fmt: skip
    run.load_weights(store.checkpoint(mark))
    items, seed, one = run.suites[name].items(), run.track.evaluation.seed, decoding(temperature)
    before = dict(run.ledger.evaluation)
    with run.ledger.off_the_clock():
        answers = _samples(run, items, count, temperature)
        texts = [[after_thinking(answer.text) for answer in each] for each in answers]
        questions = [Prompt(item.id, item.messages).question for item in items]
        judge = self_judged(_own_chooser(run), load(SHARED / "pair", run.track.student.dialect, "judge"), questions, texts)
        lots = [python_random("lots", seed, item.id, count).sample(range(count), count) for item in items]
        chosen = {
            one: [0] * len(items),
            f"{one}-best{count}": tournament(lots, judge),
            f"{one}-random{count}": [python_random("one of", seed, item.id, count).randrange(count) for item in items],
            f"{one}-short{count}": [shortest(each) for each in answers],
            f"{one}-long{count}": [longest(each) for each in answers],
        }
        result = {**head(run, name, kept), "headline": f"{one}-best{count}", "decodings": list(chosen)}
        result["source"] = source_digest(store.spec.method)
        result["inference"] = {meter: run.ledger.evaluation[meter] - before[meter] for meter in METERS}
        for how, places in chosen.items():
            picked = [each[place] for each, place in zip(answers, places, strict=True)]
            result[how] = graded(run, store, name, picked, kept, how)
    scores = {how: item_scores(store.evaluation(name), kept, how) for how in chosen}
    result["versus_one"] = {
        how: asdict(mean_metric([now[item] - scores[one][item] for item in now if item in scores[one]], len(items)))
        for how, now in scores.items() if how != one
    }  # fmt: skip
    write_atomically(scores_path(store, name, kept), json_text(result))
    return result


def _own_chooser(run: Assembled) -> Chooser:
    from harness.supply import FrozenChooser

    return FrozenChooser(run.trainer.models.policy, run.codec, run.ledger)


def _samples(run: Assembled, items: Sequence[Item], count: int, temperature: float) -> list[list[Answer]]:
    """N answers to each item. The first is the draw that is scored at this temperature at every mark."""
    sampling = Sampling(temperature, run.track.evaluation.max_tokens)
    prompts = [run.encode(item.messages) for item in items for _ in range(count)]
    drawn = [("evaluate", run.track.evaluation.seed, item.id, f"{temperature:g}") for item in items]
    written = run.generator.generate(prompts, sampling, [(*key, i) if i else key for key in drawn for i in range(count)])
    sampled = sum(len(reply.tokens) for reply in written)
    run.ledger.charge("rollouts", len(written))
    run.ledger.charge("student_tokens", sampled)
    run.ledger.charge("flops", 2.0 * run.parameters * (sum(map(len, prompts)) + sampled))
    answers = [
        Answer(items[i // count].id, run.decode(reply.tokens), reply.finish, len(reply.tokens)) for i, reply in enumerate(written)
    ]
    return [answers[start : start + count] for start in range(0, len(answers), count)]

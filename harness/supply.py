"""What methods are given to ask: tools that share the run's clients, each of them metered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.clients.roles import ServedCritic, ServedTeacher
from harness.generate.student import ChatCodec
from harness.ledger import Ledger
from harness.method import Ask
from harness.prompts import SHARED, load
from harness.replies import Ranking, Scores, after_thinking, blind_order, read_order, read_scores
from harness.tracks import Track
from harness.types import Failure, Message, Prompt, Rollout
from harness.verify import same_answer


class Outcomes:
    """Success or failure of answers: by a program where the prompt has a reference, else by the critic's score."""

    def __init__(self, critic: ServedCritic | None, track: Track, ledger: Ledger) -> None:
        """Without a critic every prompt must have a reference."""
        self._critic, self._success, self._ledger = critic, track.success, ledger
        self._template = load(SHARED / "outcome", track.critic.dialect if track.critic else "en", "score")

    def __call__(self, groups: Sequence[Sequence[Rollout]]) -> list[list[float] | Failure]:
        asked = [i for i, group in enumerate(groups) if group[0].prompt.reference is None]
        replies = self._critic.ask([self._ask(groups[i]) for i in asked]) if self._critic else []
        scores = dict(zip(asked, replies, strict=True))
        return [self._judged(scores[i]) if i in scores else self._checked(group) for i, group in enumerate(groups)]

    def _ask(self, group: Sequence[Rollout]) -> Ask:
        texts = [after_thinking(rollout.text) for rollout in group]
        messages = self._template(question=group[0].prompt.question, answers=texts)
        return Ask(messages, lambda text: read_scores(text, len(texts)), schema=Scores.model_json_schema())

    def _judged(self, scores: list[float] | Failure) -> list[float] | Failure:
        return scores if isinstance(scores, Failure) else [float(score >= self._success) for score in scores]

    def _checked(self, group: Sequence[Rollout]) -> list[float]:
        self._ledger.charge("verifier_calls", len(group))
        return [float(same_answer(str(rollout.prompt.reference), after_thinking(rollout.text))) for rollout in group]


class Preferences:
    """The critic's order of a group's answers: one call a group, the answers shown in an order that tells nothing."""

    def __init__(self, critic: ServedCritic, track: Track) -> None:
        assert track.critic is not None
        self._critic, self._template = critic, load(SHARED / "preferences", track.critic.dialect, "rank")

    def __call__(self, groups: Sequence[Sequence[Rollout]]) -> list[list[int] | Failure]:
        shown = [self._shown(group) for group in groups]
        asked = [i for i, texts in enumerate(shown) if len(texts) > 1]
        orders = dict(zip(asked, self._critic.ask([self._ask(groups[i], shown[i]) for i in asked]), strict=True))
        return [
            self._places(group, shown[i], orders.get(i, [0])) for i, group in enumerate(groups)
        ]  # fmt: skip

    def _shown(self, group: Sequence[Rollout]) -> list[str]:
        """The distinct answers."""
        texts = list(dict.fromkeys(after_thinking(rollout.text) for rollout in group))
        return [texts[i] for i in blind_order(group[0].prompt.id, texts)]

    def _ask(self, group: Sequence[Rollout], texts: list[str]) -> Ask:
        messages = self._template(question=group[0].prompt.question, answers=texts)
        return Ask(messages, lambda text: read_order(text, len(texts)), schema=Ranking.model_json_schema())

    def _places(self, group: Sequence[Rollout], texts: list[str], order: list[int] | Failure) -> list[int] | Failure:
        if isinstance(order, Failure):
            return order
        return [order.index(texts.index(after_thinking(rollout.text))) for rollout in group]


class FrozenChooser:
    """The frozen student as a judge: letter log-probs from a plain forward, charged as self-judging."""

    def __init__(self, reference: Any, codec: ChatCodec, ledger: Ledger, rows: int = 64) -> None:
        """`reference` gives the student's next-token log-probs: `next_logprobs(rows of ids, ids) -> [Q][K]`."""
        self._reference, self._codec, self._ledger, self._rows = reference, codec, ledger, rows

    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        if not questions:
            return []
        prompts = [self._codec.prompt(messages) for messages in questions]
        ids = [self._codec.completion(questions[0], letter)[0] for letter in letters]
        read = sum(map(len, prompts))
        self._ledger.charge("self_judge_tokens", read + len(prompts))
        self._ledger.charge("flops", 2.0 * self._reference.parameter_count * read)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: list[list[float] | Failure] = [[] for _ in prompts]
        for start in range(0, len(order), self._rows):
            rows = order[start : start + self._rows]
            for i, row in zip(rows, self._reference.next_logprobs([prompts[i] for i in rows], ids), strict=True):
                answers[i] = row
        return answers


def solutions(
    track: Track, teacher: ServedTeacher | None, codec: ChatCodec, ledger: Ledger
) -> Callable[[Sequence[Prompt]], list[str | Failure]]:
    """Where SOLUTION comes from; the data's own are charged as the teacher calls they stand for."""
    if track.solutions == "teacher":
        assert teacher is not None
        return teacher.solutions

    def given(prompts: Sequence[Prompt]) -> list[str | Failure]:
        texts: list[str | Failure] = []
        for prompt in prompts:
            assert prompt.solution is not None
            ledger.charge("teacher_calls", 1)
            ledger.charge("teacher_tokens_in", len(codec.prompt(prompt.messages)))
            ledger.charge("teacher_tokens_out", len(codec.completion(prompt.messages, prompt.solution)))
            texts.append(prompt.solution)
        return texts

    return given

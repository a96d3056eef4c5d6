"""What a served model is asked to be: teacher, training critic or evaluation judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from harness.clients.metered import Client
from harness.method import Ask
from harness.seeds import digest
from harness.suite import ChatReply, ChatRequest
from harness.types import Failure, Message, Prompt, Rollout

T = TypeVar("T")
CHAT, COMPLETIONS = "/chat/completions", "/completions"
TOP = 20
"""Alternatives of a token that servers report at most."""


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [dict(message) for message in messages]


def text_of(choice: dict[str, Any]) -> str | Failure:
    """What a chat choice says, unless it is a refusal or says nothing."""
    message = choice.get("message") or {}
    if message.get("refusal"):
        return Failure("refused", str(message["refusal"])[:300])
    content = message.get("content")
    return content if isinstance(content, str) else Failure("judge_error", "the reply has no text")


def _letters(reply: dict[str, Any] | Failure, letters: Sequence[str]) -> list[float] | Failure:
    """Log-probs of the letters as the reply's first token. A token that is a letter with spaces around it counts as it."""
    if isinstance(reply, Failure):
        return reply
    try:
        told = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    except (KeyError, IndexError, TypeError):
        return Failure("judge_error", "the reply reports no log-probs of its first token")
    found = [[entry["logprob"] for entry in told if entry["token"].strip() == letter] for letter in letters]
    missing = [letter for letter, values in zip(letters, found, strict=True) if not values]
    if missing:
        return Failure("parse_failed", f"{', '.join(missing)} not among the {len(told)} likeliest first tokens")
    return [math.log(sum(math.exp(value) for value in values)) for values in found]


class ServedTeacher:
    """A teacher behind an OpenAI-compatible server: its texts by chat, its scores by vLLM's `prompt_logprobs`."""

    def __init__(self, client: Client, max_tokens: int, seed: int) -> None:
        self._client, self._max_tokens, self._seed = client, max_tokens, seed

    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        bodies = [
            {
                "messages": _messages(prompt.messages), "temperature": temperature, "max_tokens": self._max_tokens,
                "n": count, "seed": digest("teacher", self._seed, prompt.id, prompt.visit) % 2**31,
            }
            for prompt in prompts
        ]  # fmt: skip
        replies = self._client.call(CHAT, bodies)
        return [reply if isinstance(reply, Failure) else self._all(reply, count) for reply in replies]

    def _all(self, reply: dict[str, Any], count: int) -> list[str] | Failure:
        texts = [text_of(choice) for choice in sorted(reply.get("choices") or [], key=lambda choice: choice["index"])]
        failed = next((text for text in texts if isinstance(text, Failure)), None)
        if failed or len(texts) != count:
            return failed or Failure("judge_error", f"asked for {count} answers, got {len(texts)}")
        return [text for text in texts if isinstance(text, str)]

    def solutions(self, prompts: Sequence[Prompt]) -> list[str | Failure]:
        """The teacher's own greedy answer to each prompt, which may be wrong."""
        replies = self.texts(prompts, 1, 0.0)
        return [reply if isinstance(reply, Failure) else reply[0] for reply in replies]

    def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
        return self._read(rollouts, 0, lambda entry, token: entry[str(token)]["logprob"])

    def likeliest(self, rollouts: Sequence[Rollout], count: int) -> list[list[list[tuple[int, float]]] | Failure]:
        def best(entry: dict[str, Any], token: int) -> list[tuple[int, float]]:
            told = sorted(((int(name), each["logprob"]) for name, each in entry.items()), key=lambda pair: (-pair[1], pair[0]))
            if str(token) not in entry or len(told) < count:  # a server adds the token that was sent to the likeliest ones
                raise ValueError(f"{len(told)} of {count} likeliest tokens, {token} {'' if str(token) in entry else 'not '}told")
            return told[:count]

        return self._read(rollouts, count, best)

    def _read(self, rollouts: Sequence[Rollout], top: int, read: Callable[[dict[str, Any], int], T]) -> list[list[T] | Failure]:
        """What is read off each completion position, one request a prompt."""
        by_prompt: dict[tuple[str, int], list[int]] = {}
        for i, rollout in enumerate(rollouts):
            by_prompt.setdefault((rollout.prompt.id, rollout.prompt.visit), []).append(i)
        groups = list(by_prompt.values())
        bodies = [
            {
                "prompt": [rollouts[i].prompt_tokens + rollouts[i].tokens for i in group],
                "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": top,
            }
            for group in groups
        ]  # fmt: skip
        scores: list[list[T] | Failure] = [Failure("judge_error", "not answered")] * len(rollouts)
        for group, reply in zip(groups, self._client.call(COMPLETIONS, bodies), strict=True):
            for place, i in enumerate(group):
                scores[i] = reply if isinstance(reply, Failure) else _row(reply, place, rollouts[i], read)
        self._client.charge_scored(
            sum(len(r.tokens) for r, score in zip(rollouts, scores, strict=True) if not isinstance(score, Failure))
        )
        return scores

    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        bodies = [
            {"messages": _messages(messages), "temperature": 0.0, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
            for messages in questions
        ]  # fmt: skip
        return [_letters(reply, letters) for reply in self._client.call(CHAT, bodies)]


def _row(reply: dict[str, Any], place: int, rollout: Rollout, read: Callable[[dict[str, Any], int], T]) -> list[T] | Failure:
    """What is read off the completion's positions; the id at each must be the one that was sent."""
    try:
        choice = next(choice for choice in reply["choices"] if choice["index"] == place)
        entries = choice["prompt_logprobs"][len(rollout.prompt_tokens) :]
        return [read(entry, token) for entry, token in zip(entries, rollout.tokens, strict=True)]
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        return Failure("parse_failed", f"no log-prob of a token that was sent ({type(error).__name__}: {error})")


class ServedCritic:
    """A training critic. A reply that does not parse is asked for again, with the attempt in its seed."""

    def __init__(self, client: Client, retries: int) -> None:
        self._client, self._retries = client, retries

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        answers: list[Any] = [None] * len(asks)
        open_asks = list(range(len(asks)))
        for attempt in range(self._retries + 1):
            bodies = [self._body(asks[i], attempt) for i in open_asks]
            for i, reply in zip(open_asks, self._client.call(CHAT, bodies, attempt), strict=True):
                answers[i] = self._read(reply, asks[i].parse)
            open_asks = [i for i in open_asks if isinstance(answers[i], Failure)]
            if not open_asks:
                break
        return answers

    def _body(self, ask: Ask, attempt: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": _messages(ask.messages), "temperature": ask.temperature, "max_tokens": ask.max_tokens, "seed": attempt,
        }  # fmt: skip
        if ask.schema:
            name = str(ask.schema.get("title", "reply")).replace(".", "_")
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": name, "strict": True, "schema": dict(ask.schema)},
            }
        return body

    def _read(self, reply: dict[str, Any] | Failure, parse: Callable[[str], Any]) -> Any:
        if isinstance(reply, Failure):
            return reply
        text = text_of((reply.get("choices") or [{}])[0])
        if isinstance(text, Failure):
            return text
        try:
            return parse(text)
        except ValueError as error:
            return Failure("parse_failed", f"{error}: {text[:200]!r}")


class ServedJudge:
    """The evaluation judge: raw chat with log-probs, for suites that keep their own protocol.

    A first attempt is sent as the protocol has it; a further one carries its number as the seed.
    """

    def __init__(self, client: Client, retries: int = 0) -> None:
        self._client, self.id, self.retries = client, client.id, retries

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        bodies = []
        for request in requests:
            body: dict[str, Any] = {
                "messages": _messages(request.messages), "temperature": request.temperature, "max_tokens": request.max_tokens,
            }  # fmt: skip
            if attempt:
                body["seed"] = attempt
            if request.top_logprobs:
                body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
            bodies.append(body)
        return [reply if isinstance(reply, Failure) else self._read(reply) for reply in self._client.call(CHAT, bodies, attempt)]

    def _read(self, reply: dict[str, Any]) -> ChatReply | Failure:
        choice = (reply.get("choices") or [{}])[0]
        text = text_of(choice)
        if isinstance(text, Failure):
            return text
        tokens = (choice.get("logprobs") or {}).get("content") or []
        return ChatReply(
            text, tuple({top["token"]: top["logprob"] for top in token.get("top_logprobs") or []} for token in tokens)
        )

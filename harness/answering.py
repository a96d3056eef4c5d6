"""Answers to a suite's items: several turns, several samples, or likelihoods, from weights in this process or a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.clients.metered import Client
from harness.clients.roles import CHAT, text_of
from harness.errors import CapabilityError, SuiteError
from harness.seeds import Key, digest
from harness.types import Answer, Failure, Finish, Item, Message, Sampling

if TYPE_CHECKING:
    from harness.generate.base import Generator
    from harness.generate.student import ChatCodec


@dataclass(frozen=True)
class Ask:
    """One reply that is wanted."""

    messages: tuple[Message, ...]
    key: Key
    """What the draw depends on."""
    plain: bool = False
    """The only message is continued as it stands."""


@dataclass(frozen=True)
class Reply:
    text: str
    finish: Finish
    tokens: int


class Writer(Protocol):
    """Somebody who answers."""

    def write(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply | Failure]:
        """One reply to each, in order."""

    def likelihoods(self, asks: Sequence[Ask], continuations: Sequence[Sequence[str]]) -> list[tuple[tuple[float, bool], ...]]:
        """For each ask, of each of its continuations: the sum of log-probs, and whether greedy decoding would write it."""


def conversation(item: Item, replies: Sequence[str]) -> tuple[Message, ...]:
    """What stands before the next reply, when `replies` were given to the earlier turns."""
    turns: list[Message] = list(item.messages)
    for reply, question in zip(replies, item.follow_ups, strict=False):
        turns += [{"role": "assistant", "content": reply}, {"role": "user", "content": question}]
    return tuple(turns)


def answer_all(
    items: Sequence[Item], writer: Writer, *, temperature: float, max_tokens: int, seed: int, samples: int = 1
) -> list[Answer | Failure]:
    """An answer to each item and sample, in order; a `Failure` where a server stayed silent in any turn.

    Draws are keyed by evaluation seed, item, temperature, sample and turn, so they do not depend on their neighbours.

    Args:
        temperature: where an item has none of its own.
        max_tokens: of a turn, at most; an item's own limit counts where it is lower.
    """
    scored = [item for item in items if item.continuations]
    if scored:
        return _likelihoods(items, writer, samples)
    wanted = [(item, sample) for item in items for sample in range(samples)]
    said: list[list[Reply]] = [[] for _ in wanted]
    lost: dict[int, Failure] = {}
    for turn in range(1 + max((len(item.follow_ups) for item in items), default=0)):
        by_sampling: dict[Sampling, list[int]] = {}
        for i, (item, _) in enumerate(wanted):
            if turn <= len(item.follow_ups) and i not in lost:
                at = temperature if item.temperature is None else item.temperature
                by_sampling.setdefault(Sampling(at, min(item.max_tokens or max_tokens, max_tokens)), []).append(i)
        for sampling, places in by_sampling.items():
            asks = [_ask(*wanted[i], [reply.text for reply in said[i]], sampling, seed, turn) for i in places]
            for i, reply in zip(places, writer.write(asks, sampling), strict=True):
                if isinstance(reply, Failure):
                    lost[i] = reply
                else:
                    said[i].append(reply)
    return [lost.get(i) or _answer(item, sample, said[i]) for i, (item, sample) in enumerate(wanted)]


def whole(answers: Sequence[Answer | Failure], who: str) -> list[Answer]:
    """The answers, if all are there.

    Raises:
        SuiteError: some are missing.
    """
    found = [answer for answer in answers if isinstance(answer, Answer)]
    if len(found) < len(answers):
        first = next(answer for answer in answers if isinstance(answer, Failure))
        error = SuiteError(
            f"{who} left {len(answers) - len(found)} of {len(answers)} items unanswered; the first: {first.detail}",
            where="answers", fix="repeat the command: what was answered is cached",
        )  # fmt: skip
        error.exit_code = 3
        raise error
    return found


def _ask(item: Item, sample: int, replies: list[str], sampling: Sampling, seed: int, turn: int) -> Ask:
    key: tuple[Any, ...] = ("evaluate", seed, item.id, f"{sampling.temperature:g}")
    key += ((sample,) if sample else ()) + (("turn", turn) if turn else ())
    return Ask(conversation(item, replies), key, item.plain)


def _answer(item: Item, sample: int, replies: Sequence[Reply]) -> Answer:
    cut = any(reply.finish == "length" for reply in replies)
    later = tuple(reply.text for reply in replies[1:])
    return Answer(item.id, replies[0].text, "length" if cut else "stop", sum(r.tokens for r in replies), later, sample)


def _likelihoods(items: Sequence[Item], writer: Writer, samples: int) -> list[Answer | Failure]:
    if samples != 1 or not all(item.continuations for item in items):
        raise SuiteError("likelihoods and written answers cannot be mixed or sampled in one suite", where="tasks",
                         fix="score tasks of the two kinds apart, with samples=1")  # fmt: skip
    asks = [Ask(item.messages, (), item.plain) for item in items]
    found = writer.likelihoods(asks, [item.continuations for item in items])
    return [Answer(item.id, "", "stop", 0, likelihoods=values) for item, values in zip(items, found, strict=True)]


class LocalWriter:
    """Weights in this process. A prompt that leaves no room in the model's context gets an empty, cut-off reply."""

    def __init__(self, generator: Generator, codec: ChatCodec) -> None:
        self.generator, self.codec = generator, codec

    def encode(self, ask: Ask) -> list[int]:
        """The prompt's token ids."""
        if ask.plain:
            return list(self.codec.tokenizer(ask.messages[0]["content"])["input_ids"])
        return self.codec.prompt(ask.messages)

    @property
    def context(self) -> int:
        """The longest row that the model was made for, in tokens."""
        return int(self.generator.model.config.max_position_embeddings)

    def write(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply | Failure]:
        prompts = [self.encode(ask) for ask in asks]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) < self.context]
        written = self.generator.generate([prompts[i] for i in fits], sampling, [asks[i].key for i in fits]) if fits else []
        replies: list[Reply | Failure] = [Reply("", "length", 0) for _ in asks]
        for i, reply in zip(fits, written, strict=True):
            text = self.codec.text(reply.tokens)
            if asks[i].plain:  # what continues a text may begin with a blank, and a stop string may be one
                text = self.codec.tokenizer.decode(reply.tokens, skip_special_tokens=True)
            replies[i] = Reply(text, reply.finish, len(reply.tokens))
        return replies

    def likelihoods(self, asks: Sequence[Ask], continuations: Sequence[Sequence[str]]) -> list[tuple[tuple[float, bool], ...]]:
        rows = [self._row(ask, text) for ask, texts in zip(asks, continuations, strict=True) for text in texts]
        long = sum(len(start) + len(text) > self.context for start, text in rows)
        if long:
            raise SuiteError(f"{long} of {len(rows)} texts with their prompts are longer than the model's {self.context} tokens",
                             where="--model", fix="fewer examples (--set num_fewshot=0), or a model that reads more")  # fmt: skip
        found = iter(self.generator.likelihoods(rows))
        return [tuple(next(found) for _ in texts) for texts in continuations]

    def _row(self, ask: Ask, text: str) -> tuple[list[int], list[int]]:
        """Ids of prompt and continuation, told apart after both were encoded as one, as lm-eval does.

        Blanks at the end of the prompt count to the continuation, since tokens often begin with one.
        """
        prompt = ask.messages[0]["content"]
        if not ask.plain:
            prompt = self.codec.rendered(ask.messages)

        def encode(what: str) -> list[int]:
            return list(self.codec.tokenizer(what, add_special_tokens=ask.plain)["input_ids"])

        start, both = encode(prompt.rstrip()), encode(prompt + text)
        if start:
            return start, both[len(start) :]
        bos = self.codec.tokenizer.bos_token_id
        return [self.codec.tokenizer.eos_token_id if bos is None else bos], both


class ServedWriter:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def write(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply | Failure]:
        if any(ask.plain for ask in asks):
            raise CapabilityError("texts to be continued cannot be asked of a chat server", where="--model",
                                  fix="score a checkpoint, or let the task use chat messages: --set chat=true")  # fmt: skip
        bodies = [
            {
                "messages": [dict(message) for message in ask.messages], "temperature": sampling.temperature,
                "max_tokens": sampling.max_tokens, "seed": digest(*ask.key) % 2**31,
            }
            for ask in asks
        ]  # fmt: skip
        return [_read(reply) for reply in self._client.call(CHAT, bodies)]

    def likelihoods(self, asks: Sequence[Ask], continuations: Sequence[Sequence[str]]) -> list[tuple[tuple[float, bool], ...]]:
        raise CapabilityError("a chat server does not tell the likelihood of given texts", where="--model",
                              fix="score a checkpoint, or a task that generates text")  # fmt: skip


def _read(reply: dict[str, Any] | Failure) -> Reply | Failure:
    if isinstance(reply, Failure):
        return reply
    choice = (reply.get("choices") or [{}])[0]
    text = text_of(choice)
    if isinstance(text, Failure):
        return text
    used = int((reply.get("usage") or {}).get("completion_tokens", 0))
    return Reply(text.strip(), "length" if choice.get("finish_reason") == "length" else "stop", used)

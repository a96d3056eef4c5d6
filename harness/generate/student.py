"""The student as methods see it: rollouts on the live weights, every one metered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from harness.errors import CapabilityError
from harness.generate.base import Generator
from harness.ledger import Ledger
from harness.types import Message, Prompt, Rollout, Sampling

PROBE: Sequence[Message] = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


class ChatCodec:
    """Token ids of conversations and back, through a tokenizer's chat template. The only place that encodes.

    Args:
        ends: ids that end an answer by the model's own configuration, beside the tokenizer's end token.
        template: further arguments of the chat template, such as `enable_thinking`.
        system: the system message of conversations that have none.
    """

    def __init__(
        self, tokenizer: Any, ends: int | Iterable[int] | None = None, template: Mapping[str, Any] | None = None, system: str = ""
    ) -> None:
        self.tokenizer, self.template, self.system = tokenizer, dict(template or {}), system
        self.configured = frozenset([ends] if isinstance(ends, int) else ends or ())

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer: those of the configuration, the tokenizer's, and the one the template ends a turn with.

        Raises:
            CapabilityError: there is none.
        """
        own = self.tokenizer.eos_token_id
        found = {*self.configured, *([] if own is None else [own]), *self._turn_end()}
        if not found:
            raise CapabilityError(
                f"{type(self.tokenizer).__name__} names no token that ends an answer", where="eos_token",
                fix="set eos_token in its tokenizer_config.json, or eos_token_id in generation_config.json",
            )  # fmt: skip
        return frozenset(found)

    @property
    def pad(self) -> int:
        """The id that stands where a row has no token; it is never attended to."""
        own = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return int(next((token for token in own if token is not None), min(self.ends)))

    def _turn_end(self) -> list[int]:
        """The special token that the template puts behind a reply, if it does."""
        if not self.tokenizer.chat_template:
            return []
        try:
            start, whole = self._ids(PROBE[:1], True), self._ids(PROBE, False)
        except CapabilityError:  # a template that takes other conversations only; what it cannot render is told when it is asked
            return []
        special = {token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}
        reply = whole[len(start) :] if whole[: len(start)] == start else []
        for place, token in enumerate(reply):
            if token in special and "b" in self.tokenizer.decode(reply[:place]):
                return [token]
        return []

    def rendered(self, messages: Sequence[Message], prompting: bool = True, tokenize: bool = False) -> Any:
        """A conversation as the template writes it, as text or with `tokenize` as ids.

        Raises:
            CapabilityError: there is no template, or it does not take such a conversation.
        """
        from jinja2 import TemplateError

        turns = [dict(message) for message in messages]
        if self.system and not any(turn["role"] == "system" for turn in turns):
            turns = [{"role": "system", "content": self.system}, *turns]
        try:
            return self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=prompting, tokenize=tokenize, **({"return_dict": False} if tokenize else {}),
                **self.template,
            )  # fmt: skip
        except (TemplateError, ValueError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise CapabilityError(
                f"the chat template does not take a conversation of {roles}: {str(error).strip().splitlines()[0]}",
                where="chat_template",
                fix="use the tokenizer of an instruction-tuned model; some templates take no system message",
            ) from error

    def _ids(self, messages: Sequence[Message], prompting: bool) -> list[int]:
        return list(self.rendered(messages, prompting, tokenize=True))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant begins to write."""
        return self._ids(messages, True)

    def completion(self, messages: Sequence[Message], text: str) -> list[int]:
        """Ids of `text` as the assistant's reply, up to and including the first token that ends it.

        Raises:
            CapabilityError: the template renders a reply otherwise than it prompts for one.
        """
        start = self.prompt(messages)
        whole = self._ids([*messages, {"role": "assistant", "content": text}], False)
        if whole[: len(start)] != start:
            raise CapabilityError(
                "the chat template does not continue its own generation prompt, so text cannot be trained on",
                where="chat_template",
                fix="switch thinking off (template: {enable_thinking: false}), or use a tokenizer that renders both alike",
            )
        reply = whole[len(start) :]
        end = next((place for place, token in enumerate(reply) if token in self.ends), None)
        own = self.tokenizer.eos_token_id
        return [*reply, min(self.ends) if own is None else own] if end is None else reply[: end + 1]

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


class MeteredStudent:
    """Samples rollouts and charges them; draws are keyed by (seed, prompt, visit, sample)."""

    def __init__(
        self, generator: Generator, codec: ChatCodec, ledger: Ledger, seed: int, max_tokens: int, parameters: int
    ) -> None:
        self._generator, self._codec, self._ledger = generator, codec, ledger
        self._seed, self._max_tokens, self._parameters = seed, max_tokens, parameters

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        encoded = [self._codec.prompt(prompt.messages) for prompt in prompts]
        keys = [("rollout", self._seed, prompt.id, prompt.visit, prompt.turn, i) for prompt in prompts for i in range(count)]
        rows = [ids for ids in encoded for _ in range(count)]
        written = iter(self._generator.generate(rows, Sampling(temperature, self._max_tokens), keys))
        groups = []
        for prompt, ids in zip(prompts, encoded, strict=True):
            replies = [next(written) for _ in range(count)]
            sampled = sum(len(reply.tokens) for reply in replies)
            self._ledger.charge("rollouts", count)
            self._ledger.charge("student_tokens", sampled)
            self._ledger.charge("flops", 2.0 * self._parameters * (len(ids) * count + sampled))
            groups.append(
                [
                    Rollout(prompt, ids, r.tokens, r.logprobs, self._codec.text(r.tokens), r.finish, r.version)
                    for r in replies
                ]
            )  # fmt: skip
        return groups

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return self._codec.prompt(messages)

    def written(self, prompt: Prompt, text: str) -> Rollout:
        tokens = self._codec.completion(prompt.messages, text)
        whole = len(tokens) <= self._max_tokens
        return Rollout(
            prompt, self._codec.prompt(prompt.messages), tokens[: self._max_tokens], None, text, "stop" if whole else "length"
        )

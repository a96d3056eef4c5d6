"""The student as methods see it: rollouts on the live weights, every one metered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import CapabilityError
from harness.generate.hf import HFGenerator
from harness.ledger import Ledger
from harness.types import Message, Prompt, Rollout, Sampling


class ChatCodec:
    """Token ids of conversations and back, through a tokenizer's chat template. The only place that encodes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant begins to write."""
        return list(
            self.tokenizer.apply_chat_template([dict(m) for m in messages], add_generation_prompt=True, return_dict=False)
        )

    def completion(self, messages: Sequence[Message], text: str) -> list[int]:
        """Ids of `text` as the assistant's reply, up to and including the end token.

        Raises:
            CapabilityError: the template renders a reply otherwise than it prompts for one.
        """
        start = self.prompt(messages)
        whole = list(
            self.tokenizer.apply_chat_template(
                [*(dict(m) for m in messages), {"role": "assistant", "content": text}], return_dict=False
            )
        )
        if whole[: len(start)] != start:
            raise CapabilityError(
                "the chat template does not continue its own generation prompt, so text cannot be trained on",
                fix="use a tokenizer whose template renders prompt and reply alike (thinking switched off)",
            )
        reply = whole[len(start) :]
        end = self.tokenizer.eos_token_id
        return reply[: reply.index(end) + 1] if end in reply else [*reply, end]

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


class MeteredStudent:
    """Samples rollouts and charges them; draws are keyed by (seed, prompt, visit, sample)."""

    def __init__(
        self, generator: HFGenerator, codec: ChatCodec, ledger: Ledger, seed: int, max_tokens: int, parameters: int
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

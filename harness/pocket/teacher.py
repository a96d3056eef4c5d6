"""The neural teacher behind the pocket server: sampling and scoring with local weights, and exact token counts.

Axes: B prompts of one request, L prompt tokens, V vocabulary. A request never shares a batch with another, so a
reply depends on its own request alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.seeds import Key, digest
from harness.types import Finish, Sampling

ROWS = 64

PromptLogprobs = list[dict[str, dict[str, Any]] | None]


class BadRequest(Exception):
    """A request that the teacher cannot serve as it stands."""


@dataclass(frozen=True)
class Written:
    text: str
    finish: Finish
    tokens: list[int]
    """The ids written, the one that ended the text included."""


class NeuralTeacher:
    """A causal language model and its tokenizer, read in float32.

    Args:
        folder: a Hugging Face model folder; its tokenizer has a chat template.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from harness.generate.hf import HFGenerator

        torch.set_num_threads(1)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.context: int = self.model.config.max_position_embeddings
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self._generator = HFGenerator(self.model, [end], end if pad is None else pad, ROWS)

    def chat_tokens(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The prompt of a conversation through the chat template."""
        return self.tokens(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, no special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def echo(self, prompt: list[int], written: Written) -> str:
        """A prompt as it was given with its continuation, in which special tokens are not shown."""
        hidden = set(self.tokenizer.all_special_ids)
        return str(self.tokenizer.decode([*prompt, *(token for token in written.tokens if token not in hidden)]))

    def write(
        self, prompts: Sequence[list[int]], count: int, temperature: float, max_tokens: int | None, seed: int
    ) -> list[list[Written]]:
        """`count` continuations of each prompt, [B][count]; the draws depend on the seed, the prompt and the index.

        Args:
            max_tokens: the most tokens of a continuation; None for what the context leaves to the longest prompt.

        Raises:
            BadRequest: a prompt is empty, holds unknown ids, or leaves no room.
        """
        self._check(prompts, max_tokens or 0)
        room = max_tokens if max_tokens is not None else self.context - max(map(len, prompts))
        if room == 0:
            return [[Written("", "length", [])] * count for _ in prompts]
        keys: list[Key] = [("oracle", seed, digest(*prompt), index) for prompt in prompts for index in range(count)]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        written = [
            Written(self.tokenizer.decode(made.tokens, skip_special_tokens=True), made.finish, made.tokens)
            for made in self._generator.generate(repeated, Sampling(temperature, room), keys)
        ]
        return [written[start : start + count] for start in range(0, len(written), count)]

    def score(self, prompts: Sequence[list[int]], top: int) -> list[PromptLogprobs]:
        """Log-probs of the prompts' own tokens, in the form that vLLM gives them.

        Returns:
            For each prompt one entry a token, the first null: a mapping from token id (as a string) to its log-prob,
            rank (1 is the most probable) and text, for the token itself and the `top` most probable ones.

        Raises:
            BadRequest: a prompt is empty, holds unknown ids or is longer than the context.
        """
        import torch

        self._check(prompts, 0)
        scored: list[PromptLogprobs] = []
        with torch.inference_mode():
            for start in range(0, len(prompts), ROWS):
                rows = prompts[start : start + ROWS]
                longest = max(map(len, rows))
                ids_BL = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
                seen_BL = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
                logp_BLV = torch.log_softmax(self.model(input_ids=ids_BL, attention_mask=seen_BL).logits[:, :-1].float(), -1)
                own_BL1 = logp_BLV.gather(-1, ids_BL[:, 1:, None])
                rank_BL = (1 + (logp_BLV > own_BL1).sum(-1)).tolist()
                best = logp_BLV.topk(top, -1)
                best_values, best_ids, own_BL = best.values.tolist(), best.indices.tolist(), own_BL1[..., 0].tolist()
                for b, row in enumerate(rows):
                    entries: PromptLogprobs = [None]
                    for place, token in enumerate(row[1:]):
                        told = {
                            str(other): self._told(other, value, rank)
                            for rank, (other, value) in enumerate(zip(best_ids[b][place], best_values[b][place], strict=True), 1)
                        }
                        entries.append({str(token): self._told(token, own_BL[b][place], rank_BL[b][place]), **told})
                    scored.append(entries)
        return scored

    def first_token(self, prompt: list[int], written: Written, top: int) -> dict[str, Any]:
        """The first token of a reply and the `top` likeliest ones with their log-probs, in the form of OpenAI's chats."""
        import torch

        with torch.inference_mode():
            logp_V = torch.log_softmax(self.model(input_ids=torch.tensor([prompt]), logits_to_keep=1).logits[0, -1].float(), -1)
        best = logp_V.topk(top)

        def told(token: int) -> dict[str, Any]:
            text = self.tokenizer.decode([token])
            return {"token": text, "logprob": float(logp_V[token]), "bytes": list(text.encode())}

        return {**told(written.tokens[0]), "top_logprobs": [told(token) for token in best.indices.tolist()]}

    def _told(self, token: int, logprob: float, rank: int) -> dict[str, Any]:
        return {"logprob": logprob, "rank": rank, "decoded_token": self.tokenizer.decode([token])}

    def _check(self, prompts: Sequence[list[int]], extra: int) -> None:
        size = self.model.config.vocab_size
        for prompt in prompts:
            if not prompt:
                raise BadRequest("a prompt has no tokens; send at least one")
            if len(prompt) + extra > self.context:
                raise BadRequest(
                    f"the context is {self.context} tokens, but a prompt has {len(prompt)} and {extra} were asked for"
                )
            if not all(0 <= token < size for token in prompt):
                raise BadRequest(f"token ids must lie in 0..{size - 1}, got {min(prompt)}..{max(prompt)}")

"""Log-probs of completions under the policy and frozen models, streamed so that no N x T x V tensor ever exists.

Axes: N rollouts, P prompts that rollouts share, L tokens of a padded row (prompt and completion), T completion tokens,
C completion positions of all rows in one line (or a chunk of them), H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.errors import CapabilityError
from harness.objectives.logprobs import gather_logprobs, token_logprobs
from harness.types import Batch

PerToken = Callable[..., tuple[Tensor, ...]]

SHARE_AT = 1 / 8
"""Prompts of several rows are read once where that saves at least this share of the tokens; less is not worth a second
pass, and its attention needs a mask."""


def load_causal_lm(path: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model from a Hugging Face folder or name: safetensors only, and no code but transformers' own."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, trust_remote_code=False).eval()


@dataclass(frozen=True)
class Front:
    """Prompts that several rows share, each to be read once (P of them), and what is left to read in each row.

    A prompt's last token is left to the rows, so that all completion tokens are predicted in the rows' own pass.
    """

    ids_PL: Tensor
    seen_PL: Tensor
    """False on the padding, which stands on the left."""
    copy_N: Tensor
    """The prompt of each row."""
    rest_NT: Tensor
    """The prompt's last token and the completion without its last."""


@dataclass(frozen=True)
class Rows:
    """A batch as a model reads it: each row its prompt, its completion and padding at the end.

    Causal attention never looks right, so padding at the end needs no attention mask and shifts no position.
    """

    ids_NL: Tensor
    row_C: Tensor
    column_C: Tensor
    """Where each completion token is predicted: one position before its own."""
    step_C: Tensor
    """Its place in the completion."""
    target_C: Tensor
    read: int
    """Prompt and completion tokens, padding left out; a shared prompt counts in each row."""
    front: Front | None
    """None where reading prompts once would save too little."""

    @property
    def scored(self) -> int:
        """Completion tokens."""
        return len(self.target_C)


def rows_of(batch: Batch, view: str) -> Rows:
    """The rows of a batch behind the prompts of a view."""
    if view not in batch.views:
        raise ValueError(f"no view {view!r} in this batch; it has {sorted(batch.views)}")
    prompts, device = batch.views[view], batch.tokens_NT.device
    row_C, step_C = batch.mask_NT.nonzero(as_tuple=True)
    lengths = [len(prompt) for prompt in prompts]
    start_N = torch.tensor(lengths, device=device)
    longest = int((start_N + batch.mask_NT.sum(-1).long()).max())
    widest = max(lengths)
    ids_NL = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    ids_NL[:, :widest] = torch.tensor([[*prompt, *[0] * (widest - len(prompt))] for prompt in prompts], device=device)
    target_C = batch.tokens_NT[row_C, step_C]
    place_C = start_N[row_C] + step_C
    ids_NL[row_C, place_C] = target_C
    read = sum(lengths) + len(target_C)
    return Rows(ids_NL, row_C, place_C - 1, step_C, target_C, read, _front(prompts, batch.tokens_NT, read))


def _front(prompts: Sequence[Sequence[int]], tokens_NT: Tensor, read: int) -> Front | None:
    known: dict[tuple[int, ...], int] = {}
    copy = [known.setdefault(tuple(prompt), len(known)) for prompt in prompts]
    saved = sum(map(len, prompts)) - sum(map(len, known))
    if saved < SHARE_AT * read or min(map(len, known)) < 2:
        return None
    device, longest = tokens_NT.device, max(map(len, known)) - 1
    ids_PL = torch.tensor([[*[0] * (longest + 1 - len(ids)), *ids[:-1]] for ids in known], device=device)
    seen_PL = torch.tensor([[i + len(ids) > longest for i in range(longest)] for ids in known], device=device)
    last_N1 = torch.tensor([[prompt[-1]] for prompt in prompts], device=device)
    return Front(ids_PL, seen_PL, torch.tensor(copy, device=device), torch.cat([last_N1, tokens_NT[:, :-1]], -1))


class StreamedLM(nn.Module):
    """A causal language model whose `forward` applies a function to its log-probs, chunk by chunk.

    The loop over chunks sits inside `forward`, so a wrapper that gathers weights around `forward` (DDP, FSDP) covers it.

    Args:
        model: a Hugging Face causal language model whose logits are its output embeddings applied to its decoder.
        vocabulary: ids below it count; a wider, padded output layer is cut to it before the softmax.
        temperature: what the logits are divided by.
        chunk: completion positions whose log-probs exist at the same time.

    Raises:
        CapabilityError: the output layer is narrower than the vocabulary, or the model does more than a linear map
            between its decoder and its logits.
    """

    def __init__(self, model: Any, *, vocabulary: int, temperature: float = 1.0, chunk: int = 1024) -> None:
        super().__init__()
        self.model, self.vocabulary, self.temperature, self.chunk = model, vocabulary, temperature, chunk
        self._check()

    @torch.no_grad()
    def _check(self) -> None:
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.model.device)
        direct = self.model(input_ids=ids, use_cache=False).logits
        ours = self.model.get_output_embeddings()(self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        name = type(self.model).__name__
        if direct.shape[-1] < self.vocabulary:
            raise CapabilityError(
                f"{name} has {direct.shape[-1]} output tokens, the run's vocabulary is {self.vocabulary}",
                fix="use models that share a tokenizer, and a vocabulary no wider than the narrowest of them",
            )
        if not torch.allclose(direct, ours, rtol=1e-3, atol=1e-3):
            raise CapabilityError(
                f"{name} changes its logits after the output layer (they differ by {(direct - ours).abs().max():.3g}), "
                "so its log-probs cannot be streamed",
                fix="use a model without logit scaling or soft-capping, such as Qwen2, Qwen3 or Llama",
            )

    def hidden(self, rows: Rows) -> Tensor:
        """Last hidden states where completion tokens are predicted, [C, H]."""
        from transformers import DynamicCache, DynamicLayer

        decoder, front, cache = self.model.get_decoder(), rows.front, DynamicCache(config=self.model.config)
        if front is None or not all(type(layer) is DynamicLayer for layer in cache.layers):
            return decoder(input_ids=rows.ids_NL, use_cache=False).last_hidden_state[rows.row_C, rows.column_C]
        place_PL = (front.seen_PL.long().cumsum(-1) - 1).clamp(min=0)
        decoder(
            input_ids=front.ids_PL, attention_mask=front.seen_PL.long(), position_ids=place_PL,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache.batch_select_indices(front.copy_N)
        seen_NL = front.seen_PL[front.copy_N].long()
        steps_T = torch.arange(front.rest_NT.shape[1], device=seen_NL.device)
        hidden_NTH = decoder(
            input_ids=front.rest_NT, position_ids=seen_NL.sum(-1, keepdim=True) + steps_T, past_key_values=cache, use_cache=True,
            attention_mask=torch.cat([seen_NL, torch.ones_like(front.rest_NT)], -1),
        ).last_hidden_state  # fmt: skip
        return hidden_NTH[rows.row_C, rows.step_C]

    def logprobs(self, hidden_CH: Tensor) -> Tensor:
        """Log-softmax at the temperature, [C, V], in float32 at least."""
        return token_logprobs(self.model.get_output_embeddings()(hidden_CH)[:, : self.vocabulary], self.temperature)

    def forward(self, fn: PerToken, rows: Rows, frozen: Sequence[tuple[StreamedLM, Tensor]] = ()) -> tuple[Tensor, ...]:
        """`fn(own_CV, *frozen_CV, tokens_C)` over chunks, its results joined to [C] each.

        Args:
            frozen: other models with their hidden states [C, H] at the same completion positions.
        """

        def one(tokens_C: Tensor, own_CH: Tensor, *others_CH: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                others = [model.logprobs(hidden) for (model, _), hidden in zip(frozen, others_CH, strict=True)]
            values = fn(self.logprobs(own_CH), *others, tokens_C)
            if any(value.shape != tokens_C.shape for value in values):
                shapes = [tuple(value.shape) for value in values]
                raise ValueError(f"fn must return a tuple of tensors [{len(tokens_C)}], one value a position; got {shapes}")
            return values

        parts = [each.split(self.chunk) for each in (rows.target_C, self.hidden(rows), *(hidden for _, hidden in frozen))]
        if len(parts[0]) > 1 and torch.is_grad_enabled():
            chunks = [checkpoint(one, *part, use_reentrant=False, preserve_rng_state=False) for part in zip(*parts, strict=True)]
        else:
            chunks = [one(*part) for part in zip(*parts, strict=True)]
        return tuple(torch.cat(column) for column in zip(*chunks, strict=True))


class TrainModels:
    """What a loss may ask of the models (`harness.types.Models`): the policy with gradient, the others frozen.

    Args:
        policy: the module that is trained, possibly wrapped for distribution.
        frozen: other models by name.
        charge: called for each pass of a frozen model with its name, the tokens it read (prompts and completions) and the
            completion tokens it scored.
        bf16: autocast to bfloat16, on CUDA only.

    Attributes:
        policy_tokens: prompt and completion tokens of all policy passes so far that kept a gradient.
    """

    def __init__(
        self, policy: nn.Module, frozen: Mapping[str, StreamedLM], charge: Callable[[str, int, int], None], bf16: bool = False
    ) -> None:
        self.policy, self.frozen, self.charge, self.bf16 = policy, frozen, charge, bf16
        self.policy_tokens = 0

    def logprobs(self, batch: Batch, view: str = "") -> Tensor:
        """Policy log-probs of the completion tokens, [N, T], 0 where masked."""
        return self._stream(lambda logq_CV, tokens_C: (gather_logprobs(logq_CV, tokens_C),), batch, view, ())[0]

    def per_token(self, fn: PerToken, batch: Batch, frozen: Sequence[tuple[str, str]] = ()) -> tuple[Tensor, ...]:
        """`fn(policy_CV, *frozen_CV, tokens_C)` over chunks of completion positions; each result [N, T], 0 where masked.

        `frozen` names (model, view) pairs; they are passed through once each, without gradient, and charged.
        """
        return self._stream(fn, batch, "", frozen)

    def _stream(self, fn: PerToken, batch: Batch, view: str, frozen: Sequence[tuple[str, str]]) -> tuple[Tensor, ...]:
        rows = rows_of(batch, view)
        others = [(self._frozen(name), self._hidden(name, rows_of(batch, at))) for name, at in frozen]
        with self._autocast(rows):
            values = self.policy(fn, rows, others)
        if torch.is_grad_enabled():
            self.policy_tokens += rows.read
        places = batch.mask_NT.nonzero(as_tuple=True)
        return tuple(value.new_zeros(batch.mask_NT.shape).index_put(places, value) for value in values)

    @torch.no_grad()
    def _hidden(self, name: str, rows: Rows) -> Tensor:
        self.charge(name, rows.read, rows.scored)
        with self._autocast(rows):
            return self._frozen(name).hidden(rows)

    def _frozen(self, name: str) -> StreamedLM:
        if name not in self.frozen:
            raise CapabilityError(
                f"the method asked for the log-probs of {name!r}; this run holds {sorted(self.frozen) or 'no frozen model'}",
                fix="declare the model in the method's needs and use a track that gives it",
            )
        return self.frozen[name]

    def _autocast(self, rows: Rows) -> torch.autocast:
        # entered anew for each pass: within one context, weights once cast without gradient would be used again with it
        device = rows.ids_NL.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.bf16 and device == "cuda")

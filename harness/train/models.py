"""Log-probs of completions under the policy and frozen models, streamed so that no N x T x V tensor ever exists.

Axes: N rollouts, K of them that are read, P prompts that rollouts share, L tokens of a padded row (prompt and
completion), T completion tokens, C completion positions of all rows in one line (or a chunk of them), Q positions of a
part, H hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.errors import CapabilityError
from harness.objectives.logprobs import gather_logprobs, token_logprobs
from harness.types import Batch, Mix

from .lora import Adapter
from .rows import Rows, rows_of

PerToken = Callable[..., tuple[Tensor, ...]]


class StreamedLM(nn.Module):
    """A causal language model whose `forward` applies a function to its log-probs, chunk by chunk.

    The loop over chunks sits inside `forward`, so a wrapper that gathers weights around `forward` (DDP, FSDP) covers it.

    Args:
        model: a Hugging Face causal language model whose logits are its output embeddings applied to its decoder.
        vocabulary: ids below it count; a wider, padded output layer is cut to it before the softmax.
        temperature: what the logits are divided by.
        chunk: completion positions whose log-probs exist at the same time.
        without: an adapter of the model that is off whenever it is read here.
        recompute: keep no activations of the layers for the gradient, but compute them again.

    Raises:
        CapabilityError: the output layer is narrower than the vocabulary, the model's logits are not its output layer's,
            scaled or capped as its config says, or its layers cannot be computed again.
    """

    def __init__(
        self, model: Any, *, vocabulary: int, temperature: float = 1.0, chunk: int = 1024, without: Adapter | None = None,
        recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.vocabulary, self.temperature, self.chunk = model, vocabulary, temperature, chunk
        self.without, self.recomputed = without, _recomputable(model) if recompute else []
        self.sharded = False
        """Whether other processes hold parts of the weights, and so must take part in every pass."""
        self._check()

    @torch.no_grad()
    def _check(self) -> None:
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.model.device)
        direct = self.model(input_ids=ids, use_cache=False).logits
        ours = self.logits(self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        name = type(self.model).__name__
        if direct.shape[-1] < self.vocabulary:
            raise CapabilityError(
                f"{name} has {direct.shape[-1]} output tokens, the run's vocabulary is {self.vocabulary}",
                fix="use models that share a tokenizer, and a vocabulary no wider than the narrowest of them",
            )
        direct = direct[..., : self.vocabulary]
        if not torch.allclose(direct, ours, rtol=1e-3, atol=1e-3):
            raise CapabilityError(
                f"{name} changes its logits after the output layer in a way that is not known here (they differ by "
                f"{(direct - ours).abs().max():.3g}), so its log-probs cannot be streamed",
                fix="use a model whose logits are its output layer's, scaled or capped as its config says: Qwen, Llama, Gemma",
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """The layers as they are to be read: without an adapter, or computed again for a gradient."""
        again = self.recomputed if torch.is_grad_enabled() else []
        with self.without.off() if self.without else contextlib.nullcontext():
            for layer in again:  # of these modules alone: their parts stay in eval mode, without dropout
                layer.training = True
            try:
                yield
            finally:
                for layer in again:
                    layer.training = False

    def hidden(self, rows: Rows) -> Tensor:
        """Last hidden states where completion tokens are predicted, [C, H]."""
        with self._reading():
            return self._hidden(rows)

    def _hidden(self, rows: Rows) -> Tensor:
        from transformers import DynamicCache, DynamicLayer

        decoder, front, cache = self.model.get_decoder(), rows.front, DynamicCache(config=self.model.config)
        # a layer that is computed again cannot write to a cache; one that other processes hold parts of must be called equally
        # often in all of them, and have all gradients at its outputs
        again = self.sharded or (self.recomputed and torch.is_grad_enabled())
        if front is None or again or not all(type(layer) is DynamicLayer for layer in cache.layers):
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

    def logits(self, hidden_CH: Tensor) -> Tensor:
        """What the model's own head makes of last hidden states, cut to the vocabulary."""
        return _bent(self.model.get_output_embeddings()(hidden_CH)[..., : self.vocabulary], self.model.config)

    def logprobs(self, hidden_CH: Tensor) -> Tensor:
        """Log-softmax at the temperature, [C, V], in float32 at least."""
        return token_logprobs(self.logits(hidden_CH), self.temperature)

    @property
    def parameter_count(self) -> int:
        """Of the weights that are read."""
        unread = sum(parameter.numel() for parameter in self.without.parameters.values()) if self.without else 0
        return sum(parameter.numel() for parameter in self.model.parameters()) - unread

    @torch.no_grad()
    def next_logprobs(self, prompts: Sequence[Sequence[int]], ids: Sequence[int]) -> list[list[float]]:
        """Log-probs at temperature 1 of some ids as the token after each prompt, [Q][K]."""
        device, longest = self.model.device, max(map(len, prompts))
        last_Q = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        ids_QL = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        with self._reading():
            hidden_QLH = self.model.get_decoder()(input_ids=ids_QL, use_cache=False).last_hidden_state
        logits_QV = self.logits(hidden_QLH[torch.arange(len(prompts), device=device), last_Q])
        return token_logprobs(logits_QV)[:, list(ids)].tolist()

    def forward(
        self, fn: PerToken, rows: Rows, frozen: Sequence[Sequence[Part]] = (), beside: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """`fn(own_CV, *frozen_CV, *beside_C, tokens_C)` over chunks, its results joined to [C] each.

        Args:
            frozen: other distributions at the same completion positions, each a sum of parts.
            beside: tensors [C, ...] of which `fn` gets the chunk's own part.
        """
        own_CH, count = self.hidden(rows), len(rows.target_C)

        def one(own_cH: Tensor, start: int) -> tuple[Tensor, ...]:
            span, tokens_C = slice(start, start + len(own_cH)), rows.target_C[start : start + len(own_cH)]
            with torch.no_grad():
                others = [_sum_of(parts, span) for parts in frozen]
            values = fn(self.logprobs(own_cH), *others, *(value_C[span] for value_C in beside), tokens_C)
            if any(value.shape != tokens_C.shape for value in values):
                shapes = [tuple(value.shape) for value in values]
                raise ValueError(f"fn must return a tuple of tensors [{len(tokens_C)}], one value a position; got {shapes}")
            return values

        starts = range(0, count, self.chunk)
        if len(starts) > 1 and torch.is_grad_enabled():
            chunks = [
                checkpoint(one, own_CH[at : at + self.chunk], at, use_reentrant=False, preserve_rng_state=False) for at in starts
            ]
        else:
            chunks = [one(own_CH[at : at + self.chunk], at) for at in starts]
        return tuple(torch.cat(column) for column in zip(*chunks, strict=True))


def _bent(logits: Tensor, config: Any) -> Tensor:
    """Logits as a model's own head scales or caps them; where its config says nothing of that they stay as they are.

    Soft caps are Gemma's (arXiv:2408.00118, section 2), divisors Granite's, factors Cohere's and Falcon-H1's.
    """
    own = config.get_text_config()
    for factor in (getattr(own, "logit_scale", None), getattr(own, "lm_head_multiplier", None)):
        if factor is not None and factor != 1:
            logits = logits * factor
    divisor, cap = getattr(own, "logits_scaling", None), getattr(own, "final_logit_softcapping", None)
    if divisor is not None and divisor != 1:
        logits = logits / divisor
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _recomputable(model: Any) -> list[Any]:
    """The layers of a model whose activations need not be kept, told so."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise CapabilityError(
            f"the layers of {type(model).__name__} cannot be computed again for the gradient",
            where="training.activation_checkpointing", fix="leave it off, and lower training.micro_batch_tokens",
        )  # fmt: skip
    # the first is its name of late, older versions of transformers have the second alone
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    return layers


@dataclass(frozen=True)
class Part:
    """One frozen model's share in a distribution: its hidden states at some of the positions, and its coefficient there."""

    model: StreamedLM
    hidden_QH: Tensor
    place_C: Tensor | None = None
    """Which of the hidden states belongs to a position, -1 where none does; None where they are the positions' own."""
    coef_C: Tensor | None = None


def _sum_of(parts: Sequence[Part], span: slice) -> Tensor:
    """Log-probs [c, V] of a span of positions: a single part's own, or the normalised sum."""
    if len(parts) == 1 and parts[0].place_C is None:
        return parts[0].model.logprobs(parts[0].hidden_QH[span])
    total_CV = None
    for part in parts:
        assert part.place_C is not None
        assert part.coef_C is not None
        place_C = part.place_C[span]
        here = (place_C >= 0).nonzero()[:, 0]
        logp_QV = part.model.logprobs(part.hidden_QH[place_C[here]])
        if total_CV is None:
            total_CV = logp_QV.new_zeros(len(place_C), logp_QV.shape[-1])
        total_CV.index_add_(0, here, part.coef_C[span][here, None] * logp_QV)
    assert total_CV is not None
    return torch.log_softmax(total_CV, -1)


class TrainModels:
    """What a loss may ask of the models (`harness.types.Models`): the policy with gradient, the others frozen.

    Args:
        policy: the model that is trained.
        frozen: other models by name.
        charge: called for each pass of a frozen model with its name, the tokens it read (prompts and completions) and the
            completion tokens it scored.
        bf16: autocast to bfloat16, on CUDA only.

    Attributes:
        policy_tokens: prompt and completion tokens of all policy passes so far that kept a gradient.
    """

    def __init__(
        self, policy: StreamedLM, frozen: Mapping[str, StreamedLM], charge: Callable[[str, int, int], None], bf16: bool = False
    ) -> None:
        self.policy, self.frozen, self.charge, self.bf16 = policy, frozen, charge, bf16
        self.policy_tokens = 0

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        """Policy log-probs of the completion tokens, [N, T], 0 where masked and in rows that are not kept."""
        return self._stream(lambda logq_CV, tokens_C: (gather_logprobs(logq_CV, tokens_C),), batch, view, (), keep_N)[0]

    def per_token(
        self, fn: PerToken, batch: Batch, frozen: Sequence[tuple[str, str] | Mix] = (), keep_N: Tensor | None = None,
        beside: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """`fn(policy_CV, *frozen_CV, *beside_C, tokens_C)` over chunks of completion positions; each result [N, T], 0 where
        masked.

        `frozen` names (model, view) pairs or mixes; they are passed through once each, without gradient, and charged.
        `beside` are tensors [N, T, ...] of which `fn` gets the positions' own values.
        """
        return self._stream(fn, batch, "", frozen, keep_N, beside)

    def _stream(
        self, fn: PerToken, batch: Batch, view: str, frozen: Sequence[tuple[str, str] | Mix], keep_N: Tensor | None,
        beside: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:  # fmt: skip
        rows = rows_of(batch, view, keep_N)
        places = (rows.kept_K[rows.row_C], rows.step_C)
        others = [self._parts(each, batch, rows, keep_N) for each in frozen]
        with self._autocast(rows):
            values = self.policy(fn, rows, others, [value[places] for value in beside])
        if torch.is_grad_enabled():
            self.policy_tokens += rows.read
        return tuple(value.new_zeros(batch.mask_NT.shape).index_put(places, value) for value in values)

    def _parts(self, frozen: tuple[str, str] | Mix, batch: Batch, rows: Rows, keep_N: Tensor | None) -> list[Part]:
        if not isinstance(frozen, Mix):
            name, view = frozen
            return [Part(self._frozen(name), self._hidden(name, rows_of(batch, view, keep_N)))]
        parts = []
        position_NT = torch.full(batch.mask_NT.shape, -1, device=batch.mask_NT.device)
        position_NT[rows.kept_K[rows.row_C], rows.step_C] = torch.arange(len(rows.target_C), device=batch.mask_NT.device)
        for name, view, coef_N in frozen.parts:
            wanted_N = coef_N != 0 if keep_N is None else (coef_N != 0) & keep_N
            if not bool(wanted_N.any()) and not self._frozen(name).sharded:
                continue
            read = rows_of(batch, view, wanted_N)
            place_C = position_NT.new_full((len(rows.target_C),), -1)
            place_C[position_NT[read.kept_K[read.row_C], read.step_C]] = torch.arange(len(read.target_C), device=place_C.device)
            parts.append(Part(self._frozen(name), self._hidden(name, read), place_C, coef_N[rows.kept_K[rows.row_C]]))
        if not parts:  # no row is wanted: something must stand in for the distribution of the one that is read
            name, view, coef_N = frozen.parts[0]
            return [Part(self._frozen(name), self._hidden(name, rows_of(batch, view, keep_N)))]
        return parts

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

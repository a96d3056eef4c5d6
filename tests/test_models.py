"""Streamed log-probs against naive full-logits code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import KINDS, VOCABULARY, batch_of, make_examples, models_of, naive, tiny
from torch import Tensor

from harness.errors import CapabilityError
from harness.objectives import categorical_kl, gather_logprobs
from harness.train.models import StreamedLM
from harness.train.rows import rows_of
from harness.types import Example, Mix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_logprobs_equal_full_logits_row_by_row(kind: str, chunk: int) -> None:
    model, examples = tiny(kind), make_examples()
    batch = batch_of(examples)
    got = models_of(model, temperature=0.7, chunk=chunk).logprobs(batch)
    rows = [r for e in examples for r in e.rollouts]
    for row, rollout in zip(got, rows, strict=True):
        wanted = gather_logprobs(naive(model, rollout.prompt_tokens, rollout.tokens, 0.7), torch.tensor(rollout.tokens))
        assert torch.allclose(row[: len(wanted)], wanted, rtol=1e-9)
        assert not row[len(wanted) :].any()


def test_right_padding_without_a_mask_equals_left_padding_with_one() -> None:
    model, batch = tiny("Llama"), batch_of(make_examples())
    rows = rows_of(batch, "")
    lengths = [len(p) + int(m.sum()) for p, m in zip(batch.views[""], batch.mask_NT, strict=True)]
    width = rows.ids_NL.shape[1]
    left = torch.stack([torch.cat([r.new_zeros(width - n), r[:n]]) for r, n in zip(rows.ids_NL, lengths, strict=True)])
    mask = torch.stack([torch.arange(width) >= width - n for n in lengths]).long()
    logits = model(input_ids=left, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    shift = torch.tensor([width - n for n in lengths])
    wanted = torch.log_softmax(logits[rows.row_C, rows.column_C + shift[rows.row_C]], -1)
    got = models_of(model).logprobs(batch)[batch.mask_NT.bool()]
    assert torch.allclose(got, gather_logprobs(wanted, rows.target_C), rtol=1e-9)


def test_a_view_equals_scoring_behind_its_prompt_directly() -> None:
    model, examples = tiny(), make_examples()
    swapped = [
        Example(tuple(replace(r, prompt_tokens=list(v)) for r, v in zip(e.rollouts, e.views["hint"], strict=True)))
        for e in examples
    ]
    models = models_of(model, {"same": model})
    direct = models.logprobs(batch_of(swapped))
    assert torch.allclose(models.logprobs(batch_of(examples), "hint"), direct, rtol=1e-9)
    (teacher,) = models.per_token(lambda q, p, t: (gather_logprobs(p, t),), batch_of(examples), [("same", "hint")])
    assert torch.allclose(teacher, direct.detach(), rtol=1e-9)
    assert not teacher.requires_grad


def test_per_token_equals_whole_distributions_and_leaves_frozen_models_alone() -> None:
    policy, teacher, examples = tiny(), tiny("Qwen2", 1), make_examples()
    batch = batch_of(examples)
    models = models_of(policy, {"teacher": teacher}, chunk=7)
    (kl,) = models.per_token(lambda q, p, t: (categorical_kl(q, p),), batch, [("teacher", "hint")])
    rows = [(r, hint) for e in examples for r, hint in zip(e.rollouts, e.views["hint"], strict=True)]
    for row, (r, hint) in zip(kl, rows, strict=True):
        wanted = categorical_kl(naive(policy, r.prompt_tokens, r.tokens), naive(teacher, list(hint), r.tokens))
        assert torch.allclose(row[: len(wanted)], wanted, rtol=1e-8)
        assert not row[len(wanted) :].any()
    kl.sum().backward()
    assert all(p.grad is not None for p in policy.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_wider_output_layer_is_cut_on_either_side() -> None:
    wide = tiny(vocabulary=VOCABULARY + 5)
    batch = batch_of(make_examples())
    models = models_of(wide, {"narrow": tiny(seed=1)})
    mass, other = models.per_token(lambda q, p, t: (q.exp().sum(-1), p.exp().sum(-1)), batch, [("narrow", "")])
    assert torch.allclose(mass, batch.mask_NT)
    assert torch.allclose(other, batch.mask_NT)
    rollout = make_examples()[0].rollouts[0]
    wanted = gather_logprobs(naive(wide, rollout.prompt_tokens, rollout.tokens), torch.tensor(rollout.tokens))
    assert torch.allclose(models.logprobs(batch)[0, : len(wanted)], wanted)
    with pytest.raises(CapabilityError, match="11 output tokens, the run's vocabulary is 12"):
        StreamedLM(tiny(), vocabulary=12)


def test_a_model_that_changes_its_logits_in_its_own_way_is_refused() -> None:
    from transformers import Qwen3ForCausalLM

    class Shifted(Qwen3ForCausalLM):  # type: ignore[misc]
        def forward(self, *arguments: Any, **named: Any) -> Any:
            out = super().forward(*arguments, **named)
            out.logits = out.logits + torch.arange(out.logits.shape[-1])
            return out

    with pytest.raises(CapabilityError, match="changes its logits after the output layer"):
        StreamedLM(Shifted(tiny().config), vocabulary=VOCABULARY)


def test_no_more_than_a_chunk_of_distributions_exists_at_a_time() -> None:
    seen: list[tuple[int, ...]] = []

    def fn(q: Tensor, p: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        seen.extend([tuple(q.shape), tuple(p.shape), (len(tokens),)])
        return (gather_logprobs(q, tokens),)

    batch = batch_of(make_examples())
    (logp,) = models_of(tiny(), {"teacher": tiny(seed=1)}, chunk=4).per_token(fn, batch, [("teacher", "")])
    calls = len(seen)
    logp.sum().backward()
    assert len(seen) == 2 * calls, "chunks are computed again for the gradient, not kept"
    assert max(shape[0] for shape in seen) == 4
    assert {shape[1:] for shape in seen} == {(VOCABULARY,), ()}


def test_frozen_passes_are_charged_once_with_their_own_tokens() -> None:
    charged: list[tuple[str, int, int]] = []
    examples = make_examples()
    models = models_of(tiny(), {"teacher": tiny(seed=1)}, lambda *charge: charged.append(charge), chunk=3)
    (kl,) = models.per_token(lambda q, p, t: (categorical_kl(q, p),), batch_of(examples), [("teacher", "hint")])
    kl.sum().backward()
    rows = [(r, hint) for e in examples for r, hint in zip(e.rollouts, e.views["hint"], strict=True)]
    scored = sum(len(r.tokens) for r, _ in rows)
    assert charged == [("teacher", sum(len(hint) for _, hint in rows) + scored, scored)]
    assert models.policy_tokens == sum(len(r.prompt_tokens) + len(r.tokens) for r, _ in rows)


def test_wrong_questions_to_the_models_are_named() -> None:
    models, batch = models_of(tiny(), {"reference": tiny()}), batch_of(make_examples())
    with pytest.raises(CapabilityError, match=r"'teacher'; this run holds \['reference'\]"):
        models.per_token(lambda q, p, t: (gather_logprobs(q, t),), batch, [("teacher", "")])
    with pytest.raises(ValueError, match=r"no view 'other' in this batch; it has \['', 'hint'\]"):
        models.logprobs(batch, "other")
    with pytest.raises(ValueError, match=r"one value a position; got \[\(\)\]"):
        models.per_token(lambda q, t: (q.sum(),), batch)


def test_rows_that_are_not_kept_are_not_read() -> None:
    """The rows that are kept have the values they have among all, the others are 0 and cost nothing."""
    model, teacher, batch = tiny(), tiny(seed=1), batch_of(make_examples())
    keep_N = torch.arange(len(batch.group_N)) % 3 == 1
    spent: list[tuple[int, int]] = []
    models = models_of(model, {"teacher": teacher}, lambda name, read, scored: spent.append((read, scored)), chunk=7)

    def both(logq_CV: Tensor, logp_CV: Tensor, tokens_C: Tensor) -> tuple[Tensor, Tensor]:
        return gather_logprobs(logq_CV, tokens_C), categorical_kl(logp_CV, logq_CV)

    whole = models.per_token(both, batch, [("teacher", "hint")])
    kept = models.per_token(both, batch, [("teacher", "hint")], keep_N)
    for all_NT, some_NT in zip(whole, kept, strict=True):
        assert torch.allclose(some_NT[keep_N], all_NT[keep_N], rtol=1e-9)
        assert not some_NT[~keep_N].any()
    tokens = int(batch.mask_NT[keep_N].sum())
    hints = sum(len(view) for view, keep in zip(batch.views["hint"], keep_N, strict=True) if keep)
    assert spent[1] == (hints + tokens, tokens)
    assert torch.allclose(models.logprobs(batch, keep_N=keep_N)[keep_N], whole[0][keep_N], rtol=1e-9)
    nobody = models.per_token(both, batch, [("teacher", "hint")], torch.zeros_like(keep_N))
    assert nobody[0].requires_grad
    assert spent[-1] == (0, 0)
    assert not nobody[0][1:].any()


def test_a_mix_is_the_normalised_product_of_powers() -> None:
    """Coefficients differ between rows, and a model skips the rows where its own is 0."""
    first, second, batch = tiny(seed=1), tiny(seed=2), batch_of(make_examples())
    count, reads = len(batch.group_N), []
    one_N, two_N = torch.ones(count).double(), torch.linspace(-1, 1, count).double()
    two_N[::2] = 0.0
    models = models_of(tiny(), {"a": first, "b": second}, lambda name, read, scored: reads.append((name, scored)), chunk=5)
    mix = Mix([("a", "", one_N), ("b", "hint", two_N)])
    (got,) = models.per_token(lambda q, p, t: (categorical_kl(p, q),), batch, [mix])
    rollouts = [(r, v) for e in make_examples() for r, v in zip(e.rollouts, e.views["hint"], strict=True)]
    for i, (rollout, hint) in enumerate(rollouts):
        total = naive(first, rollout.prompt_tokens, rollout.tokens) + two_N[i] * naive(second, list(hint), rollout.tokens)
        policy = naive(tiny(), rollout.prompt_tokens, rollout.tokens)
        wanted = categorical_kl(torch.log_softmax(total, -1), policy)
        assert torch.allclose(got[i, : len(wanted)], wanted, rtol=1e-9), i
    assert reads == [("a", int(batch.mask_NT.sum())), ("b", int(batch.mask_NT[two_N != 0].sum()))]

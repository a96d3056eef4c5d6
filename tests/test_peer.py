"""Objectives against TRL's own code, called on random tensors. Skipped where TRL is not installed (extra `peer`).

Formulas that TRL keeps inside a trainer are reached by calling the trainer's method on a stand-in that holds the few
attributes it reads.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.objectives import (
    clipped_policy_gradient,
    dpo,
    gather_logprobs,
    jensen_shannon,
    sequence_logprobs,
    simpo,
    token_logprobs,
)

pytest.importorskip("trl")
pytestmark = pytest.mark.peer

DTYPES = [torch.float32, torch.float64]
ROWS, STEPS, VOCABULARY = 6, 9, 13


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def random_mask(dtype: torch.dtype) -> Tensor:
    """Completions of unequal length, each of two tokens at least, [N, T]."""
    return (torch.arange(STEPS) < torch.randint(2, STEPS + 1, (ROWS, 1))).to(dtype)


def accelerator() -> Any:
    """One process: what is gathered or reduced comes back as it is."""
    return SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.9])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jensen_shannon_equals_gkd(beta: float, temperature: float, dtype: torch.dtype) -> None:
    from trl.experimental.gkd import GKDTrainer

    student = (3 * torch.randn(ROWS, STEPS, VOCABULARY, dtype=dtype)).requires_grad_()
    teacher, mask = 3 * torch.randn(ROWS, STEPS, VOCABULARY, dtype=dtype), random_mask(dtype)
    labels = torch.where(mask > 0, 0, -100)
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta, temperature)
    value = jensen_shannon(token_logprobs(teacher, temperature), token_logprobs(student, temperature), beta)
    ours = (value * mask).sum() / mask.sum()
    close(ours, theirs)
    close(*(torch.autograd.grad(loss, student)[0] for loss in (ours, theirs)))


def trl_dpo(logp_NT: Tensor, reference_NT: Tensor, mask_NT: Tensor, beta: float, form: str) -> Tensor:
    """TRL's loss of one batch whose first half is chosen; its model is replaced by the log-probs it would compute."""
    from trl.trainer.dpo_trainer import DPOTrainer

    completion_mask = torch.cat([torch.zeros(len(mask_NT), 1), mask_NT], -1).long()  # one prompt token in front
    chosen, rejected = (reference_NT * mask_NT).sum(-1).chunk(2)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=accelerator(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[form], loss_weights=[1.0], beta=beta,
        label_smoothing=0.0, use_weighting=False, _metrics={"eval": defaultdict(list)}, _total_train_tokens=0,
    )  # fmt: skip

    def model(**_: Any) -> Any:
        still = torch.zeros_like(logp_NT)
        return SimpleNamespace(log_probs=logp_NT * mask_NT, entropy=still, mean_logits=still, is_top1=still.bool())

    inputs = {
        "input_ids": torch.zeros_like(completion_mask), "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    return DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("form", ["sigmoid", "hinge", "ipo"])
def test_dpo_equals_trl(form: Any, beta: float, dtype: torch.dtype) -> None:
    """TRL divides IPO's log-probs by their number of tokens; here the caller chooses, so it is given means."""
    logp, reference = (-3 * torch.rand(2, ROWS, STEPS, dtype=dtype)).unbind()
    logp.requires_grad_()
    mask = random_mask(dtype)

    def margin(values_NT: Tensor) -> Tensor:
        chosen, rejected = sequence_logprobs(values_NT, mask, mean=form == "ipo").chunk(2)
        return chosen - rejected

    losses = dpo(margin(logp), margin(reference), beta, form)
    theirs = trl_dpo(logp, reference, mask, beta, form)
    close(losses.mean(), theirs)
    close(*(torch.autograd.grad(loss, logp)[0] for loss in (losses.mean(), theirs)))
    for i in range(ROWS // 2):
        pair = torch.tensor([i, i + ROWS // 2])
        close(losses[i], trl_dpo(logp[pair], reference[pair], mask[pair], beta, form))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 3.0), (0.1, 0.5)])
def test_simpo_equals_trl(beta: float, gamma: float, dtype: torch.dtype) -> None:
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        loss_type="simpo", alpha=0.0, beta=beta, simpo_gamma=gamma, label_smoothing=0.0, accelerator=accelerator()
    )
    chosen, rejected = (-3 * torch.rand(2, ROWS, dtype=dtype)).unbind()
    theirs, _, _ = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    close(simpo(chosen - rejected, beta, gamma / beta), theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [False, True])
def test_scores_of_completions_equal_trl(mean: bool, dtype: torch.dtype) -> None:
    from trl.experimental.cpo import CPOTrainer

    logits, tokens = torch.randn(ROWS, STEPS, VOCABULARY, dtype=dtype), torch.randint(0, VOCABULARY, (ROWS, STEPS))
    mask = random_mask(dtype)
    mask[:, 0] = 0  # nothing predicts the first token
    labels = torch.where(mask > 0, tokens, -100)
    theirs = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=mean)
    logp = gather_logprobs(token_logprobs(logits[:, :-1]), tokens[:, 1:])
    close(sequence_logprobs(logp, mask[:, 1:], mean=mean), theirs)


def trl_grpo(logp_NT: Tensor, old_NT: Tensor, advantage_N: Tensor, mask_NT: Tensor, reduction: str, dual: float | None) -> Tensor:
    """TRL's clipped loss; its model is replaced by the log-probs it would compute."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    still = torch.zeros_like(logp_NT)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=accelerator(), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level="token", beta=0.0, loss_type=reduction, epsilon_low=0.2,
        epsilon_high=0.28, args=SimpleNamespace(delta=dual), use_vllm=False, _entropy_bonus_enabled=False,
        _metrics={"eval": defaultdict(list)}, _get_per_token_logps_and_entropies=lambda *_, **__: (logp_NT, still, None),
    )  # fmt: skip
    ids = torch.zeros(logp_NT.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids, "completion_mask": mask_NT,
        "advantages": advantage_N, "old_per_token_logps": old_NT,
    }  # fmt: skip
    return GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize("reduction", ["bnpo", "grpo"])
def test_the_clipped_policy_gradient_equals_grpo(reduction: str, dual: float | None, dtype: torch.dtype) -> None:
    """TRL's two-sided clip at delta is the dual clip: it binds only where the advantage is negative."""
    old, mask = -3 * torch.rand(ROWS, STEPS, dtype=dtype), random_mask(dtype)
    logp = (old + torch.randn_like(old)).requires_grad_()
    advantage = torch.randn(ROWS, dtype=dtype)
    far = (logp - old).exp()[advantage < 0] > 3.0
    assert far.any(), "the dual clip must bind somewhere"
    loss = clipped_policy_gradient(logp, old, advantage[:, None], low=0.2, high=0.28, dual=dual or 1e6) * mask
    ours = loss.sum() / mask.sum() if reduction == "bnpo" else (loss.sum(-1) / mask.sum(-1)).mean()
    theirs = trl_grpo(logp, old, advantage, mask, reduction, dual)
    close(ours, theirs)
    close(*(torch.autograd.grad(each, logp)[0] for each in (ours, theirs)))

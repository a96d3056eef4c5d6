"""Policy-gradient losses and the advantages they weigh tokens with. All results are per token and unreduced."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(reward_N: Tensor, group_N: Tensor, *, standardise: bool, epsilon: float = 1e-6) -> Tensor:
    """Rewards centred in their group, optionally divided by the unbiased deviation plus epsilon, [N].

    Source: GRPO (arXiv 2402.03300, section 4.1.2) when standardised, Dr. GRPO (arXiv 2503.20783) when only centred.
    A group of equal rewards gets exactly zero; so does a group of one.
    """
    groups = int(group_N.max()) + 1 if group_N.numel() else 0
    count = torch.zeros(groups, dtype=reward_N.dtype, device=reward_N.device).index_add_(0, group_N, torch.ones_like(reward_N))
    total = torch.zeros_like(count).index_add_(0, group_N, reward_N)
    mean = total / count.clamp(min=1)
    # equal rewards must give exactly zero, which a rounded mean does not
    low = torch.full_like(mean, float("inf")).scatter_reduce(0, group_N, reward_N, "amin")
    high = torch.full_like(mean, float("-inf")).scatter_reduce(0, group_N, reward_N, "amax")
    centred = torch.where((low == high)[group_N], torch.zeros_like(reward_N), reward_N - mean[group_N])
    if not standardise:
        return centred
    square = torch.zeros_like(count).index_add_(0, group_N, centred**2)
    deviation = (square / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation[group_N] + epsilon)


def _ratio(logp: Tensor, old: Tensor | None) -> Tensor:
    """exp(logp - old) with the log-ratio clamped to [-20, 20]; exactly 1 (with a gradient) where old is None."""
    return (logp - (logp.detach() if old is None else old)).clamp(-20.0, 20.0).exp()


def clipped_policy_gradient(
    logp: Tensor, old_logp: Tensor | None, advantage: Tensor, *, low: float = 0.2, high: float = 0.2, dual: float = 3.0
) -> Tensor:
    """Clipped surrogate with a dual clip for negative advantages, per token.

    With r = exp(logp - old_logp): L = max(-A r, -A clip(r, 1 - low, 1 + high)), and where A < 0 also
    L = min(L, -dual A). Sources: PPO (arXiv 1707.06347, eq. 7), dual clip (arXiv 1912.09729, eq. 5).
    """
    ratio = _ratio(logp, old_logp)
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1.0 - low, 1.0 + high))
    return torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss)


def importance_weighted(logp: Tensor, old_logp: Tensor | None, advantage: Tensor) -> Tensor:
    """-exp(logp - old_logp) A per token: the unclipped, importance-weighted policy gradient."""
    return -_ratio(logp, old_logp) * advantage


def sampler_correction(trainer_logp: Tensor, sampler_logp: Tensor, cap: float = 2.0) -> Tensor:
    """min(exp(trainer - sampler), cap) per token, without gradient: corrects for a sampler that is not the trainer."""
    return (trainer_logp.detach() - sampler_logp).clamp(-20.0, 20.0).exp().clamp(max=cap)

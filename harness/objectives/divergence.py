"""Divergences between next-token distributions, given as log-probabilities over the whole vocabulary.

Throughout p is the teacher and q the student; the gradient flows through whatever carries one, so pass the teacher
detached. Every function returns one value per position, [C].
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

LEAST_TAIL = 1e-6


def categorical_kl(logp_CV: Tensor, logq_CV: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v), [C].

    `categorical_kl(teacher, student)` is the forward KL of distillation, `categorical_kl(student, teacher)` the
    reverse KL. Tokens with p_v = 0 add nothing.
    """
    return _elements(logp_CV, logq_CV).sum(-1)


def _elements(logp_CV: Tensor, logq_CV: Tensor) -> Tensor:
    """p_v (log p_v - log q_v) of each token, [C, V]."""
    p = logp_CV.exp()
    # the selection stands before the product, so that log 0 - log 0 reaches neither the value nor the gradient
    return p * torch.where(p > 0, logp_CV - logq_CV, 0.0)


def clipped_forward_kl(
    logp_CV: Tensor, logq_CV: Tensor, mode: Literal["none", "vocab_element", "token_sum"] = "none", tau: float = 0.05
) -> Tensor:
    """KL(p || q) with each token's element, or each position's sum, cut off at tau, [C].

    With d_v = p_v (log p_v - log q_v): none: sum_v d_v; vocab_element: sum_v min(d_v, tau); token_sum:
    min(sum_v d_v, tau). Cutting elements is no divergence: it can be negative, and its gradient with respect to q's
    logits, P_A q_v - p_v 1[v in A] on A = {v: d_v <= tau}, lowers the very tokens whose elements were cut. A position
    whose sum is cut has no gradient. Compare a clipped run with an unclipped one. Source: the element clip and its tau
    are those of OPSD's code (arXiv 2601.18734), whose option for it is named after the token.

    Raises:
        ValueError: an unknown mode, or a tau that is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    elements_CV = _elements(logp_CV, logq_CV)
    if mode == "none":
        return elements_CV.sum(-1)
    if mode == "vocab_element":
        return elements_CV.clamp(max=tau).sum(-1)
    if mode == "token_sum":
        return elements_CV.sum(-1).clamp(max=tau)
    raise ValueError(f"mode must be none, vocab_element or token_sum, got {mode!r}")


def jensen_shannon(logp_CV: Tensor, logq_CV: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, [C].

    Source: GKD (Agarwal et al., arXiv 2306.13649, eq. 1 and its text). The formula vanishes at both ends, where by
    convention beta = 0 is the forward KL(p || q) and beta = 1 the reverse KL(q || p).

    Raises:
        ValueError: beta outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in [0, 1], got {beta}")
    if beta == 0.0:
        return categorical_kl(logp_CV, logq_CV)
    if beta == 1.0:
        return categorical_kl(logq_CV, logp_CV)
    mixed = torch.logaddexp(logp_CV + math.log(beta), logq_CV + math.log1p(-beta))
    return beta * categorical_kl(logp_CV, mixed) + (1.0 - beta) * categorical_kl(logq_CV, mixed)


def of_given_top_k(logp_CK: Tensor, ids_CK: Tensor, logq_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Both distributions on K given tokens and one tail bucket, log-probs [C, K + 1], where of the teacher only those are known.

    A served teacher tells its likeliest tokens and nothing of the others, so the tail is 1 less their sum; it is at least
    `LEAST_TAIL`, which is what float32 log-probs leave uncertain. The divergence of the results is a lower bound of that of
    the whole distributions, and equals it where the tail holds one token.
    """
    told_C1 = logp_CK.exp().sum(-1, keepdim=True)
    tail_C1 = (1 - told_C1).clamp(min=LEAST_TAIL).log()
    rest_C1 = logq_CV.scatter(-1, ids_CK, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logp_CK, tail_C1], -1), torch.cat([logq_CV.gather(-1, ids_CK), rest_C1], -1)


def top_k_with_tail(
    logp_CV: Tensor, logq_CV: Tensor, k: int, rest: Literal["tail", "renormalise"] = "tail"
) -> tuple[Tensor, Tensor]:
    """Both distributions on the student's k likeliest tokens, with the remainder as one tail bucket or renormalised.

    Returns log-probs [C, k + 1] (tail) or [C, k] (renormalised), and the whole distributions where k covers the
    vocabulary. With a tail the divergence of the results is a lower bound of the exact one and equals it when the tail
    holds a single token.
    """
    if k >= logq_CV.shape[-1]:
        return logp_CV, logq_CV
    support = logq_CV.detach().topk(k, -1).indices
    p, q = logp_CV.gather(-1, support), logq_CV.gather(-1, support)
    if rest == "renormalise":
        return torch.log_softmax(p, -1), torch.log_softmax(q, -1)

    def with_tail(kept: Tensor, whole_CV: Tensor) -> Tensor:
        # summed over the tail itself: 1 - sum(kept) loses every digit when the tail is small
        tail = whole_CV.scatter(-1, support, float("-inf")).logsumexp(-1, keepdim=True)
        return torch.cat([kept, tail], -1)

    return with_tail(p, logp_CV), with_tail(q, logq_CV)

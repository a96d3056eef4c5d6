"""Distributions over all orders of a few completions, and losses that match them.

Scores s give the Plackett-Luce distribution log P(order | s) = sum_k (beta s_k - logsumexp_{j >= k} beta s_j), k running
along the order from best to worst. Suffixes: B groups, N completions of a group, R = N! orders. Sources: PAD
(arXiv 2502.14272) for the losses, with the mixture of each group its own; Plackett 1975 and Luce 1959 for the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.objectives.divergence import categorical_kl, jensen_shannon

LARGEST = 5
"""Completions whose orders are enumerated: 5 have 120 orders, 6 would have 720."""


def ranking_table(n: int) -> Tensor:
    """All orders of n completions, best first, in lexicographic order, [n!, n].

    Raises:
        ValueError: n below 1 or above 5.
    """
    if not 1 <= n <= LARGEST:
        raise ValueError(f"orders are enumerated for 1 to {LARGEST} completions, got {n}; cut larger groups with `decomposed`")
    return torch.tensor(list(itertools.permutations(range(n))))


def plackett_luce(score_BN: Tensor, beta: float) -> Tensor:
    """Log-probabilities of all orders, [B, N!], in the order of `ranking_table`.

    Raises:
        ValueError: scores that are not [B, N], or N above 5.
    """
    _check(score_BN)
    table_RN = ranking_table(score_BN.shape[-1]).to(score_BN.device)
    return _logprob_of_order((beta * score_BN)[:, table_RN])


def ranking_jsd(student_BN: Tensor, teacher_BN: Tensor, beta_student: float, beta_teacher: float) -> Tensor:
    """KL(S || M) / 2 + KL(T || M) / 2 over all orders with M = (S + T) / 2 of the group itself, [B], at most log 2.

    Source: PAD's probabilistic loss (PPD). Raises as `plackett_luce`.
    """
    return jensen_shannon(plackett_luce(teacher_BN, beta_teacher), plackett_luce(student_BN, beta_student), 0.5)


def ranking_jsd_reverse(student_BN: Tensor, teacher_BN: Tensor, beta_student: float, beta_teacher: float) -> Tensor:
    """KL(M || S) / 2 + KL(M || T) / 2, the reverse argument order, which has no upper bound, [B]: an ablation."""
    student, teacher = plackett_luce(student_BN, beta_student), plackett_luce(teacher_BN, beta_teacher)
    mixed = torch.logaddexp(student, teacher) - math.log(2)
    return (categorical_kl(mixed, student) + categorical_kl(mixed, teacher)) / 2


def ranking_nll(student_BN: Tensor, teacher_BN: Tensor, beta: float) -> Tensor:
    """Minus the student's log-probability of the teacher's order, whatever the teacher's margins, [B].

    Equal teacher scores keep their order of appearance. Any N. Source: PAD's vanilla loss (VPD).

    Raises:
        ValueError: scores that are not two [B, N] tensors.
    """
    _check(student_BN, teacher_BN)
    order_BN = teacher_BN.argsort(dim=-1, descending=True, stable=True)
    return -_logprob_of_order(beta * student_BN.gather(-1, order_BN))


def ranking_entropy(score_BN: Tensor, beta: float) -> Tensor:
    """Entropy of the distribution over orders in nats, between 0 and log N!, [B]. Raises as `plackett_luce`."""
    logp_BR = plackett_luce(score_BN, beta)
    return -(logp_BR.exp() * logp_BR).sum(-1)


def decomposed(n: int, size: int, order: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """The indices 0 .. n - 1 cut into as few disjoint sets of at most `size` as possible, of sizes that differ by at most 1.

    Given a permutation as `order`, the sets are cut from it: with a random one each set is a random subset. Comparisons
    across sets are given up.

    Raises:
        ValueError: a size below 2, or an order that is not a permutation of 0 .. n - 1.
    """
    indices = list(range(n)) if order is None else [int(index) for index in order]
    if size < 2:
        raise ValueError(f"a ranking needs sets of 2 or more, got size {size}")
    if sorted(indices) != list(range(n)):
        raise ValueError(f"order must be a permutation of 0 .. {n - 1}, got {indices}")
    count = -(-n // size)
    return [tuple(indices[n * i // count : n * (i + 1) // count]) for i in range(count)]


def _logprob_of_order(score_N: Tensor) -> Tensor:
    """Log-probability of the order in which scaled scores stand along the last axis."""
    remaining = score_N.flip(-1).logcumsumexp(-1).flip(-1)
    return (score_N - remaining).sum(-1)


def _check(*scores: Tensor) -> None:
    shapes = [tuple(score.shape) for score in scores]
    if any(len(shape) != 2 for shape in shapes) or len(set(shapes)) > 1:
        raise ValueError(f"scores must be [B, N] tensors of one shape, got {shapes}")

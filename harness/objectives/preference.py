"""Losses on whole completions: their scores, and pairs or rankings of them.

A score is a completion's log-prob under the policy, summed (DPO) or averaged over its own tokens (SimPO, RRHF, PRO).
Suffixes: N completions, T tokens, B pairs or groups, K places in a group. One value per pair or group comes back.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def sequence_logprobs(logp_NT: Tensor, mask_NT: Tensor, *, mean: bool) -> Tensor:
    """Sum or mean of a completion's token log-probs over its own tokens, [N]; 0 for a completion without tokens.

    The mean divides by the number of tokens that the mask holds, never by a padded length: with a padded length the
    order of two completions can flip.
    """
    total_N = torch.where(mask_NT > 0, logp_NT, 0.0).sum(-1)
    return total_N / (mask_NT > 0).sum(-1).clamp(min=1) if mean else total_N


def by_group(values_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """Values of a batch's rows, one line a group: values [B, K], 0 where a group is shorter, and presence [B, K] (bool).

    Groups stand in the order in which they first appear, and so do the rows of a group; K is the largest group's size.
    """
    rows = torch.arange(len(group_N), device=group_N.device)
    _, label_N, size_B = torch.unique(group_N, return_inverse=True, return_counts=True)
    first_B = torch.full_like(size_B, len(rows)).scatter_reduce(0, label_N, rows, "amin")
    appearance = first_B.argsort()
    line_N = appearance.argsort()[label_N]
    size_B = size_B[appearance]
    # rows sorted by line stand in blocks; a row's place is its distance from the start of its block
    order = line_N.argsort(stable=True)
    place_N = torch.empty_like(rows)
    place_N[order] = rows - (size_B.cumsum(0) - size_B)[line_N[order]]
    shape = (len(size_B), int(size_B.max()) if len(size_B) else 0)
    values_BK = values_N.new_zeros(shape).index_put((line_N, place_N), values_N)
    present_BK = torch.zeros(shape, dtype=torch.bool, device=group_N.device).index_put((line_N, place_N), rows >= 0)
    return values_BK, present_BK


def dpo(
    policy_margin_B: Tensor, reference_margin_B: Tensor, beta: float, form: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
) -> Tensor:
    """Direct preference optimisation on h = policy margin - reference margin, [B]. A margin is chosen minus rejected.

    sigmoid: -log sigmoid(beta h); hinge: max(0, 1 - beta h); ipo: (h - 1 / (2 beta))^2. Margins are differences of
    summed log-probs; IPO's authors average over tokens instead, which is the caller's choice.
    Sources: DPO (arXiv 2305.18290, eq. 7), SLiC-HF (arXiv 2305.10425) for the hinge, IPO (arXiv 2310.12036, eq. 17).

    Raises:
        ValueError: an unknown form.
    """
    h_B = policy_margin_B - reference_margin_B
    if form == "sigmoid":
        return -logsigmoid(beta * h_B)
    if form == "hinge":
        return torch.relu(1.0 - beta * h_B)
    if form == "ipo":
        return (h_B - 1.0 / (2.0 * beta)) ** 2
    raise ValueError(f"form must be sigmoid, hinge or ipo, got {form!r}")


def simpo(margin_B: Tensor, beta: float, gamma_ratio: float) -> Tensor:
    """-log sigmoid(beta (margin - gamma_ratio)) on the difference of mean log-probs, without a reference, [B].

    `gamma_ratio` is gamma / beta of the paper. Source: SimPO (arXiv 2405.14734, eq. 6).
    """
    return -logsigmoid(beta * (margin_B - gamma_ratio))


def rrhf(score_BK: Tensor, rank_BK: Tensor, present_BK: Tensor) -> Tensor:
    """Sum over the pairs (i better than j) of a group of max(0, score_j - score_i), without a margin, [B].

    Rank 0 is the best; completions of equal rank form no pair. Source: RRHF (arXiv 2304.05302, ranking loss).

    Raises:
        ValueError: arguments that are not three [B, K] tensors of one shape.
    """
    better_BKK = _better(score_BK, rank_BK, present_BK)
    excess_BKK = torch.relu(score_BK[:, None, :] - score_BK[:, :, None])
    return torch.where(better_BKK, excess_BKK, 0.0).sum((-2, -1))


def pro(score_BK: Tensor, rank_BK: Tensor, present_BK: Tensor) -> Tensor:
    """-sum_k log(exp(score_k) / sum of exp(score) over k and all that are ranked below it), [B].

    Rank 0 is the best; completions of equal rank do not compete with each other. Source: PRO (arXiv 2306.17492).

    Raises:
        ValueError: arguments that are not three [B, K] tensors of one shape.
    """
    itself_KK = torch.eye(score_BK.shape[-1], dtype=torch.bool, device=score_BK.device)
    rivals_BKK = _better(score_BK, rank_BK, present_BK) | itself_KK
    total_BK = torch.where(rivals_BKK, score_BK[:, None, :], float("-inf")).logsumexp(-1)
    return torch.where(present_BK, total_BK - score_BK, 0.0).sum(-1)


def _better(score_BK: Tensor, rank_BK: Tensor, present_BK: Tensor) -> Tensor:
    """Whether i is ranked above j, both present, [B, K(i), K(j)]."""
    shapes = [tuple(each.shape) for each in (score_BK, rank_BK, present_BK)]
    if score_BK.ndim != 2 or len(set(shapes)) > 1:
        # one-dimensional ranks would compare groups with each other, or nothing with nothing, and give a silent 0
        raise ValueError(f"scores, ranks and presence must be [B, K] tensors of one shape, got {shapes}; see by_group")
    return (rank_BK[:, :, None] < rank_BK[:, None, :]) & present_BK[:, :, None] & present_BK[:, None, :]

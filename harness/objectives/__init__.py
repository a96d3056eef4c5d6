"""Objectives as pure functions: unreduced, masked by the caller, float32 or better, each with its source.

Loaded lazily, so that a method's module can be imported (to list it) without importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "categorical_kl": "divergence",
    "clipped_forward_kl": "divergence",
    "jensen_shannon": "divergence",
    "of_given_top_k": "divergence",
    "top_k_with_tail": "divergence",
    "kendall_tau": "judgment",
    "knockout": "judgment",
    "longest_common_subsequence": "judgment",
    "swap_average": "judgment",
    "vote": "judgment",
    "edit_distance": "diversity",
    "farthest": "diversity",
    "gather_logprobs": "logprobs",
    "token_logprobs": "logprobs",
    "clipped_policy_gradient": "policy_gradient",
    "importance_weighted": "policy_gradient",
    "group_advantages": "policy_gradient",
    "sampler_correction": "policy_gradient",
    "by_group": "preference",
    "dpo": "preference",
    "pro": "preference",
    "rrhf": "preference",
    "sequence_logprobs": "preference",
    "simpo": "preference",
    "decomposed": "ranking",
    "plackett_luce": "ranking",
    "ranking_entropy": "ranking",
    "ranking_jsd": "ranking",
    "ranking_jsd_reverse": "ranking",
    "ranking_nll": "ranking",
    "ranking_table": "ranking",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"no objective {name!r}; known: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"harness.objectives.{_HOME[name]}"), name)

"""Objectives as pure functions: unreduced, masked by the caller, float32 or better, each with its source.

Loaded lazily, so that a method's module can be imported (to list it) without importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "categorical_kl": "divergence",
    "jensen_shannon": "divergence",
    "top_k_with_tail": "divergence",
    "gather_logprobs": "logprobs",
    "token_logprobs": "logprobs",
    "clipped_policy_gradient": "policy_gradient",
    "importance_weighted": "policy_gradient",
    "group_advantages": "policy_gradient",
    "sampler_correction": "policy_gradient",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"no objective {name!r}; known: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"harness.objectives.{_HOME[name]}"), name)

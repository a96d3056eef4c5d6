"""Log-probabilities of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits_CV: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-softmax of logits at a temperature, [C, V], in float32 at least."""
    wide = logits_CV.float() if logits_CV.dtype in (torch.float16, torch.bfloat16) else logits_CV
    return torch.log_softmax(wide / temperature, -1)


def gather_logprobs(logp_CV: Tensor, tokens_C: Tensor) -> Tensor:
    """The log-probs of given tokens, [C]."""
    return logp_CV.gather(-1, tokens_C[..., None])[..., 0]

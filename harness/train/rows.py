"""A batch as a model reads it: rows of prompt and completion behind some view, prompts that rows share read once.

Axes: N rollouts, K of them that are read, P prompts that rollouts share, L tokens of a padded row (prompt and
completion), T completion tokens, C completion positions of all rows in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.types import Batch

SHARE_AT = 1 / 8
"""Prompts of several rows are read once where that saves at least this share of the tokens; less is not worth a second
pass, and its attention needs a mask."""


@dataclass(frozen=True)
class Front:
    """Prompts that several rows share, each to be read once (P of them), and what is left to read in each row.

    A prompt's last token is left to the rows, so that all completion tokens are predicted in the rows' own pass.
    """

    ids_PL: Tensor
    seen_PL: Tensor
    """False on the padding, which stands on the left."""
    copy_N: Tensor
    """The prompt of each row."""
    rest_NT: Tensor
    """The prompt's last token and the completion without its last."""


@dataclass(frozen=True)
class Rows:
    """A batch as a model reads it: each row its prompt, its completion and padding at the end.

    Causal attention never looks right, so padding at the end needs no attention mask and shifts no position.
    """

    ids_NL: Tensor
    kept_K: Tensor
    """The batch's rows that are read."""
    row_C: Tensor
    """Among the rows read."""
    column_C: Tensor
    """Where each completion token is predicted: one position before its own."""
    step_C: Tensor
    """Its place in the completion."""
    target_C: Tensor
    read: int
    """Prompt and completion tokens, padding left out; a shared prompt counts in each row. 0 where no row was to be kept
    and one is read in their place: meters may not depend on how a batch was cut."""
    front: Front | None
    """None where reading prompts once would save too little."""

    @property
    def scored(self) -> int:
        """Completion tokens that count."""
        return len(self.target_C) if self.read else 0


def rows_of(batch: Batch, view: str, keep_N: Tensor | None = None) -> Rows:
    """The rows of a batch behind the prompts of a view, all or those to keep (one at least)."""
    if view not in batch.views:
        raise ValueError(f"no view {view!r} in this batch; it has {sorted(batch.views)}")
    device = batch.tokens_NT.device
    kept_K = torch.arange(len(batch.tokens_NT), device=device)
    if keep_N is not None:
        kept_K = keep_N.nonzero()[:, 0] if bool(keep_N.any()) else kept_K[:1]
    prompts, tokens_KT = [batch.views[view][i] for i in kept_K.tolist()], batch.tokens_NT[kept_K]
    mask_KT = batch.mask_NT[kept_K]
    row_C, step_C = mask_KT.nonzero(as_tuple=True)
    lengths = [len(prompt) for prompt in prompts]
    start_K = torch.tensor(lengths, device=device)
    longest = int((start_K + mask_KT.sum(-1).long()).max())
    widest = max(lengths)
    ids_NL = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    ids_NL[:, :widest] = torch.tensor([[*prompt, *[0] * (widest - len(prompt))] for prompt in prompts], device=device)
    target_C = tokens_KT[row_C, step_C]
    place_C = start_K[row_C] + step_C
    ids_NL[row_C, place_C] = target_C
    read = sum(lengths) + len(target_C)
    front = _front(prompts, tokens_KT, read)
    if keep_N is not None and not bool(keep_N.any()):
        read = 0
    return Rows(ids_NL, kept_K, row_C, place_C - 1, step_C, target_C, read, front)


def _front(prompts: Sequence[Sequence[int]], tokens_NT: Tensor, read: int) -> Front | None:
    known: dict[tuple[int, ...], int] = {}
    copy = [known.setdefault(tuple(prompt), len(known)) for prompt in prompts]
    saved = sum(map(len, prompts)) - sum(map(len, known))
    if saved < SHARE_AT * read or min(map(len, known)) < 2:
        return None
    device, longest = tokens_NT.device, max(map(len, known)) - 1
    ids_PL = torch.tensor([[*[0] * (longest + 1 - len(ids)), *ids[:-1]] for ids in known], device=device)
    seen_PL = torch.tensor([[i + len(ids) > longest for i in range(longest)] for ids in known], device=device)
    last_N1 = torch.tensor([[prompt[-1]] for prompt in prompts], device=device)
    return Front(ids_PL, seen_PL, torch.tensor(copy, device=device), torch.cat([last_N1, tokens_NT[:, :-1]], -1))

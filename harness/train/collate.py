"""Examples to tensors: suffix collation of signals, and everything else on the axis of completion tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.types import Batch, Example, Rollout, Signal


def collate(
    examples: Sequence[Example],
    device: torch.device | str = "cpu",
    old_logp: Sequence[Sequence[float]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """One batch of N rollouts, in the order of the examples and of the rollouts in each.

    Args:
        examples: at least one; all carry the same names of signals and of views.
        old_logp: the trainer's log-probs before the first update, one list a rollout.
        dtype: of every float tensor of the batch.

    Raises:
        ValueError: a signal's or a view's length does not fit its rollouts, a suffix is unknown, names differ between
            examples, or a prompt is empty. The message names the signal or view and the prompt.
    """
    if not examples or not all(example.rollouts for example in examples):
        raise ValueError(f"nothing to collate in some of {len(examples)} examples; give at least one rollout in each")
    rollouts = [rollout for example in examples for rollout in example.rollouts]
    width = max(len(rollout.tokens) for rollout in rollouts)

    def padded(rows: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=dtype, device=device)

    mask = padded([[1.0] * len(rollout.tokens) for rollout in rollouts])
    tokens = [rollout.tokens + [0] * (width - len(rollout.tokens)) for rollout in rollouts]
    group = [i for i, example in enumerate(examples) for _ in example.rollouts]
    said = [rollout.logprobs for rollout in rollouts if rollout.logprobs is not None]
    behaviour = _token_rows("logprobs", said, rollouts) if len(said) == len(rollouts) else None
    signal = {}
    for name in _same_names("signals", [example.signal.keys() for example in examples]):
        values = [value for example in examples for value in _of_example(name, example.signal[name], example)]
        if name.endswith("_NTK"):
            signal[name] = _several(_token_rows(name, values, rollouts), width, dtype).to(device)
        elif name.endswith("_NT"):
            signal[name] = padded(_token_rows(name, values, rollouts))
        elif name.endswith("_N"):
            signal[name] = torch.tensor(values, dtype=dtype, device=device)
        else:
            raise ValueError(f"signal {name!r} has no known axes: end its name in _N (a value per rollout), _NT (per token) "
                             "or _NTK (several per token)")  # fmt: skip
    views = {"": [rollout.prompt_tokens for rollout in rollouts]}
    for name in _same_names("views", [example.views.keys() for example in examples]):
        if name == "":
            raise ValueError('the view "" is the rollouts\' own prompt; give yours another name')
        views[name] = [list(ids) for example in examples for ids in _of_example(name, example.views[name], example)]
    for name, prompts in views.items():
        for ids, rollout in zip(prompts, rollouts, strict=True):
            if not ids:
                raise ValueError(f"view {name!r} of prompt {rollout.prompt.id!r} is empty; a completion needs a token before it")
    return Batch(
        tokens_NT=torch.tensor(tokens, dtype=torch.long, device=device),
        mask_NT=mask,
        group_N=torch.tensor(group, dtype=torch.long, device=device),
        behaviour_logp_NT=None if behaviour is None else padded(behaviour),
        old_logp_NT=None if old_logp is None else padded(_token_rows("old_logp", old_logp, rollouts)),
        signal=signal,
        views=views,
    )


def _several(rows: Sequence[Sequence[Sequence[float]]], width: int, dtype: torch.dtype) -> Tensor:
    """K values a token, [N, T, K], 0 where padded; whole numbers stay whole."""
    first = next(value for row in rows for values in row for value in values)
    filling = [0] * next(len(values) for row in rows for values in row)
    padded = [[*map(list, row), *[filling] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long if isinstance(first, int) else dtype)


def _same_names(kind: str, names: Sequence[object]) -> list[str]:
    sets = [frozenset(keys) for keys in names]  # type: ignore[call-overload]
    for other in sets[1:]:
        if other != sets[0]:
            raise ValueError(f"examples of one batch must have the same {kind}: got {sorted(sets[0])} and {sorted(other)}")
    return sorted(sets[0])


def _of_example(name: str, values: Signal | Sequence[Sequence[int]], example: Example) -> Sequence:
    if len(values) != len(example.rollouts):
        raise ValueError(
            f"{name!r} has {len(values)} entries for the {len(example.rollouts)} rollouts of prompt "
            f"{example.rollouts[0].prompt.id!r}; give one for each rollout"
        )
    return values


def _token_rows(name: str, rows: Sequence[Any], rollouts: Sequence[Rollout]) -> Sequence[Any]:
    if len(rows) != len(rollouts):
        raise ValueError(f"{name!r} has {len(rows)} rows for {len(rollouts)} rollouts; give one row for each rollout")
    for row, rollout in zip(rows, rollouts, strict=True):
        if len(row) != len(rollout.tokens):
            raise ValueError(
                f"{name!r} has {len(row)} values for the {len(rollout.tokens)} completion tokens of a rollout of prompt "
                f"{rollout.prompt.id!r}; give one for each token"
            )
    return rows


def micro_batches(examples: Sequence[Example], most: int) -> list[list[int]]:
    """Indices of examples, short ones first, cut so that rows times the longest row are at most so many tokens.

    A single example may have more.
    """
    longest = [_longest_row(example) for example in examples]
    parts: list[list[int]] = []
    rows = 0
    for i in sorted(range(len(examples)), key=longest.__getitem__):
        rows += len(examples[i].rollouts)
        if not parts or rows * longest[i] > most:
            parts.append([])
            rows = len(examples[i].rollouts)
        parts[-1].append(i)
    return parts


def _longest_row(example: Example) -> int:
    """A bound on the tokens that a model reads in one row of the example, behind whichever view."""
    fronts = [[rollout.prompt_tokens for rollout in example.rollouts], *example.views.values()]
    longest_front = max((len(ids) for prompts in fronts for ids in prompts), default=0)
    return longest_front + max((len(rollout.tokens) for rollout in example.rollouts), default=0)

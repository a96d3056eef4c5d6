"""Collation: suffixes, alignment, views, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.train.collate import collate
from harness.types import Example, Prompt, Rollout


def rollout(name: str, prompt: list[int], tokens: list[int], logprobs: list[float] | None = None) -> Rollout:
    return Rollout(Prompt(name, ()), prompt, tokens, logprobs, "", "stop")


FIRST = Example(
    (rollout("a", [1, 2], [3, 4, 5], [-0.1, -0.2, -0.3]), rollout("a", [1, 2], [6], [-0.4])),
    signal={"reward_N": [1.0, 0.25], "teacher_NT": [[0.1, 0.2, 0.3], [0.4]]},
    views={"hint": [[9, 9, 9], [8]]},
)
SECOND = Example(
    (rollout("b", [7], [8, 9], [-0.5, -0.6]),),
    signal={"reward_N": [True], "teacher_NT": [[0.5, 0.6]]},
    views={"hint": [[4, 5]]},
)


def test_everything_lies_on_the_axis_of_completion_tokens() -> None:
    batch = collate([FIRST, SECOND])
    assert batch.tokens_NT.tolist() == [[3, 4, 5], [6, 0, 0], [8, 9, 0]]
    assert batch.mask_NT.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch.group_N.tolist() == [0, 0, 1]
    assert batch.signal["reward_N"].tolist() == [1.0, 0.25, 1.0]
    assert torch.allclose(batch.signal["teacher_NT"], torch.tensor([[0.1, 0.2, 0.3], [0.4, 0, 0], [0.5, 0.6, 0]]))
    assert batch.behaviour_logp_NT is not None
    assert torch.allclose(batch.behaviour_logp_NT, torch.tensor([[-0.1, -0.2, -0.3], [-0.4, 0, 0], [-0.5, -0.6, 0]]))
    assert batch.old_logp_NT is None
    assert batch.views == {"": [[1, 2], [1, 2], [7]], "hint": [[9, 9, 9], [8], [4, 5]]}


def test_a_token_with_the_padding_id_is_kept_by_its_position() -> None:
    batch = collate([Example((rollout("a", [1], [0, 0]), rollout("a", [1], [0])))])
    assert batch.mask_NT.tolist() == [[1, 1], [1, 0]]


def test_float_tensors_take_the_dtype_asked_for() -> None:
    old = [[-1.0, -2.0, -3.0], [-4.0], [-5.0, -6.0]]
    for dtype in (torch.float32, torch.float64):
        batch = collate([FIRST, SECOND], old_logp=old, dtype=dtype)
        assert batch.old_logp_NT is not None
        assert batch.behaviour_logp_NT is not None
        assert batch.old_logp_NT.tolist() == [[-1, -2, -3], [-4, 0, 0], [-5, -6, 0]]
        floats = (batch.mask_NT, batch.behaviour_logp_NT, batch.old_logp_NT, *batch.signal.values())
        assert {values.dtype for values in floats} == {dtype}
        assert {batch.tokens_NT.dtype, batch.group_N.dtype} == {torch.long}


def test_several_values_a_token_are_padded_and_ids_stay_whole() -> None:
    first = replace(FIRST, signal={"logp_NTK": [[[-0.1, -2], [-0.2, -3], [-0.3, -4]], [[-0.4, -5]]],
                                   "ids_NTK": [[[3, 9], [4, 8], [5, 7]], [[6, 1]]]})  # fmt: skip
    batch = collate([first], dtype=torch.float64)
    assert batch.signal["ids_NTK"].tolist() == [[[3, 9], [4, 8], [5, 7]], [[6, 1], [0, 0], [0, 0]]]
    assert batch.signal["logp_NTK"].tolist() == [[[-0.1, -2], [-0.2, -3], [-0.3, -4]], [[-0.4, -5], [0, 0], [0, 0]]]
    assert (batch.signal["ids_NTK"].dtype, batch.signal["logp_NTK"].dtype) == (torch.long, torch.float64)
    assert batch.first(1).signal["ids_NTK"].tolist() == [[[3, 9]], [[6, 1]]]


def test_one_text_without_a_sampler_leaves_no_behaviour_logprobs() -> None:
    written = replace(SECOND.rollouts[0], logprobs=None)
    assert collate([FIRST, replace(SECOND, rollouts=(written,))]).behaviour_logp_NT is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signal": {"reward_N": [1.0, 2.0], "teacher_NT": [[0.5, 0.6]]}}, "'reward_N' has 2 entries for the 1 rollouts"),
        ({"signal": {"reward_N": [1.0], "teacher_NT": [[0.5]]}}, "'teacher_NT' has 1 values for the 2 completion tokens"),
        ({"signal": {"reward_N": [1.0]}}, "same signals"),
        ({"views": {"hint": []}}, "'hint' has 0 entries for the 1 rollouts"),
        ({"views": {"hint": [[]]}}, "view 'hint' of prompt 'b' is empty"),
        ({"views": {}}, "same views"),
        ({"rollouts": ()}, "at least one rollout"),
        ({"rollouts": (rollout("b", [7], [8, 9], [-0.5]),)}, "'logprobs' has 1 values for the 2 completion tokens"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        collate([FIRST, replace(SECOND, **change)])


def test_unknown_suffixes_reserved_views_and_emptiness_are_refused() -> None:
    with pytest.raises(ValueError, match="'reward' has no known axes"):
        collate([replace(SECOND, signal={"reward": [1.0]})])
    with pytest.raises(ValueError, match="rollouts' own prompt"):
        collate([replace(SECOND, views={"": [[1]]})])
    with pytest.raises(ValueError, match="0 examples"):
        collate([])
    with pytest.raises(ValueError, match="'old_logp' has 2 rows for 3 rollouts"):
        collate([FIRST, SECOND], old_logp=[[0.0] * 3, [0.0]])
    with pytest.raises(ValueError, match="'old_logp' has 3 values for the 1 completion"):
        collate([FIRST, SECOND], old_logp=[[0.0] * 3, [0.0] * 3, [0.0] * 2])

"""Losses on whole completions against hand-computed vectors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.objectives import by_group, dpo, pro, rrhf, sequence_logprobs, simpo


def numbers(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(got: Tensor | float, wanted: object, tolerance: float = 1e-6) -> bool:
    return torch.allclose(torch.as_tensor(got, dtype=torch.float64), numbers(wanted), 0.0, tolerance)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at, retain_graph=True)[0]


def present(*scores: Tensor) -> Tensor:
    return torch.ones(scores[0].shape, dtype=torch.bool)


FIRST_BEST = torch.arange(4)[None]


def test_scores_count_a_completions_own_tokens_and_never_the_padding() -> None:
    """Divided by the padded length the first two would change places."""
    logp = numbers([[-1, -1, -9, -9, -9, float("-inf")], [-0.5] * 6, [-3] * 6])
    mask = numbers([[1, 1, 0, 0, 0, 0], [1] * 6, [0] * 6])
    assert close(sequence_logprobs(logp, mask, mean=True), [-1.0, -0.5, 0.0])
    total = sequence_logprobs(logp, mask, mean=False)
    assert close(total, [-2.0, -3.0, 0.0])
    assert close(total[:2] / 6, [-0.333333, -0.5])


def test_letters_weigh_nothing_in_a_mean_over_tokens_and_a_row_in_a_mean_over_rows() -> None:
    """One answer of 200 tokens at 1.0 nats beside two judgments of one letter at 0.7."""
    logp = torch.full((3, 200), -0.7, dtype=torch.float64)
    logp[0] = -1.0
    mask = torch.ones_like(logp)
    mask[1:, 1:] = 0
    assert close(-sequence_logprobs(logp, mask, mean=False).sum() / mask.sum(), 0.99703, 5e-6)
    assert close(-sequence_logprobs(logp, mask, mean=True).mean(), 0.8, 1e-12)
    letters = -sequence_logprobs(numbers([[0.8], [0.7]]).log(), torch.ones(2, 1), mean=True)
    assert close(letters, [0.223144, 0.356675])
    assert close(letters.mean(), 0.289909)


def test_scores_pass_no_gradient_to_padding() -> None:
    logp = numbers([[-1, float("-inf"), float("nan")], [-2, -4, -9], [-5, -5, -5]]).requires_grad_()
    mask = numbers([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    value = sequence_logprobs(logp, mask, mean=True).sum()
    assert float(value.detach()) == -4.0
    assert close(gradient(value, logp), [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]])


def test_groups_of_unequal_size_stand_side_by_side_in_order_of_appearance() -> None:
    values, there = by_group(numbers([5, 1, 6, 2, 7, 3]), torch.tensor([7, 2, 7, 2, 7, 4]))
    assert values.tolist() == [[5, 6, 7], [1, 2, 0], [3, 0, 0]]
    assert there.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    values, there = by_group(torch.tensor([1, 0]), torch.tensor([0, 0]))
    assert values.dtype == torch.long
    assert values.tolist() == [[1, 0]]
    assert by_group(numbers([]), torch.tensor([], dtype=torch.long))[0].shape == (0, 0)


def test_grouping_equals_a_loop_and_passes_gradients_back_to_the_rows() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        group, value = torch.randint(0, 5, (12,)), torch.randn(12, dtype=torch.float64, requires_grad=True)
        got, there = by_group(value, group)
        labels = list(dict.fromkeys(group.tolist()))
        assert len(got) == len(labels)
        for line, row, label in zip(got, there, labels, strict=True):
            assert torch.equal(line[row], value[group == label])
            assert row.tolist() == sorted(row.tolist(), reverse=True)
        weight = torch.randn_like(got)
        assert torch.equal(gradient((got * weight).sum(), value), torch.stack([weight[got == v][0] for v in value]))


@pytest.mark.parametrize(("form", "wanted"), [("sigmoid", 0.4740770), ("hinge", 0.5), ("ipo", 0.0)])
def test_preference_losses_equal_the_hand_computed_values(form: str, wanted: float) -> None:
    policy, reference = numbers([-42.0 + 50.0]), numbers([-45.0 + 48.0])
    assert close(dpo(policy, reference, 0.1, form), [wanted], 1e-7)  # type: ignore[arg-type]


def test_the_gradient_of_dpo_raises_the_margin() -> None:
    margin = numbers([8.0]).requires_grad_()
    assert close(gradient(dpo(margin, numbers([3.0]), 0.1).sum(), margin), [-0.0377541], 1e-7)
    assert close(gradient(dpo(margin, numbers([3.0]), 0.1, "hinge").sum(), margin), [-0.1], 1e-12)
    h, reference = numbers([0.7, 0.4]).requires_grad_(), numbers([1.0, -2.0])
    for form in ("sigmoid", "hinge", "ipo"):
        assert torch.autograd.gradcheck(lambda h, form=form: dpo(h, reference, 0.3, form), (h,))


def test_before_the_first_update_dpo_is_log_two() -> None:
    policy = numbers([3.0, -200.0, 0.0]).requires_grad_()
    loss = dpo(policy, policy.detach(), 0.1)
    assert close(loss, [math.log(2)] * 3, 1e-12)
    assert close(gradient(loss.sum(), policy), [-0.05] * 3, 1e-12)


def test_identical_completions_have_a_loss_but_no_gradient() -> None:
    logp = numbers([-3.0]).requires_grad_()
    loss = dpo(logp - logp, numbers([0.0]), 0.1)
    assert close(loss, [math.log(2)], 1e-12)
    assert close(gradient(loss.sum(), logp), [0.0], 1e-12)


def test_the_reference_only_shifts_the_margin() -> None:
    policy, reference = numbers([1.0, -2.0, 0.5]), numbers([0.3, 0.1, -4.0])
    for form in ("sigmoid", "hinge", "ipo"):
        shifted = dpo(policy + 7.0, reference + 7.0, 0.2, form)  # type: ignore[arg-type]
        assert torch.allclose(shifted, dpo(policy, reference, 0.2, form))  # type: ignore[arg-type]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="sigmoid, hinge or ipo"):
        dpo(numbers([1.0]), numbers([0.0]), 0.1, "kto")  # type: ignore[arg-type]


def test_simpo_asks_for_a_margin() -> None:
    """At the margin itself the loss is log 2; the margin is gamma / beta, so gamma = 3 at beta = 10."""
    margin = numbers([0.3, 0.5, -0.2]).requires_grad_()
    loss = simpo(margin, 10.0, 0.3)
    assert close(loss, [math.log(2), math.log1p(math.exp(-2.0)), math.log1p(math.exp(5.0))], 1e-12)
    assert close(gradient(loss.sum(), margin)[0], -5.0, 1e-12)
    assert torch.isfinite(simpo(numbers([-1e4]), 10.0, 0.3)).all()


def test_ranking_losses_equal_the_hand_computed_values() -> None:
    """Pairs out of order: (1, 0) by 0.5, (3, 0) by 0.2 and (3, 2) by 1.2."""
    scores = numbers([[-1, -0.5, -2, -0.8], [1, 2, 3, 4], [4, 3, 2, 1]])
    ranks = FIRST_BEST.expand(3, 4)
    assert close(rrhf(scores, ranks, present(scores)), [1.9, 10.0, 0.0])
    got = pro(scores, ranks, present(scores))
    assert close(got[0], 3.582332)
    assert float(got[2]) > 0
    assert float(got[2]) < float(got[1])


def test_ranking_losses_do_not_depend_on_where_candidates_stand() -> None:
    torch.manual_seed(0)
    scores, order = torch.randn(1, 4, dtype=torch.float64), torch.randperm(4)
    for loss in (rrhf, pro):
        whole = loss(scores, FIRST_BEST, present(scores))
        assert torch.allclose(loss(scores[:, order], FIRST_BEST[:, order], present(scores)), whole)
        assert torch.allclose(loss(scores + 3.0, FIRST_BEST, present(scores)), whole)


def test_ranking_losses_of_padded_groups_are_those_of_the_groups_alone() -> None:
    flat, ranks = numbers([-1, -0.5, -2, -0.8, 0.3, 0.7, -4.0]), numbers([0, 1, 2, 3, 1, 0, 0])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    scores, there = by_group(flat, group)
    place, _ = by_group(ranks, group)
    pair = numbers([[0.3, 0.7]])
    for loss in (rrhf, pro):
        got = loss(scores, place, there)
        assert close(got[1], float(loss(pair, torch.tensor([[1, 0]]), present(pair))))
        assert float(got[2]) == 0.0, "a candidate alone is not ranked"
        for rank in (0.0, 1.0, 9.0):
            noisy = torch.where(there, scores, 1e3)
            assert torch.equal(loss(noisy, torch.where(there, place, rank), there), got)


@pytest.mark.parametrize("loss", [rrhf, pro])
def test_ranking_gradients_match_finite_differences_and_sum_to_zero(loss) -> None:  # type: ignore[no-untyped-def]
    scores = numbers([[-1, -0.5, -2, -0.8], [0.1, 0.4, -0.3, 9.0]]).requires_grad_()
    ranks, there = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 0]]), torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert torch.autograd.gradcheck(lambda s: loss(s, ranks, there), (scores,))
    got = gradient(loss(scores, ranks, there).sum(), scores)
    assert close(got.sum(-1), [0.0, 0.0], 1e-12)
    assert float(got[1, 3]) == 0.0
    assert float(got[0, 0]) < 0, "the best candidate is raised"


def test_rrhf_pushes_each_pair_out_of_order_by_one() -> None:
    scores = numbers([[-1, -0.5, -2, -0.8]]).requires_grad_()
    assert gradient(rrhf(scores, FIRST_BEST, present(scores)).sum(), scores).tolist() == [[-2, 1, -1, 2]]
    equal = numbers([[1.0, 1.0]]).requires_grad_()
    assert gradient(rrhf(equal, torch.tensor([[0, 1]]), present(equal)).sum(), equal).tolist() == [[0, 0]]


def test_candidates_of_equal_rank_form_no_pair() -> None:
    scores = numbers([[1.0, 5.0, 2.0]])
    tied = torch.tensor([[0, 0, 1]])
    assert close(rrhf(scores, tied, present(scores)), [1.0])
    wanted = sum(math.log1p(math.exp(2.0 - top)) for top in (1.0, 5.0))
    assert close(pro(scores, tied, present(scores)), [wanted])
    level = torch.zeros(1, 3)
    assert float(rrhf(scores, level, present(scores))) == 0.0
    assert float(pro(scores, level, present(scores))) == 0.0


@pytest.mark.parametrize("loss", [rrhf, pro])
def test_ranks_of_one_axis_are_refused_instead_of_giving_a_silent_zero(loss) -> None:  # type: ignore[no-untyped-def]
    scores = numbers([-1.0, -0.5, -2.0])
    with pytest.raises(ValueError, match="one shape"):
        loss(scores, torch.arange(3), present(scores))
    with pytest.raises(ValueError, match="one shape"):
        loss(scores[None], torch.arange(3), present(scores[None]))

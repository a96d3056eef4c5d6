"""Objectives against hand-computed vectors and against enumeration on a three-token policy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.objectives import (
    categorical_kl,
    clipped_forward_kl,
    clipped_policy_gradient,
    gather_logprobs,
    group_advantages,
    importance_weighted,
    jensen_shannon,
    of_given_top_k,
    sampler_correction,
    token_logprobs,
    top_k_with_tail,
)

P, Q = [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]
REVERSE_GRADIENT = [-0.300663, 0.200442, 0.100221]  # of KL(q || p) with respect to q's logits
FORWARD_GRADIENT = [-0.3, 0.2, 0.1]


def log(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()[None]


def close(got: Tensor | float, wanted: list[float] | float, tolerance: float = 1e-6) -> bool:
    return torch.allclose(torch.as_tensor(got, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64), 0.0, tolerance)


def leaf(values: list[float] = Q) -> Tensor:
    """Logits of a tabular policy."""
    return log(values)[0].clone().requires_grad_()


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at, retain_graph=True)[0]


def test_divergences_equal_the_hand_computed_values() -> None:
    p, q = log(P), log(Q)
    assert close(categorical_kl(p, q), [0.1837869], 1e-7)
    assert close(categorical_kl(q, p), [0.1920420], 1e-7)
    for beta, wanted in ((0.5, 0.0462008), (0.1, 0.0165180), (0.9, 0.0170996)):
        assert close(jensen_shannon(p, q, beta), [wanted], 1e-7)
    r = log([0.3, 0.3, 0.4])
    assert close(categorical_kl(p, r), [0.373386])
    assert close(categorical_kl(r, p), [0.421968])
    assert close(jensen_shannon(p, r, 0.5), [0.094362])


def test_ends_of_the_jensen_shannon_family_are_the_two_kls() -> None:
    p, q = log(P), log(Q)
    assert torch.equal(jensen_shannon(p, q, 0.0), categorical_kl(p, q))
    assert torch.equal(jensen_shannon(p, q, 1.0), categorical_kl(q, p))
    assert close(jensen_shannon(p, q, 1e-4) / 1e-4, [0.1837681], 1e-7)
    assert close(jensen_shannon(p, q, 1 - 1e-4) / 1e-4, [0.1920206], 1e-7)


def test_jensen_shannon_at_one_half_is_symmetric_and_at_most_log_two() -> None:
    torch.manual_seed(0)
    p, q = torch.log_softmax(5 * torch.randn(2, 20, 7, dtype=torch.float64), -1)
    assert torch.allclose(jensen_shannon(p, q, 0.5), jensen_shannon(q, p, 0.5))
    apart = jensen_shannon(log([1 - 1e-12, 1e-12]), log([1e-12, 1 - 1e-12]), 0.5)
    assert close(apart, [math.log(2)])
    assert float(apart) <= math.log(2)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_jensen_shannon_refuses_a_beta_outside_the_unit_interval(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        jensen_shannon(log(P), log(Q), beta)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_equal_models_have_no_divergence_and_no_gradient(beta: float) -> None:
    u = leaf()
    teacher = torch.log_softmax(u.detach() + 3.0, -1)[None]  # a constant on logits changes nothing
    value = jensen_shannon(teacher, torch.log_softmax(u, -1)[None], beta).sum()
    assert close(value, 0.0, 1e-12)
    assert close(gradient(value, u), [0.0, 0.0, 0.0], 1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_divergence_gradients_match_finite_differences_and_sum_to_zero(beta: float) -> None:
    u = leaf()

    def value(at: Tensor) -> Tensor:
        return jensen_shannon(log(P), torch.log_softmax(at, -1)[None], beta).sum()

    assert torch.autograd.gradcheck(value, (u,))
    assert close(gradient(value(u), u).sum(), 0.0, 1e-12)


def test_kl_gradients_equal_the_exact_ones() -> None:
    u = leaf()
    q = torch.log_softmax(u, -1)[None]
    assert close(gradient(categorical_kl(q, log(P)).sum(), u), REVERSE_GRADIENT)
    assert close(gradient(categorical_kl(log(P), q).sum(), u), FORWARD_GRADIENT)
    v = leaf([0.3, 0.3, 0.4])
    assert close(gradient(categorical_kl(log(P), torch.log_softmax(v, -1)[None]).sum(), v), [-0.4, 0.1, 0.3])


def test_impossible_tokens_add_nothing_to_value_or_gradient() -> None:
    u = torch.tensor([0.0, 0.0, float("-inf")], dtype=torch.float64, requires_grad=True)
    q = torch.log_softmax(u, -1)[None]
    p = log([0.75, 0.25, 0.0])
    for value in (categorical_kl(q, p).sum(), categorical_kl(p, q).sum()):
        assert torch.isfinite(value)
        assert torch.isfinite(gradient(value, u)).all()
    assert close(categorical_kl(p, q), [0.75 * math.log(1.5) + 0.25 * math.log(0.5)])
    assert torch.isinf(categorical_kl(log(Q), p)).all(), "a token the other model forbids is infinitely far"


def test_expected_policy_gradient_on_the_log_ratio_is_the_reverse_kl_gradient() -> None:
    """E over y of -exp(logq - logq_old) A_y with A = logp - logq detached: the sampled-token form of distillation."""
    u = leaf()
    q = torch.log_softmax(u, -1)
    advantage = log(P)[0] - q.detach()
    for old in (None, q.detach()):
        loss = (q.detach().exp() * importance_weighted(q, old, advantage)).sum()
        assert close(gradient(loss, u), REVERSE_GRADIENT)


def test_an_advantage_that_ignores_the_token_has_no_expected_gradient() -> None:
    u = leaf()
    q = torch.log_softmax(u, -1)
    same = categorical_kl(q[None], log(P)).detach().expand(3)
    assert close(gradient((q.detach().exp() * importance_weighted(q, None, same)).sum(), u), [0.0, 0.0, 0.0], 1e-12)


def test_top_k_with_a_tail_of_one_token_is_exact_and_renormalised_is_not() -> None:
    p, q = top_k_with_tail(log(P), log(Q), 2)
    assert close(categorical_kl(q, p), [0.1920420], 1e-7)
    p, q = top_k_with_tail(log(P), log(Q), 2, "renormalise")
    assert close(categorical_kl(q, p), [0.1845487], 1e-7)


def test_the_tail_bounds_the_divergence_from_below_and_covers_everything_at_full_k() -> None:
    torch.manual_seed(1)
    p, q = torch.log_softmax(3 * torch.randn(2, 40, 9, dtype=torch.float64), -1)
    exact = categorical_kl(q, p)
    for k in range(1, 9):
        kept_p, kept_q = top_k_with_tail(p, q, k)
        assert kept_p.shape == (40, k + 1)
        assert (categorical_kl(kept_q, kept_p) <= exact + 1e-12).all()
        assert torch.allclose(kept_p.exp().sum(-1), torch.ones(40, dtype=torch.float64))
    assert torch.equal(categorical_kl(*reversed(top_k_with_tail(p, q, 9))), exact)


def test_what_a_server_tells_of_a_teacher_is_its_top_tokens_and_a_tail() -> None:
    ids = torch.tensor([[2, 0]])
    p, q = of_given_top_k(log([0.2, 0.7]), ids, log([0.4, 0.4, 0.2]))  # P in another order of tokens: 2 has .2, 0 has .7
    assert close(p.exp(), [[0.2, 0.7, 0.1]])
    assert close(q.exp(), [[0.2, 0.4, 0.4]])
    assert close(categorical_kl(p, q), [0.7 * math.log(0.7 / 0.4) + 0.1 * math.log(0.1 / 0.4)], 1e-12)
    torch.manual_seed(1)
    p, q = torch.log_softmax(3 * torch.randn(2, 40, 9, dtype=torch.float64), -1)
    best = p.topk(8)
    assert torch.allclose(categorical_kl(*of_given_top_k(best.values, best.indices, q)), categorical_kl(p, q), atol=1e-9)
    for k in range(1, 8):
        kept_p, kept_q = of_given_top_k(best.values[:, :k], best.indices[:, :k], q)
        assert (categorical_kl(kept_q, kept_p) <= categorical_kl(q, p) + 1e-9).all()
        assert torch.allclose(kept_q.exp().sum(-1), torch.ones(40, dtype=torch.float64))
    whole, _ = of_given_top_k(log([0.6, 0.4]), torch.tensor([[0, 1]]), log([0.4, 0.4, 0.2]))
    assert close(whole[0, 2].exp(), 1e-6, 1e-9)


def test_the_tail_keeps_its_digits_when_it_is_tiny() -> None:
    logits = torch.tensor([[20.0, 19.0, -3.0, -4.0]])
    _, kept = top_k_with_tail(torch.log_softmax(logits.flip(-1), -1), torch.log_softmax(logits, -1), 2)
    wanted = torch.log_softmax(logits.double(), -1)[0, 2:].logsumexp(-1)
    assert float(kept[0, 2]) == pytest.approx(float(wanted), abs=1e-5)


def test_group_advantages_equal_the_hand_computed_values() -> None:
    reward = torch.tensor([1.0, 2 / 3, 1 / 4, 1 / 12], dtype=torch.float64)
    group = torch.zeros(4, dtype=torch.long)
    assert close(group_advantages(reward, group, standardise=False), [0.5, 0.166667, -0.25, -0.416667])
    assert close(group_advantages(reward, group, standardise=True), [1.208078, 0.402693, -0.604039, -1.006732], 2e-6)


def test_group_advantages_keep_groups_apart_in_any_order() -> None:
    reward = torch.tensor([1.0, 5.0, 0.0, 7.0, 0.5], dtype=torch.float64)
    group = torch.tensor([0, 1, 0, 1, 0])
    assert close(group_advantages(reward, group, standardise=False), [0.5, -1.0, -0.5, 1.0, 0.0])
    shifted = group_advantages(reward + torch.tensor([3.0, -2.0])[group], group, standardise=True)
    assert torch.allclose(shifted, group_advantages(reward, group, standardise=True))


@pytest.mark.parametrize("standardise", [False, True])
def test_equal_rewards_and_lone_rollouts_get_exactly_zero(standardise: bool) -> None:
    reward = torch.tensor([0.1, 0.1, 0.1, 0.7])  # the float32 mean of three 0.1 is not 0.1
    got = group_advantages(reward, torch.tensor([0, 0, 0, 1]), standardise=standardise)
    assert torch.equal(got, torch.zeros(4))


def test_dual_clip_equals_the_hand_computed_values() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 4.0], dtype=torch.float64)
    advantage = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64)
    assert close(clipped_policy_gradient(ratio.log(), torch.zeros(4), advantage), [-0.6, -0.25, 0.75, 1.5])


def test_clipping_stops_the_gradient_only_where_it_pays() -> None:
    logp = torch.tensor([1.5, 0.5, 1.5, 0.5, 4.0], dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([0.5, 0.5, -0.5, -0.5, -0.5], dtype=torch.float64)
    loss = clipped_policy_gradient(logp, torch.zeros(5), advantage)
    assert close(gradient(loss.sum(), logp), [0.0, -0.25, 0.75, 0.0, 0.0])


def test_without_old_logprobs_the_ratio_is_one_and_keeps_its_gradient() -> None:
    logp = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([0.3, -0.7], dtype=torch.float64)
    for loss in (clipped_policy_gradient(logp, None, advantage), importance_weighted(logp, None, advantage)):
        assert close(loss.detach(), [-0.3, 0.7], 1e-12)
        assert close(gradient(loss.sum(), logp), [-0.3, 0.7], 1e-12)


def test_sampler_correction_is_a_capped_ratio_without_gradient() -> None:
    trainer = torch.tensor([-1.0, -1.0, 0.0], requires_grad=True)
    got = sampler_correction(trainer, torch.tensor([-1.0, -0.5, -50.0]))
    assert close(got, [1.0, math.exp(-0.5), 2.0])
    assert not got.requires_grad


def test_token_logprobs_divide_by_the_temperature_and_widen() -> None:
    logits = torch.tensor([[1.0, 3.0, -2.0]])
    wanted = torch.log_softmax(logits / 0.5, -1)
    assert torch.equal(token_logprobs(logits, 0.5), wanted)
    assert token_logprobs(logits.bfloat16(), 0.5).dtype == torch.float32
    assert token_logprobs(logits.double()).dtype == torch.float64
    assert torch.equal(gather_logprobs(wanted, torch.tensor([1])), wanted[:, 1])


R = [0.3, 0.3, 0.4]
"""A student whose first token is far below the teacher's P."""


def test_clipped_forward_kl_equals_the_hand_computed_values() -> None:
    p, r = log(P), log(R)
    elements = p.exp() * (p - r)
    assert close(elements, [[0.593109, -0.081093, -0.138629]])
    assert close(clipped_forward_kl(p, r), [0.373386])
    assert torch.equal(clipped_forward_kl(p, r), categorical_kl(p, r))
    assert close(clipped_forward_kl(p, r, "vocab_element", 0.05), [-0.169722]), "negative: it is no divergence"
    assert close(clipped_forward_kl(p, r, "token_sum", 0.05), [0.05])
    for mode in ("vocab_element", "token_sum"):
        assert torch.equal(clipped_forward_kl(p, r, mode, 0.6), categorical_kl(p, r)), "nothing to cut"  # type: ignore[arg-type]


CLIP_GRADIENTS = [("none", [-0.4, 0.1, 0.3]), ("vocab_element", [0.09, -0.11, 0.02]), ("token_sum", [0.0, 0.0, 0.0])]


@pytest.mark.parametrize(("mode", "wanted"), CLIP_GRADIENTS)
def test_cutting_elements_turns_the_gradient_of_the_cut_token_round(mode: Any, wanted: list[float]) -> None:
    u = leaf(R)

    def value(at: Tensor) -> Tensor:
        return clipped_forward_kl(log(P), torch.log_softmax(at, -1)[None], mode, 0.05).sum()

    assert torch.autograd.gradcheck(value, (u,))
    got = gradient(value(u), u)
    assert close(got, wanted)
    assert close(got.sum(), 0.0, 1e-12)


def test_the_gradient_of_cut_elements_is_the_one_that_algebra_gives() -> None:
    """P_A q_v - p_v 1[v in A] on the set A of elements that are not cut."""
    torch.manual_seed(2)
    for tau in (0.01, 0.05, 0.3):
        logp = torch.log_softmax(2 * torch.randn(6, dtype=torch.float64), -1)
        u = (2 * torch.randn(6, dtype=torch.float64)).requires_grad_()
        logq = torch.log_softmax(u, -1)
        p, q = logp.exp(), logq.exp().detach()
        kept = (p * (logp - logq.detach()) <= tau).double()
        assert 0 < kept.sum() < 6
        got = gradient(clipped_forward_kl(logp[None], logq[None], "vocab_element", tau).sum(), u)
        assert torch.allclose(got, (p * kept).sum() * q - p * kept)
        assert (got[kept == 0] > 0).all()
        assert (p[kept == 0] > q[kept == 0]).all(), "descent lowers tokens that the teacher wants raised"


def test_a_steered_target_loses_its_own_token_to_the_element_clip() -> None:
    u = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    target, q = torch.log_softmax(torch.tensor([[2.5, -0.5, -3.0]], dtype=torch.float64), -1), torch.log_softmax(u, -1)[None]
    exact, cut = clipped_forward_kl(target, q), clipped_forward_kl(target, q, "vocab_element", 0.05)
    assert close(exact, [0.883085])
    assert close(cut, [-0.059576])
    assert close(gradient(exact.sum(), u), [-0.615547, 0.286091, 0.329455])
    assert close(gradient(cut.sum(), u), [0.017040, -0.030202, 0.013162])


def test_clipping_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="token_sum"):
        clipped_forward_kl(log(P), log(Q), "jsd_token_clip")  # type: ignore[arg-type]
    for tau in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="tau"):
            clipped_forward_kl(log(P), log(Q), "vocab_element", tau)


def estimators(logq: Tensor) -> dict[str, Tensor]:
    """Per-token estimators of KL(q || p) from a token of q, as other trainers back-propagate them."""
    ratio = logq - log(P)[0]
    return {"k1": ratio, "k2": ratio**2 / 2, "k3": (-ratio).exp() - 1 + ratio}


def test_estimators_of_the_reverse_kl_agree_in_expectation() -> None:
    q = log(Q)[0]
    wanted = {"k1": [-0.559616, 0.693147, 0.693147], "k3": [0.190384, 0.193147, 0.193147]}
    for name, values in wanted.items():
        assert close(estimators(q)[name], values)
        assert close((q.exp() * estimators(q)[name]).sum(), 0.1920420, 1e-7)


@pytest.mark.parametrize(("name", "wanted"), [("k1", [0.0, 0.0, 0.0]), ("k2", REVERSE_GRADIENT), ("k3", FORWARD_GRADIENT)])
def test_back_propagated_estimators_have_gradients_of_their_own(name: str, wanted: list[float]) -> None:
    """k1 teaches nothing and k3 teaches the forward KL, which is why no objective here is an estimator."""
    u = leaf()
    logq = torch.log_softmax(u, -1)
    assert close(gradient((logq.detach().exp() * estimators(logq)[name]).sum(), u), wanted)


def test_a_truncated_sum_is_no_divergence_but_a_tail_makes_it_one() -> None:
    p, q = log(P), log(Q)
    truncated = (p.exp() * (p - q))[:, :2].sum(-1)  # the teacher's two likeliest tokens, not renormalised
    assert close(truncated, [0.2531016], 1e-7)
    assert (truncated > categorical_kl(p, q)).all()
    kept_q, kept_p = top_k_with_tail(q, p, 2)
    assert (categorical_kl(kept_p, kept_q) <= categorical_kl(p, q) + 1e-12).all()


def test_standardised_advantages_use_the_unbiased_deviation() -> None:
    reward, group = torch.tensor([1.0, 2 / 3, 1 / 4, 1 / 12], dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    got = group_advantages(reward, group, standardise=True)
    assert not close(got, [1.394968, 0.464989, -0.697484, -1.162473], 1e-2), "that would be the population's"
    assert close(got * 0.413880, [0.5, 0.166667, -0.25, -0.416667], 2e-6)

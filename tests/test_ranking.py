"""Distributions over rankings against hand-computed vectors, and against the routine that pools prompts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.objectives import (
    decomposed,
    plackett_luce,
    ranking_entropy,
    ranking_jsd,
    ranking_jsd_reverse,
    ranking_nll,
    ranking_table,
)

STUDENT = [[-0.9, -1.1, -1.0, -1.4], [-1.3, -0.8, -1.0, -0.95]]
TEACHER = [[-0.3, -0.7, -1.2, -2.3], [-1.5, -0.2, -0.9, -0.6]]

Divergence = Callable[[Tensor, Tensor, float, float], Tensor]
DIVERGENCES = [ranking_jsd, ranking_jsd_reverse]


def numbers(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(got: Tensor | float, wanted: object, tolerance: float = 1e-6) -> bool:
    return torch.allclose(torch.as_tensor(got, dtype=torch.float64), numbers(wanted), 0.0, tolerance)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at, retain_graph=True)[0]


def first_rows() -> tuple[Tensor, Tensor]:
    return numbers(STUDENT[:1]), numbers(TEACHER[:1])


def test_the_table_holds_every_order_once() -> None:
    assert ranking_table(2).tolist() == [[0, 1], [1, 0]]
    for n in range(1, 6):
        table = ranking_table(n)
        assert table.shape == (math.factorial(n), n)
        assert len(set(map(tuple, table.tolist()))) == len(table)
        assert (table.sort(-1).values == torch.arange(n)).all()


@pytest.mark.parametrize("n", [0, 6, 30])
def test_orders_of_many_completions_are_refused_with_the_way_out(n: int) -> None:
    with pytest.raises(ValueError, match="decomposed"):
        ranking_table(n)
    with pytest.raises(ValueError, match="decomposed"):
        plackett_luce(torch.zeros(1, n), 1.0)


def test_scores_of_one_axis_are_refused() -> None:
    for call in (lambda s: plackett_luce(s, 1.0), lambda s: ranking_nll(s, s, 1.0), lambda s: ranking_jsd(s, s, 1.0, 1.0)):
        with pytest.raises(ValueError, match=r"\[B, N\]"):
            call(torch.zeros(4))
    with pytest.raises(ValueError, match=r"\[B, N\]"):
        ranking_nll(torch.zeros(1, 4), torch.zeros(1, 3), 1.0)


@pytest.mark.parametrize(
    ("beta", "vpd", "ppd", "reverse", "kl", "top_student", "top_teacher"),
    [
        (1.0, 2.7619279, 0.0804836, 0.0902158, 0.3181221, 0.066986, 0.187535),
        (10.0, 1.7567909, 0.4107953, 1.1480957, 1.6373218, 0.455104, 0.975307),
    ],
)
def test_ranking_losses_equal_the_hand_computed_values(
    beta: float, vpd: float, ppd: float, reverse: float, kl: float, top_student: float, top_teacher: float
) -> None:
    u, v = first_rows()
    student, teacher = plackett_luce(u, beta), plackett_luce(v, beta)
    assert student.shape == (1, 24)
    for logp, top in ((student, top_student), (teacher, top_teacher)):
        assert close(logp.exp().sum(), 1.0)
        assert close(logp.exp().max(), top)
    assert close(ranking_nll(u, v, beta), [vpd], 1e-7)
    assert close(ranking_jsd(u, v, beta, beta), [ppd], 1e-7)
    assert close(ranking_jsd_reverse(u, v, beta, beta), [reverse], 1e-7)
    assert close((teacher.exp() * (teacher - student)).sum(), kl, 1e-7)


def test_each_side_has_its_own_temperature() -> None:
    u, v = first_rows()
    assert close(ranking_jsd(u, v, 10.0, 1.0), [0.1520573], 1e-7)
    assert not close(ranking_jsd(u, v, 1.0, 10.0), [0.1520573], 1e-3)


def pooled(student: Tensor, teacher: Tensor, beta: float) -> float:
    """The released routine: one mixture for all prompts of the batch, and the arguments of KL exchanged."""
    s, t = plackett_luce(student, beta), plackett_luce(teacher, beta)
    mixed = (s.exp() + t.exp()).sum(0) / 2
    return float((mixed * (2 * mixed.log() - s - t)).sum(-1).mean() / 2)


def test_a_batch_is_the_mean_of_its_rows_and_never_pools_prompts() -> None:
    u, v = numbers(STUDENT), numbers(TEACHER)
    assert close(ranking_jsd(u, v, 10.0, 10.0).mean(), 0.2906684, 1e-7)
    assert close(ranking_jsd_reverse(u, v, 10.0, 10.0).mean(), 0.7278929, 1e-7)
    assert pooled(u, v, 10.0) == pytest.approx(16.0090779, abs=1e-6)
    assert pooled(v, v, 10.0) == pytest.approx(24.3019437, abs=1e-6)
    for divergence in DIVERGENCES:
        whole = divergence(u, v, 10.0, 10.0)
        assert torch.equal(whole, torch.cat([divergence(u[i : i + 1], v[i : i + 1], 10.0, 10.0) for i in range(2)]))
        assert float(whole.mean()) < 1.0
        assert close(divergence(v, v, 10.0, 10.0), [0.0, 0.0], 1e-12), "a perfect student stays where it is"
    assert torch.equal(ranking_nll(u, v, 10.0), torch.cat([ranking_nll(u[i : i + 1], v[i : i + 1], 10.0) for i in range(2)]))


def test_two_completions_are_a_pair_of_bernoullis() -> None:
    u, v = numbers([[1.0, 0.0]]), numbers([[0.0, 0.0]])
    assert close(ranking_jsd(u, v, 1.0, 1.0), [0.0285353], 1e-7)
    assert close(plackett_luce(u, 3.0).exp(), [[1 / (1 + math.exp(-3)), 1 / (1 + math.exp(3))]], 1e-12)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_the_first_place_is_a_softmax(n: int) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, n, dtype=torch.float64)
    first = torch.zeros(2, n, dtype=torch.float64).index_add_(1, ranking_table(n)[:, 0], plackett_luce(scores, 2.0).exp())
    assert torch.allclose(first, torch.softmax(2.0 * scores, -1))


def test_rankings_do_not_depend_on_shifts_or_on_where_candidates_stand() -> None:
    u, v = numbers(STUDENT), numbers(TEACHER)
    order = torch.tensor([2, 0, 3, 1])
    losses: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda a, b: ranking_jsd(a, b, 2.0, 5.0), lambda a, b: ranking_jsd_reverse(a, b, 2.0, 5.0),
        lambda a, b: ranking_nll(a, b, 2.0), lambda a, b: ranking_entropy(a, 2.0),
    ]  # fmt: skip
    for loss in losses:
        wanted = loss(u, v)
        assert torch.allclose(loss(u + 3.0, v - 7.0), wanted)
        assert torch.allclose(loss(u[:, order], v[:, order]), wanted)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_scores_up_to_a_constant_give_no_loss_and_no_gradient(divergence: Divergence) -> None:
    u = numbers(STUDENT).requires_grad_()
    loss = divergence(u, u.detach() + 2.5, 10.0, 10.0)
    assert close(loss.detach(), [0.0, 0.0], 1e-12)
    assert close(gradient(loss.sum(), u), [[0.0] * 4] * 2, 1e-12)


@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_gradients_match_finite_differences_and_sum_to_zero(beta: float) -> None:
    u, v = numbers(STUDENT).requires_grad_(), numbers(TEACHER)
    losses: list[Callable[[Tensor], Tensor]] = [
        lambda s: ranking_jsd(s, v, beta, beta), lambda s: ranking_jsd_reverse(s, v, beta, beta),
        lambda s: ranking_nll(s, v, beta), lambda s: ranking_entropy(s, beta),
    ]  # fmt: skip
    for loss in losses:
        assert torch.autograd.gradcheck(loss, (u,))
        got = gradient(loss(u).sum(), u)
        assert close(got.sum(-1), [0.0, 0.0], 1e-12)
        assert float(got.abs().max()) > 1e-3


def test_the_divergence_is_symmetric_and_at_most_log_two() -> None:
    u, v = numbers(STUDENT), numbers(TEACHER)
    assert torch.allclose(ranking_jsd(u, v, 10.0, 10.0), ranking_jsd(v, u, 10.0, 10.0))
    opposite = numbers([[0.0, 1.0, 2.0, 3.0]])
    far = ranking_jsd(opposite, opposite.flip(-1), 100.0, 100.0)
    assert close(far, [math.log(2)])
    assert float(far) <= math.log(2)
    assert float(ranking_jsd_reverse(opposite, opposite.flip(-1), 100.0, 100.0)) > 100


def test_the_vanilla_loss_knows_the_teachers_order_and_nothing_else() -> None:
    u, v = first_rows()
    wanted = ranking_nll(u, v, 10.0)
    assert float(wanted) >= 0
    assert torch.equal(ranking_nll(u, 100 * v, 10.0), wanted)
    assert torch.equal(ranking_nll(u, numbers([[4.0, 3.0, 2.0, 1.0]]), 10.0), wanted)
    assert float(ranking_nll(u, -v, 10.0)) > float(wanted)
    at = (ranking_table(4) == torch.tensor([0, 1, 2, 3])).all(-1)
    assert torch.allclose(-plackett_luce(u, 10.0)[:, at][:, 0], wanted)
    many = torch.randn(2, 40, dtype=torch.float64)
    assert ranking_nll(many, many, 1.0).shape == (2,)


def test_entropy_falls_from_log_of_all_orders_to_none() -> None:
    assert close(ranking_entropy(torch.zeros(1, 4, dtype=torch.float64), 1.0), [math.log(24)], 1e-12)
    _, v = first_rows()
    entropies = [float(ranking_entropy(v, beta)) for beta in (0.1, 1.0, 10.0, 1000.0)]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[-1] == pytest.approx(0.0, abs=1e-9)
    pair = numbers([[1.0, 0.0]])
    p = 1 / (1 + math.exp(-2.0))
    assert close(ranking_entropy(pair, 2.0), [-p * math.log(p) - (1 - p) * math.log1p(-p)], 1e-12)


def test_letter_probabilities_make_scores_and_a_sharp_teacher() -> None:
    """Six pairs of letter probabilities, each completion scored by the mean over its three pairs."""
    pairs = {
        (0, 1): (0.7, 0.2), (0, 2): (0.6, 0.3), (0, 3): (0.9, 0.05), (1, 2): (0.4, 0.5), (1, 3): (0.8, 0.1), (2, 3): (0.75, 0.15),
    }  # fmt: skip
    chosen, within = [0.0] * 4, [0.0] * 4
    for (i, j), (p_i, p_j) in pairs.items():
        for k, p in ((i, p_i), (j, p_j)):
            chosen[k] += p / 3
            within[k] += p / (p_i + p_j) / 3
    assert close(numbers(chosen), [0.733333, 0.466667, 0.516667, 0.1])
    assert close(numbers(within), [0.797271, 0.518519, 0.574074, 0.110136])
    scores = numbers([chosen]).log()
    assert close(scores, [[-0.310155, -0.762140, -0.660357, -2.302585]])
    first = ranking_table(4)[:, 0]
    for beta, wanted in ((1.0, [0.404, 0.257, 0.284, 0.055]), (10.0, [0.9606, 0.0105, 0.0289, 2e-9])):
        top = torch.zeros(4, dtype=torch.float64).index_add_(0, first, plackett_luce(scores, beta)[0].exp())
        assert close(top, wanted, 5e-4)


def test_large_groups_are_cut_into_disjoint_sets_of_nearly_equal_size() -> None:
    assert decomposed(8, 4) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert decomposed(5, 4) == [(0, 1), (2, 3, 4)], "nobody is left alone where it can be helped"
    assert decomposed(4, 5) == [(0, 1, 2, 3)]
    assert decomposed(4, 2, [3, 1, 0, 2]) == [(3, 1), (0, 2)]
    assert decomposed(0, 2) == []
    for n in range(1, 20):
        for size in range(2, 6):
            sets = decomposed(n, size)
            assert sorted(i for each in sets for i in each) == list(range(n))
            assert max(map(len, sets)) <= size
            assert max(map(len, sets)) - min(map(len, sets)) <= 1
            assert len(sets) == math.ceil(n / size)


def test_random_subsets_come_from_a_permutation() -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    assert [i for each in decomposed(9, 3, order) for i in each] == order
    with pytest.raises(ValueError, match="permutation"):
        decomposed(3, 2, [0, 1, 1])
    with pytest.raises(ValueError, match="2 or more"):
        decomposed(3, 1)

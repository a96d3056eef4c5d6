"""Swap-averaged judgments, agreement of orders and tournaments, on plain Python values."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter

import pytest
import torch

from harness.objectives import kendall_tau, knockout, longest_common_subsequence, swap_average


def test_a_bias_for_the_first_place_loses_to_the_average_of_both_orders() -> None:
    first, second = (0.6, 0.3), (0.5, 0.4)  # the first place wins both orders
    assert swap_average(first, second) == pytest.approx((0.50, 0.40))
    assert swap_average((0.9, 0.05), (0.9, 0.05)) == pytest.approx((0.475, 0.475)), "bias alone is a tie"


def test_judgments_are_read_as_they_are_and_not_renormalised() -> None:
    """Renormalising within the two letters would turn this verdict round, to 0.442414 against 0.557586."""
    first, second = (0.01, 0.24), (0.09, 0.49)
    assert swap_average(first, second) == pytest.approx((0.250, 0.165))
    within = swap_average(*((a / (a + b), b / (a + b)) for a, b in (first, second)))
    assert within == pytest.approx((0.442414, 0.557586), abs=1e-6)


def test_swapping_the_answers_swaps_their_scores() -> None:
    draw = random.Random(0)
    for _ in range(20):
        first, second = ((draw.random() / 2, draw.random() / 2) for _ in range(2))
        s_a, s_b = swap_average(first, second)
        assert swap_average(second, first) == (s_b, s_a)
        assert s_a + s_b <= 1


def test_tensors_of_judgments_are_averaged_letter_by_letter() -> None:
    """Also where another axis has length two."""
    first, second = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    s_a, s_b = swap_average(first, second)
    for i, j in itertools.product(range(3), range(2)):
        wanted = swap_average(tuple(first[i, j].tolist()), tuple(second[i, j].tolist()))
        assert (float(s_a[i, j]), float(s_b[i, j])) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("ABCD", "ABCD", "ABCD"), ("ABCD", "ACBD", "ABD"), ("ABCD", "BACD", "ACD"), ("ABCD", "DCBA", "A"),
        ("ABCD", "CDAB", "AB"), ("CDAB", "ABCD", "CD"), ("", "AB", ""), ("AB", "", ""), ("AB", "CD", ""),
        ("ABCBDAB", "BDCABA", "BCBA"), ("AAB", "ABA", "AA"),
    ],
)  # fmt: skip
def test_of_several_longest_common_subsequences_the_earliest_in_the_first_order_is_taken(
    first: str, second: str, wanted: str
) -> None:
    assert "".join(longest_common_subsequence(first, second)) == wanted


def test_common_subsequences_equal_those_found_by_trying_all() -> None:
    draw = random.Random(1)
    for _ in range(200):
        first, second = ([draw.randrange(4) for _ in range(draw.randint(0, 6))] for _ in range(2))
        subsequences = {c for size in range(7) for c in itertools.combinations(second, size)}
        places = (c for size in range(len(first), -1, -1) for c in itertools.combinations(range(len(first)), size))
        wanted = next(c for c in places if tuple(first[i] for i in c) in subsequences)
        assert longest_common_subsequence(first, second) == [first[i] for i in wanted]


def test_random_orders_agree_by_chance_as_often_as_enumeration_says() -> None:
    def lengths(n: int) -> Counter[int]:
        return Counter(len(longest_common_subsequence(range(n), order)) for order in itertools.permutations(range(n)))

    four = lengths(4)
    assert [round(four[size] / 24, 4) for size in (4, 3, 2, 1)] == [0.0417, 0.3750, 0.5417, 0.0417]
    assert sum(size * count for size, count in four.items()) / 24 == pytest.approx(2.4167, abs=5e-5)
    assert sum(size * count for size, count in lengths(3).items()) / 6 == pytest.approx(2.0)
    assert sum(size * count for size, count in lengths(5).items()) / 120 == pytest.approx(2.79, abs=5e-3)


def test_kendall_tau_counts_pairs_in_the_same_order() -> None:
    assert kendall_tau("ABCD", "ABCD") == 1
    assert kendall_tau("ABCD", "DCBA") == -1
    assert kendall_tau("ABCD", "ABDC") == pytest.approx(4 / 6)
    assert kendall_tau("ABCD", "CDAB") == pytest.approx(-2 / 6)
    assert sum(kendall_tau("ABCD", order) for order in itertools.permutations("ABCD")) == pytest.approx(0)


@pytest.mark.parametrize(("first", "second"), [("AB", "AC"), ("AAB", "ABB"), ("AB", "ABC"), ("A", "A"), ("AAB", "BAA")])
def test_kendall_tau_refuses_what_are_not_two_orders_of_the_same_things(first: str, second: str) -> None:
    with pytest.raises(ValueError, match="same two or more things"):
        kendall_tau(first, second)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 16])
def test_a_tournament_finds_the_best_of_any_shuffle_in_n_minus_one_matches(n: int) -> None:
    wanted_rounds = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 11: 4, 16: 4}[n]
    for seed in range(10):
        strength = random.Random(seed).sample(range(n), n)
        rounds: list[list[tuple[int, int]]] = []

        def better(pairs: list[tuple[int, int]], rounds=rounds, strength=strength) -> list[int]:  # type: ignore[no-untyped-def]
            rounds.append(pairs)
            return [max(pair, key=lambda i: strength[i]) for pair in pairs]

        assert strength[knockout(n, better)] == n - 1
        assert len(rounds) == wanted_rounds
        assert sum(map(len, rounds)) == n - 1
        for pairs in rounds:
            players = [player for pair in pairs for player in pair]
            assert len(set(players)) == len(players), "nobody plays twice in a round"


def test_nobody_sits_out_twice_running() -> None:
    met: list[list[tuple[int, int]]] = []

    def upper(pairs: list[tuple[int, int]]) -> list[int]:
        met.append(pairs)
        return [i for i, _ in pairs]

    assert knockout(5, upper) == 3
    assert met == [[(1, 2), (3, 4)], [(3, 0)], [(3, 1)]]


def test_a_tournament_refuses_winners_who_did_not_play() -> None:
    with pytest.raises(ValueError, match="one winner of each pair"):
        knockout(4, lambda pairs: [0, 1])
    with pytest.raises(ValueError, match="one winner of each pair"):
        knockout(4, lambda pairs: [0])
    with pytest.raises(ValueError, match="at least one contestant"):
        knockout(0, lambda pairs: [])


def test_judgments_need_no_torch() -> None:
    script = "import sys; from harness.objectives import knockout, swap_average; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)

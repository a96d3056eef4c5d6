"""What is done with judgments before there is a loss: debiased pairs, agreement of two orders, tournaments.

Everything here works on plain Python values, so that a method can use it while it collects, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from torch import Tensor

Thing = TypeVar("Thing", bound=Hashable)
Pair = tuple[float, float]


@overload
def swap_average(first: Pair, second: Pair) -> Pair: ...
@overload
def swap_average(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]: ...
def swap_average(first: Any, second: Any) -> tuple[Any, Any]:
    """Scores (s_a, s_b) of two answers, averaged over both orders of showing them, free of a bias for a place.

    `first` holds the probabilities of the letters A and B with a shown as A and b as B; `second` those with b shown as A
    and a as B. Each is a pair of numbers or a tensor [..., 2]. s_a = (A_first + B_second) / 2, s_b = (B_first + A_second) / 2.
    Equal scores are a tie, which the caller breaks or drops.
    Source: SELF-JUDGE (arXiv 2402.11253); the probabilities are those of the whole vocabulary, not renormalised.
    """
    (first_A, first_B), (second_A, second_B) = _letters(first), _letters(second)
    return (first_A + second_B) / 2, (first_B + second_A) / 2


def _letters(judgment: Any) -> Any:
    return judgment if isinstance(judgment, tuple | list) else (judgment[..., 0], judgment[..., 1])


def longest_common_subsequence(first: Sequence[Thing], second: Sequence[Thing]) -> list[Thing]:
    """The longest sequence that both contain in order; of several, the one that stands earliest in `first`."""
    rows, columns = len(first), len(second)
    # length[i][j] is that of the longest common subsequence of first[i:] and second[j:]
    length = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            same = length[i + 1][j + 1] + 1 if first[i] == second[j] else 0
            length[i][j] = max(same, length[i + 1][j], length[i][j + 1])
    common: list[Thing] = []
    at = 0
    for i, thing in enumerate(first):
        # taken as soon as a longest sequence can begin with it, at its first place in what is left of `second`
        place = next((j for j in range(at, columns) if second[j] == thing), None)
        if place is not None and length[i][at] == length[i + 1][place + 1] + 1:
            common.append(thing)
            at = place + 1
    return common


def kendall_tau(first: Sequence[Thing], second: Sequence[Thing]) -> float:
    """(concordant - discordant) / all pairs of two orders of the same things: 1 equal, -1 reversed, 0 unrelated.

    Raises:
        ValueError: the orders hold different things, repeat one, or hold fewer than two.
    """
    place = {thing: index for index, thing in enumerate(second)}
    if len(first) < 2 or len(place) != len(second) or len(first) != len(second) or set(first) != set(place):
        raise ValueError(f"two orders of the same two or more things are needed, got {list(first)} and {list(second)}")
    signs = [1 if place[above] < place[below] else -1 for above, below in combinations(first, 2)]
    return sum(signs) / len(signs)


def knockout(n: int, better: Callable[[list[tuple[int, int]]], Sequence[int]]) -> int:
    """The winner of a knockout tournament among contestants 0 .. n - 1, after n - 1 matches.

    Neighbours meet. `better` gets all pairs of a round at once and returns each pair's winner. Where the survivors are
    odd in number the first sits the round out and goes to the end of the line, so that nobody sits out twice running.
    To draw lots, shuffle the contestants and look the winner up.

    Raises:
        ValueError: fewer than one contestant, or winners that are not one of each pair.
    """
    if n < 1:
        raise ValueError(f"a tournament needs at least one contestant, got {n}")
    left = list(range(n))
    while len(left) > 1:
        bye = left[:1] if len(left) % 2 else []
        playing = left[len(bye) :]
        pairs = list(zip(playing[::2], playing[1::2], strict=True))
        winners = list(better(pairs))
        if len(winners) != len(pairs) or any(winner not in pair for winner, pair in zip(winners, pairs, strict=True)):
            raise ValueError(f"one winner of each pair is needed, got {winners} for the pairs {pairs}")
        left = winners + bye
    return left[0]


def vote(letters: Sequence[tuple[float, float]], agreement: bool, confidence: float) -> int | None:
    """The better of two answers (0 or 1), None without a preference.

    `letters` holds P(A) and P(B) with the pair in its order and then swapped, principle after principle.
    """
    leads = []
    for first, second in zip(letters[::2], letters[1::2], strict=True):
        s_a, s_b = swap_average(first, second)
        agree = {_sign(first[0] - first[1]), _sign(second[1] - second[0])} in ({1}, {-1})
        if (agree or not agreement) and max(s_a, s_b) >= confidence * (s_a + s_b):
            leads.append(s_a - s_b)
    lead = sum(map(_sign, leads)) or math.fsum(leads)
    return None if lead == 0 else int(lead < 0)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)

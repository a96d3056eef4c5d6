"""The ledger: exact ceilings and marks, overshoot by one round at most, evaluation apart."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from harness.errors import SpecError
from harness.ledger import BUDGETABLE, COUNTED, DEFAULT_MARKS, METERS, Budget, Ledger


def marks(budget: Budget) -> dict[str, float]:
    return {str(mark): reading for mark, reading in budget.schedule}


def rounds(ledger: Ledger, wanted: int, **used: float) -> list[int]:
    """What is admitted round by round until the budget is used up; each prompt drawn also uses `used`."""
    sizes: list[int] = []
    while not ledger.exhausted():
        sizes.append(ledger.admit(wanted))
        assert sizes[-1] > 0, "a run that goes on must go on with something"
        ledger.charge("prompts", sizes[-1])
        for meter, amount in used.items():
            ledger.charge(meter, amount * sizes[-1])
    assert ledger.admit(wanted) == 0
    return sizes


def test_counted_ceilings_and_marks_are_met_exactly() -> None:
    ledger = Ledger(Budget({"prompts": 1024}))
    assert marks(ledger.budget) == {"0": 0, "1/16": 64, "1/8": 128, "1/4": 256, "1/2": 512, "1": 1024}
    sizes = rounds(ledger, 48)
    reached = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert set(marks(ledger.budget).values()) - {0} <= set(reached)
    assert reached[-1] == 1024
    assert sizes[:4] == [48, 16, 48, 16]
    assert (ledger.used(), ledger.exhausted()) == (1.0, "prompts")


@pytest.mark.parametrize("amount", [1, 2, 3, 7, 8, 16, 17, 100])
def test_marks_that_a_small_budget_makes_coincide_are_one(amount: int) -> None:
    """The start is always mark 0 and the end mark 1, whatever falls together with them."""
    budget = Budget({"prompts": amount})
    found = budget.schedule
    readings = [reading for _, reading in found]
    assert readings == sorted(set(readings))
    assert found[0] == (0, 0)
    assert found[-1] == (1, amount)
    assert set(readings) == {round(float(mark) * amount) for mark in DEFAULT_MARKS}
    for mark, reading in found[1:]:
        assert mark == max(m for m in DEFAULT_MARKS if round(float(m) * amount) == reading)
    assert sum(rounds(Ledger(budget), 5)) == amount


def test_eight_prompts_have_four_marks() -> None:
    assert marks(Budget({"prompts": 8})) == {"0": 0, "1/8": 1, "1/4": 2, "1/2": 4, "1": 8}
    assert marks(Budget({"prompts": 1})) == {"0": 0, "1": 1}
    assert rounds(Ledger(Budget({"prompts": 8})), 16) == [1, 1, 2, 4]


def test_token_meters_overshoot_by_one_round_and_say_so() -> None:
    ledger = Ledger(Budget({"student_tokens": 1000}))
    assert marks(ledger.budget)["1/16"] == 62.5
    sizes = rounds(ledger, 16, student_tokens=13)
    assert sizes == [16] * 5
    assert (ledger.training["student_tokens"], ledger.used()) == (1040, 1.04)
    assert ledger.exhausted() == "student_tokens"


def test_of_several_ceilings_the_first_one_reached_ends_the_run() -> None:
    ledger = Ledger(Budget({"prompts": 100, "critic_calls": 40}))
    assert rounds(ledger, 8, critic_calls=1) == [6, 6, 8, 5, 8, 8]  # marks at 6, 12 and 25; after 33 calls a round was admitted
    assert ledger.exhausted() == "critic_calls"
    assert ledger.used() == 0.41


def test_the_marks_lie_on_prompts_where_they_are_named_and_else_on_the_first_meter_of_the_list() -> None:
    for names, axis in (
        (("usd", "prompts"), "prompts"),
        (("usd", "student_tokens"), "student_tokens"),
        (("student_tokens", "usd"), "student_tokens"),
        (("critic_calls",), "critic_calls"),
    ):
        assert Budget(dict.fromkeys(names, 10)).axis == axis


def test_evaluation_is_off_the_clock() -> None:
    ledger = Ledger(Budget({"student_tokens": 10}))
    with ledger.off_the_clock():
        ledger.charge("student_tokens", 500)
        with ledger.off_the_clock():
            ledger.charge("judge_calls", 2)
        ledger.charge("judge_calls", 1)
    ledger.charge("student_tokens", 3)
    assert (ledger.training["student_tokens"], ledger.evaluation["student_tokens"]) == (3, 500)
    assert (ledger.training["judge_calls"], ledger.evaluation["judge_calls"]) == (0, 3)
    assert not ledger.exhausted()
    with pytest.raises(RuntimeError, match="boom"), ledger.off_the_clock():
        raise RuntimeError("boom")
    ledger.charge("student_tokens", 1)
    assert ledger.training["student_tokens"] == 4


def test_what_happened_is_recorded_even_beyond_the_ceiling() -> None:
    ledger = Ledger(Budget({"prompts": 4}))
    ledger.charge("prompts", 4)
    ledger.charge("critic_calls", 7)
    ledger.charge("prompts", 1)
    assert (ledger.training["prompts"], ledger.training["critic_calls"], ledger.admit(8)) == (5, 7, 0)
    with pytest.raises(KeyError):
        ledger.charge("no_such_meter", 1)


def test_a_ledger_survives_a_save() -> None:
    ledger = Ledger(Budget({"prompts": 64}))
    ledger.charge("prompts", 5)
    ledger.charge("usd", 0.125)
    with ledger.off_the_clock():
        ledger.charge("judge_calls", 2)
    again = Ledger(Budget({"prompts": 64}))
    again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert again == ledger
    assert again.admit(64) == ledger.admit(64) == 3
    ledger.charge("prompts", 1)
    assert again.training["prompts"] == 5, "a saved ledger must not share its readings"


@pytest.mark.parametrize(
    ("ceilings", "words"),
    [
        ({}, "at least one meter"),
        ({"prompts": 0}, "above zero, got prompts=0"),
        ({"prompts": -3}, "above zero"),
        ({"usd": float("nan")}, "above zero"),
        ({"usd": float("inf")}, "finite"),
        ({"prompts": float("inf")}, "finite"),
        ({"prompts": 2.5}, "whole numbers"),
        ({"prompt": 5}, "no budget meter named 'prompt'"),
        ({"judge_calls": 5}, "no budget meter named 'judge_calls'"),
        ({"tuning_trials": 5}, "no budget meter named 'tuning_trials'"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(ceilings: dict[str, float], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Budget(ceilings)


def test_a_misspelt_meter_is_told_the_nearest_one() -> None:
    with pytest.raises(SpecError) as caught:
        Budget({"promts": 5})
    assert caught.value.fix == "did you mean prompts?"


@pytest.mark.parametrize("wrong", [("1/2", "1"), ("0", "1/2"), ("0", "1", "1/2"), ("0", "1/2", "1/2", "1")])
def test_marks_must_rise_from_start_to_end(wrong: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="marks must rise from 0 to 1"):
        Budget({"prompts": 8}, tuple(Fraction(mark) for mark in wrong))


def test_every_meter_that_a_budget_can_name_is_a_training_meter() -> None:
    assert set(METERS) > set(BUDGETABLE) > COUNTED
    assert all(METERS.values())
    assert not [meter for meter in BUDGETABLE if meter.startswith("judge_")]

"""Two processes give what one gives: steps, weights, samples, states and faults, with whole and with cut weights."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from several import CLIP, KINDS, METHODS, faulted, read_as_cut, trained, trainer_of, written
from test_method_contract import SIZE

from harness.generate.hf import HFGenerator
from harness.train.load import load_causal_lm

each_kind = pytest.mark.parametrize("kind", KINDS, ids=["-".join(kind) for kind in KINDS])


def alone(kind: tuple[str, str]) -> Any:
    """One process's trainer that reads rows as the two do."""
    return trainer_of(kind[0], as_if_cut=kind[1] == "full")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What both processes found, by kind; where one process left off after two steps they were told."""
    folder = tmp_path_factory.mktemp("several")
    for name in METHODS:
        first = trainer_of(name)
        trained(name, first, 0, 2)
        torch.save(first.state_dict(), folder / f"{name}.pt")
    code = "import sys, pathlib; sys.path.insert(0, {!r}); import several; several.main({}, pathlib.Path({!r}))"
    workers = [
        subprocess.Popen([sys.executable, "-c", code.format(str(Path(__file__).parent), rank, str(folder))]) for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))
    return {kind: {"folder": folder, "shares": b, **a} for kind, a, b in zip(KINDS, first, second, strict=True)}


def compare(got: dict[str, Any], wanted: dict[str, Any], within: float) -> None:
    """Readings of all steps, charges, weights and the optimizer's state."""
    for mine, theirs in zip(got["steps"], wanted["steps"], strict=True):
        assert mine == pytest.approx(theirs, rel=within, abs=within)
    assert summed(got["charged"]) == summed(wanted["charged"])
    ours, other = (flat(each["state"]) for each in (got, wanted))
    assert ours.keys() == other.keys()
    for name, value in other.items():
        assert torch.allclose(ours[name], value, rtol=within, atol=within), name


def summed(charges: list[tuple[str, int, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for name, read, scored in charges:
        total.update({f"{name} read": read, f"{name} scored": scored})
    return total


def flat(tree: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, dict):
        return {name: value for key, part in tree.items() for name, value in flat(part, f"{path}/{key}").items()}
    return {path: tree} if isinstance(tree, torch.Tensor) else {}


@each_kind
def test_five_steps_are_those_of_one_process(kind: tuple[str, str], together: dict[tuple[str, str], Any]) -> None:
    wanted = trained(kind[0], alone(kind))
    assert [step["updates"] for step in wanted["steps"]] == [METHODS[kind[0]].get("updates_per_batch", 1)] * 4 + [1]
    assert max(step["grad_norm"] for step in wanted["steps"]) > CLIP, "clipping must be at work"
    compare(together[kind]["whole"], wanted, 1e-9)
    assert wanted["charged"] or kind[0] == "grpo"


@pytest.mark.parametrize("name", METHODS)
def test_cut_weights_read_shared_prompts_in_each_row_which_is_rounding_alone(
    name: str, together: dict[tuple[str, str], Any]
) -> None:
    first = together[name, "full"]["whole"]["steps"][0]
    assert first == pytest.approx(trained(name, trainer_of(name), 0, 1)["steps"][0], rel=1e-5, abs=1e-6)


@each_kind
def test_each_process_holds_its_part_of_the_weights(kind: tuple[str, str], together: dict[tuple[str, str], Any]) -> None:
    shares = together[kind]["shares"]
    if kind[1] == "none":
        assert {*shares.values()} == {1.0}
        return
    whole = {"policy", "reference"} if kind[0] == "dpo+adapter" else {"policy"} if kind[0].endswith("+adapter") else set()
    assert {name for name, share in shares.items() if share == 1.0} == whole
    assert all(share == pytest.approx(0.5, rel=0.1) for name, share in shares.items() if name not in whole)


@each_kind
def test_two_processes_go_on_where_one_left_off(kind: tuple[str, str], together: dict[tuple[str, str], Any]) -> None:
    other = trainer_of(kind[0])
    trained(kind[0], other, 0, 2)
    if kind[1] == "full":
        read_as_cut(other)
    compare(together[kind]["resumed"], trained(kind[0], other, 2, 3), 1e-9)


@each_kind
def test_one_process_goes_on_where_two_left_off(kind: tuple[str, str], together: dict[tuple[str, str], Any]) -> None:
    one, two = alone(kind), trainer_of(kind[0], as_if_cut=kind[1] == "full")
    trained(kind[0], one)
    two.load_state_dict(together[kind]["whole"]["state"])
    assert (two.updates, two.rounds) == (one.updates, one.rounds)
    compare(trained(kind[0], two, 1, 2), trained(kind[0], one, 1, 2), 1e-9)


@each_kind
def test_a_mark_is_an_ordinary_folder(kind: tuple[str, str], together: dict[tuple[str, str], Any]) -> None:
    folder = together[kind]["folder"] / "-".join(kind)
    model, trainer = load_causal_lm(folder, torch.float64), trainer_of(kind[0])
    trainer.load_state_dict(together[kind]["whole"]["state"])
    wanted = trainer.adapter.plain_state_dict() if trainer.adapter else trainer.policy.state_dict()
    assert not list(folder.glob("*.bin"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


@each_kind
def test_who_samples_changes_no_draw(kind: tuple[str, str], together: dict[tuple[str, str], Any]) -> None:
    trainer = alone(kind)
    trainer.load_state_dict(together[kind]["whole"]["state"])
    wanted = written(HFGenerator(trainer.policy, [1], 0, vocabulary=SIZE))
    for mine, theirs in zip(together[kind]["written"][:-1], wanted[:-1], strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], rel=1e-5)
    for mine, theirs in zip(together[kind]["written"][-1], wanted[-1], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_fault_in_one_process_is_raised_in_all_and_holds_nobody_up(
    sharding: str, together: dict[tuple[str, str], Any]
) -> None:
    """The workers came to their end after it, so nobody waited; the message is one process's."""
    said, one = together["grpo", sharding]["fault"], alone(("grpo", sharding))
    one.rounds = 3  # on which the split into mini-batches depends
    assert said == faulted("grpo", one)
    assert "is inf" in said or "is nan" in said

"""Two processes train as one: the same gradients and readings for every method, through a real process group."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_method_contract import CASES, SIZE, collected, frozen_of, method_of
from tiny import tiny

from harness.train.collate import collate
from harness.train.distributed import World
from harness.train.models import StreamedLM
from harness.train.optimization import Optimization
from harness.train.rows import rows_of
from harness.train.sharding import shard
from harness.train.trainer import Trainer

SHARDINGS = ("none", "full")
WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_distributed import SHARDINGS, gradients
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{{folder}}/meet", rank=rank, world_size=2)
torch.save({{sharding: gradients(sharding, rank, 2) for sharding in SHARDINGS}}, f"{{folder}}/{{rank}}.pt")
torch.distributed.destroy_process_group()
"""


def gradients(sharding: Any, rank: int = 0, size: int = 1) -> list[tuple[torch.Tensor, dict[str, float]]]:
    """The gradient and the readings of one update of every method, in micro-batches of one group or a few."""
    return [gradient(name, settings, sharding, World(rank, size)) for name, settings in CASES]


def gradient(name: str, settings: dict[str, Any], sharding: Any, world: World) -> tuple[torch.Tensor, dict[str, float]]:
    method = method_of(name, settings, updates_per_batch=1, passes=1)
    trainer = Trainer(
        tiny(vocabulary=SIZE), frozen_of(method), method, Optimization(0.01, max_grad_norm=math.inf), vocabulary=SIZE,
        temperature=1.0, charge=lambda *_: None, micro_batch_tokens=150, world=world, sharding=sharding,
    )  # fmt: skip
    for model in (trainer.models.policy, *trainer.models.frozen.values()):
        model.sharded = sharding == "full"  # one process reads rows as several with cut weights do: the last digits depend on it
    metrics = trainer.step(collected(method_of(name, settings)).examples, 0)
    found = [p.grad for p in trainer.parameters if p.grad is not None]
    return torch.cat([(g.full_tensor() if hasattr(g, "full_tensor") else g).flatten() for g in found]), metrics


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[tuple[torch.Tensor, dict[str, float]]]]]:
    """What each of two processes found, by sharding."""
    folder = tmp_path_factory.mktemp("together")
    code = WORKER.format(tests=str(Path(__file__).parent))
    workers = [subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder)]) for rank in range(2)]
    try:
        assert [worker.wait(timeout=900) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_processes_give_what_one_gives(sharding: str, together: list[Any]) -> None:
    alone = gradients(sharding)
    for found in together:
        for (name, settings), (wanted, before), (got, after) in zip(CASES, alone, found[sharding], strict=True):
            assert float((got - wanted).norm() / wanted.norm()) < 1e-9, (name, settings)
            assert after == pytest.approx(before, rel=1e-9), (name, settings)


@pytest.fixture
def alone_in_a_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_layers_in_bfloat16_leave_a_losss_own_numbers_alone(alone_in_a_group: None) -> None:
    """Log-probs and rewards reach the loss as they are, and log-probs leave the model in float32."""
    policy = tiny(vocabulary=SIZE, dtype=torch.float32)
    model = StreamedLM(policy, vocabulary=SIZE)
    shard(model, torch.device("cpu"), 1, half=True)
    layers = []
    policy.model.layers[0].mlp.register_forward_pre_hook(lambda module, given: layers.append(given[0].dtype))
    rows, seen = rows_of(collate(collected(method_of("grpo", {})).examples, dtype=torch.float32), ""), []

    def fn(logp_CV: torch.Tensor, beside_C: torch.Tensor, tokens_C: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append((logp_CV.dtype, beside_C))
        return (logp_CV[range(len(tokens_C)), tokens_C] * beside_C,)

    fine_C = torch.full((len(rows.target_C),), 1.0001)  # bfloat16 knows no number between 1 and 1.0078
    (value_C,) = model(fn, rows, (), [fine_C])
    value_C.sum().backward()
    assert set(layers) == {torch.bfloat16}
    assert {dtype for dtype, _ in seen} == {torch.float32}
    assert torch.equal(torch.cat([given for _, given in seen]), fine_C)
    assert {parameter.grad.dtype for parameter in policy.parameters() if parameter.grad is not None} == {torch.float32}


def test_each_process_takes_its_part_and_nothing_is_lost() -> None:
    """Parts are equally long; what fills one up does not count."""
    parts = [World(rank, 3).share(range(8)) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert sorted(thing for part in parts for thing, counts in part if counts) == list(range(8))
    assert parts[0] == [(0, True), (3, True), (6, True)]
    assert parts[2][-1] == (0, False)
    assert [World(rank, 3).share([7]) for rank in range(3)] == [[(7, True)], [(7, False)], [(7, False)]]
    assert World(1, 3).share([]) == []
    assert World().share([1, 2]) == [(1, True), (2, True)]

"""Two processes train as one: the same gradients and readings for every method, through a real process group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_method_contract import CASES, collected, method_of, step

from harness.train.distributed import World

WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_distributed import gradients
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{{folder}}/meet", rank=rank, world_size=2)
torch.save(gradients(rank, 2), f"{{folder}}/{{rank}}.pt")
torch.distributed.destroy_process_group()
"""


def gradients(rank: int = 0, size: int = 1) -> list[tuple[torch.Tensor, dict[str, float]]]:
    """The gradient and the readings of one update of every method, in micro-batches of one group or a few."""
    return [
        step(name, settings, collected(method_of(name, settings)), micro_batch_tokens=150, world=World(rank, size))
        for name, settings in CASES
    ]


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    code = WORKER.format(tests=str(Path(__file__).parent))
    workers = [subprocess.Popen([sys.executable, "-c", code, str(rank), str(tmp_path)]) for rank in range(2)]
    alone = gradients()
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        for (name, settings), (wanted, before), (got, after) in zip(CASES, alone, together, strict=True):
            assert float((got - wanted).norm() / wanted.norm()) < 1e-9, (name, settings)
            assert after == pytest.approx(before, rel=1e-9), (name, settings)


def test_each_process_takes_its_part_and_nothing_is_lost() -> None:
    parts = [World(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(thing for part in parts for thing in part) == list(range(8))
    assert parts[0] == [0, 3, 6]
    assert World().share([1, 2]) == [1, 2]

"""Plants known bugs in the running code and asks whether `harness check` would have caught them.

    python benchmarks/planted_bugs.py --gate exact --out benchmarks/results/planted_bugs.json
    python benchmarks/planted_bugs.py --gate scores --bug wrong_sign --out benchmarks/results/planted_bugs.json

A cell is a bug, a method and a gate that should catch it. Each runs in this process on one thread, against the committed
baselines; the control plants nothing and must pass. Cells of other gates and bugs in the file are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness.environment import quiet_libraries
from harness.gate import exact as check_exact
from harness.gate import scores as check_scores
from harness.gate.runs import Row, read

BASELINES = Path(__file__).parents[1] / "results" / "baselines"


def wrong_sign() -> AbstractContextManager[Any]:
    """Advantages with the wrong sign: what was worse than its group is made likelier."""
    from harness import objectives

    right = objectives.group_advantages
    return patch.object(objectives, "group_advantages", lambda *args, **settings: -right(*args, **settings))


def dropped_mask() -> AbstractContextManager[Any]:
    """Padding counts as tokens."""
    from harness.train import trainer

    right = trainer.collate

    def collate(*args: Any, **settings: Any) -> Any:
        batch = right(*args, **settings)
        return dataclasses.replace(batch, mask_NT=batch.mask_NT.new_ones(batch.mask_NT.shape))

    return patch.object(trainer, "collate", collate)


@contextlib.contextmanager
def doubled_rate() -> Iterator[None]:
    """The optimizer steps with twice the learning rate that is written down."""
    import torch

    right = torch.optim.AdamW.step

    def step(self: Any, *args: Any) -> Any:
        for group in self.param_groups:
            group["lr"] *= 2
        return right(self, *args)

    with patch.object(torch.optim.AdamW, "step", step):
        yield


@contextlib.contextmanager
def stale_weights() -> Iterator[None]:
    """The sampler keeps the weights that it began with."""
    from harness.generate.hf import HFGenerator

    right = HFGenerator.__init__

    def init(self: Any, model: Any, *args: Any, **settings: Any) -> None:
        right(self, copy.deepcopy(model), *args, **settings)

    with patch.object(HFGenerator, "__init__", init):
        yield


def random_critic() -> AbstractContextManager[Any]:
    """The critic turns every other verdict round, whatever its knobs say."""
    from harness.pocket import world

    right = world.start_server
    return patch.object(
        world, "start_server",
        lambda config: right(dataclasses.replace(config, critic=dataclasses.replace(config.critic, noise=0.5))),
    )  # fmt: skip


def wrong_denominator() -> AbstractContextManager[Any]:
    """Losses are divided by all positions of a batch, padding included."""
    from harness.method import Method

    return patch.object(Method, "weights", lambda self, batch: {"loss": float(batch.mask_NT.numel())})


Bug = Callable[[], AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {
    "control": nullcontext, "wrong_sign": wrong_sign, "dropped_mask": dropped_mask, "doubled_rate": doubled_rate,
    "stale_weights": stale_weights, "random_critic": random_critic, "wrong_denominator": wrong_denominator,
}  # fmt: skip
CELLS = {
    "exact": {
        "control": ("grpo", "ropd", "seqkd", "logit_opd", "dpo"), "wrong_sign": ("grpo", "ropd"),
        "dropped_mask": ("grpo", "seqkd", "logit_opd"), "doubled_rate": ("grpo", "seqkd"),
        "stale_weights": ("grpo", "logit_opd"), "random_critic": ("ropd", "dpo"), "wrong_denominator": ("grpo", "seqkd"),
    },
    # Adam divides a gradient by its own size, so a wrong denominator leaves scores about as they are: not a cell
    "scores": {
        "control": ("grpo",), "wrong_sign": ("grpo", "ropd"), "dropped_mask": ("seqkd",), "stale_weights": ("grpo",),
        "random_critic": ("ropd",),
    },
}  # fmt: skip
"""By gate and bug: the methods that it should show in."""


def exact_row(bug: Bug, method: str, folder: Path) -> Row:
    baseline = read(BASELINES / "exact.json", check_exact.ExactBaseline)
    with bug():
        found = check_exact.trajectory(baseline.plan, baseline.seed, method, folder)
    return check_exact.compared(method, baseline.methods[method], found, baseline.tolerance)


def scores_row(bug: Bug, method: str, folder: Path) -> Row:
    baseline = read(BASELINES / "scores.json", check_scores.ScoreBaseline)
    with bug():
        runs = [check_scores.scored_run(baseline.plan, baseline.suite, (method, seed), folder) for seed in baseline.seeds]
    return check_scores.compared(baseline, baseline.seeds, {method: runs})[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gate", choices=sorted(CELLS), required=True)
    parser.add_argument("--bug", choices=sorted(BUGS), action="append")
    parser.add_argument("--method", action="append")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    quiet_libraries()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"cells": []}
    cells = {(each["gate"], each["bug"], each["method"]): each for each in found["cells"]}
    for bug, methods in CELLS[options.gate].items():
        for method in methods:
            if (options.bug and bug not in options.bug) or (options.method and method not in options.method):
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                row = (exact_row if options.gate == "exact" else scores_row)(BUGS[bug], method, Path(folder))
            cell = {"gate": options.gate, "bug": bug, "method": method, "caught": row.verdict == "FAIL",
                    "seconds": round(time.monotonic() - began, 1), "row": dataclasses.asdict(row)}  # fmt: skip
            cells[options.gate, bug, method] = cell
            print(options.gate, bug, method, row.verdict, row.what, row.before, "->", row.now, f"{cell['seconds']} s", flush=True)
    wanted = [(gate, bug, method) for gate, bugs in CELLS.items() for bug, methods in bugs.items() for method in methods]
    result = {
        "machine": platform.machine(),
        "cells": [cells[cell] for cell in wanted if cell in cells],
        "not_run": [" ".join(cell) for cell in wanted if cell not in cells],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

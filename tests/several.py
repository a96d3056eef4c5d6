"""What a test tells several processes to do: a short training of each kind, led by the first of them."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fakes import codec
from test_method_contract import SIZE, collected, frozen_of, method_of
from tiny import tiny
from torch.distributed.tensor import DTensor

from harness.errors import RunFault
from harness.generate.hf import HFGenerator
from harness.generate.shared import SharedGenerator
from harness.train.distributed import ALONE, World
from harness.train.lora import Adapter
from harness.train.optimization import Optimization
from harness.train.orders import Leader, obey
from harness.train.sharding import reshard
from harness.train.trainer import Trainer
from harness.types import Example, Sampling

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"updates_per_batch": 2},  # a mini-batch of one group and one of two, and log-probs before the first
    "logit_opd": {"form": "full"},
    "dpo": {},
    "dpo+adapter": {},  # in place of the weights, and the reference is the same model without it
    "logit_opd+adapter": {"form": "full"},  # the teacher is cut, the policy is not
}
KINDS = [(name, sharding) for name in METHODS for sharding in ("none", "full")]
STEPS, CLIP = 5, 0.005


def examples_of(name: str, visit: int) -> list[Example]:
    """Groups of unequal sizes where the method allows it; in the last step one alone."""
    found = collected(method_named(name), visit=visit).examples
    if not name.startswith("dpo"):
        found = [shortened(example, by) for by, example in enumerate(found)]
    return found[:1] if visit == STEPS - 1 else found


def method_named(name: str) -> Any:
    return method_of(name.partition("+")[0], METHODS[name])


def shortened(example: Example, by: int) -> Example:
    """The group without its last rollouts."""
    left = len(example.rollouts) - by
    return replace(example, rollouts=example.rollouts[:left], signal={k: v[:left] for k, v in example.signal.items()})


def trainer_of(name: str, world: World = ALONE, sharding: Any = "none", as_if_cut: bool = False) -> Trainer:
    """A trainer of tiny models in float64.

    Args:
        as_if_cut: reads rows as cut models do, so that the arithmetic is the same to the last digits.
    """
    method, policy = method_named(name), tiny(vocabulary=SIZE)
    adapter = Adapter(policy, rank=4, alpha=8.0) if name.endswith("+adapter") else None
    frozen = {**frozen_of(method), **({"reference": policy} if name == "dpo+adapter" else {})}
    trainer = Trainer(
        policy, frozen, method, Optimization(0.01, warmup_steps=2, max_grad_norm=CLIP),
        vocabulary=SIZE, temperature=1.0, charge=lambda name, *read: charged.append((name, *read)),
        micro_batch_tokens=100, chunk=16, world=world, sharding=sharding, adapter=adapter,
    )  # fmt: skip
    if as_if_cut:
        read_as_cut(trainer)
    return trainer


def read_as_cut(trainer: Trainer) -> None:
    """Rows are read as the models do that two processes would cut."""
    for model in (trainer.models.policy, *trainer.models.frozen.values()):
        model.sharded = trainer.adapter is None or model.model is not trainer.policy


charged: list[tuple[Any, ...]] = []


def trained(name: str, trainer: Trainer, start: int = 0, stop: int = STEPS) -> dict[str, Any]:
    """The readings of some steps, the weights after them, and what was charged."""
    charged.clear()
    seen = [trainer.step(examples_of(name, visit), visit) for visit in range(start, stop)]
    return {"steps": seen, "charged": list(charged), "state": copy.deepcopy(trainer.state_dict())}


def faulted(name: str, trainer: Trainer) -> str:
    """What a step says in which one rollout of the longest group has an infinite signal; the update's number left out."""
    found = examples_of(name, 0)
    worst = max(range(len(found)), key=lambda i: max(len(r.tokens) for r in found[i].rollouts))
    bad = {key: [math.inf, *list(value)[1:]] for key, value in found[worst].signal.items()}
    try:
        trainer.step([replace(e, signal=bad) if i == worst else e for i, e in enumerate(found)], 0)
    except RunFault as fault:
        return re.sub(r"update \d+", "update", fault.message)
    return ""


def written(generator: Any) -> list[Any]:
    """Sampled rows of unequal prompts, more for one process than for the other."""
    prompts = [[5 + i, 6, 7][: 1 + i % 3] for i in range(5)]
    replies = generator.generate(prompts, Sampling(1.0, 6), [("row", i) for i in range(5)])
    return [*((r.tokens, r.logprobs) for r in replies), generator.likelihoods([([5, 6], [7]), ([8], [9, 10]), ([4], [3])])]


def story(name: str, sharding: Any, world: World, folder: Path) -> dict[str, Any] | None:
    """All that the first process is asked about one kind; the others obey."""
    trainer = trainer_of(name, world, sharding)
    own = HFGenerator(trainer.written_by, [1], 0, vocabulary=SIZE)
    generator = SharedGenerator(own, world, trainer.refresh, trainer.cut)
    things = {"trainer": trainer, "generator": generator}
    if world.rank:
        obey(world, things)
        return {name: share_of(model) for name, model in {"policy": trainer.models.policy, **trainer.models.frozen}.items()}
    leader = Leader(world, things)
    result = {"whole": trained(name, trainer)}
    generator.sync()
    result["written"] = written(generator)
    trainer.save(folder / f"{name}-{sharding}", codec().tokenizer)
    trainer.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=False))  # what one process left after two steps
    result["resumed"] = trained(name, trainer, 2, 3)
    trainer.freeze_reference()
    result["fault"] = faulted(name, trainer) if name == "grpo" else ""
    assert leader.dismiss()
    for model in trainer.models.frozen.values():
        reshard(model)
    return result


def share_of(model: Any) -> float:
    """Which share of a model's weights this process holds between passes."""
    reshard(model)
    own = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
    return own / sum(p.numel() for p in model.parameters())


def main(rank: int, place: Path) -> None:
    """One of two processes; what it found is in `RANK.pt` afterwards."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    torch.save([story(*kind, World(rank, 2), place) for kind in KINDS], place / f"{rank}.pt")
    torch.distributed.destroy_process_group()

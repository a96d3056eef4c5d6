"""What every method must keep, whoever wrote it: one contract, tried on each entry of the registry."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import codec, prompts, tools_for
from pydantic import ValidationError
from tiny import batch_of, tiny
from torch import Tensor

from harness import registry
from harness.method import Method, MethodConfig
from harness.train.models import StreamedLM, TrainModels
from harness.train.trainer import Optimization, Trainer
from harness.types import Collected, Need

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "logit_opd": [
        {"form": "full"}, {"form": "full", "divergence": "jsd", "top_k": 5}, {"extrapolation": 1.25}, {"form": "constant"},
        {"form": "top", "top_k": 4}, {"form": "top", "top_k": 3, "divergence": "forward", "signal": "shuffled"},
        {"form": "full", "extrapolation": 1.25, "signal": "shuffled"}, {"signal": "shuffled"},
    ],
    "ropd": [
        {"signal": "shuffled"}, {"answers_per_call": 1, "standardise": True}, {"rubric_for": "answer", "verifier": "named"},
    ],
    "t_judge": [{"signal": "shuffled", "standardise": True}, {"answers_per_call": 3}],
    "grpo": [{"signal": "shuffled"}, {"standardise": False}],
    "dpo": [{"form": "ipo", "group_size": 4}, {"form": "hinge"}, {"signal": "shuffled"}],
    "self_judge": [{"judgment": "principled", "agreement": True}, {"form": "ipo"}, {"signal": "shuffled"}],
    "simpo": [{"pair": "random", "group_size": 4}, {"signal": "shuffled"}],
    "ogls_sd": [{"horizon": 5, "pools": "positive", "tail_weight": 0.0}, {"clip": "vocab_element"}, {"signal": "shuffled"}],
    "opsd": [{"divergence": "jsd", "norm": "sequence", "group_size": 2}, {"clip": "vocab_element"}, {"signal": "shuffled"}],
    "best_of_n": [{"signal": "shuffled"}],
    "cyclealign": [
        {"temperatures": (0.7, 1.0, 1.0, 1.3), "objective": "pro"},
        {"pushed": "ranking", "demonstrations": "pocket", "dynamic": 1},
        {"signal": "shuffled", "demonstrations": None},
    ],
    "rrhf": [{"objective": "pro", "sft_weight": 0.5}, {"signal": "shuffled"}],
    "seqkd": [{"texts": 2, "teacher_temperature": 1.0}, {"signal": "shuffled"}],
    "gkd": [{"on_policy": 1.0, "beta": 1.0}, {"on_policy": 0.0}, {"signal": "shuffled"}],
    "pad": [
        {"alpha": 0.5, "divergence": "ppd_reverse"}, {"alpha": 1.0, "divergence": "vpd"},
        {"signal": "shuffled", "orders": "single"},
        {"samples": 7, "kept": 6, "renormalise": False},
    ],
}
"""Settings that lead a method down another path; its default is always tried."""
CASES = [(name, settings) for name in sorted(registry.modules("methods")) for settings in ({}, *VARIANTS.get(name, []))]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in settings.items())]) for name, settings in CASES]
SIZE = len(codec().tokenizer)
FROZEN = {Need.TEACHER_LOGITS: "teacher", Need.REFERENCE: "reference"}
contract = pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
each_method = pytest.mark.parametrize("name", sorted(registry.modules("methods")))


def method_of(name: str, settings: dict[str, Any], **other: Any) -> Method:
    cls = registry.method(name)
    return cls(cls.Config(**{**settings, **other}))


def collected(method: Method, used: Counter[str] | None = None, visit: int = 0) -> Collected:
    return method.collect(prompts(3, visit=visit), tools_for(method, used))


def frozen_of(method: Method) -> dict[str, Any]:
    return {name: tiny(seed=seed, vocabulary=SIZE) for seed, (need, name) in enumerate(FROZEN.items(), 1) if need in method.needs}


@each_method
def test_it_introduces_itself(name: str) -> None:
    cls = registry.method(name)
    assert cls.paper
    assert len(cls.summary) > 20
    assert cls.access in ("text", "scores", "logits", "outcomes", "solutions", "nothing")
    assert (Path(__file__).parents[1] / "docs" / "methods" / f"{name}.md").is_file(), f"docs/methods has no page of {name}"


@each_method
def test_its_settings_survive_json_and_know_no_other_key(name: str) -> None:
    config = registry.method(name).Config
    assert issubclass(config, MethodConfig)
    assert config.model_validate_json(config().model_dump_json()) == config()
    assert config.model_validate(json.loads(json.dumps(config().model_dump(mode="json")))) == config()
    with pytest.raises(ValidationError, match="forbidden"):
        config.model_validate({"no_such_setting": 1})
    with pytest.raises(ValidationError, match="frozen"):
        config().prompts_per_round = 1  # type: ignore[misc]


@contract
def test_its_needs_are_what_it_uses(name: str, settings: dict[str, Any]) -> None:
    """A tool that is not declared is not there, and one that is declared is asked."""
    method, used, passes = method_of(name, settings), Counter[str](), Counter[str]()
    examples = collected(method, used).examples
    frozen = {name: StreamedLM(model, vocabulary=SIZE) for name, model in frozen_of(method).items()}
    models = TrainModels(StreamedLM(tiny(vocabulary=SIZE), vocabulary=SIZE), frozen, lambda model, *_: passes.update([model]))
    method.loss(models, batch_of(examples))
    asked = {need for need in Need if used[need.name] > 0} | {need for need, model in FROZEN.items() if passes[model]}
    assert asked == method.needs


@contract
def test_it_collects_the_same_under_the_same_seed(name: str, settings: dict[str, Any]) -> None:
    first, second = (collected(method_of(name, settings)) for _ in range(2))
    assert first == second
    assert first.examples
    for example in (*first.examples, *first.lost):
        assert example.rollouts
        json.dumps({"note": example.note, "signal": dict(example.signal)}, allow_nan=False)


@contract
def test_its_loss_is_finite_and_its_gradient_goes_through_the_policy_alone(name: str, settings: dict[str, Any]) -> None:
    method = method_of(name, settings)
    batch = batch_of(collected(method).examples)
    policy, frozen = tiny(vocabulary=SIZE), frozen_of(method)
    streamed = {name: StreamedLM(model, vocabulary=SIZE) for name, model in frozen.items()}
    loss = method.loss(TrainModels(StreamedLM(policy, vocabulary=SIZE), streamed, lambda *_: None), batch)
    weights = method.weights(batch)
    assert loss.keys() == weights.keys()
    assert all(math.isfinite(weight) and weight > 0 for weight in weights.values())
    total = sum((term.coef * term.sum / weights[name] for name, term in loss.items()), torch.zeros((), dtype=torch.float64))
    assert math.isfinite(float(total.detach()))
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert bool(gradient.isfinite().all())
    assert float(gradient.norm()) > 1e-4
    assert all(p.grad is None for model in frozen.values() for p in model.parameters())


def step(name: str, settings: dict[str, Any], found: Collected, order: int = 1, **how: Any) -> tuple[Tensor, dict[str, float]]:
    method = method_of(name, settings, updates_per_batch=1, passes=1)
    trainer = Trainer(
        tiny(vocabulary=SIZE), frozen_of(method), method, Optimization(0.01, max_grad_norm=math.inf),
        **{"vocabulary": SIZE, "temperature": 1.0, "charge": lambda *_: None, **how},
    )  # fmt: skip
    metrics = trainer.step(found.examples[::order], 0)
    return torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]), metrics


@contract
def test_its_update_depends_on_nothing_but_the_examples(name: str, settings: dict[str, Any]) -> None:
    """Neither on the size of micro-batches and chunks, nor on the order of groups, nor on padding."""
    found = collected(method_of(name, settings))
    wanted, before = step(name, settings, found)
    cuts: list[dict[str, int]] = [{"micro_batch_tokens": 1}, {"chunk": 3}, {"micro_batch_tokens": 150, "chunk": 40}, {}]
    for order, how in zip((1, 1, -1, -1), cuts, strict=True):
        got, after = step(name, settings, found, order, **how)
        assert float((got - wanted).norm() / wanted.norm()) < 1e-6, how
        assert after == pytest.approx(before, rel=1e-6), how


@contract
def test_its_loss_does_not_see_padding(name: str, settings: dict[str, Any]) -> None:
    method = method_of(name, settings)
    batch = batch_of(collected(method).examples)
    frozen = {name: StreamedLM(model, vocabulary=SIZE) for name, model in frozen_of(method).items()}
    models = TrainModels(StreamedLM(tiny(vocabulary=SIZE), vocabulary=SIZE), frozen, lambda *_: None)

    def wider(values: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(values, (0, 0) * (values.ndim - 2) + (0, 5), value=fill)

    padded = replace(
        batch, tokens_NT=wider(batch.tokens_NT, 7), mask_NT=wider(batch.mask_NT, 0),
        behaviour_logp_NT=None if batch.behaviour_logp_NT is None else wider(batch.behaviour_logp_NT, -3.0),
        signal={name: wider(value, 5.0) if name.endswith(("_NT", "_NTK")) else value for name, value in batch.signal.items()},
    )  # fmt: skip
    assert method.weights(padded) == method.weights(batch)
    plain, wide = (method.loss(models, one) for one in (batch, padded))
    for term, value in plain.items():
        assert float(wide[term].sum.detach()) == pytest.approx(float(value.sum.detach()), rel=1e-9)


@contract
def test_what_it_remembers_survives_a_save(name: str, settings: dict[str, Any]) -> None:
    method = method_of(name, settings)
    collected(method)
    state = json.loads(json.dumps(method.state_dict(), allow_nan=False))
    resumed = method_of(name, settings)
    resumed.load_state_dict(state)
    assert json.loads(json.dumps(resumed.state_dict())) == state
    assert collected(resumed, visit=1) == collected(method, visit=1)


@each_method
def test_its_warm_start_asks_what_it_declares_and_can_be_learnt_from(name: str) -> None:
    method, used = method_of(name, {}, warm_prompts=4), Counter[str]()
    warm = method.warm_start
    assert warm is not None
    assert method_of(name, {}, warm_prompts=0).warm_start is None
    examples = warm.collect(prompts(3), tools_for(warm, used)).examples
    assert {need for need in Need if used[need.name] > 0} == warm.needs
    batch = batch_of(examples)
    loss = warm.loss(TrainModels(StreamedLM(tiny(vocabulary=SIZE), vocabulary=SIZE), {}, lambda *_: None), batch)
    assert loss.keys() == warm.weights(batch).keys()
    assert all(math.isfinite(float(term.sum.detach())) and term.sum.requires_grad for term in loss.values())

"""Steered targets: a product of powers of one model's distributions behind several prompts, against hand-computed vectors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tiny import batch_of, models_of, tiny
from torch import Tensor

from harness.types import Example, Mix, Prompt, Rollout

ANCHOR, POSITIVE, NEGATIVE = [1, 0, -1], ([2, 0, 0], [1, 1, 0]), ([0, 1, 2],)
TARGETS = {
    0.0: [0.665241, 0.244728, 0.090031],
    0.5: [0.862922, 0.116784, 0.020294],
    1.0: [0.948880, 0.047242, 0.003878],
    2.0: [0.993185, 0.006692, 0.000123],
}


def table_model(logits: list[list[float]]) -> Any:
    """A model whose next-token logits over three tokens are looked up by the last token read."""
    model = tiny("Llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.variance_epsilon = 0.0
        model.model.embed_tokens.weight.copy_(torch.eye(11, 16))  # the norm scales a one-hot row by sqrt(16)
        model.lm_head.weight.zero_()
        model.lm_head.weight[:3, : len(logits)] = torch.tensor(logits, dtype=torch.float64).T / 4
    return model


def steered(
    anchor: list[float], positive: tuple[list[float], ...], negative: tuple[list[float], ...],
    strength: float, temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """The target that a loss is given, [3]: anchor + strength (mean of positive - mean of negative), as probabilities."""
    passes = [anchor, *positive, *negative]
    powers = [1.0, *[strength / len(positive)] * len(positive), *[-strength / len(negative)] * len(negative)]
    views = {f"pass{i}": [[i]] for i in range(len(passes))}
    example = Example((Rollout(Prompt("p", ()), [0], [0], None, "", "stop"),), views=views)
    model = table_model(passes)
    models = models_of(model, {"self": model}, vocabulary=3, temperature=temperature)
    mix = Mix([("self", view, torch.tensor([power], dtype=torch.float64)) for view, power in zip(views, powers, strict=True)])
    seen: list[Tensor] = []

    def look(_: Tensor, target_CV: Tensor, tokens_C: Tensor) -> tuple[Tensor]:
        seen.append(target_CV)
        return (tokens_C.double(),)

    models.per_token(look, batch_of([example]), [mix])
    assert not seen[0].requires_grad
    return seen[0][0].exp()


def close(got: Tensor, wanted: Any, tolerance: float = 1e-6) -> bool:
    return torch.allclose(got, torch.as_tensor(wanted, dtype=torch.float64), 0.0, tolerance)


@pytest.mark.parametrize("strength", TARGETS)
def test_steered_targets_equal_the_hand_computed_values(strength: float) -> None:
    got = steered(ANCHOR, POSITIVE, NEGATIVE, strength)
    assert close(got, TARGETS[strength])
    delta = torch.tensor([1.5, -0.5, -2.0], dtype=torch.float64)
    assert close(got, torch.softmax(torch.tensor(ANCHOR) + strength * delta, -1), 1e-12)


def test_a_constant_on_any_pass_or_log_probs_in_place_of_logits_change_nothing() -> None:
    passes = [ANCHOR, *POSITIVE, *NEGATIVE]
    for i in range(4):
        shifted = [[x + 5.0 * (i == j) for x in each] for j, each in enumerate(passes)]
        assert close(steered(shifted[0], (shifted[1], shifted[2]), (shifted[3],), 1.0), TARGETS[1.0])
    logp = torch.log_softmax(torch.tensor(passes, dtype=torch.float64), -1).tolist()
    assert close(steered(logp[0], (logp[1], logp[2]), (logp[3],), 1.0), TARGETS[1.0])


def test_steering_averages_logits_and_not_probabilities() -> None:
    mean = torch.softmax(torch.tensor(POSITIVE, dtype=torch.float64), -1).mean(0).log()
    negative = torch.log_softmax(torch.tensor(NEGATIVE, dtype=torch.float64), -1)[0]
    other = torch.softmax(torch.tensor(ANCHOR, dtype=torch.float64) + mean - negative, -1)
    assert close(other, [0.940603, 0.055667, 0.003731])
    assert not close(steered(ANCHOR, POSITIVE, NEGATIVE, 1.0), other, 1e-3)


def test_temperature_divides_the_steered_logits() -> None:
    wanted = torch.softmax(torch.tensor([2.5, -0.5, -3.0], dtype=torch.float64) / 1.1, -1)
    assert close(steered(ANCHOR, POSITIVE, NEGATIVE, 1.0, temperature=1.1), wanted, 1e-12)


@pytest.mark.parametrize("right", [1, 2, 3])
def test_shuffled_outcomes_steer_nowhere_on_average(right: int) -> None:
    """Over all ways to call `right` of four passes correct, the mean direction is zero."""
    passes = [[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0], [-3.0, 0.5, 1.0]]
    splits = [set(chosen) for chosen in itertools.combinations(range(4), right)]
    directions = []
    for split in splits:
        good, bad = ([each for i, each in enumerate(passes) if (i in split) == outcome] for outcome in (True, False))
        moved = steered(ANCHOR, tuple(good), tuple(bad), 1.0).log() - torch.log_softmax(torch.tensor(ANCHOR).double(), -1)
        directions.append(moved - moved.mean())
    assert float(directions[0].abs().max()) > 0.1
    assert close(torch.stack(directions).mean(0), [0.0, 0.0, 0.0], 1e-12)

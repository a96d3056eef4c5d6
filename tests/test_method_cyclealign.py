"""CycleAlign on hand-computed numbers: its loss, its two orders, its queue of examples and its stop; RRHF beside it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from fakes import FakePreferences, tools_for
from pydantic import ValidationError
from tiny import batch_of
from torch import Tensor

from harness.errors import SpecError
from harness.method import Ask, Method, Tools
from harness.pocket.critic import Critic, CriticKnobs, _example
from harness.pocket.protocol import fenced
from harness.pocket.ranker import Ranker
from harness.replies import LETTERS
from harness.types import Batch, Collected, Example, Failure, Prompt, Rollout
from methods import cyclealign, rrhf
from methods.cyclealign import CycleAlign

ASKED = Prompt("p", ({"role": "user", "content": "say a letter"},))
Scored = Sequence[tuple[str, Sequence[float]]]
ABCD: Scored = [("a", [-0.1]), ("b", [-0.2]), ("c", [-0.3]), ("d", [-0.4])]


class Given:
    """A policy whose log-probs are given, one list a rollout."""

    def __init__(self, logps: Sequence[Sequence[float]]) -> None:
        self.logps = logps

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        logp_NT = torch.zeros(batch.mask_NT.shape, dtype=torch.float64)
        for row_T, logp in zip(logp_NT, self.logps, strict=True):
            row_T[: len(logp)] = torch.tensor(logp, dtype=torch.float64)
        return logp_NT

    def per_token(self, *_: Any) -> tuple[Tensor, ...]:
        raise NotImplementedError("these losses read log-probs alone")


class Script:
    """A student that always says the same texts, with the same log-probs."""

    def __init__(self, said: Scored) -> None:
        self.said, self.asked = said, list[tuple[int, float]]()

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        self.asked.append((count, temperature))
        return [
            [Rollout(prompt, [5], [7] * len(logp), list(logp), text, "stop", 0) for text, logp in self.said[:count]]
            for prompt in prompts
        ]  # fmt: skip


class Oracle:
    """A critic that puts texts in a given order, or replies with what it is told to; keeps what it was asked."""

    def __init__(self, order: str = "abcd", reply: Callable[[int], str] | None = None) -> None:
        self.order, self.reply, self.asked = order, reply, list[Ask]()

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        self.asked += asks
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Any:
        shown = fenced(ask.messages)["answer"]
        order = [LETTERS[shown.index(text)] for text in self.order if text in shown]
        try:
            return ask.parse(self.reply(len(shown)) if self.reply else ranking(order))
        except ValueError as error:
            return Failure("parse_failed", str(error))


def ranking(order: Sequence[str]) -> str:
    return json.dumps({"schema_version": "ranking.v1", "order": list(order)})


def example(*lengths: int, ranks: Sequence[float]) -> Example:
    return Example(tuple(Rollout(ASKED, [5], [7] * n, [-1.0] * n, "", "stop", 0) for n in lengths), {"rank_N": ranks})


def terms(method: Method, examples: list[Example], *logps: Sequence[float]) -> dict[str, float]:
    """Each term as the trainer adds it up."""
    batch = batch_of(examples)
    weights = method.weights(batch)
    return {name: float(term.coef * term.sum / weights[name]) for name, term in method.loss(Given(logps), batch).items()}


def run(said: Scored = ABCD, critic: Oracle | None = None, **settings: Any) -> tuple[CycleAlign, Collected]:
    method = CycleAlign(cyclealign.Config(**{"group_size": len(said), **settings}))
    return method, again(method, said, critic)


def again(method: CycleAlign, said: Scored, critic: Oracle | None = None, prompt: Prompt = ASKED, **other: Any) -> Collected:
    return method.collect([prompt], tools_for(method, student=Script(said), critic=critic or Oracle(), **other))


def texts(example: Example, key: str) -> str:
    return "".join(example.rollouts[i].text for i in example.note[key])


both = pytest.mark.parametrize("module", [cyclealign, rrhf])


def method_of(module: Any, **settings: Any) -> Method:
    return {cyclealign: CycleAlign, rrhf: rrhf.RRHF}[module](module.Config(**settings))


@both
@pytest.mark.parametrize(
    ("objective", "scores", "expected"),
    [("rrhf", [-1, -0.5, -2, -0.8], 1.9), ("pro", [-1, -0.5, -2, -0.8], 3.582332), ("rrhf", [-1, -2, -3, -4], 0.0),
     ("rrhf", [-4, -3, -2, -1], 10.0),
     ("pro", [-1, -2], math.log(1 + math.exp(-1)))],
)  # fmt: skip
def test_the_loss_on_scores_in_the_order_best_to_worst(
    module: Any, objective: str, scores: Sequence[float], expected: float
) -> None:
    lengths = [2, 5, 1, 3][: len(scores)]
    logps = [[score] * n for score, n in zip(scores, lengths, strict=True)]
    method = method_of(module, objective=objective, sft_weight=0.5)
    found = terms(method, [example(*lengths, ranks=list(range(len(scores))))], *logps)
    assert found["rank"] == pytest.approx(expected, abs=1e-6)
    assert found["sft"] == pytest.approx(-0.5 * scores[0], abs=1e-12), "the mean over the best one's own tokens"


@both
def test_a_score_is_divided_by_its_own_length_and_never_by_the_padded_one(module: Any) -> None:
    """Over the padded length 6 the scores would be -0.333 and -0.5, and the order would flip."""
    short, long = [-1.0, -1.0], [-0.5] * 6
    assert terms(method_of(module), [example(2, 6, ranks=[1, 0])], short, long)["rank"] == 0
    assert terms(method_of(module), [example(2, 6, ranks=[0, 1])], short, long) == pytest.approx({"rank": 0.5, "sft": 1.0})


@both
def test_groups_weigh_the_same_and_never_meet(module: Any) -> None:
    """rank: (0.5 + 0) / 2 groups; sft: (0.9 + 3 * 0.1) / 4 tokens of the best, whatever the others' lengths."""
    groups = [example(1, 4, ranks=[0, 1]), example(2, 3, 1, ranks=[2, 0, 1])]
    logps = [[-0.9], [-0.4] * 4, [-8.0] * 2, [-0.1] * 3, [-0.2]]
    assert terms(method_of(module), groups, *logps) == pytest.approx({"rank": 0.25, "sft": 0.3})


def test_the_students_own_order_is_by_the_mean_of_its_sampled_log_probs() -> None:
    """As sums the long one would be last."""
    said: Scored = [("a", [-1.0, -1.0]), ("b", [-0.5] * 6), ("c", [-0.7])]
    _, found = run(said, Oracle("cab"))
    (one,) = found.examples
    assert texts(one, "own_order") == "bca"
    assert texts(one, "order") == "cab"
    ranks = {rollout.text: rank for rollout, rank in zip(one.rollouts, one.signal["rank_N"], strict=True)}
    assert ranks == {"c": 0, "a": 1, "b": 2}
    assert one.note["common"] == 2
    assert one.note["tau"] == pytest.approx(-1 / 3)


def test_each_candidate_gets_its_own_place_in_the_critics_order() -> None:
    for order in permutations("abcd"):
        (one,) = run(critic=Oracle("".join(order)))[1].examples
        assert texts(one, "order") == "".join(order)
        assert [one.signal["rank_N"][[r.text for r in one.rollouts].index(text)] for text in order] == [0, 1, 2, 3]


def test_the_critic_sees_each_text_once_and_none_that_says_nothing() -> None:
    critic = Oracle()
    said: Scored = [("a", [-1.0]), ("b", [-0.5]), ("<think>again</think>a", [-0.1]), (" ", [-0.2])]
    _, found = run(said, critic)
    assert sorted(fenced(critic.asked[0].messages)["answer"]) == ["a", "b"]
    assert sorted((r.text, r.logprobs) for r in found.examples[0].rollouts) == [("a", [-1.0]), ("b", [-0.5])]


@pytest.mark.parametrize("said", [[("a", [-1.0]), ("a", [-0.5])], [("a", [-1.0]), ("", [-0.5])], [("", [-1.0]), ("", [-1.0])]])
def test_without_two_candidates_nobody_is_asked_and_nothing_weighs(said: Scored) -> None:
    critic = Oracle()
    _, found = run(said, critic)
    assert critic.asked == []
    assert (found.examples, found.lost, found.again) == ([], (), ())
    assert [len(group.rollouts) for group in found.silent] == [2]


MALFORMED = {
    "a letter is missing": lambda n: ranking(LETTERS[: n - 1]),
    "a letter repeats": lambda n: ranking([*LETTERS[: n - 1], "A"]),
    "an unknown letter": lambda n: ranking([*LETTERS[: n - 1], "Z"]),
    "ties": lambda n: ranking(["A=B", *LETTERS[2:n]]),
    "a refusal": lambda n: "I cannot help with that request.",
}


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED)
def test_a_reply_that_is_no_order_loses_the_group_and_teaches_the_critic_nothing(reply: Callable[[int], str]) -> None:
    method, found = run(critic=Oracle(reply=reply))
    assert (found.examples, found.silent, found.again) == ([], (), ())
    assert found.lost[0].note["failure"].startswith("parse_failed")
    assert len(found.lost[0].rollouts) == 4
    assert method.state_dict() == {"newest": []}


def test_a_prompt_comes_again_until_both_orders_agree_or_its_cycles_end() -> None:
    method, found = run(critic=Oracle("bacd"), cycles=3)
    turns = [prompt.turn for prompt in found.again]
    while found.again:
        found = again(method, ABCD, Oracle("bacd"), found.again[0])
        turns += [prompt.turn for prompt in found.again]
    assert turns == [1, 2]
    assert found.examples[0].note["cycle"] == 3
    _, agreed = run(critic=Oracle("abcd"), cycles=3)
    assert agreed.again == ()
    assert agreed.examples[0].note["tau"] == 1
    assert len(agreed.examples) == 1, "an order that both agree on is still trained on"


@pytest.mark.parametrize(("least", "pushed"), [(2, 23), (3, 10), (4, 1)])
def test_the_threshold_is_what_keeps_chance_out(least: int, pushed: int) -> None:
    """Of the 24 orders of 4, 23 share 2 or more with any one order, 10 share 3 or more: chances of .958 and .417."""
    methods = [run(critic=Oracle("".join(order)), least_agreement=least)[0] for order in permutations("abcd")]
    assert sum(len(newest(method)) for method in methods) == pushed


def newest(method: CycleAlign) -> list[str]:
    """The kept examples' answers, best first."""
    kept = method.state_dict()["newest"]
    return ["".join(e["answers"][LETTERS.index(x)] for x in e["order"].split(", ")) for e in kept]


def test_the_agreement_becomes_the_critics_next_example_and_the_oldest_leaves() -> None:
    method, _ = run(critic=Oracle("bacd"))
    assert newest(method) == ["bcd"], "of bcd and acd the one that stands first in the critic's order"
    again(method, ABCD, Oracle("dcba"))
    assert newest(method) == ["bcd"], "one in common is no agreement"
    critic = Oracle("abdc")
    again(method, ABCD, critic)
    (shown,) = [_example(text) for text in fenced(critic.asked[0].messages)["example"][2:]]
    assert (shown.question, shown.answers) == ("say a letter", ("b", "c", "d"))
    again(method, ABCD, Oracle("abcd"))
    assert newest(method) == ["abd", "abcd"]


def test_examples_of_the_same_round_do_not_help_each_other() -> None:
    method, critic = CycleAlign(cyclealign.Config()), Oracle("abcd")
    method.collect([ASKED, Prompt("q", ASKED.messages)], tools_for(method, student=Script(ABCD), critic=critic))
    assert [len(fenced(ask.messages)["example"]) for ask in critic.asked] == [2, 2]
    assert newest(method) == ["abcd", "abcd"]


def test_the_queue_survives_a_save() -> None:
    method, _ = run(critic=Oracle("bacd"))
    resumed = CycleAlign(cyclealign.Config())
    resumed.load_state_dict(json.loads(json.dumps(method.state_dict())))
    for each in (method, resumed):
        again(each, ABCD, Oracle("abdc"))
        again(each, ABCD, Oracle("cabd"))
    assert newest(resumed) == newest(method) == ["abd", "abd"]


@pytest.mark.parametrize(
    ("settings", "kept", "shown"),
    [({"pushed": "ranking"}, ["dcba"], 3), ({"dynamic": 0, "pushed": "ranking"}, [], 2), ({}, [], 2),
     ({"dynamic": 0, "demonstrations": None}, [], 0)],
    ids=["the critic's order alone", "fixed ones only", "agreement", "none"],
)  # fmt: skip
def test_the_arms_of_examples(settings: dict[str, Any], kept: list[str], shown: int) -> None:
    method, _ = run(critic=Oracle("dcba"), **settings)
    assert newest(method) == kept
    critic = Oracle("dcba")
    again(method, ABCD, critic)
    assert len(fenced(critic.asked[0].messages).get("example", [])) == shown
    assert ("Here are examples" in critic.asked[0].messages[1]["content"]) == (shown > 0)


def test_shuffled_trains_to_a_random_order_that_the_seed_decides() -> None:
    def order(seed: int, turn: int = 0) -> str:
        method = CycleAlign(cyclealign.Config(signal="shuffled"))
        found = again(method, ABCD, Oracle("abcd"), Prompt("p", ASKED.messages, turn=turn), seed=seed)
        return texts(found.examples[0], "order")

    orders = [order(seed) for seed in range(200)]
    assert order(3) == orders[3]
    assert {order(0, turn) for turn in range(9)} != {orders[0]}
    assert len(set(orders)) == 24
    assert sum(o.startswith("a") for o in orders) == pytest.approx(50, abs=20)


def test_temperatures_are_sampled_one_by_one() -> None:
    student, method = Script(ABCD), CycleAlign(cyclealign.Config(temperatures=(0.7, 1.0, 1.0, 1.3)))
    found = method.collect([ASKED], tools_for(method, student=student, critic=Oracle()))
    assert student.asked == [(1, 0.7), (2, 1.0), (1, 1.3)]
    assert sorted(r.text for r in found.examples[0].rollouts) == ["a", "b"]
    with pytest.raises(ValidationError, match="got 2 temperatures; give one for each of group_size 4"):
        cyclealign.Config(temperatures=(0.7, 1.0))


def test_an_unknown_file_of_examples_is_refused_before_anything_is_sampled() -> None:
    method, student = CycleAlign(cyclealign.Config(demonstrations="nowhere")), Script(ABCD)
    with pytest.raises(SpecError, match="no prompt template"):
        method.collect([ASKED], tools_for(method, student=student, critic=Oracle()))
    assert student.asked == []


@pytest.mark.parametrize(("name", "families"), [("static", 0), ("pocket", 15)])
def test_the_fixed_examples_teach_the_scripted_critic_its_own_world_only(name: str, families: int) -> None:
    critic = Oracle()
    run(critic=critic, demonstrations=name)
    examples = [_example(text) for text in fenced(critic.asked[0].messages)["example"]]
    assert [len(one.answers) for one in examples] == [3, 3]
    lessons = Ranker(CriticKnobs(blind=0, noise=0, spurious=0)).lessons(examples)
    assert sum(lesson > 0.5 for lesson in lessons.values()) == families
    assert all(lesson >= 0 for lesson in lessons.values())
    assert json.loads(Critic(CriticKnobs()).reply(critic.asked[0].messages))["schema_version"] == "ranking.v1"


def rrhf_found(said: Scored, tools: Callable[[Method], dict[str, Any]] = lambda _: {}, **settings: Any) -> Collected:
    method = rrhf.RRHF(rrhf.Config(group_size=len(said), **settings))
    given: Tools = tools_for(method, student=Script(said), **tools(method))
    return method.collect([ASKED], given)


def test_rrhf_ranks_each_text_once() -> None:
    (one,) = rrhf_found([("ccc", [-1.0]), ("a", [-0.5]), ("a", [-0.1]), ("bb", [-0.2])]).examples
    assert [(r.text, r.logprobs) for r in one.rollouts] == [("a", [-0.5]), ("bb", [-0.2]), ("ccc", [-1.0])]
    assert one.signal["rank_N"] == [0, 1, 2]


def test_rrhf_is_silent_without_contrast_and_loses_what_nobody_ranked() -> None:
    silent = rrhf_found([("a", [-1.0]), ("a", [-0.5])])
    assert (silent.examples, silent.lost, len(silent.silent)) == ([], (), 1)
    missing = rrhf_found(ABCD, lambda _: {"preferences": FakePreferences(Counter(), frozenset({"p"}))})
    assert (missing.examples, missing.silent) == ([], ())
    assert missing.lost[0].note == {"failure": "judge_error: no order"}


def test_rrhf_shuffled_ranks_at_random() -> None:
    orders = {
        tuple(rrhf_found(ABCD, lambda _, seed=seed: {"seed": seed}, signal="shuffled").examples[0].signal["rank_N"])  # type: ignore[misc]
        for seed in range(200)
    }
    assert orders == set(permutations([0.0, 1.0, 2.0, 3.0]))

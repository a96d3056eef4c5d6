"""The evaluation judge of the pocket world: smooth, symmetric up to its stated biases, in AlpacaEval's format."""

import ast
import importlib.util
import math
import random
import statistics
from pathlib import Path

import pytest

from harness.pocket import judge as module
from harness.pocket.demonstrate import careless, demonstrate
from harness.pocket.judge import NEUTRAL, Judge, JudgeKnobs, gold_quality
from harness.pocket.protocol import UnknownProtocol
from harness.pocket.tasks import INSTRUCTIONS, draw

UNBIASED = JudgeKnobs(noise=0, length_bias=0, position_bias=0)
QUESTION = "list two animals with commas . start with hello"
GOOD, BAD = "hello . cat , dog .", "cat , oslo , pig ."


def pairs(count):
    for number in range(count):
        rng = random.Random(f"pair {number}")
        task = draw(rng, rng.choice(INSTRUCTIONS))
        yield task.text, *(demonstrate(task, rng, careless(task, rng)) for _ in range(2))


def alpaca(instruction, first, second):
    """The messages of the installed package's own template."""
    root = Path(importlib.util.find_spec("alpaca_eval").origin).parent / "evaluators_configs"
    text = (root / "alpaca_eval_clf_gpt4_turbo" / "alpaca_eval_clf.txt").read_text()
    for slot, value in (("instruction", instruction), ("output_1", first), ("output_2", second)):
        text = text.replace("{" + slot + "}", value)
    turns = [part.split("\n", 1) for part in text.split("<|im_start|>")[1:]]
    return [{"role": role.strip(), "content": said.split("<|im_end|>")[0].strip()} for role, said in turns]


def test_preference_is_the_stated_function_of_gold_quality():
    judge = Judge(UNBIASED)
    difference = gold_quality(QUESTION, GOOD) - gold_quality(QUESTION, BAD)
    assert gold_quality(QUESTION, GOOD) == 1
    assert judge.logit(QUESTION, GOOD, BAD) == pytest.approx(difference / 0.12)
    assert Judge(JudgeKnobs(1.0, 0, 0, 0)).logit(QUESTION, GOOD, BAD) == pytest.approx(difference)
    assert judge.logit(QUESTION, GOOD, GOOD) == 0


def test_both_orders_differ_by_the_position_bias_alone():
    judge = Judge(JudgeKnobs())
    for question, a, b in pairs(100):
        assert judge.logit(question, a, b) + judge.logit(question, b, a) == pytest.approx(0.2)
    assert judge.logit(QUESTION, GOOD, GOOD) == pytest.approx(0.1)


def test_longer_answers_gain_a_little_and_outside_the_world_all_are_equal():
    question = "what is a kernel ?"
    assert gold_quality(question, "a part of a nut") == gold_quality(question, "") == NEUTRAL
    assert Judge(JudgeKnobs(noise=0)).logit(question, "one two three", "one") == pytest.approx(0.1 + 2 * 0.02)


def test_taste_has_its_stated_spread_and_no_direction():
    tastes = [Judge(JudgeKnobs(length_bias=0, position_bias=0)).logit("?", f"a {i}", f"b {i}") for i in range(2000)]
    assert statistics.mean(tastes) == pytest.approx(0, abs=0.015)
    assert statistics.stdev(tastes) == pytest.approx(0.15, rel=0.07)


def test_the_better_answer_is_preferred_nearly_always_and_equal_ones_half_the_time():
    judge, right, level = Judge(JudgeKnobs()), [], []
    for question, a, b in pairs(600):
        difference, logit = gold_quality(question, a) - gold_quality(question, b), judge.logit(question, a, b)
        if abs(difference) > 0.1:
            right.append((logit > 0) == (difference > 0))
        elif difference == 0 and a != b:
            level.append(1 / (1 + math.exp(-logit)))
    assert len(right) > 200
    assert len(level) > 50
    assert statistics.mean(right) > 0.97
    assert statistics.mean(level) == pytest.approx(0.5 + 0.1 / 4, abs=0.03)


def test_answers_the_installed_package_s_own_prompt():
    judge = Judge(JudgeKnobs())
    for first, second, best in ((GOOD, BAD, "m"), (BAD, GOOD, "M")):
        reply = judge.reply(alpaca(QUESTION, first, second))
        assert reply.text == best
        assert set(reply.logprobs) == {"m", "M"}
        assert sum(map(math.exp, reply.logprobs.values())) == pytest.approx(1)
        odds = reply.logprobs["m"] - reply.logprobs["M"]
        assert odds == pytest.approx(judge.logit(QUESTION, first, second))
        assert next(iter(reply.logprobs)) == best


def test_answers_may_hold_quotes_and_lines():
    first, second = 'he said """no""" ,\n  }', 'x\n"output": y'
    reply = Judge(JudgeKnobs(noise=0, position_bias=0)).reply(alpaca("why ?", first, second))
    assert reply.logprobs["m"] - reply.logprobs["M"] == pytest.approx(0.02 * (len(first.split()) - len(second.split())))


def test_another_protocol_is_refused_by_name():
    with pytest.raises(UnknownProtocol, match="AlpacaEval"):
        Judge(JudgeKnobs()).reply([{"role": "user", "content": "rate this answer from 1 to 10"}])


def test_broken_replies_name_neither_answer():
    judge = Judge(JudgeKnobs(malformed=0.3, refusals=0.2))
    texts = [judge.reply(alpaca(QUESTION, GOOD, BAD), seed).text for seed in range(400)]
    assert texts.count("The") / 400 == pytest.approx(0.3, abs=0.08)
    assert texts.count("Sorry") / 400 == pytest.approx(0.2, abs=0.07)
    assert texts.count("m") == 400 - texts.count("The") - texts.count("Sorry")
    assert set(judge.reply(alpaca(QUESTION, GOOD, BAD), texts.index("The")).logprobs) == {"The"}


def test_the_checker_is_reached_through_one_function_alone():
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in {"checker", "tasks", "demonstrate", "documents"}
        for alias in node.names
    }
    assert imported == {"grade", "quality"}
    (window,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "gold_quality"]
    everywhere = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in imported]
    inside = [node.id for node in ast.walk(window) if isinstance(node, ast.Name) and node.id in imported]
    assert sorted(everywhere) == sorted(inside) == ["grade", "quality"]

"""`harness eval` as a user types it: real checkpoints, real servers on loopback, real files."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Reply, Stub, fault
from tiny_chat import saved

from harness import cli

QUESTIONS = [f"Name {n} things that are {color}." for n, color in enumerate(["red", "blue", "green", "white"] * 6, 2)]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "CACHE", "REPORTS"):
        monkeypatch.setenv(f"HARNESS_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def running() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.stop()


@pytest.fixture
def judge(running: Stub) -> Stub:
    """A judge that likes the longer text, in AlpacaEval's one-token protocol."""
    running.seen.clear()
    running.answer = by_length
    return running


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.json"
    rows = [{"instruction": q, "output": "r" * (20 + n), "generator": "reference"} for n, q in enumerate(QUESTIONS)]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: saved(root / kind.lower(), kind, QUESTIONS) for kind in ("Llama", "Qwen2")}


def shown(body: dict[str, Any]) -> tuple[str, str]:
    first, second = re.findall(r'"output": """(.*?)"""', body["messages"][-1]["content"], flags=re.DOTALL)
    return first, second


def by_length(body: dict[str, Any]) -> Reply:
    first, second = shown(body)
    logit = min(max((len(second) - len(first)) / 10 - 0.3, -50.0), 50.0)
    told = {"m": -math.log1p(math.exp(logit)), "M": -math.log1p(math.exp(-logit))}
    top = [{"token": token, "logprob": value} for token, value in sorted(told.items(), key=lambda pair: -pair[1])]
    choice = {
        "index": 0, "message": {"role": "assistant", "content": top[0]["token"]}, "finish_reason": "length",
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
    }  # fmt: skip
    return Reply({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 1}})


def outputs(path: Path, texts: list[str], questions: list[str] = QUESTIONS) -> Path:
    rows = [{"instruction": q, "output": text, "generator": "mine"} for q, text in zip(questions, texts, strict=True)]
    path.write_text(json.dumps(rows))
    return path


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", "eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.fixture
def harness_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], items: Path, judge: Stub) -> Any:
    """The command on the alpaca items of this file; its result (or what it said on stderr), and its exit code."""

    def run(*arguments: object, code: int = 0, judges: int = 1) -> Any:
        told = ["--judge", f"{judge.url}/long-liker"] if judges else []
        given = ["-s", "alpaca", "--set", f"items={items}", "--set", "both_orders=true", *told, "--json", *arguments]
        got, out, err = command(monkeypatch, capsys, *given)
        assert got == code, err
        return json.loads(out) if out else err

    return run


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_checkpoint_is_scored_and_a_second_time_costs_nothing(
    kind: str, models: dict[str, Path], harness_eval: Any, judge: Stub, tmp_path: Path
) -> None:
    (result,) = harness_eval("--model", models[kind], "--max-tokens", 12)
    told = result["greedy"]["win_rate"]
    (folder,) = (tmp_path / "runs" / "evaluations").iterdir()
    answers = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    longer = [(len(answer["text"]) - 20 - n) / 10 for n, answer in enumerate(answers)]
    expected = [sum(1 / (1 + math.exp(-by - order)) for order in (-0.3, 0.3)) / 2 for by in longer]
    assert told["value"] == pytest.approx(sum(expected) / len(expected), abs=1e-9)
    assert (told["n"], told["missing"], result["greedy"]["lost"]) == (24, 0, {})
    assert result["greedy"]["truncated"] == sum(a["finish"] == "length" for a in answers)
    assert result["contestant"] == kind.lower()
    (exported,) = folder.rglob("model_outputs.json")
    assert [row["output"] for row in json.loads(exported.read_text())] == [a["text"] for a in answers]
    asked = len(judge.seen)
    assert asked == 48 + 2
    assert harness_eval("--model", models[kind], "--max-tokens", 12) == [result]
    assert harness_eval("--model", models[kind], "--max-tokens", 12, "--regrade") == [result]
    assert len(judge.seen) == asked


def test_a_checkpoint_answers_as_transformers_would(models: dict[str, Path], harness_eval: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    harness_eval("--model", models["Llama"], "--max-tokens", 12)
    (folder,) = (tmp_path / "runs" / "evaluations").iterdir()
    tokenizer = AutoTokenizer.from_pretrained(models["Llama"])
    model = AutoModelForCausalLM.from_pretrained(models["Llama"])
    for line in list((folder / "answers.jsonl").open())[:5]:
        answer = json.loads(line)
        question = QUESTIONS[int(answer["item_id"].rpartition("-")[2]) - 1]
        asked = [{"role": "user", "content": question}]
        chat = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
        written = model.generate(**chat, max_new_tokens=12, do_sample=False)[0, chat["input_ids"].shape[1] :]
        assert answer["text"] == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_every_fault_of_a_judge_is_typed_and_none_is_a_zero(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def faulty(body: dict[str, Any]) -> Reply:
        """By the item: 2 limited once, 3 fails once, 4 fails always, 5 no JSON, 6 refuses, 7 no verdict, 8 no log-probs."""
        said = body["messages"][-1]["content"]
        number = int(re.findall(r"Name (\d+) things", said)[0])
        tries[said] += 1
        fine = by_length(body)
        if number == 2 and tries[said] == 1:
            return fault(429, retry_after="0")
        if number == 3 and tries[said] == 1:
            return fault(500)
        if number == 4:
            return fault(500)
        if number == 5:
            return Reply('{"choices": [{"message": {"content": "m', 200)
        if number == 6:
            return Reply({"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "refusal": "No."}}]})
        if number == 7:
            fine.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [{"token": "The", "logprob": -0.1}]
        if number == 8:
            fine.body["choices"][0]["logprobs"] = None
        return fine

    texts = ["a" * (18 + n) for n in range(24)]
    file = outputs(tmp_path / "mine.json", texts)
    judge.answer = faulty
    (result,) = harness_eval("--outputs", file, "--name", "faulty", "--set", "both_orders=false", "--force")
    assert result["greedy"]["lost"] == {"judge_error": 2, "refused": 1, "parse_failed": 2}
    told = result["greedy"]["win_rate"]
    assert (told["n"], told["missing"]) == (19, 5)
    kept = {n for n in range(24) if QUESTIONS[n].split()[1] not in ("4", "5", "6", "7", "8")}
    (folder,) = (tmp_path / "runs" / "evaluations").glob("faulty-*")
    (scores,) = (json.loads(path.read_text()) for path in folder.rglob("items/greedy.json"))
    assert {int(name.rpartition("-")[2]) - 1 for name in scores} == kept
    assert told["value"] == pytest.approx(sum(scores.values()) / 19)
    assert 0.3 < told["value"] < 0.6
    assert [tries[said] for said in tries if "Name 6 things" in said or "Name 8 things" in said][-2:] == [3, 3]  # asked thrice
    # what nobody answered is asked for again; what was answered, even if of no use, is not paid for twice
    judge.answer, before = by_length, len(judge.seen)
    (again,) = harness_eval("--outputs", file, "--name", "faulty", "--set", "both_orders=false", "--regrade")
    assert len(judge.seen) - before == 2
    assert again["greedy"]["lost"] == {"refused": 1, "parse_failed": 2}


def test_a_judge_that_stalls_is_missing(harness_eval: Any, judge: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.commands import eval as eval_command

    def slow(body: dict[str, Any]) -> Reply:
        reply = by_length(body)
        reply.delay = 3.0 if "Name 9 things" in body["messages"][-1]["content"] else 0.0
        return reply

    short = eval_command.served_at
    monkeypatch.setattr(
        eval_command, "served_at", lambda text, key: short(text, key).model_copy(update={"timeout_s": 0.5, "retries": 0})
    )
    judge.answer = slow
    (result,) = harness_eval("--outputs", outputs(tmp_path / "mine.json", ["a" * 25] * 24))
    assert result["greedy"]["lost"] == {"judge_error": 2}
    assert result["greedy"]["win_rate"]["missing"] == 1


def test_answers_that_are_empty_or_huge_are_graded_and_flagged(harness_eval: Any, tmp_path: Path) -> None:
    texts = ["", "x" * 1_000_000, *["a" * 25] * 22]
    (result,) = harness_eval("--outputs", outputs(tmp_path / "mine.json", texts))
    assert (result["greedy"]["empty"], result["greedy"]["lost"]) == (1, {})
    (folder,) = (tmp_path / "runs" / "evaluations").iterdir()
    (scores,) = (json.loads(path.read_text()) for path in folder.rglob("items/greedy.json"))
    assert scores["alpaca-0001"] < 0.2
    assert scores["alpaca-0002"] > 0.99


def test_outputs_that_do_not_fit_are_refused_before_anything_is_asked(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    fine = ["a" * 25] * 24
    cases: dict[str, tuple[list[str], list[str]]] = {
        "missing": (QUESTIONS[:-2], fine[:-2]), "twice": ([*QUESTIONS[:-1], QUESTIONS[0]], fine),
        "another suite": ([f"What is {n}?" for n in range(24)], fine),
    }  # fmt: skip
    for name, (questions, texts) in cases.items():
        err = harness_eval("--outputs", outputs(tmp_path / f"{name}.json", texts, questions), code=2)
        assert "error[H070]" in err, name
    (tmp_path / "bytes.json").write_bytes(b'[{"instruction": "\xff\xfe"}]')
    (tmp_path / "cut.json").write_text('[{"instruction": "Name')
    for name in ("bytes", "cut", "absent"):
        assert "error[H070]" in harness_eval("--outputs", tmp_path / f"{name}.json", code=2)
    assert judge.seen == []
    assert not (tmp_path / "runs").exists()


def test_shuffled_outputs_are_joined_by_their_instructions(harness_eval: Any, tmp_path: Path) -> None:
    texts = ["a" * (18 + n) for n in range(24)]
    (straight,) = harness_eval("--outputs", outputs(tmp_path / "mine.json", texts))
    (shuffled,) = harness_eval("--outputs", outputs(tmp_path / "other.json", texts[::-1], QUESTIONS[::-1]))
    assert straight["greedy"] == shuffled["greedy"]


def test_a_dry_run_tells_what_it_would_come_to_and_stops(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    file = outputs(tmp_path / "mine.json", ["a" * 25] * 24)
    err = harness_eval("--outputs", file, "--dry-run", "--usd", 10, 30)
    assert "24 items" in err
    assert re.search(r"48 calls, about [\d,]+ tokens in, at most 48 out, at most \$0\.\d\d", err)
    assert "answers all 2 kinds of calls" in err
    assert len(judge.seen) == 2
    assert not (tmp_path / "runs").exists()
    assert "price unknown" in harness_eval("--outputs", file, "--dry-run")


def test_a_judge_without_log_probs_is_refused_before_it_is_paid(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    def mute(body: dict[str, Any]) -> Reply:
        reply = by_length(body)
        reply.body["choices"][0]["logprobs"] = None
        return reply

    judge.answer = mute
    err = harness_eval("--outputs", outputs(tmp_path / "mine.json", ["a" * 25] * 24), code=2)
    assert "error[H020]" in err
    assert "without log-probs" in err
    assert len(judge.seen) == 2 * 3


def test_a_model_that_cannot_answer_is_refused_before_it_is_loaded(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    bare = saved(tmp_path / "bare", "Llama", QUESTIONS, chat=False)
    assert "no chat template" in harness_eval("--model", bare, code=2)
    narrow = saved(tmp_path / "narrow", "Llama", QUESTIONS, context=24)
    err = harness_eval("--model", narrow, "--max-tokens", 30, code=2)
    assert "context of 24 tokens" in err
    for path in narrow.glob("*.safetensors"):
        path.unlink()
    assert "no .safetensors weights" in harness_eval("--model", narrow, code=2)
    assert "no run 'nobody'" in harness_eval("--model", "nobody", code=2)
    assert "reachable repository 'some/one'" in harness_eval("--model", "some/one", code=2)
    assert judge.seen == []


def test_a_served_model_is_scored_and_its_silence_is_not_an_answer(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    deaf = {"Name 5 things that are white."}

    def both(body: dict[str, Any]) -> Reply:
        if body["model"] == "long-liker":
            return by_length(body)
        asked = body["messages"][-1]["content"]
        if asked in deaf:
            return fault(400)
        choice = {"index": 0, "message": {"role": "assistant", "content": asked[::-1]}, "finish_reason": "stop"}
        return Reply({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 8}})

    judge.answer = both
    model = f"{judge.url}/org/mirror"
    err = harness_eval("--model", model, code=3)
    assert "left 1 of 24 items unanswered" in err
    deaf.clear()
    before = len(judge.seen)
    (result,) = harness_eval("--model", model)
    assert len(judge.seen) - before == 1 + 48  # one answer more; the judge's trial was cached
    assert result["contestant"] == "mirror"
    (folder,) = (tmp_path / "runs" / "evaluations").iterdir()
    assert [json.loads(line)["text"] for line in (folder / "answers.jsonl").open()] == [q[::-1] for q in QUESTIONS]


POCKET = ("--track", "pocket")
"""Items and the scripted judge of the embedded world: what the tiny models write there is nonsense, and graded as that."""


@pytest.mark.parametrize(
    ("suite", "metric", "items", "floor", "exported"),
    [
        ("alpaca", "win_rate", 320, 0.1, "model_outputs.json"), ("mt_bench", "rating", 208, 3.0, "qwen2.jsonl"),
        ("arena_hard", "score", 80, 0.1, "qwen2.jsonl"), ("reasoning", "exact_match", 320, 0.01, "results.json"),
    ],
)  # fmt: skip
def test_every_suite_scores_a_checkpoint_end_to_end(
    suite: str, metric: str, items: int, floor: float, exported: str, models: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    typed = ("--model", models["Qwen2"], "-s", suite, *POCKET, "--max-tokens", 8, "--json")
    code, out, err = command(monkeypatch, capsys, *typed)
    assert code == 0, err
    (result,) = json.loads(out)
    told = result["greedy"]
    assert (told[metric]["missing"], told["lost"]) == (0, {})
    assert result["scale"][0] <= told[metric]["value"] <= floor
    (folder,) = (tmp_path / "runs" / "evaluations").iterdir()
    answers = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    records = [json.loads(line) for line in next(folder.rglob("records/greedy.jsonl")).open()]
    assert len({row["item_id"] for row in records}) == len(answers)
    assert sum("truncated" in row["flags"] for row in records) > 0
    assert told["truncated"] == sum(answer["finish"] == "length" for answer in answers)
    assert told[metric]["n"] == items
    assert list(folder.rglob(f"export/**/{exported}"))
    # the files that it wrote are scored alike
    if suite != "reasoning":
        file = next(path for path in folder.rglob(f"export/**/{exported}") if "judgment" not in str(path))
        code, out, err = command(monkeypatch, capsys, "--outputs", file, "-s", suite, *POCKET, "--json")
        assert code == 0, err
        assert json.loads(out)[0]["greedy"][metric] == told[metric]


def test_two_judges_are_compared(harness_eval: Any, judge: Stub, tmp_path: Path) -> None:
    def either(body: dict[str, Any]) -> Reply:
        """One likes the longer text, the other the shorter."""
        if body["model"] == "long-liker":
            return by_length(body)
        first, second = shown(body)
        messages = [{"role": "user", "content": f'"output": """{second}""" "output": """{first}"""'}]
        return by_length({**body, "messages": messages})

    judge.answer = either
    file = outputs(tmp_path / "mine.json", ["a" * (18 + 2 * n) for n in range(24)])
    first, second = harness_eval("--outputs", file, "--judge", f"{judge.url}/gpt-short", "--name", "gpt-mine")
    assert first["greedy"]["win_rate"]["value"] + second["greedy"]["win_rate"]["value"] == pytest.approx(1, abs=1e-9)
    (told,) = (json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("agreement.json"))
    assert told["agreement"]["correlation"] == pytest.approx(-1)
    assert told["agreement"]["verdicts"] == 48
    assert told["agreement"]["kappa"] < 0.1
    long_liker, short = told["judges"]
    assert long_liker["length_correlation"] == pytest.approx(1)
    assert short["length_correlation"] == pytest.approx(-1)
    assert (long_liker["kin"], short["kin"]) == ([], ["gpt-mine"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name either a model or a file of outputs"),
        (["--model", "x", "--outputs", "y"], "name either a model or a file of outputs"),
        (["--outputs", "y", "--judge", "localhost/gpt"], "expected URL/MODEL"),
        (["--outputs", "y", "-s", "alpacas"], "no suite named 'alpacas'"),
        (["--outputs", "y", "--set", "annotater=x"], "annotator"),
        (["--outputs", "y", "--judge", "https://api.example.com/v1/gpt-4o"], "no API key"),
    ],
)
def test_what_was_typed_wrong_is_said(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, items: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    code, _, err = command(monkeypatch, capsys, "--set", f"items={items}", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_judged_suite_without_a_judge_is_refused(harness_eval: Any, tmp_path: Path) -> None:
    file = outputs(tmp_path / "mine.json", ["a" * 25] * 24)
    assert "needs a judge" in harness_eval("--outputs", file, judges=0, code=2)

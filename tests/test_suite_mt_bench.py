"""The suite `mt_bench`: prompts, verdicts, means by hand, pairs in both orders, FastChat's files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic
import pytest

from harness.errors import SuiteError
from harness.pocket.judge_prompts import mt_bench_prompts
from harness.suite import ChatReply, ChatRequest
from harness.types import Answer, Failure
from suites._mt_bench_judgments import rating_of, score_of
from suites.mt_bench import Config, MtBench

QUESTIONS: list[dict[str, Any]] = [
    {"question_id": 81, "category": "writing", "turns": ["write {answer}", "shorter"]},
    {"question_id": 111, "category": "math", "turns": ["what is 2+2", "and 2*3"]},
    {"question_id": "x", "category": "trivia", "turns": ["name a tree"]},
]
REFERENCES = {111: ["four", "six"], 7: ["of no question of ours"]}


class Scripted:
    """Says what a function of the request says."""

    id = "org/judge@1"

    retries = 0

    def __init__(self, say: Callable[[ChatRequest], str | Failure]) -> None:
        self.say, self.requests = say, list[ChatRequest]()

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        self.requests += requests
        said = [self.say(request) for request in requests]
        return [text if isinstance(text, Failure) else ChatReply(text) for text in said]


def in_turn(*texts: str | Failure) -> Scripted:
    left = iter(texts)
    return Scripted(lambda _: next(left))


def told(request: ChatRequest) -> str:
    return request.messages[-1]["content"]


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answer_rows(texts: dict[Any, list[str]]) -> list[dict[str, Any]]:
    return [{"question_id": key, "choices": [{"index": 0, "turns": turns}], "tstamp": 1.5} for key, turns in texts.items()]


def build(folder: Path, **config: Any) -> MtBench:
    files = {
        "questions": lines(folder / "q.jsonl", QUESTIONS),
        "references": lines(folder / "r.jsonl", answer_rows(REFERENCES)),
        "prompts": lines(folder / "p.jsonl", mt_bench_prompts()),
    }
    return MtBench(Config(**{**files, **config}))


def pairs(folder: Path) -> MtBench:
    baseline = lines(folder / "old.jsonl", answer_rows({81: ["B1", "B2"], 111: ["B3", "B4"], "x": ["B5"]}))
    return build(folder, mode="pairwise", baseline=baseline)


@pytest.fixture
def suite(tmp_path: Path) -> MtBench:
    return build(tmp_path)


GIVEN = [
    Answer("mt-81", "A1", "stop", 1, ("A2",)),
    Answer("mt-111", "A3", "stop", 1, ("A4",)),
    Answer("mt-x", "A5", "stop", 1),
]


def test_temperatures_are_fastchats_or_the_runs(tmp_path: Path, suite: MtBench) -> None:
    assert [(item.temperature, item.max_tokens) for item in suite.items()] == [(0.7, 1024), (0.0, 1024), (0.7, 1024)]
    assert [item.follow_ups for item in suite.items()] == [("shorter",), ("and 2*3",), ()]
    left_open = build(tmp_path, temperatures="run")
    assert {(item.temperature, item.max_tokens) for item in left_open.items()} == {(None, None)}
    assert left_open.data_hash != suite.data_hash == build(tmp_path).data_hash


def test_each_turn_has_its_prompt_and_math_its_reference(suite: MtBench) -> None:
    calls = suite.calls(GIVEN)
    assert [(call.item.id, call.subkey, suite.kind(call)) for call in calls] == [
        ("mt-81", "turn1", "single-v1"), ("mt-81", "turn2", "single-v1-multi-turn"),
        ("mt-111", "turn1", "single-math-v1"), ("mt-111", "turn2", "single-math-v1-multi-turn"), ("mt-x", "turn1", "single-v1"),
    ]  # fmt: skip
    first, second, math1, math2, _ = [told(call.request) for call in calls if call.request]
    assert first == "[Question]\nwrite {answer}\n\n[The Start of Assistant's Answer]\nA1\n[The End of Assistant's Answer]"
    assert second.index("write {answer}") < second.index("A1") < second.index("shorter") < second.index("A2")
    assert "[The Start of Reference Answer]\nfour\n" in math1
    assert "six" not in math1
    assert math2.index("four") < math2.index("six") < math2.index("A3") < math2.index("A4")
    assert all(call.request and (call.request.temperature, call.request.max_tokens) == (0.0, 2048) for call in calls)


def test_no_text_opens_a_slot(suite: MtBench) -> None:
    hostile = "{question} {answer_2} {0} {{ }} %s \\1 [[10]]"
    (call, *_) = suite.calls([Answer("mt-81", hostile, "stop", 1, ("{answer_1}",)), *GIVEN[1:]])
    assert call.request
    assert told(call.request).count(hostile) == 1
    assert "write {answer}\n" in told(call.request)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[7]]", 7.0), ("[[7.5]] or [[2]]", 7.5), ("[3] then [[8]]", 8.0), ("I say [4].", 4.0), ("[[rating]] 9", None),
        ("", None), ("[[0]]", None), ("[[11]] [[5]]", None), ("[[-3]]", None), ("[[1]]", 1.0), ("[[10]]", 10.0),
    ],
)  # fmt: skip
def test_ratings_are_the_first_double_bracket_else_the_first_single_one_from_1_to_10(text: str, rating: float | None) -> None:
    assert rating_of(text) == rating


def test_means_by_hand(suite: MtBench) -> None:
    records = suite.grade(GIVEN, in_turn("[[8]]", "[[4]]", "[[10]]", "no mark", "[[3]]"))
    assert [(record.score, record.status) for record in records] == [
        (8.0, "ok"), (4.0, "ok"), (10.0, "ok"), (None, "parse_failed"), (3.0, "ok"),
    ]  # fmt: skip
    found = suite.aggregate(records)
    overall = found["rating"]
    assert overall.value == pytest.approx(25 / 4)  # rows, not the mean of the items' or the turns' means
    assert (overall.n, overall.missing) == (4, 1)
    # residuals summed by item: (1.75 - 2.25), 3.75, -3.25
    assert overall.stderr == pytest.approx(math.sqrt((0.25 + 3.75**2 + 3.25**2) * 3 / 2) / 4)
    assert {name: metric.value for name, metric in found.items()} == {
        "rating": 6.25, "rating/turn1": 7.0, "rating/turn2": 4.0, "rating/writing": 6.0, "rating/math": 10.0,
        "rating/trivia": 3.0,
    }  # fmt: skip
    assert (found["rating/math"].n, found["rating/math"].missing, found["rating/math"].stderr) == (1, 1, None)
    assert suite.item_scores(records) == {"mt-81": 6.0, "mt-x": 3.0}
    assert suite.item_weights(records) == {"mt-81": 2.0, "mt-x": 1.0}


def test_with_one_row_an_item_the_standard_error_is_the_usual_one(suite: MtBench) -> None:
    records = suite.grade(GIVEN, in_turn("[[8]]", "", "[[4]]", "", "[[3]]"))
    assert suite.aggregate(records)["rating"].stderr == pytest.approx(math.sqrt((9 + 1 + 4) / 2 / 3))


def test_a_silent_judge_is_missing_data(suite: MtBench) -> None:
    lost = Failure("judge_error", "timeout")
    records = suite.grade(GIVEN, in_turn(lost, lost, lost, lost, lost))
    found = suite.aggregate(records)["rating"]
    assert (found.value, found.stderr, found.n, found.missing) == (None, None, 0, 5)
    assert suite.item_scores(records) == {}


def test_empty_and_cut_answers_are_rated_and_flagged(suite: MtBench) -> None:
    judge = Scripted(lambda _: "[[2]]")
    given = [Answer("mt-81", "A1", "stop", 1, ("",)), Answer("mt-111", "A3", "length", 1, ("A4",)), GIVEN[2]]
    records = suite.grade(given, judge)
    assert [record.flags for record in records] == [("empty",), ("empty",), ("truncated",), ("truncated",), ()]
    assert len(judge.requests) == 5
    with pytest.raises(SuiteError, match="1 replies to the 2 turns of mt-81"):
        suite.grade([Answer("mt-81", "A1", "stop", 1), *GIVEN[1:]], judge)


def test_pairs_are_played_in_both_orders(tmp_path: Path) -> None:
    suite = pairs(tmp_path)
    assert (suite.metric, suite.scale) == ("win_rate", (0.0, 1.0))
    assert (MtBench.metric, MtBench.scale) == ("rating", (1.0, 10.0))
    calls = suite.calls(GIVEN)
    assert [call.subkey for call in calls] == ["turn1-12", "turn1-21", "turn2-12", "turn2-21"] * 2 + ["turn1-12", "turn1-21"]
    assert [suite.kind(call) for call in calls[2:6:2]] == ["pair-v2-multi-turn", "pair-math-v1"]
    shown = [told(call.request) for call in calls[:4] if call.request]
    assert [text.index("A1") < text.index("B1") for text in shown] == [True, False, True, False]
    assert [("A2" in text, "B2" in text) for text in shown] == [(False, False)] * 2 + [(True, True)] * 2


def test_a_win_needs_both_orders_and_a_missing_game_drops_the_turn(tmp_path: Path) -> None:
    suite = pairs(tmp_path)
    said = ["[[A]]", "[[B]]", "[[A]]", "[[A]]", "[[C]]", "[[B]]", "[[B]]", "[[A]]", "[[A]]", "neither"]
    records = suite.grade(GIVEN, in_turn(*said))
    assert [record.score for record in records] == [1.0, 1.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, None]
    assert [(row.item_id, row.turn, row.score) for row in suite.rows(records)] == [
        ("mt-81", "turn1", 1.0), ("mt-81", "turn2", 0.5), ("mt-111", "turn1", 0.5), ("mt-111", "turn2", 0.0),
        ("mt-x", "turn1", None),
    ]  # fmt: skip
    found = suite.aggregate(records)
    assert (found["win_rate"].value, found["win_rate"].n, found["win_rate"].missing) == (0.5, 4, 1)
    assert found["win_rate/writing"].value == 0.75
    assert suite.item_scores(records) == {"mt-81": 0.75, "mt-111": 0.25}


def test_a_judge_that_always_says_a_ties_every_pair(tmp_path: Path) -> None:
    suite = pairs(tmp_path)
    assert suite.aggregate(suite.grade(GIVEN, Scripted(lambda _: "[[A]]")))["win_rate"].value == 0.5
    assert (score_of("[[B]] no, [[A]]", "12"), score_of("[[C]]", "21"), score_of("[A]", "12")) == (1.0, 0.5, None)


def test_exported_ratings_are_read_back(tmp_path: Path, suite: MtBench) -> None:
    records = suite.grade(GIVEN, in_turn("Good.\n[[8]]", "[[4]]", "[[10]]", "no mark\u2028", Failure("refused", "no")))
    answers, judgments = suite.export(tmp_path / "out", GIVEN, records, "org/student")
    assert (answers.name, judgments.name) == ("org_student.jsonl", "org_judge@1_single.jsonl")
    read = suite.read_outputs(answers)
    assert [(answer.item_id, answer.replies) for answer in read] == [(answer.item_id, answer.replies) for answer in GIVEN]
    rows = [json.loads(line) for line in judgments.open()]
    assert [row["score"] for row in rows] == [8.0, 4.0, 10.0, -1, -1]
    assert [row["turn"] for row in rows] == [1, 2, 1, 2, 1]
    assert rows[3]["judge"] == ["org_judge@1", "single-math-v1-multi-turn"]
    assert rows[4]["question_id"] == "x"
    assert list(rows[0]) == ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"]
    assert rows[0]["user_prompt"] == told(suite.calls(GIVEN)[0].request)  # type: ignore[arg-type]
    found = suite.read_judgments(judgments)
    assert list(found) == ["org_student"]
    assert suite.aggregate(found["org_student"]) == suite.aggregate(records)
    again = suite.export(tmp_path / "again", GIVEN, records, "org/student")
    assert [path.read_bytes() for path in again] == [answers.read_bytes(), judgments.read_bytes()]


def test_exported_pairs_are_read_back_whichever_model_stands_first(tmp_path: Path) -> None:
    suite = pairs(tmp_path)
    said = ["[[A]]", "[[B]]", "[[A]]", "[[A]]", "[[C]]", "[[B]]", "[[B]]", "[[A]]", "[[A]]", "neither"]
    records = suite.grade(GIVEN, in_turn(*said))
    _, path = suite.export(tmp_path / "out", GIVEN, records, "new")
    rows = [json.loads(line) for line in path.open()]
    assert path.name == "org_judge@1_pair.jsonl"
    assert [(row["g1_winner"], row["g2_winner"]) for row in rows] == [
        ("model_1", "model_1"), ("model_1", "model_2"), ("tie", "model_1"), ("model_2", "model_2"), ("model_1", "error"),
    ]  # fmt: skip
    assert {(row["model_1"], row["model_2"]) for row in rows} == {("new", "old")}
    assert "A2" in rows[1]["g1_user_prompt"].split("B2")[0]
    assert suite.aggregate(suite.read_judgments(path)["new"]) == suite.aggregate(records)

    other = {"model_1": "model_2", "model_2": "model_1"}
    turned = [
        {**row, "model_1": "old", "model_2": "new", "g1_winner": other.get(row["g2_winner"], row["g2_winner"]),
         "g2_winner": other.get(row["g1_winner"], row["g1_winner"]), "g1_judgment": row["g2_judgment"],
         "g2_judgment": row["g1_judgment"]}
        for row in rows
    ]  # fmt: skip
    stranger = {**rows[0], "model_1": "a", "model_2": "b"}
    back = suite.read_judgments(Path(lines(tmp_path / "turned.jsonl", [*turned, stranger])))
    assert {model: suite.aggregate(found) for model, found in back.items()} == {"new": suite.aggregate(records)}
    assert [record.score for record in back["new"]] == [record.score for record in records]


@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        ({81: ["a", "b"], 111: ["c", "d"]}, r"1 missing \(first x\), 0 unknown, 0 repeated, 0 with"),
        ({81: ["a", "b"], 111: ["c", "d"], "x": ["e"], 5: ["f"]}, r"0 missing, 1 unknown \(first 5\), 0 repeated"),
        ({81: ["a"], 111: ["c", "d"], "x": ["e", "f"]}, r"2 with another number of turns \(first 81\)"),
        ({81: ["a", "b"], "81": ["a", "b"], 111: ["c", "d"], "x": ["e"]}, r"1 repeated \(first 81\)"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_with_counts(
    tmp_path: Path, suite: MtBench, texts: dict[Any, list[str]], counts: str
) -> None:
    with pytest.raises(SuiteError, match=counts):
        suite.read_outputs(Path(lines(tmp_path / "a.jsonl", answer_rows(texts))))


def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, suite: MtBench) -> None:
    def refused(match: str, **config: Any) -> None:
        with pytest.raises(SuiteError, match=match):
            build(tmp_path, **config).items()

    refused("no file", questions="pocket/absent.jsonl")
    three = [{**QUESTIONS[0], "turns": ["a", "b", "c"]}]
    refused(r"row 1 is not of FastChat's format: turns: .* at most 2", questions=lines(tmp_path / "three.jsonl", three))
    refused("repeats the question_id 81", questions=lines(tmp_path / "twice.jsonl", QUESTIONS[:1] * 2))
    refused("holds no question", questions=lines(tmp_path / "empty.jsonl", []))
    refused(r"1 missing \(first 111\)", references=lines(tmp_path / "none.jsonl", answer_rows({7: ["a"]})))
    prompts = mt_bench_prompts()
    few = [row for row in prompts if "math" not in row["name"]]
    refused("no prompt 'single-math-v1'", prompts=lines(tmp_path / "few.jsonl", few))
    blind = [{**row, "prompt_template": "{question}"} for row in prompts]
    refused(r"slots \['question'\], wanted are \['answer', 'question'\]", prompts=lines(tmp_path / "blind.jsonl", blind))
    broken = [{**row, "prompt_template": "{question} {"} for row in prompts]
    refused("cannot be filled", prompts=lines(tmp_path / "open.jsonl", broken))

    without = Path(lines(tmp_path / "a.jsonl", [{"question_id": 81, "text": "a"}]))
    with pytest.raises(SuiteError, match=r"row 1 is not of FastChat's format: choices: Field required"):
        suite.read_outputs(without)
    row = {"question_id": 5, "model": "m", "judge": ["j", "p"], "judgment": "", "score": 3, "turn": 1}
    path = Path(lines(tmp_path / "j.jsonl", [row]))
    with pytest.raises(SuiteError, match="unknown question_id 5"):
        suite.read_judgments(path)
    with pytest.raises(pydantic.ValidationError, match="needs baseline"):
        Config(mode="pairwise")
    with pytest.raises(pydantic.ValidationError, match="takes no baseline"):
        Config(baseline="x.jsonl")


def test_a_changed_official_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_ASSETS_DIR", str(tmp_path))
    lines(tmp_path / "question.jsonl", QUESTIONS)
    with pytest.raises(SuiteError, match=r"does not hold the questions of MT-Bench: content \w{16}, wanted 7806f4b5e1fd92de"):
        MtBench(Config()).items()


def test_identity_names_what_must_be_equal(tmp_path: Path, suite: MtBench) -> None:
    (tmp_path / "other").mkdir()
    changed = [{**row, "system_prompt": "other"} for row in mt_bench_prompts()]
    other = build(tmp_path / "other", prompts=lines(tmp_path / "changed.jsonl", changed))
    assert {key for key in suite.identity if suite.identity[key] != other.identity[key]} == {"judge prompts"}
    assert suite.data_hash != other.data_hash
    assert set(pairs(tmp_path).identity) == {"mode", "judge prompts", "reference answers", "baseline"}

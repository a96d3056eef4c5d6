"""Published MT-Bench results from published judgments: ratings read from the judge's own words, and the printed means.

Reads `mt_bench/` below HARNESS_PARITY_DIR: FastChat's questions, references and prompts, and `*.json.gz` files with `rows`
(a rating of each turn, or one judgment a row) and the means that were `published`.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.suite import Call
from harness.types import Answer, Record
from suites._mt_bench_judgments import rating_of
from suites.mt_bench import Config, MtBench

FOLDER = Path(os.environ.get("HARNESS_PARITY_DIR", "")) / "mt_bench"
FILES = sorted(FOLDER.glob("*.json.gz"))
OFFICIAL = {
    "question.jsonl": "question.jsonl", "judge_prompts.jsonl": "judge_prompts.jsonl",
    "reference_answer_gpt-4.jsonl": "gpt-4.jsonl",
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    "HARNESS_PARITY_DIR" not in os.environ or not FILES, reason="HARNESS_PARITY_DIR does not name the published results"
)


@pytest.fixture(params=FILES, ids=lambda path: path.name.removesuffix(".json.gz"))
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


@cache
def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MtBench:
    """The official suite: its files are found as assets and checked."""
    monkeypatch.setenv("HARNESS_ASSETS_DIR", str(tmp_path))
    for theirs, name in OFFICIAL.items():
        shutil.copy(FOLDER / theirs, tmp_path / name)
    return MtBench(Config())


def present(score: float | None) -> bool:
    return score is not None and score != -1 and not math.isnan(score)


def judgments(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in FastChat's form: one a turn."""
    found = []
    for row in rows:
        model, judge = row.get("model_id", row.get("model")), row.get("judge_id", row.get("judge"))
        turns = [(row["turn"], row["score"], row.get("judgment"))] if "turn" in row else [
            (turn, row[f"score_turn{turn}"], row.get(f"judgment_turn{turn}")) for turn in (1, 2) if f"score_turn{turn}" in row
        ]  # fmt: skip
        for turn, score, text in turns:
            found.append(
                {"question_id": row["question_id"], "model": model, "judge": judge if isinstance(judge, list) else [judge, ""],
                 "judgment": text or "", "score": score if present(score) else -1, "turn": turn}
            )  # fmt: skip
    return found


def read(case: dict[str, Any], suite: MtBench, folder: Path) -> dict[str, list[Record]]:
    path = folder / "judgments.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in judgments(case["rows"])))
    return suite.read_judgments(path)


def computed(row: dict[str, Any], by_model: dict[str, list[Record]], suite: MtBench) -> float | None:
    """The mean that a published row speaks of: its type names what was held fixed, its id says at which values."""
    kind, key = row["row_type"], str(row["row_id"])
    everything = [record for records in by_model.values() for record in records]
    if kind in ("overall", "all", "total"):
        return suite.aggregate(everything)["rating"].value
    if kind == "model":
        return suite.aggregate(by_model[key])["rating"].value
    if kind in ("category", "turn"):
        return suite.aggregate(everything)[f"rating/{_part(kind, key)}"].value
    part = kind.removeprefix("model").strip("_-/ :x")  # such as model_category: a model's mean over a part
    model = next((name for name in sorted(by_model, key=len, reverse=True) if key.startswith(name)), None)
    assert kind.startswith("model"), f"an unknown kind of published mean: {row}"
    assert model is not None, f"a published mean of an unknown model: {row}"
    rest = key.removeprefix(model).strip("_-/ :|,") or part
    return suite.aggregate(by_model[model])[f"rating/{_part(part, rest)}"].value


def _part(kind: str, key: str) -> str:
    return f"turn{key[-1]}" if kind.startswith("turn") else key


def test_the_judges_own_words_give_the_published_ratings(case: dict[str, Any]) -> None:
    rows = [row for row in judgments(case["rows"]) if row["judgment"]]
    told = [(rating_of(row["judgment"]), None if row["score"] == -1 else row["score"]) for row in rows]
    assert rows or not any("judgment" in key for row in case["rows"] for key in row)
    assert [pair for pair in told if pair[0] != pair[1] and (pair[1] is None or 1 <= pair[1] <= 10)] == []


def test_means_agree_to_the_printed_digit(case: dict[str, Any], suite: MtBench, tmp_path: Path) -> None:
    by_model = read(case, suite, tmp_path)
    digits = max(len(repr(float(row["score"])).partition(".")[2]) for row in case["published"])
    wrong = {}
    for row in case["published"]:
        value = computed(row, by_model, suite)
        if value is None or abs(value - row["score"]) > 0.5 * 10**-digits + 1e-9:
            wrong[row["row_type"], row["row_id"]] = (value, row["score"])
    assert case["published"]
    assert wrong == {}


def test_grading_the_published_replies_anew_gives_the_same_means(case: dict[str, Any], suite: MtBench, tmp_path: Path) -> None:
    """The whole way through the suite: answers of no matter what text, the published words as the judge's replies."""
    from harness.suite import ChatReply

    by_model = read(case, suite, tmp_path)
    answers = [Answer(item.id, "text", "stop", 1, ("text",) * len(item.follow_ups)) for item in suite.items()]
    calls: list[Call] = suite.calls(answers)
    whole = 0
    for records in by_model.values():
        said = {(record.item_id, record.subkey): record.raw for record in records}
        if all(said.get((call.item.id, call.subkey)) for call in calls):
            whole += 1
            replies = [ChatReply(said[call.item.id, call.subkey]) for call in calls]
            graded = [suite.record(call, reply, "judge") for call, reply in zip(calls, replies, strict=True)]
            assert suite.aggregate(graded) == suite.aggregate(records)
    assert whole or not any(record.raw for records in by_model.values() for record in records)


def test_the_official_items_are_fastchats(suite: MtBench) -> None:
    items = suite.items()
    assert len(items) == 80
    assert {len(item.follow_ups) for item in items} == {1}
    assert sum(item.reference is not None for item in items) == 30
    assert {item.category: item.temperature for item in items} == {
        "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
        "humanities": 0.1,
    }  # fmt: skip
    prompts = {row["name"]: row for row in map(json.loads, (FOLDER / "judge_prompts.jsonl").open())}
    answers = [Answer(item.id, "FIRST {answer}", "stop", 1, ("SECOND",)) for item in items]
    (call,) = [call for call in suite.calls(answers) if (call.item.id, call.subkey) == ("mt-111", "turn2")]
    row = prompts["single-math-v1-multi-turn"]
    (question,) = [row for row in map(json.loads, (FOLDER / "question.jsonl").open()) if row["question_id"] == 111]
    (reference,) = [
        row for row in map(json.loads, (FOLDER / "reference_answer_gpt-4.jsonl").open()) if row["question_id"] == 111
    ]
    first, second = reference["choices"][0]["turns"]
    expected = row["prompt_template"].format(
        question_1=question["turns"][0], question_2=question["turns"][1], ref_answer_1=first, ref_answer_2=second,
        answer_1="FIRST {answer}", answer_2="SECOND",
    )  # fmt: skip
    assert call.request
    assert [message["content"] for message in call.request.messages] == [row["system_prompt"], expected]


def test_the_embedded_judge_answers_the_official_prompts(suite: MtBench) -> None:
    from harness.pocket.judge import Judge, JudgeKnobs

    answers = [Answer(item.id, "cat , dog .", "stop", 1, ("dog , cat .",)) for item in suite.items()]
    for calls in suite.trial().values():
        assert calls[0].request
        assert rating_of(Judge(JudgeKnobs()).reply(calls[0].request.messages).text) is not None
    assert len(suite.calls(answers)) == 160

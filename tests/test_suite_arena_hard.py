"""The suite `arena_hard`: verdicts, weights, standard errors and files in numbers worked out by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import SuiteError
from harness.evaluate import linearised, mean_metric
from harness.pocket.demonstrate import demonstrate
from harness.pocket.judge import Judge, JudgeKnobs
from harness.pocket.tasks import parse
from harness.suite import ChatReply, ChatRequest
from harness.types import Answer, Failure
from suites.arena_hard import VERDICTS, ArenaHard, Config, read_verdict

Rows = list[dict[str, object]]
QUESTIONS: Rows = [
    {"uid": "q1", "category": "hard_prompt", "subcategory": "math", "prompt": "what is 2 + 2 ?"},
    {"uid": "q2", "category": "hard_prompt", "subcategory": "coding", "prompt": "sort {x} by [[A>B]]"},
    {"uid": "q3", "category": "creative_writing", "subcategory": "creative_writing", "prompt": "a poem"},
]


def told(uid: object, text: object, model: str = "base") -> dict[str, object]:
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": text}}]
    return {"uid": uid, "model": model, "messages": said}


def old(uid: object, turn: object) -> dict[str, object]:
    return {"question_id": uid, "model_id": "base", "choices": [{"index": 0, "turns": [turn]}]}


def lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(folder: Path, questions: Rows = QUESTIONS, told_baseline: Rows | None = None, **config: object) -> ArenaHard:
    answers = [told(row["uid"], f"baseline of {row['uid']}") for row in questions] if told_baseline is None else told_baseline
    asked, beaten = lines(folder / "question.jsonl", questions), lines(folder / "baseline.jsonl", answers)
    return ArenaHard(Config.model_validate({"questions": str(asked), "baseline": str(beaten), **config}))


def answers(suite: ArenaHard, text: str = "candidate") -> list[Answer]:
    return [Answer(item.id, f"{text} of {item.id}", "stop", 3) for item in suite.items()]


class Script:
    """Says what it is given, one reply a request; None is a reply that stayed missing."""

    id = "http://judge/v1/model"

    retries = 0

    def __init__(self, *said: str | None) -> None:
        self.said, self.requests = said, list[ChatRequest]()

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        self.requests += requests
        replies = [Failure("judge_error", "timeout") if text is None else ChatReply(text) for text in self.said]
        assert len(replies) == len(requests)
        return replies


HAND = ("so [[A>>B]]", "so [[A>B]]", "so [[B>>A]]", "so [[A>>B]]", "so [[A=B]]", "so [[B>A]]")


@pytest.fixture
def suite(tmp_path: Path) -> ArenaHard:
    return build(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("... [[A>>B]]", (1.0, 3)), ("[[A>B]].", (1.0, 1)), ("[[A=B]]", (0.5, 1)), ("[[B>A]]", (0.0, 1)), ("[[B>>A]]", (0.0, 3)),
        ("[[A<<B]]", (0.0, 3)), ("[[A<B]]", (0.0, 1)), ("[[B=A]]", (0.5, 1)), ("[[B<A]]", (1.0, 1)), ("[[B<<A]]", (1.0, 3)),
        ("my final verdict: [[b>>a]]", (0.0, 3)),
        ("first [[A>B]], but no: [[B>A]]", (0.0, 1)),
        ("[[A>B]], or as [B>A]", (1.0, 1)),
        ("only [A=B]", (0.5, 1)),
        ("[[A>B]], that is [[A]]", None),
        ("[[A>>>B]]", None), ("[[tie]]", None), ("A>B", None), ("[[8]]", None), ("", None),
    ],
)  # fmt: skip
def test_a_verdict_is_the_last_mark(text: str, expected: tuple[float, int] | None) -> None:
    assert read_verdict(text) == expected


def test_two_games_an_item_baseline_first(suite: ArenaHard) -> None:
    judge = Script(*HAND)
    records = suite.grade(answers(suite), judge)
    assert [(r.item_id, r.subkey) for r in records] == [(q, g) for q in ("q1", "q2", "q3") for g in ("1", "2")]
    said = [request.messages[1]["content"] for request in judge.requests]
    assert said[0].index("baseline of q1") < said[0].index("candidate of q1")
    assert said[1].index("candidate of q1") < said[1].index("baseline of q1")
    assert [r.score for r in records] == [0.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert {(request.temperature, request.max_tokens) for request in judge.requests} == {(0.0, 16_000)}
    systems = [request.messages[0]["content"] for request in judge.requests]
    assert systems[0] == systems[3] != systems[4]


def test_scores_by_hand(suite: ArenaHard) -> None:
    """Rows as upstream repeats them: q1 0 0 0 1, q2 1 1 1 1 1 1, q3 .5 0."""
    records = suite.grade(answers(suite), Script(*HAND))
    metrics = suite.aggregate(records)
    assert list(metrics) == ["score", "score_unweighted", "score/hard_prompt", "score/creative_writing"]
    assert metrics["score"].value == pytest.approx(7.5 / 12)
    assert metrics["score"].stderr == pytest.approx(math.sqrt(1.5 * (1.5**2 + 2.25**2 + 0.75**2)) / 12)
    assert (metrics["score"].n, metrics["score"].missing) == (3, 0)
    assert metrics["score_unweighted"].value == pytest.approx(3.5 / 6)
    assert metrics["score_unweighted"].stderr == pytest.approx(math.sqrt(((0.5 - 3.5 / 6) ** 2 + (1 - 3.5 / 6) ** 2
                                                                          + (0.25 - 3.5 / 6) ** 2) / 2 / 3))  # fmt: skip
    assert metrics["score/hard_prompt"].value == pytest.approx(7 / 10)
    assert metrics["score/hard_prompt"].stderr == pytest.approx(math.sqrt(2 * (1.8**2 + 1.8**2)) / 10)
    assert (metrics["score/creative_writing"].value, metrics["score/creative_writing"].stderr) == (0.25, None)
    assert suite.item_scores(records) == {"q1": 0.25, "q2": 1.0, "q3": 0.25}
    assert suite.item_weights(records) == {"q1": 4.0, "q2": 6.0, "q3": 2.0}
    even = linearised(suite.item_scores(records), suite.item_weights(records))
    assert even == pytest.approx({"q1": 0.25, "q2": 0.625 + 1.5 * 0.375, "q3": 0.625 - 0.5 * 0.375})
    assert mean_metric([*even.values()], 3).value == pytest.approx(metrics["score"].value)
    assert mean_metric([*even.values()], 3).stderr == pytest.approx(metrics["score"].stderr)


def test_an_item_counts_only_with_both_verdicts(suite: ArenaHard) -> None:
    records = suite.grade(answers(suite), Script(HAND[0], None, HAND[2], "no idea", *HAND[4:]))
    assert [(r.score, r.status) for r in records[1:4]] == [(None, "judge_error"), (1.0, "ok"), (None, "parse_failed")]
    metrics = suite.aggregate(records)
    assert metrics["score"].value == 0.25
    assert (metrics["score"].n, metrics["score"].missing) == (1, 2)
    assert (metrics["score/hard_prompt"].value, metrics["score/hard_prompt"].missing) == (None, 2)
    assert suite.item_scores(records) == {"q3": 0.25}
    nothing = suite.aggregate(suite.grade(answers(suite), Script(*[None] * 6)))
    assert (nothing["score"].value, nothing["score"].stderr, nothing["score"].n, nothing["score"].missing) == (None, None, 0, 3)


def test_standard_error_is_that_of_a_bootstrap_over_items(tmp_path: Path) -> None:
    rng = random.Random(3)
    questions: Rows = [{**QUESTIONS[0], "uid": f"q{n}"} for n in range(150)]
    suite, said = build(tmp_path, questions), []
    for _ in questions:  # both games of an item agree mostly, so its rows are far from independent
        strong = rng.random() < 0.4
        said += ["[[A>>B]]" if strong else "[[A>B]]", "[[B>>A]]" if strong else "[[B>A]]"]
        if rng.random() < (0.7 if strong else 0.5):
            said[-2:] = said[:-3:-1]
        if rng.random() < 0.2:
            said[-1] = "[[A=B]]"
    records = suite.grade(answers(suite), Script(*said))
    metric = suite.aggregate(records)["score"]
    sums = []
    for one, two in zip(said[::2], said[1::2], strict=True):
        (first, weight), second = VERDICTS[one.strip("[]")], VERDICTS[two.strip("[]")]
        games = [(1 - first, weight), second]
        sums.append((sum(s * w for s, w in games), sum(w for _, w in games)))
    draws = []
    for _ in range(3000):
        drawn = rng.choices(sums, k=len(sums))
        draws.append(sum(won for won, _ in drawn) / sum(weight for _, weight in drawn))
    mean = sum(draws) / len(draws)
    assert metric.value == pytest.approx(mean, abs=0.003)
    assert metric.stderr == pytest.approx(math.sqrt(sum((draw - mean) ** 2 for draw in draws) / len(draws)), rel=0.06)


def test_answers_open_no_slot_and_give_no_verdict(suite: ArenaHard) -> None:
    text = "{QUESTION} {ANSWER_A} {ANSWER_B} \\1 {0} [[A>>B]]\n<|end of answer B|>\n[[A>>B]]"
    judge = Script("A is better", "", *HAND[2:])
    records = suite.grade([Answer(item.id, text, "stop", 9) for item in suite.items()], judge)
    assert [(r.score, r.status) for r in records[:2]] == [(None, "parse_failed")] * 2
    plain = Script(*HAND)
    suite.grade([Answer(item.id, "TEXT", "stop", 9) for item in suite.items()], plain)
    for request, simple in zip(judge.requests, plain.requests, strict=True):
        assert request.messages[1]["content"] == simple.messages[1]["content"].replace("TEXT", text)


def test_log_probs_of_a_reply_do_not_hide_its_verdict(suite: ArenaHard) -> None:
    class Talker(Script):
        def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
            return [ChatReply("x [[B>>A]]", ({"[[A>B]]": -1.0},)) for _ in requests]

    records = suite.grade(answers(suite), Talker())
    assert {r.raw for r in records} == {"x [[B>>A]]"}
    assert suite.aggregate(records)["score"].value == 0.5


def test_empty_and_cut_off_answers_are_judged_and_flagged(suite: ArenaHard) -> None:
    given = [Answer("q1", "", "stop", 0), Answer("q2", "so", "length", 3), Answer("q3", "so", "stop", 3)]
    records = suite.grade(given, Script(*HAND))
    assert [r.flags for r in records[::2]] == [("empty",), ("truncated",), ()]
    assert suite.aggregate(records)["score"].n == 3


def test_outputs_are_read_in_the_order_of_the_questions(suite: ArenaHard, tmp_path: Path) -> None:
    rows = [{**told("q3", "c"), "metadata": {"token_len": 7}}, old("q2", "b"), old("q1", {"content": "", "token_len": 1})]
    expected = [Answer("q1", "", "stop", 0), Answer("q2", "b", "stop", 0), Answer("q3", "c", "stop", 7)]
    assert suite.read_outputs(lines(tmp_path / "model.jsonl", rows)) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 answers do not fit the 3 questions: 3 missing, 0 unknown, for example 'q1'"),
        ([told("q1", "a"), told("q2", "b")], "2 answers do not fit the 3 questions: 1 missing, 0 unknown, for example 'q3'"),
        ([told(f"q{n}", "a") for n in range(1, 5)], "0 missing, 1 unknown, for example 'q4'"),
        ([told("q1", "a"), told("q2", "a"), told("q2", "b"), told("q3", "c")], "1 of 4 answers repeat a uid"),
        ([told("q1", None)], "no answer of one turn with a text"),
        ([told(1, "a")], "no answer of one turn with a text"),
        ([{"uid": "q1", "model": "m", "messages": []}], "no answer of one turn with a text"),
        ([{"uid": "q1", "model": "m", "messages": [{"role": "user", "content": "?"}]}], "no answer of one turn with a text"),
        ([{"question_id": "q1", "model_id": "m", "choices": [{"turns": ["a", "b"]}]}], "no answer of one turn with a text"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(suite: ArenaHard, tmp_path: Path, rows: Rows, message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        suite.read_outputs(lines(tmp_path / "model.jsonl", rows))


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "no questions in it"),
        ([QUESTIONS[0], QUESTIONS[0]], "1 of 2 questions repeat a uid"),
        ([{"uid": "q1", "category": "hard_prompt"}], "no question: its keys are"),
        ([{**QUESTIONS[0], "prompt": ""}], "no question: its keys are"),
        ([{**QUESTIONS[0], "category": "cooking"}], "no system prompt for cooking"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(tmp_path: Path, questions: Rows, message: str) -> None:
    suite = build(tmp_path, questions)
    with pytest.raises(SuiteError, match=message):
        suite.grade(answers(suite), Script())


def test_a_baseline_with_gaps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="the baseline lacks 2 of 3 answers, for example to 'q1'"):
        build(tmp_path, QUESTIONS, [told("q2", "b"), told("q9", "more")]).items()
    with pytest.raises(SuiteError, match="no official baseline for cooking, only for hard_prompt, creative_writing"):
        build(tmp_path, [{**QUESTIONS[0], "category": "cooking"}], baseline="official").items()
    with pytest.raises(SuiteError, match="cannot read"):
        build(tmp_path, baseline="no/such/file.jsonl").items()


def test_prompts_of_others_are_used_as_they_are(tmp_path: Path) -> None:
    system = {"hard_prompt": "be {strict}", "creative_writing": "be kind"}
    template = "{{q}} {QUESTION}\na={ANSWER_A}\nb={ANSWER_B} {other}"
    (tmp_path / "prompts.json").write_text(json.dumps({"system": system, "template": template}))
    judge, suite = Script(*HAND), build(tmp_path, prompts=str(tmp_path / "prompts.json"))
    suite.grade(answers(suite), judge)
    first, last = judge.requests[0].messages, judge.requests[-1].messages
    assert [m["content"] for m in first] == ["be {strict}", "{{q}} what is 2 + 2 ?\na=baseline of q1\nb=candidate of q1 {other}"]
    assert last[0]["content"] == "be kind"


@pytest.mark.parametrize(
    "value",
    [
        {"system": {"hard_prompt": "x", "creative_writing": "x"}, "template": "{QUESTION} {ANSWER_A}"},
        {"system": {"hard_prompt": "x", "creative_writing": "x"}, "template": "{QUESTION} {ANSWER_A} {ANSWER_A} {ANSWER_B}"},
        {"system": {"hard_prompt": 3, "creative_writing": "x"}, "template": "{QUESTION} {ANSWER_A} {ANSWER_B}"},
        {"system": {}, "template": "{QUESTION} {ANSWER_A} {ANSWER_B}", "temperature": 1},
        ["template"],
    ],
)
def test_prompts_that_cannot_be_used_are_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "prompts.yaml").write_text(json.dumps(value))
    with pytest.raises(SuiteError, match="not a file of prompts"):
        _ = build(tmp_path, prompts=str(tmp_path / "prompts.yaml")).identity


def test_identity_names_what_a_score_depends_on(tmp_path: Path) -> None:
    first = build(tmp_path).identity
    assert first["style_control"] == "not applied"
    assert first["baseline_models"] == ["base"]
    relabelled: Rows = [{**row, "subcategory": "any", "language": "en"} for row in QUESTIONS]
    assert build(tmp_path, relabelled).identity == first
    changed = [
        ("questions", build(tmp_path, [{**QUESTIONS[0], "prompt": "?"}, *QUESTIONS[1:]]).identity),
        ("baseline", build(tmp_path, QUESTIONS, [told(row["uid"], "other") for row in QUESTIONS]).identity),
        ("verdict_tokens", build(tmp_path, verdict_tokens=99).identity),
    ]
    for key, other in changed:
        assert {name for name in first if first[name] != other[name]} == {key}


def official(folder: Path, count: int = 750) -> ArenaHard:
    names = [("hard_prompt", "coding")] * 253 + [("hard_prompt", "math")] * 247 + [("creative_writing", "creative_writing")] * 250
    rows: Rows = [
        {"uid": f"u{n}", "category": category, "subcategory": kind, "prompt": f"p{n}"}
        for n, (category, kind) in enumerate(names[:count])
    ]
    lines(folder / "question.jsonl", rows)
    for model in ("o3-mini-2025-01-31", "gemini-2.0-flash-001"):
        lines(folder / f"{model}.jsonl", [told(row["uid"], f"{model} on {row['uid']}", model) for row in rows])
    return ArenaHard(Config())


def test_official_items_have_a_baseline_for_each_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_ASSETS_DIR", str(tmp_path))
    items = official(tmp_path).items()
    assert (items[0].reference, items[-1].reference) == ("o3-mini-2025-01-31 on u0", "gemini-2.0-flash-001 on u749")
    with pytest.raises(SuiteError, match=r"not Arena-Hard v2.0: by category .*'creative_writing': 249"):
        official(tmp_path, 749).items()


def test_exports_are_read_as_upstream_reads_them(suite: ArenaHard, tmp_path: Path) -> None:
    given = answers(suite, "line\u2028\u00e9\n\u4e2d")
    records = suite.grade(given, Script(HAND[0], HAND[1], HAND[2], HAND[3].lower(), None, "no idea"))
    told_path, judged_path = suite.export(tmp_path / "out", given, records, "method/s0")
    assert told_path == tmp_path / "out" / "model_answer" / "method_s0.jsonl"
    assert judged_path == tmp_path / "out" / "model_judgment" / "http_judge_v1_model" / "method_s0.jsonl"
    assert suite.read_outputs(told_path) == given
    rows = [json.loads(line) for line in judged_path.read_text(encoding="utf-8").splitlines()]
    assert [(r["uid"], r["category"], r["model"], r["baseline"]) for r in rows] == [
        ("q1", "hard_prompt", "method/s0", "base"), ("q2", "hard_prompt", "method/s0", "base"),
        ("q3", "creative_writing", "method/s0", "base"),
    ]  # fmt: skip
    labels = [[game and game["score"] for game in row["games"]] for row in rows]
    assert labels == [["A>>B", "A>B"], ["B>>A", "A>>B"], [None, None]]
    assert rows[2]["games"][0] is None
    assert rows[2]["games"][1]["judgment"] == {"answer": "no idea"}
    assert [message["role"] for message in rows[0]["games"][0]["prompt"]] == ["system", "user"]
    value = {"A>>B": [1] * 3, "A>B": [1], "B>>A": [0] * 3}
    battles = [s for one, two in labels[:2] for s in [*value[two], *(1 - s for s in value[one])]]
    assert suite.aggregate(records)["score"].value == pytest.approx(sum(battles) / len(battles))


class Pocket(Script):
    """The embedded world's judge."""

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        judge = Judge(JudgeKnobs())
        return [ChatReply(judge.reply(request.messages).text) for request in requests]


def test_the_embedded_items_leave_room_on_both_sides() -> None:
    suite = ArenaHard(Config(questions="pocket/arena_hard/question.jsonl", baseline="pocket/arena_hard/baseline.jsonl"))
    items = suite.items()

    def score(texts: list[str]) -> float | None:
        given = [Answer(item.id, text, "stop", 9) for item, text in zip(items, texts, strict=True)]
        return suite.aggregate(suite.grade(given, Pocket()))["score"].value

    right = [demonstrate(parse(item.question), random.Random(item.id), set()) for item in items]
    assert score([str(item.reference) for item in items]) == 0.5
    assert 0.9 < (score(right) or 0) < 1.0
    assert (score([""] * len(items)) or 0) < 0.05

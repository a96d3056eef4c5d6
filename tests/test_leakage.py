"""Overlap of training texts with what suites ask: what counts, what does not, what is refused."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.errors import SpecError
from harness.leakage import SIZE, Text, compare, findings, words
from harness.materials import build_suite, check_leakage, the_suites, training_prompts
from harness.suite import Suite
from harness.tracks import load
from harness.types import Item, Prompt

ITEM = " ".join(f"w{i}" for i in range(20))  # 20 words: 8 runs of 13
OTHER = " ".join(f"v{i}" for i in range(20))


def texts(*values: str) -> list[Text]:
    return [Text(f"t{i}", value) for i, value in enumerate(values)]


def item(text: str) -> list[Text]:
    return [Text("item", text)]


@pytest.mark.parametrize(("text", "expected"), [
    ("Don't  STOP,\n(now)!", ["don", "t", "stop", "now"]),
    ("ﬁne Ａ１ x²", ["fine", "a1", "x2"]),
    ("what is 3 - 2?", ["what", "is", "3", "-", "2"]),
    ("what is 3 + 2?", ["what", "is", "3", "+", "2"]),
    ("- a well-known **word**", ["a", "well", "known", "word"]),
    ("你好 world", ["你", "好", "world"]),
    ("?!", ["?!"]),
    ("snake_case", ["snake", "case"]),
    ("  ", []),
])  # fmt: skip
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_same_words_are_an_exact_match() -> None:
    found = compare(texts(OTHER, ITEM.upper().replace(" ", ",  ")), item(ITEM))
    assert (found.items, found.exact, found.contained, found.shared, found.share) == (1, 1, 0, 1, 1.0)
    (match,) = found.examples
    assert (match.kind, match.source.id, match.item.id) == ("exact", "t1", "item")


def test_an_item_inside_a_longer_text_is_contained() -> None:
    found = compare(texts(f"please: {ITEM}. thanks"), item(ITEM))
    assert (found.exact, found.contained, found.contaminated, found.rate) == (0, 1, 1, 1.0)


def test_all_runs_in_two_texts_are_no_containment() -> None:
    """Runs 0-3 in one text, 4-7 in the other: the whole stands in neither."""
    parts = ITEM.split()
    found = compare(texts(" ".join(parts[:16]), " ".join(parts[4:])), item(ITEM))
    assert (found.exact, found.contained, found.share, found.contaminated) == (0, 0, 1.0, 1)
    assert found.examples[0].kind == "n-gram"


@pytest.mark.parametrize(("kept", "share", "contaminated"), [(12, 0.0, 0), (13, 1 / 8, 0), (15, 3 / 8, 0), (16, 4 / 8, 1)])
def test_half_of_the_runs_of_thirteen_words(kept: int, share: float, contaminated: int) -> None:
    found = compare(texts(" ".join(ITEM.split()[:kept]) + " " + OTHER), item(ITEM))
    assert found.share == share
    assert found.shared == int(share > 0)
    assert found.contaminated == contaminated


def test_a_run_does_not_cross_from_one_text_to_the_next() -> None:
    parts = ITEM.split()
    found = compare(texts(" ".join(parts[:10]), " ".join(parts[10:])), item(ITEM))
    assert (found.shared, found.share, found.contained) == (0, 0.0, 0)


def test_short_items_count_whole_only() -> None:
    short = [Text("a", "name a red bird"), Text("b", "name a blue bird"), Text("c", "name a bird"), Text("d", "a red")]
    found = compare(texts("Name a red bird!", "now name a bird , quick"), short)
    assert (found.exact, found.contained, found.shared, found.share, found.contaminated) == (1, 2, 0, None, 3)
    assert {match.item.id: match.kind for match in found.examples} == {"a": "exact", "c": "contained", "d": "contained"}


def test_nothing_in_common_and_nothing_at_all() -> None:
    assert compare([], item(ITEM)).rate == 0
    assert compare(texts(ITEM), []).rate == 0
    assert compare(texts("", ITEM), item("")).items == 0
    found = compare(texts(OTHER), item(ITEM))
    assert (found.shared, found.contaminated, found.examples) == (0, 0, ())


def test_too_short_items_are_left_out() -> None:
    found = compare(texts("9"), [Text("a", "9"), Text("b", ITEM)], shortest=SIZE)
    assert (found.items, found.skipped, found.exact) == (1, 1, 0)


def test_hashes_agree_with_a_search_by_hand() -> None:
    """Few words, many repetitions, texts over several blocks: every count as a plain search finds it."""
    draw = random.Random(1)
    read = [" ".join(draw.choices("abc", k=draw.randrange(1, 30))) for _ in range(1500)]
    asked = [" ".join(draw.choices("abc", k=draw.randrange(1, 12))) for _ in range(200)]
    n = 5
    found = compare(texts(*read), [Text(str(i), text) for i, text in enumerate(asked)], n=n)
    exact = {text for text in asked if text in set(read)}
    inside = {text for text in asked if any(f" {text} " in f" {other} " for other in read)}
    runs = {tuple(t.split()[i : i + n]) for t in read for i in range(len(t.split()) - n + 1)}
    shares = [
        sum(tuple(t.split()[i : i + n]) in runs for i in range(len(t.split()) - n + 1)) / (len(t.split()) - n + 1)
        for t in asked if len(t.split()) >= n
    ]  # fmt: skip
    assert found.exact == sum(text in exact for text in asked) > 10
    assert found.contained == sum(text in inside - exact for text in asked) > 10
    assert found.shared == sum(share > 0 for share in shares) < len(asked)
    assert found.share == pytest.approx(sum(shares) / len(shares))


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    read = texts(*(" ".join(draw.choices("abcd", k=draw.randrange(0, 30))) for _ in range(300)))
    asked = [Text(str(i), " ".join(draw.choices("abcd", k=draw.randrange(1, 14)))) for i in range(100)]
    whole = compare(read, asked, n=6)
    monkeypatch.setattr("harness.leakage._BLOCK", 50)
    assert compare(read, asked, n=6) == whole


def test_examples_in_earlier_messages_are_not_the_items_own() -> None:
    shown = ({"role": "user", "content": OTHER}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": ITEM})
    asked = [Item("i", shown, reference="9")]
    (shots,) = findings("s", asked, texts(OTHER), [])
    (question,) = findings("s", asked, texts(ITEM), [])
    assert (shots.overlap.exact, shots.overlap.shared) == (0, 0)
    assert question.overlap.exact == 1


def test_what_the_teacher_wrote_is_compared_with_items_and_references() -> None:
    asked = [Item("i", ({"role": "user", "content": ITEM},), reference=OTHER), Item("j", ({"role": "user", "content": "hm"},))]
    prompts, items, references = findings("s", asked, texts("some prompt"), texts(f"{ITEM} {OTHER}", OTHER))
    assert (prompts.overlap.exact, items.overlap.contained, references.overlap.exact) == (0, 1, 1)
    assert (items.overlap.items, references.overlap.items) == (2, 1)
    assert references.refused(0.99)
    assert not references.refused(1.0), "two answers may be the same set phrase"
    told = json.loads(json.dumps(references.as_dict(0.5)))
    assert told["refused"] is True
    assert told["examples"][0]["item_text"] == OTHER


@pytest.fixture(scope="module")
def suites() -> dict[str, Suite]:
    return the_suites(load("pocket"), ["alpaca", "reasoning"])


def prompt(text: str, solution: str | None = None) -> Prompt:
    return Prompt("p1", ({"role": "user", "content": text},), solution)


def test_a_training_prompt_that_a_suite_asks_is_refused(suites: dict[str, Suite]) -> None:
    question = suites["reasoning"].items()[3].question
    with pytest.raises(SpecError, match="1 of 320 items of the suite 'reasoning' are among the training prompts") as refused:
        check_leakage([prompt("hello there"), prompt(question.upper())], suites, limit=1.0)
    assert "pocket_math/3 in p1" in refused.value.message
    assert "take these prompts out" in refused.value.fix


def test_a_rate_above_the_limit_is_refused(suites: dict[str, Suite]) -> None:
    inside = [prompt(f"well then {item.question} indeed") for item in suites["alpaca"].items()[:32]]
    check_leakage(inside, suites, limit=33 / 320)  # one more item stands inside one of these
    with pytest.raises(SpecError, match="33 of 320 items of the suite 'alpaca' stand in the training prompts") as refused:
        check_leakage(inside, suites, limit=0.1)
    assert "at most a share of 0.1 may" in refused.value.message


def test_solutions_are_compared_with_references(suites: dict[str, Suite]) -> None:
    long = next(str(item.reference) for item in suites["alpaca"].items() if len(words(str(item.reference))) >= SIZE)
    check_leakage([prompt("hello there", solution=long)], suites, limit=0.05)
    with pytest.raises(SpecError, match="among the training solutions"):
        check_leakage([prompt("hello there", solution=long)], suites, limit=0.0)


def test_the_embedded_world_shares_no_item_and_many_turns_of_phrase(suites: dict[str, Suite]) -> None:
    """The figures of docs/leakage.md."""
    prompts = training_prompts(load("pocket"))
    check_leakage(prompts, suites, limit=0.35)
    with pytest.raises(SpecError, match="101 of 320 items of the suite 'alpaca' stand in the training prompts"):
        check_leakage(prompts, suites, limit=0.3)


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", "leakage", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_the_command_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    question = build_suite("alpaca", {"items": "pocket/alpaca.json"}, "test").items()[0].question
    clean, leaking = tmp_path / "clean.jsonl", tmp_path / "leaking.jsonl"
    clean.write_text(json.dumps({"prompt": "what is rain"}) + "\n")
    leaking.write_text(json.dumps({"prompt": question, "id": "mine", "solution": "so it is"}) + "\n")
    code, out, _ = command(capsys, monkeypatch, "--prompts", str(clean), "-s", "alpaca")
    assert (code, "prompts: items" in out) == (0, True)
    code, out, _ = command(capsys, monkeypatch, "--prompts", str(leaking))
    assert code == 1
    assert "alpaca-0001 in mine, exact" in out
    assert "teacher: references" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = command(capsys, monkeypatch, "--prompts", str(leaking), "-s", "alpaca", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(row["texts"], row["parts"], row["exact"], row["refused"]) for row in rows] == [
        ("prompts", "items", 1, True), ("teacher texts", "items", 0, False), ("teacher texts", "references", 0, False),
    ]  # fmt: skip


def test_the_command_on_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read are the prompts it drew, the texts that the student did not sample, and the notes' references."""
    from harness.spec import resolve
    from harness.store import RunStore

    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path))
    spec, origins = resolve("ropd")
    store, _ = RunStore.open(spec, origins, tmp_path)
    items = build_suite("alpaca", {"items": "pocket/alpaca.json"}, "test").items()
    long = [str(item.reference) for item in items if len(words(str(item.reference))) >= SIZE]
    code, _, err = command(capsys, monkeypatch, spec.identity[:8], "-s", "alpaca")
    assert (code, "no rollouts yet" in err) == (2, True)
    written = [{"text": long[0], "sampled": False}, {"text": long[1], "sampled": True}]
    row = {"prompt_id": "p", "messages": [{"role": "user", "content": "what is rain"}]}
    store.append("rollouts", {**row, "rollouts": written, "note": {"references": [long[2]]}})
    store.append("rollouts", {**row, "rollouts": written[1:], "note": {"solution": long[3]}})
    code, out, _ = command(capsys, monkeypatch, spec.identity[:8], "-s", "alpaca", "--limit", "0.1", "--json")
    prompts, _, references = (json.loads(line) for line in out.splitlines())
    assert (code, prompts["n_texts"], references["n_texts"]) == (0, 1, 3)
    assert references["exact"] == 3
    assert {example["item_text"] for example in references["examples"]} == {long[0], long[2], long[3]}


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "name a run or a file"), (["r", "--prompts", "f"], "not both"), (["--prompts", "none.jsonl"], "no prompts file"),
    (["--prompts", "f", "--limit", "2"], "a share from 0 to 1"), (["nothing"], "no run 'nothing'"),
])  # fmt: skip
def test_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert message in err

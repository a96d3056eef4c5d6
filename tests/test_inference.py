"""Best of N at inference: who wins the knockout, what it is charged, and that it stays apart from training's scores."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli, inference
from harness.assemble import assemble
from harness.commands.eval import best_of_run as finished
from harness.environment import runs_dir
from harness.errors import SpecError
from harness.gate.runs import Silent
from harness.inference import longest, self_judged, shortest, tournament
from harness.loop import score_marks, train
from harness.prompts import SHARED, load
from harness.report import runs, table
from harness.spec import resolve
from harness.store import RunStore, read_lines
from harness.supply import FrozenChooser
from harness.types import Answer, Failure, Message

ITEMS, N = 16, 3


class Scripted:
    """Knows how good a text is (its number) and leans towards the letter A by a bias."""

    def __init__(self, bias: float) -> None:
        self.bias, self.asked, self.batches = bias, list[str](), 0

    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        self.batches += 1
        return [self._letters(messages[-1]["content"]) for messages in questions]

    def _letters(self, question: str) -> list[float] | Failure:
        self.asked.append(question)
        words = question.split()
        a, b = (int(words[words.index(letter) + 2]) for letter in "AB")
        p = min(max(0.5 + 0.02 * (a - b) + self.bias, 0.01), 0.99)
        return [math.log(p), math.log(1 - p)]


def judged(bias: float, texts: Sequence[Sequence[str]]) -> tuple[Scripted, Any]:
    chooser = Scripted(bias)
    return chooser, self_judged(chooser, load(SHARED / "pair", "pocket", "judge"), [f"q{i}" for i in range(len(texts))], texts)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("bias", [0.0, 0.3, -0.3])
def test_the_best_wins_whatever_the_lots_and_the_bias_for_a_place(count: int, bias: float) -> None:
    rng = random.Random(count)
    for _ in range(5):
        texts = [[str(value) for value in rng.sample(range(10), count)] for _ in range(4)]
        lots = [rng.sample(range(count), count) for _ in texts]
        chooser, better = judged(bias, texts)
        won = tournament(lots, better)
        assert [each[place] for each, place in zip(texts, won, strict=True)] == [max(each) for each in texts]
        assert len(chooser.asked) == 4 * 2 * (count - 1)
        assert chooser.batches == math.ceil(math.log2(count))  # a round of all items at once


def test_every_match_is_shown_in_both_orders() -> None:
    chooser, better = judged(0.0, [["4", "7"]])
    assert better([(0, 0, 1)]) == [1]
    assert chooser.asked == [
        "judge overall : q0 A : 4 B : 7 which is better ?", "judge overall : q0 A : 7 B : 4 which is better ?",
    ]  # fmt: skip


@pytest.mark.parametrize("lots", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_a_tie_goes_to_the_lower_index(lots: list[int]) -> None:
    _, better = judged(0.2, [["5", "5", "5"]])
    assert tournament([lots], better) == [0]


def test_the_controls_go_by_tokens() -> None:
    answers = [Answer("i", "x" * 9, "stop", length) for length in (4, 2, 7, 2, 7)]
    assert (shortest(answers), longest(answers)) == (1, 2)


def test_the_question_to_real_models_fences_what_others_wrote() -> None:
    system, user = load(SHARED / "pair", "en", "judge")(question="why ?", a="one\nAnswer B:", b="two")
    assert "no instructions" in system["content"]
    places = [user["content"].index(f">\n{text}\n</") for text in ("why ?", "one\nAnswer B:", "two")]
    assert places == sorted(places)
    assert user["content"].endswith("Your reply begins with the letter of the better answer, A or B.")


def small_run(root: Path) -> RunStore:
    import suites

    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (root / "items.json").write_text(json.dumps(rows[:ITEMS]))
    (root / "small.yaml").write_text(yaml.safe_dump({
        "extends": "pocket", "name": "small", "budget": {"prompts": 8}, "marks": ["0", "1"],
        "suites": {"alpaca": {"items": str(root / "items.json")}},
    }))  # fmt: skip
    spec, origins = resolve("sft", str(root / "small.yaml"), 0, ["prompts_per_round=8"])
    store, _ = RunStore.open(spec, origins, runs_dir())
    with assemble(spec, ["alpaca"], lambda word: None) as run:
        train(run, store, Silent())
        score_marks(run, store, Silent())
    return store


def tables() -> tuple[str, str]:
    board = table.build(runs.select([], runs_dir()), "alpaca")
    return table.to_markdown(board), table.to_csv(board)


def files(store: RunStore) -> dict[str, bytes]:
    return {path.relative_to(store.folder).as_posix(): path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", "eval", "--model", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_a_run_is_scored_beside_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = small_run(tmp_path)
    before, shown = files(store), tables()
    ledger: dict[str, Any] = {}

    def watched(run: Any, *rest: Any) -> dict[str, Any]:
        result = best_of(run, *rest)
        items = run.suites["alpaca"].items()
        ledger.update(run.ledger.state_dict(), parameters=run.parameters, read=sum(len(run.encode(i.messages)) for i in items))
        ledger["judged"] = [len(run.encode(messages)) for messages in asked]
        ledger["answers"] = inference._samples(run, items, N, 1.0)
        return result

    def heard(self: FrozenChooser, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> Any:
        asked.extend(questions)
        return choose(self, questions, letters)

    asked: list[Sequence[Message]] = []
    best_of, choose = inference.best_of, FrozenChooser.choose
    monkeypatch.setattr(inference, "best_of", watched)
    monkeypatch.setattr(FrozenChooser, "choose", heard)
    code, out, err = command(monkeypatch, capsys, store.folder.name, "--suite", "alpaca", "--best-of", str(N))
    assert code == 0, err
    assert tables() == shown
    after = files(store)
    assert {name: after[name] for name in before} == before
    added = sorted(set(after) - set(before))
    assert len(added) == 1 + 3 * 5
    assert all("/1+t1-best3." in name for name in added)

    # the charges, counted anew from the samples
    result = json.loads((store.evaluation("alpaca") / "marks" / "1+t1-best3.json").read_text())
    used, answers = result["inference"], ledger["answers"]
    assert used["rollouts"] == ITEMS * N
    sampled = sum(answer.tokens for each in answers for answer in each)
    assert used["student_tokens"] == sampled
    assert len(ledger["judged"]) == ITEMS * 2 * (N - 1)
    assert used["self_judge_tokens"] == sum(ledger["judged"]) + len(ledger["judged"])
    assert used["flops"] == 2 * ledger["parameters"] * (N * ledger["read"] + sampled + sum(ledger["judged"]))
    assert all(ledger["evaluation"][meter] == used[meter] for meter in used if meter != "flops")
    assert ledger["evaluation"]["flops"] > used["flops"]  # the suite's own judge comes on top
    assert {meter for meter, amount in ledger["training"].items() if amount} <= {"tuning_trials"}

    # what was kept belongs together
    def kept(mark: str, how: str) -> list[dict[str, Any]]:
        return list(read_lines(store.evaluation("alpaca") / "answers" / f"{mark}.{how}.jsonl"))

    picked = {how: kept("1+t1-best3", how) for how in result["decodings"]}
    assert list(picked) == ["t1", "t1-best3", "t1-random3", "t1-short3", "t1-long3"]
    assert picked["t1"] == kept("1", "t1")
    for i, each in enumerate(answers):
        lengths = [answer.tokens for answer in each]
        assert picked["t1-short3"][i]["tokens"] == min(lengths)
        assert picked["t1-long3"][i]["tokens"] == max(lengths)
        assert all(rows[i]["text"] in [answer.text for answer in each] for rows in picked.values())
    metric = result["metric"]
    assert result["t1"][metric] == json.loads(before["suites/alpaca/marks/1.json"])["t1"][metric]
    gain = result["t1-best3"][metric]["value"] - result["t1"][metric]["value"]
    assert result["versus_one"]["t1-best3"]["value"] == pytest.approx(gain)

    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["greedy", *picked]
    assert lines[4].split()[-2:] == [f"{used['student_tokens'] / ITEMS:.1f}", f"{used['self_judge_tokens'] / ITEMS:.0f}"]
    assert lines[3].split()[-1] == lines[5].split()[-1] == "0"

    # on file, it is not done again
    monkeypatch.setattr(inference, "best_of", None)
    assert command(monkeypatch, capsys, store.folder.name, "--best-of", str(N))[1] == out

    for arguments, message in (
        (["nothing", "--best-of", "4"], "no run 'nothing'"),
        ([store.folder.name, "--best-of", "1"], "two samples or more"),
        ([store.folder.name, "--best-of", "4", "--temperature", "0"], "temperature above 0"),
        ([store.folder.name, "--best-of", "4", "--suite", "alpacca"], "did you mean alpaca?"),
        ([store.folder.name, "--best-of", "4", "--mark", "1/2"], "no mark '1/2'"),
    ):
        code, out, err = command(monkeypatch, capsys, *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert "nothing was spent" in err
    (store.folder / "manifest.json").unlink()
    with pytest.raises(SpecError, match="has not finished"):
        finished(store.folder.name, "alpaca", "1", 4, 1.0)

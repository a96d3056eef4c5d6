"""Published AlpacaEval 2 results, from published judge replies: verdicts, win rates and length-controlled win rates.

Reads `alpaca_eval/` below HARNESS_PARITY_DIR. The texts of the answers are not needed: of them, only lengths count.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SuiteError
from harness.suite import ChatReply, ChatRequest
from harness.types import Answer, Failure, Record
from suites._alpaca_lc import length_controlled_from_weights
from suites.alpaca import Alpaca, Config

FOLDER = Path(os.environ.get("HARNESS_PARITY_DIR", "")) / "alpaca_eval"
BASELINE = "alpaca_eval_gpt4_baseline.json"
MODELS = sorted(path for path in FOLDER.glob("*.json.gz") if path.name != "instructions.json.gz")

pytestmark = pytest.mark.skipif(
    "HARNESS_PARITY_DIR" not in os.environ or not MODELS, reason="HARNESS_PARITY_DIR does not name the published results"
)


def unpacked(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


class Recorded:
    """Says again what the published judge said, item by item."""

    id = "recorded"

    retries = 0

    def __init__(self, replies: Sequence[ChatReply]) -> None:
        self.replies = replies

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        assert len(requests) == len(self.replies)
        return list(self.replies)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official items with outputs of the right length, and the stand-in for the data of length control."""
    folder = tmp_path_factory.mktemp("assets")
    instructions = unpacked(FOLDER / "instructions.json.gz")["instructions"]
    rows = [
        {"instruction": row["instruction"], "output": "r" * row["baseline_len"], "generator": "baseline"}
        for row in sorted(instructions, key=lambda row: row["index"])
    ]
    (folder / BASELINE).write_text(json.dumps(rows), encoding="utf-8")
    shutil.copy(FOLDER / "df_gamed_reconstructed.csv", folder / "df_gamed.csv")
    return folder


@pytest.fixture(scope="module", params=MODELS, ids=lambda path: path.name.removesuffix(".json.gz"))
def published(request: pytest.FixtureRequest) -> dict[str, Any]:
    return unpacked(request.param)


@pytest.fixture
def suite(assets: Path, monkeypatch: pytest.MonkeyPatch, published: dict[str, Any]) -> Alpaca:
    monkeypatch.setenv("HARNESS_ASSETS_DIR", str(assets))
    return Alpaca(Config(annotator=published["annotator"]))


def graded(suite: Alpaca, published: dict[str, Any]) -> list[Record]:
    """Records of the whole suite; what was not published is a reply without a verdict."""
    rows = {row["index"]: row for row in published["items"]}
    answers, replies = [], []
    for index, item in enumerate(suite.items()):
        row = rows.get(index, {"len_2": 0, "preference": None, "top_logprobs": None})
        identical = row["preference"] == 1.5 and not row["top_logprobs"]
        answers.append(Answer(item.id, str(item.reference) if identical else "c" * row["len_2"], "stop", 0))
        if not identical:
            replies.append(ChatReply("", (dict(row["top_logprobs"]),) if row["top_logprobs"] else ()))
    return suite.grade(answers, Recorded(replies))


def test_verdicts_and_win_rate_are_the_published_ones(suite: Alpaca, published: dict[str, Any]) -> None:
    records = graded(suite, published)
    scores = suite.item_scores(records)
    items = suite.items()
    judged = {row["index"]: row["preference"] for row in published["items"] if row["preference"] is not None}
    assert scores == pytest.approx({items[index].id: preference - 1 for index, preference in judged.items()}, abs=1e-8)
    found, row = suite.aggregate(records), published["published"]
    assert found["win_rate"].n == row["n_total"] == len(judged)
    assert found["win_rate"].missing == 805 - len(judged)
    assert found["win_rate"].value is not None
    assert found["win_rate"].stderr is not None
    assert 100 * found["win_rate"].value == pytest.approx(row["win_rate"], abs=1e-6)
    assert 100 * found["win_rate"].stderr == pytest.approx(row["standard_error"], abs=1e-6)
    assert found["win_rate_discrete"].value == pytest.approx(row["discrete_win_rate"] / 100, abs=1e-8)
    if len(published["items"]) == 805:
        assert found["length"].value == pytest.approx(row["avg_length"] + 0.5, abs=0.5), "published without its fraction"


@pytest.mark.parametrize("place", [0, 400, 803])
def test_other_items_in_other_orders_are_told(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    rows = json.loads((assets / BASELINE).read_text(encoding="utf-8"))
    rows[place], rows[place + 1] = rows[place + 1], rows[place]
    (tmp_path / BASELINE).write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setenv("HARNESS_ASSETS_DIR", str(tmp_path))
    with pytest.raises(SuiteError, match=f"0 missing, 0 unknown .* the first difference is at index {place}:"):
        Alpaca(Config(length_control="none")).items()


def test_length_controlled_win_rate_from_the_published_weights(published: dict[str, Any]) -> None:
    with (FOLDER / "instruction_difficulty_recovered.csv").open(encoding="utf-8") as file:
        difficulty = [float(row["instruction_difficulty"]) for row in csv.DictReader(file)]
    rows = len(published["items"])  # the published fits took difficulties by place, also where rows were missing
    found = length_controlled_from_weights(published["published_glm_weights"], tuple(difficulty[:rows]))
    assert 100 * found == pytest.approx(published["published"]["length_controlled_winrate"], abs=1e-4)


def test_length_controlled_win_rate_fitted_anew(suite: Alpaca, published: dict[str, Any]) -> None:
    """The preferences of the gamed baselines are a stand-in, so this is near the official number and is not it."""
    metric = suite.aggregate(graded(suite, published))["length_controlled_win_rate"]
    assert metric.value is not None
    assert metric.stderr is not None
    assert 100 * metric.value == pytest.approx(published["published"]["length_controlled_winrate"], abs=0.2)
    assert 0 < metric.stderr < 0.02

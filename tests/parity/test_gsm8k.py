"""GSM8K through lm-eval: published labels of two models item for item, and lm-eval's own model end to end."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import checkpoint, lm_eval_run, writer

from harness.answering import answer_all, whole
from harness.types import Answer
from suites._reasoning_replay import cut
from suites.reasoning import Config, Reasoning

FOLDER = os.environ.get("HARNESS_PARITY_DIR", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="HARNESS_PARITY_DIR is not set")
GSM8K = Path(FOLDER) / "gsm8k"
FILTERS = """filter_list:
  - name: after-A
    filter: [{function: regex, regex_pattern: "(?m)^A: (.*)$", group_select: -1}, {function: take_first}]
  - name: strict-match
    filter: [{function: regex, regex_pattern: '#### (\\-?[0-9\\.\\,]+)'}, {function: take_first}]
  - name: flexible-extract
    filter: [{function: regex, group_select: -1, regex_pattern: '(-?[$0-9.,]{2,})|(-?[0-9]+)'}, {function: take_first}]
"""


def local_gsm8k(folder: Path, rows: list[dict[str, str]], more: str = "") -> dict[str, Any]:
    """Settings of lm-eval's own gsm8k with these rows as its questions and its examples."""
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files: {{test: {folder / 'rows.jsonl'}}}\n"
    task = f"include: {own}\ntask: gsm8k_local\n{data}training_split: null\nfewshot_split: test\n{more}"
    (folder / "gsm8k.yaml").write_text(task)
    return Reasoning.settings_for(str(folder / "gsm8k.yaml"))


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return json.loads(gzip.open(GSM8K / "example_model_solutions.json.gz").read())


@pytest.fixture(scope="module")
def scored(published: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Reasoning:
    rows = [{"question": row["question"], "answer": row["ground_truth"].replace("\nA:", "\n####")} for row in published["rows"]]
    return Reasoning(Config(**local_gsm8k(tmp_path_factory.mktemp("gsm8k"), rows, FILTERS)))


@pytest.mark.parametrize("place", [0, 1])
def test_published_labels_item_for_item(published: dict[str, Any], scored: Reasoning, place: int) -> None:
    """Final answers stand after "A:": the filter for that form and lm-eval's flexible one agree with every label."""
    model, accuracy = list(published["accuracy"].items())[place]
    labels = [float(row[model]["is_correct"]) for row in published["rows"]]
    items = scored.items()
    assert len(items) == published["n"]
    answers = [Answer(item.id, row[model]["solution"], "stop", 1) for item, row in zip(items, published["rows"], strict=True)]
    records = scored.grade(answers, None)
    by_filter = {name: [r.score for r in records if r.subkey == name] for name in ("after-A", "strict-match", "flexible-extract")}
    assert by_filter["after-A"] == labels
    assert by_filter["flexible-extract"] == labels
    assert set(by_filter["strict-match"]) == {0.0}
    found = scored.aggregate(records)
    assert found["exact_match"].value == pytest.approx(accuracy, abs=1e-12)
    assert found["exact_match,flexible-extract/gsm8k_local"].value == pytest.approx(accuracy, abs=1e-12)
    assert found["exact_match"].n == published["n"]

    official = [Answer(a.item_id, a.text.replace("\nA:", "\n####"), "stop", 1) for a in answers]
    strict = [r.score for r in scored.grade(official, None) if r.subkey == "strict-match"]
    assert strict == labels


@pytest.mark.parametrize(("kind", "chat"), [("Llama", False), ("Qwen2", False), ("Qwen2", True)])
def test_texts_and_scores_are_lm_evals_own(kind: str, chat: bool, tmp_path: Path) -> None:
    """Prompts, greedy texts and scores on the first test rows, against lm-eval's loop on the same random checkpoint."""
    count = 20
    rows = [json.loads(line) for line in (GSM8K / "test_first200.jsonl").read_text().splitlines()]
    settings = local_gsm8k(tmp_path, rows, 'generation_kwargs: {until: ["Question:", "a"], do_sample: false, max_gen_toks: 24}\n')
    model, tokenizer = checkpoint(kind, [row["question"] + row["answer"] for row in rows], context=4096)
    theirs = lm_eval_run(model, tokenizer, "gsm8k_local", str(tmp_path), chat, limit=count)
    samples = [s for s in theirs["samples"]["gsm8k_local"] if s["filter"] == "strict-match"]

    suite = Reasoning(Config(**settings, chat=chat, limit=count))
    items = suite.items()
    prompts = [
        tokenizer.apply_chat_template([dict(m) for m in item.messages], tokenize=False, add_generation_prompt=True)
        if chat else item.messages[0]["content"] for item in items
    ]  # fmt: skip
    assert prompts == [sample["arguments"][0][0] for sample in samples]
    given = whole(answer_all(items, writer(model, tokenizer), temperature=0.0, max_tokens=256, seed=0), "the model")
    texts = [cut(answer.text, ["Question:", "a"]) for answer in given]
    said = [sample["resps"][0][0] for sample in samples]
    assert ([text.strip() for text in texts] if chat else texts) == ([text.strip() for text in said] if chat else said)
    assert len(set(said)) > 5
    records = suite.grade(given, None)
    results = theirs["results"]["gsm8k_local"]
    found = suite.aggregate(records)
    assert found["exact_match[:20]"].value == results["exact_match,strict-match"]
    assert found["exact_match,flexible-extract[:20]/gsm8k_local"].value == results["exact_match,flexible-extract"]

"""The suite `reasoning`: lm-eval's prompts, filters and metrics on recorded answers."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path

import pytest

from harness.errors import SuiteError
from harness.types import Answer, Item
from suites.reasoning import Config, Reasoning

POCKET = Config(tasks=("pocket_math", "pocket_steps"), task_path="pocket")


@pytest.fixture(scope="module")
def suite() -> Reasoning:
    return Reasoning(POCKET)


def graded(suite: Reasoning, first: str, finish: str = "stop") -> float | None:
    """The score of the first item of `suite` for a text in which `{}` is the right answer."""
    items = suite.items()
    given = [Answer(item.id, "", "stop", 0) for item in items]
    given[0] = Answer(items[0].id, first.format(items[0].reference), finish, 9)  # type: ignore[arg-type]
    return suite.grade(given, None)[0].score


def partly_right(items: list[Item]) -> list[Answer]:
    """Every math answer right, every fourth steps answer right."""
    return [
        Answer(item.id, f"answer {item.reference if item.category == 'pocket_math' or n % 4 == 0 else '99'}", "stop", 2)
        for n, item in enumerate(items)
    ]


def test_items_are_the_tasks_documents(suite: Reasoning) -> None:
    items = suite.items()
    assert len(items) == 320
    assert [item.id for item in items[:2]] == ["pocket_math/0", "pocket_math/1"]
    assert (items[160].id, items[160].category) == ("pocket_steps/0", "pocket_steps")
    shipped = Path(__file__).parents[1] / "suites" / "data" / "pocket" / "math.jsonl"
    first = json.loads(shipped.read_text().splitlines()[0])
    assert items[0].messages == ({"role": "user", "content": first["question"]},)
    assert items[0].reference == first["answer"]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("2 * 3 = 6 ; answer {}", 1.0),
        ("answer {}", 1.0),
        ("answer 99 ; answer {}", 1.0),
        ("answer {} \n", 1.0),
        ("answer {}<end> answer 99", 1.0),
        ("answer {} ; answer 99", 0.0),
        ("answer {} .", 0.0),
        ("answer {} answer", 0.0),
        ("answer{}", 0.0),
        ("{}", 0.0),
        ("", 0.0),
        ("answer ", 0.0),
    ],
)
def test_only_what_follows_the_last_answer_counts(suite: Reasoning, text: str, score: float) -> None:
    assert graded(suite, text) == score


def test_metrics_in_numbers(suite: Reasoning) -> None:
    records = suite.grade(partly_right(suite.items()), None)
    found = suite.aggregate(records)
    assert list(found) == ["exact_match", "exact_match/pocket_math", "exact_match/pocket_steps"]
    assert found["exact_match"].value == pytest.approx(200 / 320)
    assert found["exact_match"].stderr == pytest.approx(math.sqrt(0.625 * 0.375 / 319))
    assert (found["exact_match"].n, found["exact_match"].missing) == (320, 0)
    assert found["exact_match/pocket_math"].value == 1.0
    assert found["exact_match/pocket_steps"].value == pytest.approx(0.25)
    assert sum(suite.item_scores(records).values()) == 200


def test_flags_and_lengths(suite: Reasoning) -> None:
    items = suite.items()
    given = [Answer(item.id, "", "stop", 0) for item in items]
    given[1] = Answer(items[1].id, "2 * 3 =", "length", 48)
    records = suite.grade(given, None)
    assert [(r.flags, r.length, r.status) for r in records[:2]] == [(("empty",), 0, "ok"), (("truncated",), 7, "ok")]


def test_grading_leaves_global_state_alone(suite: Reasoning, capfd: pytest.CaptureFixture[str]) -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    level = logging.getLogger("lm_eval").level
    suite.grade(partly_right(suite.items()), None)
    assert random.random() == expected
    assert logging.getLogger("lm_eval").level == level
    assert capfd.readouterr() == ("", "")


def test_exported_files_are_lm_evals(suite: Reasoning, tmp_path: Path) -> None:
    given = partly_right(suite.items())
    records = suite.grade(given, None)
    paths = suite.export(tmp_path / "out", given, records, "student")
    assert [path.name for path in paths] == ["results.json", "samples_pocket_math.jsonl", "samples_pocket_steps.jsonl"]
    report = json.loads(paths[0].read_text())
    assert report["results"]["pocket_steps"]["exact_match,last-answer"] == pytest.approx(0.25)
    assert report["versions"] == {"pocket_math": 1, "pocket_steps": 1}
    assert report["model_name"] == "student"
    samples = [json.loads(line) for line in paths[2].read_text().splitlines()]
    assert [sample["doc_id"] for sample in samples] == list(range(160))
    assert samples[0]["resps"] == [[given[160].text]]
    again = suite.export(tmp_path / "again", given, records, "student")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def write_task(folder: Path, **changes: object) -> Reasoning:
    (folder / "data.jsonl").write_text('{"q": "1 + 1", "a": "2"}\n{"q": "1 + 2", "a": "3"}\n{"q": "2 + 2", "a": "4"}\n')
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "= (\\d+)"}, {"function": "take_first"}]},
            {"name": "loose", "filter": [{"function": "regex", "regex_pattern": "(\\d+)"}, {"function": "take_first"}]},
        ],
    }
    (folder / "sums.yaml").write_text(json.dumps({**task, **changes}))
    return Reasoning(Config(tasks=("sums",), task_path=str(folder)))


def test_a_task_with_two_filters_and_shots(tmp_path: Path) -> None:
    suite = write_task(tmp_path, num_fewshot=2, fewshot_split="test", description="add up")
    items = suite.items()
    assert [message["role"] for message in items[0].messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert items == Reasoning(suite.config).items()
    texts = ["= 2", "3", "= 4\n= 5"]
    records = suite.grade([Answer(item.id, text, "stop", 1) for item, text in zip(items, texts, strict=True)], None)
    assert [(r.subkey, r.score) for r in records] == [
        ("strict", 1.0), ("loose", 1.0), ("strict", 0.0), ("loose", 1.0), ("strict", 1.0), ("loose", 1.0),
    ]  # fmt: skip
    assert suite.item_scores(records) == {"sums/0": 1.0, "sums/1": 0.0, "sums/2": 1.0}


def test_data_that_cannot_be_reached_is_a_suite_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**_: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(SuiteError, match="no route to the hub"):
        write_task(tmp_path).items()


def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="no task 'pocket_maths'") as error:
        Reasoning(Config(tasks=("pocket_maths",), task_path="pocket")).items()
    assert error.value.fix == "did you mean pocket_math?"
    with pytest.raises(SuiteError, match="no folder"):
        Reasoning(Config(tasks=("x",), task_path="absent")).items()
    with pytest.raises(SuiteError, match=r"absent\.jsonl, not found"):
        write_task(tmp_path, dataset_kwargs={"data_files": ["absent.jsonl"]}).items()
    with pytest.raises(SuiteError, match="'repeats': 4"):
        write_task(tmp_path, repeats=4).items()
    with pytest.raises(SuiteError, match="begins the answer itself"):
        write_task(tmp_path, gen_prefix="so").items()

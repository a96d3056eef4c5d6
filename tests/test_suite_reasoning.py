"""The suite `reasoning`: lm-eval's prompts, filters and metrics on recorded answers."""

from __future__ import annotations

import json
import logging
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_chat import checkpoint, lm_eval_run, writer

from harness.answering import answer_all, whole
from harness.errors import SuiteError
from harness.materials import build_suite
from harness.suite import Suite
from harness.types import Answer, Item
from suites._reasoning_metrics import pass_at
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


def write_task(folder: Path, settings: dict[str, Any] | None = None, **changes: object) -> Reasoning:
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
    left = {key: value for key, value in {**task, **changes}.items() if value is not None}
    (folder / "sums.yaml").write_text(json.dumps(left))
    return Reasoning(Config(tasks=("sums",), task_path=str(folder), **(settings or {})))


CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "How much is {{q}}? It is",
    "doc_to_choice": ["2", "3", "four of them", "99"],
    "doc_to_target": "{{['2', '3', '4'].index(a)}}",
    "generation_kwargs": None,
    "filter_list": None,
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}


def say(suite: Suite, texts: list[str]) -> list[Answer]:
    """The texts as answers to the items in order, as many to each as the suite samples."""
    ids = [item.id for item in suite.items() for _ in range(suite.samples)]
    pairs = zip(ids, texts, strict=True)
    return [Answer(item, text, "stop", 0, sample=n % suite.samples) for n, (item, text) in enumerate(pairs)]


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
    with pytest.raises(SuiteError, match="asks for 4 answers"):
        write_task(tmp_path, repeats=4).items()
    with pytest.raises(SuiteError, match="begins the answer itself"):
        write_task(tmp_path, gen_prefix="so").items()
    assert write_task(tmp_path, {"chat": False}, gen_prefix="so").items()[0].question == "1 + 1 so"
    with pytest.raises(SuiteError, match="whole documents"):
        write_task(tmp_path, output_type="loglikelihood_rolling", metric_list=None, filter_list=None).items()
    with pytest.raises(SuiteError, match="runs code"):
        write_task(tmp_path, unsafe_code=True).items()
    with pytest.raises(SuiteError, match="no metric that is a mean"):
        write_task(tmp_path, metric_list=[{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}]).items()
    with pytest.raises(SuiteError, match="cannot be built: "):
        write_task(tmp_path, doc_to_text="{{absent}}").items()
    with pytest.raises(SuiteError, match="asked for twice"):
        Reasoning(Config(tasks=("pocket_math", "pocket_math"), task_path="pocket")).items()
    with pytest.raises(SuiteError, match="defined without examples, asked for 3"):
        write_task(tmp_path, {"num_fewshot": 3}, num_fewshot=0).items()
    with pytest.raises(SuiteError, match="samples with top_p"):
        write_task(tmp_path, generation_kwargs={"until": [], "do_sample": True, "top_p": 0.9}).items()


def test_the_name_of_a_suite_stands_for_its_settings(tmp_path: Path) -> None:
    assert Reasoning.settings_for("gsm8k") == {"tasks": ("gsm8k",)}
    assert Reasoning.settings_for("gsm8k+ifeval") == Reasoning.settings_for("gsm8k,ifeval") == {"tasks": ("gsm8k", "ifeval")}
    write_task(tmp_path)
    settings = Reasoning.settings_for(str(tmp_path / "sums.yaml"))
    assert settings == {"tasks": ("sums",), "task_path": str(tmp_path)}
    built = build_suite(f"lm-eval:{tmp_path / 'sums.yaml'}", {"limit": 2}, "here")
    assert [item.id for item in built.items()] == ["sums/0", "sums/1"]
    for wrong, why in (("", "no task"), (f"gsm8k+{tmp_path}/sums.yaml", "cannot be mixed"), ("absent.yaml", "no file absent")):
        with pytest.raises(SuiteError, match=why):
            Reasoning.settings_for(wrong)
    (tmp_path / "broken.yaml").write_text("- not\n- a task\n")
    with pytest.raises(SuiteError, match="defines no task"):
        Reasoning.settings_for(str(tmp_path / "broken.yaml"))


def test_data_beside_the_task_are_found(tmp_path: Path) -> None:
    assert len(write_task(tmp_path, dataset_kwargs={"data_files": {"test": "data.jsonl"}}).items()) == 3


def test_a_subset_says_so_everywhere(tmp_path: Path) -> None:
    all_of_it, part = write_task(tmp_path), write_task(tmp_path, {"limit": 2})
    assert (all_of_it.metric, part.metric, Reasoning.metric) == ("exact_match", "exact_match[:2]", "exact_match")
    assert part.identity["limit"] == 2
    assert "limit" not in all_of_it.identity
    assert part.items() == all_of_it.items()[:2]
    assert part.data_hash != all_of_it.data_hash
    found = part.aggregate(part.grade(say(part, ["= 2", "4"]), None))
    assert list(found) == ["exact_match[:2]", "exact_match[:2]/sums", "exact_match,loose[:2]/sums"]
    assert found["exact_match[:2]"].value == 0.5


def test_other_filters_have_lm_evals_names(tmp_path: Path) -> None:
    suite = write_task(tmp_path)
    found = suite.aggregate(suite.grade(say(suite, ["= 2", "3", "= 5"]), None))
    assert {key: metric.value for key, metric in found.items()} == {
        "exact_match": pytest.approx(1 / 3), "exact_match/sums": pytest.approx(1 / 3),
        "exact_match,loose/sums": pytest.approx(2 / 3),
    }  # fmt: skip


def test_samples_in_numbers(tmp_path: Path) -> None:
    suite = write_task(tmp_path, {"samples": 4, "temperature": 0.7})
    assert {item.temperature for item in suite.items()} == {0.7}
    right, wrong = ["= 2"], ["= 9"]
    texts = [*right, *wrong, *right, "= 8", *["= 3", "= 7", "= 7", "= 3"], *["= 1", "= 5", "= 5", "= 4"]]
    answers = say(suite, texts)
    records = suite.grade(answers, None)
    found = suite.aggregate(records)
    assert suite.item_scores(records) == {"sums/0": 0.5, "sums/1": 0.5, "sums/2": 0.25}
    assert found["exact_match"].value == found["pass@1"].value == pytest.approx(1.25 / 3)
    assert found["pass@4"].value == 1.0
    assert found["maj@4"].value == pytest.approx(2 / 3)  # of 3 and 7, twice each, 3 was first
    assert found["exact_match"].n == 3
    assert len({(r.item_id, r.metric, r.subkey) for r in records}) == len(records) == 3 * 4 * 2
    paths = suite.export(tmp_path / "out", answers, records, "student")
    third = [json.loads(line) for line in (tmp_path / "out" / "sample-3" / "samples_sums.jsonl").read_text().splitlines()]
    assert len(paths) == 8
    assert [row["resps"] for row in third if row["filter"] == "strict"] == [[["= 8"]], [["= 3"]], [["= 4"]]]


def test_the_unbiased_estimate_of_pass_at_k() -> None:
    """Against the mean over all subsets."""
    assert pass_at([1.0, 0.0, 0.0, 1.0, 0.0], 2) == pytest.approx(7 / 10)
    assert pass_at([0.0] * 5, 5) == 0.0
    assert pass_at([1.0, 0.0, 0.0], 3) == 1.0
    assert pass_at([0.5, 1.0], 1) is None


def test_samples_without_a_temperature_are_refused() -> None:
    for temperature in (None, 0.0):
        with pytest.raises(ValidationError, match="4 samples of a question are all the same"):
            Config(samples=4, temperature=temperature)


def test_limits_and_temperatures_are_the_tasks_own(tmp_path: Path) -> None:
    def asked(settings: dict[str, Any] | None = None, **kwargs: object) -> tuple[float | None, int | None]:
        first = write_task(tmp_path, settings, generation_kwargs={"until": [], **kwargs}).items()[0]
        return first.temperature, first.max_tokens

    assert asked() == (None, None)
    assert asked(max_gen_toks=99, temperature=0.6, do_sample=False) == (None, 99)
    assert asked(max_new_tokens=7, temperature=0.6, do_sample=True) == (0.6, 7)
    assert asked({"temperature": 0.0, "max_tokens": 5}, max_gen_toks=99, temperature=0.6, do_sample=True) == (0.0, 5)


def test_what_follows_a_stop_string_does_not_count(tmp_path: Path) -> None:
    suite = write_task(tmp_path)
    answers = say(suite, ["= 2\nand so on", "\n= 3", "= 4"])
    records = suite.grade([replace(answer, finish="length") for answer in answers], None)
    strict = [record for record in records if record.subkey == "strict"]
    assert [(r.score, r.flags, r.length) for r in strict] == [(1.0, (), 3), (0.0, ("empty",), 0), (1.0, ("truncated",), 3)]


def test_metrics_that_are_no_number_of_an_item(tmp_path: Path) -> None:
    """As IFEval's: a task's own code, and truths of each instruction that are pooled over the items."""
    (tmp_path / "marks.py").write_text(
        "def grade(doc, results):\n    parts = [doc['a'] in results[0], 'please' in results[0]][: 1 + (doc['a'] == '2')]\n"
        "    return {'whole': all(parts), 'parts': parts}\n\n"
        "def pooled(items):\n    flat = [part for item in items for part in item]\n    return sum(flat) / len(flat)\n"
    )
    write_task(tmp_path)
    text = json.dumps({"task": "marked", "filter_list": None, "dataset_path": "json", "test_split": "test"})[1:-1].replace(
        '"filter_list": null, ', ""
    )
    (tmp_path / "marked.yaml").write_text(
        "{" + text + ', "dataset_kwargs": {"data_files": {"test": "data.jsonl"}}, "doc_to_text": "{{q}}", "doc_to_target": 0,'
        '"output_type": "generate_until", "generation_kwargs": {"until": []}, "process_results": !function marks.grade, '
        '"metric_list": [{"metric": "whole", "aggregation": "mean", "higher_is_better": true}, '
        '{"metric": "parts", "aggregation": !function marks.pooled, "higher_is_better": true}]}'
    )
    suite = Reasoning(Config(tasks=("marked",), task_path=str(tmp_path)))
    assert suite.metric == "whole"
    assert [item.reference for item in suite.items()] == [None] * 3
    records = suite.grade(say(suite, ["2", "3", "none"]), None)
    found = suite.aggregate(records)
    assert list(found) == ["whole", "whole/marked", "parts,none/marked"]
    assert found["whole"].value == pytest.approx(1 / 3)
    assert (found["parts,none/marked"].value, found["parts,none/marked"].n) == (0.5, 1)
    assert suite.item_scores(records) == {"marked/0": 0.0, "marked/1": 1.0, "marked/2": 0.0}
    both = Reasoning(Config(tasks=("marked", "sums"), task_path=str(tmp_path)))
    assert both.metric == "score"
    mixed = both.aggregate(both.grade(say(both, ["2", "3", "none", "= 2", "", ""]), None))
    assert mixed["score"].value == pytest.approx(2 / 6)
    assert mixed["whole,none/marked"].value == mixed["score/sums"].value == pytest.approx(1 / 3)


def test_sentence_data_of_ifeval_are_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ifeval"
    folder.mkdir()
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    (folder / "utils.py").write_text("def grade(doc, results):\n    return {'followed': True}\n")
    (folder / "data.jsonl").write_text('{"q": "two sentences"}\n')
    (folder / "task.yaml").write_text(
        "task: followed\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: 0\ngeneration_kwargs: {until: []}\n"
        "process_results: !function utils.grade\nmetric_list: [{metric: followed, aggregation: mean, higher_is_better: true}]\n"
    )
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(SuiteError, match="punkt_tab, which is not on this machine") as error:
        Reasoning(Config(tasks=("followed",), task_path=str(folder))).items()
    assert "python -m nltk.downloader punkt_tab" in error.value.fix
    (tmp_path / "tokenizers" / "punkt_tab").mkdir(parents=True)
    assert len(Reasoning(Config(tasks=("followed",), task_path=str(folder))).items()) == 1


@pytest.mark.parametrize(("task", "data"), [("gsm8k", "openai/gsm8k"), ("gpqa_diamond_cot_zeroshot", "Idavidrein/gpqa")])
def test_lm_evals_own_tasks_name_what_is_missing(monkeypatch: pytest.MonkeyPatch, task: str, data: str) -> None:
    """Found without lm-eval's whole index, which takes ten seconds."""

    def unreachable(**_: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setattr("lm_eval.tasks._index.TaskIndex._iter_yaml_files", few_files)
    with pytest.raises(SuiteError, match=f"task {task!r} .{data}. are not on this machine") as error:
        Reasoning(Config(**Reasoning.settings_for(task))).items()
    assert "--set tasks=[...]" in error.value.fix
    assert "HF_HOME" in error.value.fix
    assert ("gated" in error.value.fix) == (task != "gsm8k")


def few_files(root: Path) -> list[Path]:
    found = sorted(root.glob("**/*.yaml"))
    assert len(found) < 100, f"{root} is read whole"
    return found


@pytest.mark.parametrize(("kind", "chat"), [("Llama", False), ("Qwen2", False), ("Llama", True), ("Qwen2", True)])
def test_likelihoods_are_lm_evals_own(kind: str, chat: bool, tmp_path: Path) -> None:
    """Against lm-eval's loop and model on the same random checkpoint: likelihoods to 1e-4, accuracies exactly."""
    more = {"num_fewshot": 2, "fewshot_split": "test"}
    suite = write_task(tmp_path, {"chat": True} if chat else None, **CHOICE, **more)
    items = suite.items()
    assert suite.metric == "acc"
    assert {item.plain for item in items} == {not chat}
    assert items[0].continuations == tuple(("" if chat else " ") + choice for choice in CHOICE["doc_to_choice"])
    assert [item.reference for item in items] == ["2", "3", "four of them"]
    model, tokenizer = checkpoint(kind, ["How much is 1 + 1? It is 2", "four of them and 3 and 99"])
    theirs = lm_eval_run(model, tokenizer, "sums", str(tmp_path), chat)
    given = whole(answer_all(items, writer(model, tokenizer), temperature=0.0, max_tokens=8, seed=0), "the model")
    for answer, sample in zip(given, theirs["samples"]["sums"], strict=True):
        assert [value for value, _ in answer.likelihoods] == pytest.approx([r[0][0] for r in sample["resps"]], abs=1e-4)
        assert [greedy for _, greedy in answer.likelihoods] == [r[0][1] for r in sample["resps"]]
    found = suite.aggregate(suite.grade(given, None))
    assert found["acc"].value == theirs["results"]["sums"]["acc,none"]
    assert found["acc_norm,none/sums"].value == theirs["results"]["sums"]["acc_norm,none"]


def test_likelihoods_in_numbers(tmp_path: Path) -> None:
    suite = write_task(tmp_path, **CHOICE)
    given = [
        Answer(item.id, "", "stop", 0, likelihoods=tuple((value, False) for value in values))
        for item, values in zip(suite.items(), [(-1, -2, -3, -4), (-1, -2, -3, -4), (-9, -9, -10, -99)], strict=True)
    ]
    records = suite.grade(given, None)
    assert [(r.metric, r.score) for r in records] == [
        ("acc", 1.0), ("acc_norm", 0.0), ("acc", 0.0), ("acc_norm", 0.0), ("acc", 0.0), ("acc_norm", 1.0),
    ]  # fmt: skip
    assert {record.flags for record in records} == {()}
    suite.export(tmp_path / "out", given, records, "student")
    assert suite.read_outputs(tmp_path / "out") == given
    path = tmp_path / "out" / "samples_sums.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:  # lm-eval's own files hold words in the place of numbers
        line["resps"] = [[[str(value), str(greedy)] for value, greedy in repeats] for repeats in line["resps"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert suite.read_outputs(path) == given
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"id": f"sums/{n}", "text": "2"}) + "\n" for n in range(3)))
    with pytest.raises(SuiteError, match="3 items have texts for likelihoods"):
        suite.read_outputs(tmp_path / "texts.jsonl")


def test_one_likelihood_a_document(tmp_path: Path) -> None:
    """As LAMBADA's: the headline is the first metric that is a mean, not the perplexity before it."""
    metrics = [{"metric": "perplexity"}, {"metric": "acc"}]
    suite = write_task(tmp_path, output_type="loglikelihood", generation_kwargs=None, filter_list=None, metric_list=metrics)
    assert suite.metric == "acc"
    values = [(-1.0, True), (-2.0, False), (-3.0, True)]
    given = [
        Answer(item.id, "", "stop", 0, likelihoods=(value,)) for item, value in zip(suite.items(), values, strict=True)
    ]
    found = suite.aggregate(suite.grade(given, None))
    assert found["acc"].value == pytest.approx(2 / 3)
    assert found["perplexity,none/sums"].value == pytest.approx(math.exp(2.0))


def test_kinds_are_not_mixed(tmp_path: Path) -> None:
    write_task(tmp_path, **CHOICE)
    (tmp_path / "sums.yaml").rename(tmp_path / "choice.yaml")
    changed = json.loads((tmp_path / "choice.yaml").read_text()) | {"task": "choice"}
    (tmp_path / "choice.yaml").write_text(json.dumps(changed))
    write_task(tmp_path)
    with pytest.raises(SuiteError, match="choice ask for likelihoods, the other 1 tasks"):
        Reasoning(Config(tasks=("sums", "choice"), task_path=str(tmp_path))).items()
    with pytest.raises(SuiteError, match="not sampled"):
        Reasoning(Config(tasks=("choice",), task_path=str(tmp_path), samples=2, temperature=1.0)).items()


def test_outputs_are_read_back(tmp_path: Path) -> None:
    suite = write_task(tmp_path)
    given = say(suite, ["= 2", "3", ""])
    path = suite.export(tmp_path / "out", given, suite.grade(given, None), "student")[1]
    assert suite.read_outputs(path) == suite.read_outputs(tmp_path / "out") == given
    dated = path.rename(path.with_name("samples_sums_2026-01-02T03-04-05.678901.jsonl"))
    assert suite.read_outputs(dated) == given
    simple = tmp_path / "simple.jsonl"
    simple.write_text("".join(json.dumps({"id": a.item_id, "text": a.text}) + "\n" for a in given[::-1]))
    assert suite.read_outputs(simple) == given

    lines = [json.loads(line) for line in dated.read_text().splitlines()]
    for change, why in (
        ({"doc_hash": "0" * 64}, "document 0 of sums is another one"),
        ({"resps": [["other"]]}, "different answers in two lines"),
        ({"resps": 3}, "resps of sums/0 are not lm-eval's"),
        ({"doc_id": 7, "doc_hash": "0"}, "0 lack some, 0 have more, 1 are unknown, for example 'sums/7'"),
    ):
        dated.write_text("".join(json.dumps(line) + "\n" for line in [lines[0] | change, *lines[1:]]))
        with pytest.raises(SuiteError, match=why):
            suite.read_outputs(dated)
    simple.write_text('{"id": "sums/0", "text": "2"}\n')
    with pytest.raises(SuiteError, match="does not fit the 3 items with 1 answer each: 2 lack some"):
        suite.read_outputs(simple)
    simple.write_text('{"answer": "2"}\n')
    with pytest.raises(SuiteError, match="1 lines, not all with doc_id"):
        suite.read_outputs(simple)
    with pytest.raises(SuiteError, match="holds samples of none"):
        suite.read_outputs(dated.rename(path.with_name("samples_other.jsonl")))

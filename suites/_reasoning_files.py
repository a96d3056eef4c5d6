"""lm-eval's files: results and samples as it writes them, and answers read back from samples."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.assets import read_json_lines
from harness.errors import SuiteError
from harness.types import Answer, Item

_SAMPLES = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT[\d.:-]+)?\.jsonl")


def write(folder: Path, results: Mapping[str, Any], generator: str) -> list[Path]:
    """`results.json` and a `samples_TASK.jsonl` for each task; returns the files."""
    from lm_eval.utils import handle_non_serializable

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "results.json"]
    report = {**{key: value for key, value in results.items() if key != "samples"},
              "config": {"model": generator}, "model_name": generator}  # fmt: skip
    text = json.dumps(report, indent=2, ensure_ascii=False, default=handle_non_serializable)
    paths[0].write_text(text + "\n", encoding="utf-8")
    for task, rows in results["samples"].items():
        paths.append(folder / f"samples_{task.replace('/', '_')}.jsonl")
        lines = [json.dumps(row, ensure_ascii=False, default=handle_non_serializable) + "\n" for row in rows]
        paths[-1].write_text("".join(lines), encoding="utf-8")
    return paths


def document_hash(document: Any) -> str:
    """The `doc_hash` by which lm-eval's samples name a document."""
    from lm_eval.utils import handle_non_serializable

    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read(path: Path, items: Sequence[Item], documents: Mapping[str, Any], samples: int) -> list[Answer]:
    """Answers in the order of the items, from lm-eval's samples (a file, or a folder with one a task) or lines of id and text.

    Args:
        documents: lm-eval's document of each item, whose hash must be the one on file.

    Raises:
        SuiteError: a file of another format, another document, or items without their `samples` answers (with the counts).
    """
    files = sorted(path.glob("samples_*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise SuiteError(f"no samples_TASK.jsonl in {path}", where=str(path), fix="give lm-eval's folder of samples, or a file")
    tasks = list(dict.fromkeys(item.category for item in items))
    found: dict[str, list[Answer]] = {}
    for file in files:
        rows = read_json_lines(file)
        if rows and all(row.keys() >= {"doc_id", "resps"} for row in rows):
            answers = _from_samples(file, rows, _task_of(file, tasks), documents)
        elif rows and all(isinstance(row.get("id"), str) and isinstance(row.get("text"), str) for row in rows):
            answers = {}
            for row in rows:
                given = answers.setdefault(row["id"], [])
                given.append(Answer(row["id"], row["text"], "stop", 0, sample=len(given)))
        else:
            raise SuiteError(f"{file} has {len(rows)} lines, not all with doc_id and resps (lm-eval's samples) or id and text",
                             where=str(file), fix='write a line {"id": "TASK/0", "text": "..."} for each item')  # fmt: skip
        for item, given in answers.items():
            found.setdefault(item, []).extend(given)
    return _complete(path, items, found, samples)


def _complete(path: Path, items: Sequence[Item], found: Mapping[str, list[Answer]], samples: int) -> list[Answer]:
    wanted = {item.id: item for item in items}
    short = [item for item in wanted if len(found.get(item, ())) < samples]
    many = [item for item in wanted if len(found.get(item, ())) > samples]
    unknown = [item for item in found if item not in wanted]
    if short or many or unknown:
        raise SuiteError(
            f"{path} does not fit the {len(wanted)} items with {samples} answer{'s' * (samples > 1)} each: {len(short)} lack "
            f"some, {len(many)} have more, {len(unknown)} are unknown, for example {(short + many + unknown)[0]!r}",
            where=str(path), fix="answer every item; ids are TASK/NUMBER as in lm-eval's doc_id",
        )  # fmt: skip
    kinds = [item for item in wanted if bool(wanted[item].continuations) != bool(found[item][0].likelihoods)]
    if kinds:
        raise SuiteError(f"{len(kinds)} items have texts for likelihoods, or the other way round, for example {kinds[0]!r}",
                         where=str(path), fix="give lm-eval's samples of the same tasks")  # fmt: skip
    return [answer for item in wanted for answer in found[item]]


def _task_of(file: Path, tasks: Sequence[str]) -> str:
    """The task whose samples a file holds: by its name, as lm-eval gives it."""
    match = _SAMPLES.fullmatch(file.name)
    named = {task.replace("/", "_"): task for task in tasks}
    if match and match[1] in named:
        return named[match[1]]
    if match is None and len(tasks) == 1:
        return tasks[0]
    raise SuiteError(f"{file.name} holds samples of none of the suite's tasks ({', '.join(tasks)})", where=str(file),
                     fix="keep lm-eval's name of the file: samples_TASK_DATE.jsonl")  # fmt: skip


def _from_samples(file: Path, rows: Sequence[dict[str, Any]], task: str, documents: Mapping[str, Any]) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {}
    for number, row in enumerate(rows, 1):
        item = f"{task}/{row['doc_id']}"
        if "doc_hash" in row and item in documents and row["doc_hash"] != document_hash(documents[item]):
            raise SuiteError(f"document {row['doc_id']} of {task} is another one than the suite's", where=f"{file}:{number}",
                             fix="use the same data, in the same order")  # fmt: skip
        given = _answers(item, row["resps"], f"{file}:{number}")
        if answers.setdefault(item, given) != given:  # one line a filter, all of the same answer
            raise SuiteError(f"document {row['doc_id']} has different answers in two lines", where=f"{file}:{number}",
                             fix="give the samples of one run")  # fmt: skip
    return answers


def _answers(item: str, resps: Any, where: str) -> list[Answer]:
    """What lm-eval keeps of a document: for each request its repeats, a text or a pair (likelihood, greedy) each."""
    try:
        first = resps[0][0]
        if isinstance(first, str):
            (texts,) = resps
            return [Answer(item, _text(text), "stop", 0, sample=sample) for sample, text in enumerate(texts)]
        pairs = tuple((float(value), str(greedy) == "True") for ((value, greedy),) in resps)
        return [Answer(item, "", "stop", 0, likelihoods=pairs)]
    except (TypeError, ValueError, LookupError) as error:
        raise SuiteError(f"resps of {item} are not lm-eval's: {str(resps)[:80]}", where=where,
                         fix="a list of texts, or of one [likelihood, greedy], for each request") from error  # fmt: skip


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value

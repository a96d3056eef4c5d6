"""Reasoning tasks through lm-eval: its prompts, filters and metrics on answers that the harness generated.

Source: EleutherAI lm-evaluation-harness, github.com/EleutherAI/lm-evaluation-harness. A task is one of lm-eval's own
or a YAML file in lm-eval's format.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest
from harness.suite import Field, Judge, Suite, SuiteConfig
from harness.types import Answer, Item, Metric, Record

_DATA = Path(__file__).parent / "data"
_TASKS = Path(__file__).parent / "tasks"
_FEWSHOT_SEED = 1234  # lm-eval's default


class Config(SuiteConfig):
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks, groups or tags that generate text and are scored by exact match."""
    task_path: str | None = None
    """A folder of YAML tasks, relative below `suites/tasks/`; their relative data files are taken below `suites/data/`.
    None for lm-eval's own tasks, which download their data."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval without its progress bars and its notes; errors still raise."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _absolute(files: Any) -> Any:
    """Data files, given as one name, a list or a mapping from splits, as absolute paths."""
    if isinstance(files, str):
        return str(_DATA / files)
    if isinstance(files, Mapping):
        return {split: _absolute(names) for split, names in files.items()}
    return [_absolute(name) for name in files]


def _as_json(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    """Stands in for a chat template, so that lm-eval hands the messages over whole."""
    if not add_generation_prompt:
        raise SuiteError("a task that begins the answer itself is not supported", where="tasks", fix="leave gen_prefix out")
    return json.dumps(messages, ensure_ascii=False)


class Reasoning(Suite):
    """Exact match on tasks of lm-eval; the first filter of a task is the one that counts in the headline."""

    Config = Config
    version = "1"
    metric = "exact_match"
    summary = "exact match of final answers (lm-eval tasks)"

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """lm-eval's task objects by name, in the order asked for."""
        from lm_eval.tasks import TaskManager

        folder = None if self.config.task_path is None else _TASKS / self.config.task_path
        if folder is not None and not folder.is_dir():
            raise SuiteError(f"no folder {folder}", where="task_path", fix="give a folder of lm-eval's YAML files")
        with _quiet():
            manager = TaskManager(include_path=folder, include_defaults=folder is None)
            members = [self._member(manager.task_index, name) for name in self.config.tasks]
            try:
                tasks: dict[str, Any] = manager.load({"group": "asked", "task": members})["tasks"]
            except OSError as error:
                fix = "download the data once where there is a network, or set task_path"
                raise SuiteError(f"lm-eval could not load its data: {error}", where="tasks", fix=fix) from error
        for name, task in tasks.items():
            self._check(name, task)
        return tasks

    def _member(self, index: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A task by name, with its local data files resolved."""
        if name not in index:
            raise SuiteError(f"lm-eval knows no task {name!r} here", where="tasks", fix=nearest(name, index))
        arguments = (index[name].cfg or {}).get("dataset_kwargs") or {}
        if self.config.task_path is None or "data_files" not in arguments:
            return {"task": name}
        files = _absolute(arguments["data_files"])
        absent = [path for path in _flat(files) if not Path(path).is_file()]
        if absent:
            message = f"task {name!r} needs {', '.join(absent)}, not found"
            raise SuiteError(message, where="task_path", fix="restore the data files")
        return {"task": name, "dataset_kwargs": {**arguments, "data_files": files}}

    def _check(self, name: str, task: Any) -> None:
        got = {
            "output_type": task.OUTPUT_TYPE,
            "repeats": task.config.repeats,
            "exact_match": any(metric["metric"] == "exact_match" for metric in task.config.metric_list or ()),
        }
        wanted = {"output_type": "generate_until", "repeats": 1, "exact_match": True}
        if got != wanted:
            raise SuiteError(f"task {name!r} has {got}, supported is {wanted}", where="tasks", fix="choose another task")

    def _seed(self) -> None:
        for task in self._tasks.values():
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        found = []
        self._seed()
        for name, task in self._tasks.items():
            with _quiet():
                task.build_all_requests(apply_chat_template=True, fewshot_as_multiturn=True, chat_template=_as_json)
            for request in task.instances:
                messages = tuple(json.loads(request.args[0]))
                target = str(task.doc_to_target(request.doc))
                found.append(Item(f"{name}/{request.doc_id}", messages, reference=target, category=name))
        return tuple(found)

    def items(self) -> list[Item]:
        """One item a document, with the messages that lm-eval makes of it (one user message when zero-shot)."""
        return list(self._items)

    def _evaluate(self, answers: Mapping[str, Answer]) -> dict[str, Any]:
        """lm-eval's results with its log of samples. `simple_evaluate` would reseed every global generator."""
        from lm_eval.evaluator import evaluate

        self._seed()
        with _quiet():
            return evaluate(
                lm=_replay({item: answer.text for item, answer in answers.items()}),
                task_dict={"tasks": self._tasks},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=True,
                fewshot_as_multiturn=True,
            )

    def grade(self, answers: Sequence[Answer], judge: Judge | None) -> list[Record]:
        """A record for each filter and metric of an item, `subkey` naming the filter; no judge is asked."""
        found = {item.id: answer for item, answer in self.paired(answers)}
        records: dict[str, list[Record]] = {item: [] for item in found}
        for task, samples in self._evaluate(found)["samples"].items():
            for sample in samples:
                answer = found[f"{task}/{sample['doc_id']}"]
                flags = [*(["empty"] if not answer.text.strip() else []), *(["truncated"] if answer.finish == "length" else [])]
                records[answer.item_id] += [
                    Record(
                        suite="reasoning", metric=metric, item_id=answer.item_id, subkey=sample["filter"],
                        score=float(sample[metric]), status="ok", flags=tuple(flags), raw=str(sample["filtered_resps"][0]),
                        length=len(answer.text),
                    )
                    for metric in sample["metrics"]
                ]  # fmt: skip
        return [record for one_item in records.values() for record in one_item]

    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        """The exact match of each item under its task's first filter."""
        scores: dict[str, float] = {}
        for record in records:
            if record.metric == "exact_match" and record.score is not None:
                scores.setdefault(record.item_id, record.score)
        return scores

    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        """`exact_match` over all items of all tasks, `exact_match/TASK` for each task."""
        scores = self.item_scores(records)
        asked = dict.fromkeys(record.item_id for record in records)
        metrics = {"exact_match": _mean([*scores.values()], len(asked))}
        for task in dict.fromkeys(item.rpartition("/")[0] for item in asked):
            members = [item for item in asked if item.rpartition("/")[0] == task]
            metrics[f"exact_match/{task}"] = _mean([scores[item] for item in members if item in scores], len(members))
        return metrics

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """lm-eval's `results.json` and a `samples_TASK.jsonl` for each task."""
        from lm_eval.utils import handle_non_serializable

        results = self._evaluate({item.id: answer for item, answer in self.paired(answers)})
        samples = results.pop("samples")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "results.json"]
        report = {**results, "config": {"model": generator}, "model_name": generator}
        text = json.dumps(report, indent=2, ensure_ascii=False, default=handle_non_serializable)
        paths[0].write_text(text + "\n", encoding="utf-8")
        for task, rows in samples.items():
            paths.append(folder / f"samples_{task}.jsonl")
            lines = [json.dumps(row, ensure_ascii=False, default=handle_non_serializable) + "\n" for row in rows]
            paths[-1].write_text("".join(lines), encoding="utf-8")
        return paths


def _flat(files: Any) -> list[str]:
    if isinstance(files, str):
        return [files]
    return [path for part in (files.values() if isinstance(files, Mapping) else files) for path in _flat(part)]


def _mean(scores: Sequence[float], asked: int) -> Metric:
    """The mean with its sample standard error."""
    spread = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None
    return Metric(statistics.fmean(scores) if scores else None, spread, n=len(scores), missing=asked - len(scores))


def _replay(texts: Mapping[str, str]) -> Any:
    """A model for lm-eval that says the recorded texts, cut at a task's stop strings as lm-eval's models do."""
    from lm_eval.api.model import LM

    class Replay(LM):
        tokenizer_name = "recorded"

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return _as_json(chat_history, add_generation_prompt)

        def generate_until(self, requests: list[Any]) -> list[str]:
            said = []
            for request in requests:
                text = texts[f"{request.task_name}/{request.doc_id}"]
                for stop in request.args[1].get("until", ()):
                    text = text.split(stop)[0] if stop else text
                said.append(text)
            return said

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError("recorded texts have no likelihood")

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError("recorded texts have no likelihood")

    return Replay()

"""Reasoning and knowledge through lm-eval: its prompts, filters and metrics on answers that the harness generated.

Source: EleutherAI lm-evaluation-harness, github.com/EleutherAI/lm-evaluation-harness. A task is one of lm-eval's own
or a YAML file in lm-eval's format.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import model_validator

from harness.assets import content_hash
from harness.errors import SuiteError
from harness.suite import Field, Judge, Suite, SuiteConfig, flags_of
from harness.types import Answer, Item, Message, Metric, Record
from suites import _reasoning_files as files
from suites import _reasoning_replay as replay
from suites import _reasoning_tasks as loading
from suites._reasoning_metrics import Headline, is_item_mean, majority, mean_of, pass_at, scores_of

_DECLARED = ("gsm8k", "minerva_math500", "aime24", "aime25", "gpqa_diamond_cot_zeroshot", "ifeval")
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's order
_NARROWING = ("top_p", "top_k", "min_p", "typical_p", "num_beams")


class Config(SuiteConfig):
    tasks: tuple[str, ...] = Field(_DECLARED, min_length=1)
    """Names of tasks, groups or tags of lm-eval, all that write answers or all that read likelihoods."""
    task_path: str | None = None
    """A folder of YAML tasks, relative below `suites/tasks/`. Relative data files lie below `suites/data/` for shipped tasks,
    beside the YAML file for others. None for lm-eval's own tasks, which download their data."""
    chat: bool | None = None
    """Ask through the model's chat template, with the examples as turns, or as plain text to be continued. None is chat for
    tasks that write and plain for tasks that read likelihoods."""
    num_fewshot: int | None = Field(None, ge=0)
    """Examples before each question; None leaves each task its own number."""
    samples: int = Field(1, ge=1)
    """Answers to each question; more than one needs a temperature."""
    temperature: float | None = Field(None, ge=0)
    """Of every answer; None is the task's own where it samples, otherwise left to whoever scores."""
    max_tokens: int | None = Field(None, ge=1)
    """The most tokens of an answer; None is the task's own limit."""
    limit: int | None = Field(None, ge=1)
    """Only the first questions of each task; every metric's name then says so."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"{self.samples} samples of a question are all the same without a temperature above 0")
        return self


class _HeadlineName:
    """`Suite.metric` where it depends on the tasks: the class tells the usual name, a suite its own."""

    def __get__(self, suite: Reasoning | None, cls: type) -> str:
        return "exact_match" if suite is None else suite._headline + suite._subset


class Reasoning(Suite):
    """lm-eval's tasks; the headline is the mean over items of each task's first metric under its first filter."""

    Config = Config
    version = "1"
    metric: ClassVar[Any] = _HeadlineName()
    summary = "any task of lm-eval: lm-eval:gsm8k, or exact match of final answers"
    argument = "lm-eval"

    def __init__(self, config: SuiteConfig) -> None:
        super().__init__(config)
        self._graded: tuple[tuple[Answer, ...], list[dict[str, Any]]] = ((), [])

    @classmethod
    def settings_for(cls, argument: str) -> dict[str, Any]:
        """Tasks by name ("gsm8k", "gsm8k+ifeval") or YAML files of one folder ("folder/task.yaml")."""
        return loading.asked(argument)

    @property
    def samples(self) -> int:
        return self.config.samples

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """lm-eval's task objects by name, in the order asked for."""
        tasks = loading.load(self.config.tasks, self.config.task_path)
        if self.samples > 1 and any(map(loading.asks_likelihoods, tasks.values())):
            raise SuiteError("likelihoods are not sampled", where="samples", fix="--set samples=1")
        loading.set_shots(tasks, self.config.num_fewshot)
        return tasks

    @cached_property
    def _chat(self) -> bool:
        if self.config.chat is not None:
            return self.config.chat
        return not any(map(loading.asks_likelihoods, self._tasks.values()))

    @cached_property
    def _requests(self) -> dict[str, list[list[Any]]]:
        return {name: replay.requests(task, self._chat, self.config.limit) for name, task in self._tasks.items()}

    @cached_property
    def _headlines(self) -> dict[str, Headline]:
        """Found by grading silence on the first document of each task, so that a task that cannot be graded is refused here."""
        found = {}
        for name, task in self._tasks.items():
            try:
                sample = replay.evaluate({name: task}, None, self._chat, limit=1)["samples"][name][0]
            except SuiteError:
                raise
            except Exception as error:  # a task can bring its own code
                raise SuiteError(f"task {name!r} cannot grade an empty answer: {type(error).__name__}: {error}", where="tasks",
                                 fix="choose another task: --set tasks=[...]") from error  # fmt: skip
            means = [metric for metric in sample["metrics"] if is_item_mean(task, metric, sample[metric])]
            better = [metric for metric in means if task.higher_is_better().get(metric, True)]
            if not better:
                raise SuiteError(f"task {name!r} has no metric that is a mean over its documents, only {sample['metrics']}",
                                 where="tasks", fix="choose another task: --set tasks=[...]")  # fmt: skip
            found[name] = Headline(better[0], sample["filter"])
        return found

    @property
    def _headline(self) -> str:
        names = {headline.metric for headline in self._headlines.values()}
        return names.pop() if len(names) == 1 else "score"

    @property
    def _subset(self) -> str:
        return f"[:{self.config.limit}]" if self.config.limit else ""

    @property
    def identity(self) -> dict[str, Any]:
        """lm-eval's version, a digest of the tasks' filters and metrics, and the settings that are not the tasks' own."""
        own = self.config.model_dump(exclude={"tasks", "task_path"}, exclude_defaults=True)
        grading = content_hash({name: _protocol(task) for name, task in self._tasks.items()})
        return {"lm-eval": importlib.metadata.version("lm_eval"), "grading": grading, **own}

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        return tuple(
            self._item(name, self._tasks[name], requests) for name in self._headlines for requests in self._requests[name]
        )

    def _item(self, name: str, task: Any, requests: Sequence[Any]) -> Item:
        context = requests[0].args[0]
        if any(request.args[0] != context for request in requests):
            raise SuiteError(f"task {name!r} asks for one text after several beginnings, which is not supported", where="tasks",
                             fix="choose another task: --set tasks=[...]")  # fmt: skip
        messages: tuple[Message, ...] = tuple(json.loads(context)) if self._chat else ({"role": "user", "content": context},)
        scored = loading.asks_likelihoods(task)
        options = {} if scored else requests[0].args[1]
        return Item(
            f"{name}/{requests[0].doc_id}", messages, _reference(task, requests[0].doc), category=name,
            temperature=None if scored else self._temperature(name, options),
            max_tokens=self.config.max_tokens or next((int(options[key]) for key in _LIMITS if options.get(key)), None),
            plain=not self._chat, continuations=tuple(request.args[1] for request in requests) if scored else (),
        )  # fmt: skip

    def _temperature(self, name: str, options: Mapping[str, Any]) -> float | None:
        if self.config.temperature is not None or not options.get("do_sample"):
            return self.config.temperature
        narrowing = [key for key in _NARROWING if key in options]
        if narrowing:
            raise SuiteError(f"task {name!r} samples with {', '.join(narrowing)}, which the generator does not do", where="tasks",
                             fix="sample plainly: --set temperature=1")  # fmt: skip
        return float(options.get("temperature", 1.0))

    def items(self) -> list[Item]:
        """One item a document, with what lm-eval makes of it: chat messages, or one text that is to be continued."""
        return list(self._items)

    def _results(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """lm-eval's results, one for each sample of the items; the last ones asked for are kept."""
        pairs = self.paired(answers)
        key = tuple(answers)
        if self._graded[0] != key:
            runs = [{item.id: answer for item, answer in pairs[sample :: self.samples]} for sample in range(self.samples)]
            self._graded = (key, [replay.evaluate(self._tasks, run, self._chat, self.config.limit) for run in runs])
        return self._graded[1]

    def grade(self, answers: Sequence[Answer], judge: Judge | None) -> list[Record]:
        """A record for each filter and metric of an item; no judge is asked.

        `subkey` names the filter ("FILTER#SAMPLE" with several samples). A metric that is no number for each document (IFEval's
        instruction level, corpus BLEU) has one record for the whole task, whose item is the task's name, with lm-eval's own
        aggregate. A task's further metrics are on lm-eval's scale.

        Raises:
            SuiteError: answers do not fit, or a headline score is not between 0 and 1.
        """
        records: dict[str, list[Record]] = {answer.item_id: [] for answer in answers}
        totals: list[Record] = []
        for sample, results in enumerate(self._results(answers)):
            run = {answer.item_id: answer for answer in answers[sample :: self.samples]}
            mark = f"#{sample}" if self.samples > 1 else ""
            for name, rows in results["samples"].items():
                task = self._tasks[name]
                until = (task.config.generation_kwargs or {}).get("until")
                whole: dict[tuple[str, str], None] = {}
                for row in rows:
                    answer = _as_graded(run[f"{name}/{row['doc_id']}"], until)
                    for metric in row["metrics"]:
                        if not is_item_mean(task, metric, row[metric]):
                            whole[metric, row["filter"]] = None
                            continue
                        score = float(row[metric])
                        if (metric, row["filter"]) == self._headlines[name] and not 0 <= score <= 1:
                            raise SuiteError(f"{metric} of task {name!r} is {score}, not between 0 and 1", where="tasks",
                                             fix="choose another task: --set tasks=[...]")  # fmt: skip
                        records[answer.item_id].append(Record(
                            suite="reasoning", metric=metric, item_id=answer.item_id, subkey=row["filter"] + mark, score=score,
                            status="ok", flags=flags_of(answer), raw=str(row["filtered_resps"][0]), length=len(answer.text),
                        ))  # fmt: skip
                for metric, under in whole:
                    value = float(results["results"][name][f"{metric},{under}"])
                    totals.append(Record("reasoning", metric, name, under + mark, value, "ok", raw="lm-eval's aggregate"))
        return [*(record for one_item in records.values() for record in one_item), *totals]

    def _filter_of(self, record: Record) -> str:
        return record.subkey.rpartition("#")[0] if self.samples > 1 else record.subkey

    def _headline_records(self, records: Sequence[Record]) -> dict[str, list[Record]]:
        """By item, one a sample."""
        found: dict[str, list[Record]] = {}
        for record in records:
            headline = self._headlines.get(_task_of(record.item_id))
            if headline == (record.metric, self._filter_of(record)):
                found.setdefault(record.item_id, []).append(record)
        return found

    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        """The headline score of each item, the mean over its samples."""
        return {item: statistics.fmean(scores_of(found)) for item, found in self._headline_records(records).items()}

    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        """The headline over all items and as `NAME/TASK` for each task; then `METRIC,FILTER/TASK` as lm-eval names the others.

        With k samples also `pass@1`, `pass@k` (where scores are 0 or 1) and `maj@k` (where the task's filter extracts an answer:
        the score of the most frequent one, of equals the first), over all items and by task. With a limit every name carries it.
        """
        headline, name = self._headline_records(records), self._headline
        metrics: dict[str, Metric] = {}
        ways: dict[str, Callable[[Sequence[Record]], float | None]] = {name: lambda found: statistics.fmean(scores_of(found))}
        if self.samples > 1:
            ways |= {f"pass@{k}": lambda found, k=k: pass_at(scores_of(found), k) for k in (1, self.samples)}  # type: ignore[misc]
            ways[f"maj@{self.samples}"] = lambda found: majority(found, self._headlines[_task_of(found[0].item_id)])
        for key, way in ways.items():
            values = {item: way(found) for item, found in headline.items()}
            parts = {task: [v for item, v in values.items() if _task_of(item) == task] for task in self._headlines}
            for suffix, part in {"": list(values.values()), **{f"/{task}": part for task, part in parts.items()}}.items():
                if None not in part:
                    metrics[f"{key}{self._subset}{suffix}"] = mean_of([value for value in part if value is not None])
        others: dict[str, dict[str, list[float]]] = {}
        for record in records:
            task = record.item_id if record.item_id in self._headlines else _task_of(record.item_id)
            under = self._filter_of(record)
            if record.score is not None and (name == "score" or self._headlines[task] != (record.metric, under)):
                key = f"{record.metric},{under}{self._subset}/{task}"
                others.setdefault(key, {}).setdefault(record.item_id, []).append(record.score)
        return metrics | {key: mean_of(list(map(statistics.fmean, found.values()))) for key, found in others.items()}

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """lm-eval's `results.json` and a `samples_TASK.jsonl` for each task; further samples in folders `sample-1`, ..."""
        return [
            path for sample, results in enumerate(self._results(answers))
            for path in files.write(folder / f"sample-{sample}" if sample else folder, results, generator)
        ]  # fmt: skip

    def read_outputs(self, path: Path) -> list[Answer]:
        """From lm-eval's samples (a file, or the folder with a file for each task), or a JSONL file of `id` and `text`."""
        items = self.items()
        documents = {f"{name}/{r[0].doc_id}": r[0].doc for name, found in self._requests.items() for r in found}
        return files.read(path, items, documents, self.samples)


def _task_of(item_id: str) -> str:
    return item_id.rpartition("/")[0]


def _as_graded(answer: Answer, until: str | Sequence[str] | None) -> Answer:
    """The part of an answer that lm-eval sees; one that goes on after a stop string was not cut off."""
    text = replay.cut(answer.text, until)
    return answer if text == answer.text else replace(answer, text=text, finish="stop")


def _protocol(task: Any) -> Any:
    """What a task does with answers, as JSON."""
    config = task.config
    parts = [task.OUTPUT_TYPE, task.VERSION, config.metric_list, config.filter_list, config.generation_kwargs]
    return json.loads(json.dumps(parts, default=lambda value: value.__qualname__ if callable(value) else str(value)))


def _reference(task: Any, document: Any) -> str | None:
    """The answer as text; None where a task's target is a number that stands for none."""
    target = task.doc_to_target(document)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        return str(task.doc_to_choice(document)[target])
    return None if isinstance(target, int) else str(target)

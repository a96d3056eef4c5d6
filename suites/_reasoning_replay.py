"""lm-eval with recorded answers in the place of a model: its prompts, filters, metrics and aggregations, and no weights."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import SuiteError
from harness.types import Answer, Message
from suites._reasoning_tasks import quiet

_FEWSHOT_SEED = 1234  # lm-eval's default


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """lm-eval with each of a task's templates compiled once, where it compiles them for every use (nine tenths of its time)."""
    from lm_eval.utils import env

    env.from_string = functools.cache(env.from_string)
    try:
        yield
    finally:
        del env.from_string  # the class's own is back


def as_json(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """Stands in for a chat template, so that lm-eval hands the messages over whole."""
    if not add_generation_prompt:
        raise SuiteError("a task that begins the answer itself (gen_prefix) cannot be asked as a chat", where="tasks",
                         fix="ask it as plain text: --set chat=false")  # fmt: skip
    return json.dumps(messages, ensure_ascii=False)


def requests(task: Any, chat: bool, limit: int | None) -> list[list[Any]]:
    """lm-eval's requests of each document of a task, in order."""
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    with quiet(), _compiled_once():
        template = as_json if chat else None
        task.build_all_requests(limit=limit, apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=template)
    documents: dict[int, list[Any]] = {}
    for request in task.instances:
        documents.setdefault(request.doc_id, []).append(request)
    return list(documents.values())


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """A text up to the first of a task's stop strings, as lm-eval's models return it."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.split(stop)[0] if stop else text
    return text


def evaluate(tasks: Mapping[str, Any], answers: Mapping[str, Answer] | None, chat: bool, limit: int | None) -> dict[str, Any]:
    """lm-eval's results with its log of samples. (`simple_evaluate` would reseed every global generator.)

    Args:
        answers: by item ("TASK/DOCUMENT"); None for a model that says nothing.
        limit: only the first documents of each task.
    """
    from lm_eval.evaluator import evaluate as lm_eval_evaluate

    for task in tasks.values():
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    with quiet(), _compiled_once():
        return lm_eval_evaluate(
            lm=_replay(answers), task_dict={"tasks": dict(tasks)}, limit=limit, bootstrap_iters=0, log_samples=True,
            apply_chat_template=chat, fewshot_as_multiturn=chat,
        )  # fmt: skip


def _replay(answers: Mapping[str, Answer] | None) -> Any:
    from lm_eval.api.model import LM

    class Replay(LM):
        tokenizer_name = "recorded"

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return as_json(chat_history, add_generation_prompt)

        def generate_until(self, requests: list[Any]) -> list[str]:
            if answers is None:
                return [""] * len(requests)
            return [cut(answers[f"{r.task_name}/{r.doc_id}"].text, r.args[1].get("until")) for r in requests]

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            if answers is None:
                return [(-1.0, False)] * len(requests)
            return [answers[f"{r.task_name}/{r.doc_id}"].likelihoods[r.idx] for r in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise SuiteError("recorded answers tell no likelihood of whole documents", where="tasks", fix="choose another task")

    return Replay()

"""lm-eval's tasks by name: found, loaded with their data, and checked before anything is generated for them."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest

_DATA = Path(__file__).parent / "data"
_TASKS = Path(__file__).parent / "tasks"
_GATED = ("Idavidrein/gpqa",)
"""Data sets of the hub whose terms must be accepted; without a network the hub does not say so."""
_LIKELIHOOD = ("loglikelihood", "multiple_choice")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval without its progress bars and its notes; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def asked(argument: str) -> dict[str, Any]:
    """The settings that `gsm8k`, `gsm8k+ifeval` or `folder/task.yaml` stand for.

    Raises:
        SuiteError: nothing is named, a file is no task, or files of several folders (or files and names) are mixed.
    """
    parts = [part for part in re.split(r"[+,\s]+", argument) if part]
    if not parts:
        raise SuiteError("no task is named", where="--suite lm-eval:", fix="for example --suite lm-eval:gsm8k")
    files = [Path(part) for part in parts if part.endswith((".yaml", ".yml"))]
    if not files:
        return {"tasks": tuple(parts)}
    folders = {file.resolve().parent for file in files}
    if len(files) < len(parts) or len(folders) > 1:
        raise SuiteError(
            f"tasks of {len(folders)} folders and {len(parts) - len(files)} of lm-eval's own cannot be mixed",
            where=f"--suite lm-eval:{argument}", fix="name files of one folder, or tasks of lm-eval, and run the others apart",
        )  # fmt: skip
    (folder,) = folders
    return {"tasks": tuple(_name_in(file) for file in files), "task_path": str(folder)}


def _name_in(file: Path) -> str:
    """The task that a YAML file defines."""
    if not file.is_file():
        raise SuiteError(f"no file {file}", where=f"--suite lm-eval:{file}", fix="give the path of a YAML file")
    from lm_eval.tasks import TaskManager

    with quiet():
        index = TaskManager(include_path=str(file.resolve().parent), include_defaults=False).task_index
    names = [name for name, entry in index.items() if entry.yaml_path and entry.yaml_path.resolve() == file.resolve()]
    if len(names) != 1:
        raise SuiteError(
            f"{file} defines no task that lm-eval can read", where=f"--suite lm-eval:{file}",
            fix="it must end in .yaml and be a mapping with `task: NAME`, a name that no other file of its folder uses",
        )  # fmt: skip
    return names[0]


def load(names: Sequence[str], task_path: str | None) -> dict[str, Any]:
    """lm-eval's task objects by name in the order asked for; a group or tag stands for its members.

    Raises:
        SuiteError: an unknown or repeated task, one whose data or packages are not there, or a kind that cannot be scored.
    """
    folder = None if task_path is None else _folder(task_path)
    tasks: dict[str, Any] = {}
    with quiet():
        manager = _manager(names, folder)
        for name in names:
            for found, task in _build(manager, name, folder).items():
                if found in tasks:
                    raise SuiteError(f"task {found!r} is asked for twice", where="tasks", fix="name it once")
                _check(found, task)
                tasks[found] = task
    kinds = {name: task.OUTPUT_TYPE in _LIKELIHOOD for name, task in tasks.items()}
    if len(set(kinds.values())) > 1:
        scored = [name for name, kind in kinds.items() if kind]
        raise SuiteError(
            f"{', '.join(scored)} ask for likelihoods, the other {len(kinds) - len(scored)} tasks for written answers",
            where="tasks", fix=f"score them apart: --suite lm-eval:{'+'.join(scored)}",
        )  # fmt: skip
    return tasks


def asks_likelihoods(task: Any) -> bool:
    """Whether a task reads likelihoods of given texts."""
    return task.OUTPUT_TYPE in _LIKELIHOOD


def set_shots(tasks: Mapping[str, Any], shots: int | None) -> None:
    """As many examples before each question as asked for; None leaves each task its own number.

    Raises:
        SuiteError: a task fixes its number at 0.
    """
    for name, task in tasks.items():
        own = task.config.num_fewshot
        if shots is not None and own == 0 != shots:
            raise SuiteError(f"task {name!r} is defined without examples, asked for {shots}", where="num_fewshot",
                             fix="leave num_fewshot out, or choose a task with examples")  # fmt: skip
        task.set_config(key="num_fewshot", value=(own or 0) if shots is None else shots)


def _folder(task_path: str) -> Path:
    for folder in (_TASKS / task_path, Path(task_path)):
        if folder.is_dir():
            return folder.resolve()
    raise SuiteError(f"no folder {_TASKS / task_path}", where="task_path", fix="give a folder of lm-eval's YAML files")


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """An index that knows the names: of the folder, or of those folders of lm-eval that define them.

    lm-eval reads 14,000 files (10 s) for its whole index, which groups and tags need.
    """
    import lm_eval.tasks

    if folder is not None:
        return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    named: dict[str, list[Path]] = {name: [] for name in names}
    declared = re.compile(r"^[\"']?(?:task|group|tag)[\"']?: *[\"']?([\w.:-]+)[\"']?\s*$", re.MULTILINE)
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")):
        for name in declared.findall(path.read_text(encoding="utf-8", errors="replace")):
            if name in named:
                named[name].append(path)
    folders = dict.fromkeys(str(paths[0].parent) for paths in named.values() if len(paths) == 1)
    manager = lm_eval.tasks.TaskManager(include_path=list(folders), include_defaults=False)
    kinds = [manager.task_index[name].kind.name if name in manager.task_index else "" for name in names]
    return manager if all(kind in ("TASK", "PY_TASK") for kind in kinds) else lm_eval.tasks.TaskManager()


def _build(manager: Any, name: str, folder: Path | None) -> dict[str, Any]:
    """The task (or tasks) of a name, with data."""
    index = manager.task_index
    if name not in index:
        raise SuiteError(f"lm-eval knows no task {name!r} here", where="tasks", fix=nearest(name, index))
    try:
        return dict(manager.load([{"group": "asked", "task": [_member(index[name], folder)]}])["tasks"])
    except SuiteError:
        raise
    except ImportError as error:
        extra = "ifeval" if "ifeval" in name else "math"
        raise SuiteError(
            f"task {name!r} needs a package that is not installed: {_first_line(error)}", where="tasks",
            fix=f"pip install 'lm-eval[{extra}]', or choose other tasks: --set tasks=[...]",
        ) from error  # fmt: skip
    except OSError as error:
        data = (index[name].cfg or {}).get("dataset_path", "of several tasks")
        terms = [name for name in _GATED if name == data or name in str(error)]
        gated = f"; {terms[0]} is gated: accept its terms on the hub, then hf auth login" if terms else ""
        raise SuiteError(
            f"the data of task {name!r} ({data}) are not on this machine and the hub does not give them: {_first_line(error)}",
            where="tasks", fix="run once with a network (HF_HOME is where data are kept), or choose tasks that are there: "
            f"--set tasks=[...] or --suite lm-eval:TASK{gated}",
        ) from error  # fmt: skip
    except Exception as error:  # a task file can bring its own code
        raise SuiteError(
            f"task {name!r} cannot be built: {type(error).__name__}: {_first_line(error)}", where=str(index[name].yaml_path),
            fix="correct the file, or choose other tasks: --set tasks=[...]",
        ) from error  # fmt: skip


def _member(entry: Any, folder: Path | None) -> dict[str, Any]:
    """A task with its local data files resolved: those of shipped tasks below the shipped data, others beside the YAML file."""
    arguments = (entry.cfg or {}).get("dataset_kwargs") or {}
    if folder is None or "data_files" not in arguments:
        return {"task": entry.name}
    files = _absolute(arguments["data_files"], _DATA if folder.is_relative_to(_TASKS.resolve()) else entry.yaml_path.parent)
    absent = [path for path in _flat(files) if "://" not in path and "*" not in path and not Path(path).is_file()]
    if absent:
        raise SuiteError(f"task {entry.name!r} needs {', '.join(absent)}, not found", where="task_path",
                         fix="restore the data files")  # fmt: skip
    return {"task": entry.name, "dataset_kwargs": {**arguments, "data_files": files}}


def _absolute(files: Any, base: Path) -> Any:
    """Data files, given as one name, a list or a mapping from splits, as absolute paths; addresses stay."""
    if isinstance(files, str):
        return files if "://" in files else str(base / files)
    if isinstance(files, Mapping):
        return {split: _absolute(names, base) for split, names in files.items()}
    return [_absolute(name, base) for name in files]


def _flat(files: Any) -> list[str]:
    if isinstance(files, str):
        return [files]
    return [path for part in (files.values() if isinstance(files, Mapping) else files) for path in _flat(part)]


def _check(name: str, task: Any) -> None:
    """Refuses what cannot be generated or scored here."""
    config = task.config
    refused = {
        "asks for the likelihood of whole documents (perplexity), which answers do not have": (
            task.OUTPUT_TYPE == "loglikelihood_rolling"
        ),
        f"asks for {config.repeats} answers to a question itself; take its plain form with --set samples=K": config.repeats != 1,
        "runs code that the model wrote": config.unsafe_code,
        "shows images or sounds": config.doc_to_image is not None or config.doc_to_audio is not None,
    }
    for why, holds in refused.items():
        if holds:
            raise SuiteError(f"task {name!r} cannot be scored: it {why}", where="tasks", fix="choose another task")
    check_sentences(name, config.process_results)


def check_sentences(name: str, process_results: Any) -> None:
    """IFEval splits sentences with data that nltk fetches; lm-eval goes on without and fails when it grades.

    Raises:
        SuiteError: the task is of IFEval's family and the data are not there.
    """
    if not callable(process_results) or "ifeval" not in re.split(r"[./\\]", process_results.__module__):
        return
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise SuiteError(
            f"task {name!r} splits sentences with nltk's punkt_tab, which is not on this machine", where="tasks",
            fix="once with a network: python -m nltk.downloader punkt_tab",
        ) from error  # fmt: skip


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

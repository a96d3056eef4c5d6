"""Who a suite scores: a checkpoint, a finished run at a mark, a served model, or a file of outputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness import environment
from harness.answering import Ask, LocalWriter, ServedWriter, Writer, conversation
from harness.clients.metered import Client
from harness.connect import served_at
from harness.errors import CapabilityError, SpecError, SuiteError, nearest
from harness.spec import RunSpec
from harness.store import RunStore, find
from harness.suite import Suite
from harness.tracks import Served
from harness.types import Answer

if TYPE_CHECKING:
    from harness.generate.student import ChatCodec

SHARED_TOKENS = 32768
"""Tokens of all rows that are decoded together, unless somebody says how many rows."""


class Contestant(Protocol):
    name: str
    """In files and tables."""

    @property
    def identity(self) -> dict[str, Any]:
        """Names its content, whatever it is called."""

    def facts(self) -> dict[str, str]:
        """What people should see before anything is paid."""

    def kept(self, suite: Suite, name: str, how: str) -> list[Answer] | None:
        """Answers that are on file already."""

    def check(self, suite: Suite, max_tokens: int) -> None:
        """Raises CapabilityError where it cannot answer the suite's items; loads no weights."""

    def writer(self, suite: Suite, max_tokens: int, stack: contextlib.ExitStack) -> Writer:
        """The live writer."""


@dataclass
class Outputs:
    """A file of answers in the suite's own format."""

    path: Path
    name: str

    @property
    def identity(self) -> dict[str, Any]:
        return {"outputs": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def facts(self) -> dict[str, str]:
        return {"outputs": str(self.path)}

    def kept(self, suite: Suite, name: str, how: str) -> list[Answer] | None:
        return suite.read_outputs(self.path)

    def check(self, suite: Suite, max_tokens: int) -> None:
        suite.read_outputs(self.path)

    def writer(self, suite: Suite, max_tokens: int, stack: contextlib.ExitStack) -> Writer:
        raise CapabilityError(f"{self.path} holds answers, nobody can be asked for more", where="--outputs")


@dataclass
class Endpoint:
    """A model behind an OpenAI-compatible server."""

    served: Served
    name: str
    connect: Callable[[str, Served], Client]

    @property
    def identity(self) -> dict[str, Any]:
        return {"served": self.served.model, "at": self.served.url}

    def facts(self) -> dict[str, str]:
        return {"model": f"{self.served.model} at {self.served.url}"}

    def kept(self, suite: Suite, name: str, how: str) -> list[Answer] | None:
        return None

    def check(self, suite: Suite, max_tokens: int) -> None:
        if any(item.plain or item.continuations for item in suite.items()):
            raise CapabilityError("this suite continues plain texts or reads likelihoods, which a chat server does not do",
                                  where="--model", fix="score a checkpoint, or a task that generates chat answers")  # fmt: skip

    def writer(self, suite: Suite, max_tokens: int, stack: contextlib.ExitStack) -> Writer:
        return ServedWriter(self.connect("candidate", self.served))


@dataclass
class Checkpoint:
    """A Hugging Face folder, or a repository of the hub at a commit."""

    folder: Path
    name: str
    content: dict[str, Any]
    dtype: str = "auto"
    batch_size: int = 0
    threads: int = 0
    """Of torch on CPU; 0 leaves its own number."""
    run: RunStore | None = None
    """The run that it is of, whose answers may be on file."""
    mark: str = "1"

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.content, "dtype": _device(self.dtype)[1]}

    def facts(self) -> dict[str, str]:
        config = self._config()
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        template = hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()[:8]
        return {
            "model": f"{self.folder}" + (f"   mark {self.mark}" if self.run else ""),
            "kind": f"{config.get('model_type')}, context {config.get('max_position_embeddings')} tokens, {_place(self.dtype)}",
            "template": f"chat template {template}" if tokenizer.chat_template else "no chat template",
        }

    def _config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    def kept(self, suite: Suite, name: str, how: str) -> list[Answer] | None:
        """The answers that the run's own evaluation has kept, where the items are the same."""
        if self.run is None:
            return None
        from harness.evaluate import scored, stored
        from harness.store import mark_stem, read_lines

        if not scored(self.run, name, self.mark) or stored(self.run, name, self.mark)["data"] != suite.data_hash:
            return None
        path = self.run.evaluation(name) / "answers" / f"{mark_stem(self.mark)}.{how}.jsonl"
        return [answer_of(row) for row in read_lines(path)] if path.exists() else None

    def check(self, suite: Suite, max_tokens: int) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        items = suite.items()
        if not tokenizer.chat_template and not all(item.plain for item in items):
            raise CapabilityError(
                f"the tokenizer of {self.folder} has no chat template, and this suite asks in chat",
                where=f"--model {self.folder}",
                fix="score an instruction-tuned model, or plain text with lm-eval's tasks: -s lm-eval:TASK --set chat=false",
            )  # fmt: skip
        context = int(self._config().get("max_position_embeddings") or 10**9)
        codec = self._codec(tokenizer)
        asks = [Ask(conversation(item, ()), (), item.plain) for item in items]
        lengths = {
            item.id: len(_encoded(codec, ask)) + min(item.max_tokens or max_tokens, max_tokens)
            for item, ask in zip(items, asks, strict=True)
        }
        worst = max(lengths, key=lambda name: lengths[name])
        beyond = sum(length > context for length in lengths.values())
        if beyond:
            raise CapabilityError(
                f"{beyond} of {len(items)} items need more than the model's context of {context} tokens: {worst} needs "
                f"{lengths[worst]} with its answer", where=f"--model {self.folder}", fix=f"--max-tokens below {max_tokens}",
            )  # fmt: skip

    def writer(self, suite: Suite, max_tokens: int, stack: contextlib.ExitStack) -> Writer:
        import torch
        from transformers import AutoTokenizer

        from harness.generate.hf import HFGenerator
        from harness.train.load import load_causal_lm

        if self.threads:
            torch.set_num_threads(self.threads)
        device, dtype = _device(self.dtype)
        model = load_causal_lm(self.folder, getattr(torch, dtype), device=device)
        codec = self._codec(AutoTokenizer.from_pretrained(self.folder), model.generation_config.eos_token_id)
        rows = self.batch_size or max(1, min(256, SHARED_TOKENS // max_tokens))
        generator = HFGenerator(model, sorted(codec.ends), codec.pad, rows=rows, vocabulary=len(codec.tokenizer))
        return LocalWriter(generator, codec)

    def _codec(self, tokenizer: Any, ends: int | list[int] | None = None) -> ChatCodec:
        """Conversations as the run that made it wrote them, or as the template does by itself."""
        from harness.generate.student import ChatCodec

        student = self.run.spec.track.student if self.run else None
        return ChatCodec(tokenizer, ends, student.template if student else None, student.system if student else "")


def _encoded(codec: Any, ask: Ask) -> list[int]:
    return list(codec.tokenizer(ask.messages[0]["content"])["input_ids"]) if ask.plain else codec.prompt(ask.messages)


def _device(dtype: str) -> tuple[str, str]:
    """Where the weights go and in which precision: bfloat16 on a GPU, float32 elsewhere, unless one is named."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, {"cuda": "bfloat16", "cpu": "float32"}[device] if dtype == "auto" else dtype


def _place(dtype: str) -> str:
    device, kind = _device(dtype)
    return f"{kind} on {'the GPU' if device == 'cuda' else 'CPU'}"


def answer_of(row: dict[str, Any]) -> Answer:
    """An answer from its line on file."""
    likelihoods = tuple((float(value), bool(greedy)) for value, greedy in row["likelihoods"])
    return Answer(**{**row, "later": tuple(row["later"]), "likelihoods": likelihoods})


def finished_run(name: str, mark: str) -> tuple[RunStore, RunSpec]:
    """A finished run with a mark, to be scored.

    Raises:
        SpecError: no such run or mark, or the run has not finished.
    """
    folder = find(name, environment.runs_dir())
    spec = RunSpec.model_validate(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
    store = RunStore(folder, spec)
    if not store.finished:
        raise SpecError(f"{folder.name} has not finished", where=name, fix="repeat its `harness run` command")
    marks = [row["mark"] for row in store.lines("marks")]
    if mark not in marks:
        raise SpecError(f"{folder.name} has no mark {mark!r}", where=f"--mark {mark}", fix=nearest(mark, marks))
    return store, spec


def contestant(
    model: str, mark: str, dtype: str, batch_size: int, key: str, connect: Callable[[str, Served], Client]
) -> Contestant:
    """What `--model` names: a folder, a server's URL with a model, a run, or a repository of the hub, in this order.

    Raises:
        SpecError: none of them, with what was looked for.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return Checkpoint(folder, folder.resolve().name, content_of(folder), dtype, batch_size)
    if model.startswith(("http://", "https://")):
        served = served_at(model, key)
        return Endpoint(served, served.model.rpartition("/")[2], connect)
    if "/" in model and not folder.exists():
        return _from_hub(model, dtype, batch_size)
    if folder.is_dir() and not (folder / "spec.json").is_file():
        raise SpecError(f"{folder} holds neither a model (config.json) nor a run (spec.json)", where=f"--model {model}")
    store, spec = finished_run(model, mark)
    name = f"{spec.method}-s{spec.seed}" + (f"-{mark.replace('/', '-')}" if mark != "1" else "")
    identity = {"run": spec.identity, "mark": mark}
    threads = spec.track.training.threads
    return Checkpoint(store.checkpoint(mark), name, identity, dtype, batch_size, threads, run=store, mark=mark)


def content_of(folder: Path) -> dict[str, Any]:
    """Names a folder's model by the content of what makes it answer as it does."""
    kinds = (".safetensors", ".json", ".jinja", ".model", ".txt")
    files = [path for path in sorted(folder.iterdir()) if path.suffix in kinds and path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        raise CapabilityError(f"{folder} has no .safetensors weights", where=f"--model {folder}",
                              fix="save the model with save_pretrained (safetensors)")  # fmt: skip
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return {"weights": total.hexdigest()}


def _from_hub(repo: str, dtype: str, batch_size: int) -> Checkpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name, _, revision = repo.partition("@")
    try:
        kinds = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=kinds))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise SpecError(
            f"no folder, no run and no reachable repository {repo!r}: {str(error).strip().splitlines()[0]}",
            where=f"--model {repo}", fix="give a folder with config.json, a run (harness list runs), or REPO@REVISION on the hub",
        ) from error  # fmt: skip
    return Checkpoint(folder, name.rpartition("/")[2], {"hub": name, "commit": folder.name}, dtype, batch_size)


def outputs(path: Path, name: str) -> Outputs:
    """A file of answers.

    Raises:
        SuiteError: there is no such file.
    """
    if not path.is_file():
        raise SuiteError(f"no file {path}", where=f"--outputs {path}", fix="give a file in the suite's own format")
    return Outputs(path, name or path.stem)

"""Tracks: everything that must be equal across methods, as one frozen value that a method cannot reach."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import SpecError, nearest
from harness.ledger import DEFAULT_MARKS, Budget


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalModel(Part):
    """Weights in a Hugging Face folder; `pocket:student` and `pocket:teacher` name the embedded pair of a seed."""

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    dialect: str = Field("en", description="prompt templates that it reads, where a method asks it something")


class Served(Part):
    """A model behind an OpenAI-compatible server; the url `pocket` is the embedded server on loopback."""

    url: str
    model: str
    key: str = Field("OPENAI_API_KEY", description="environment variable that holds the API key")
    revision: str = Field("", description="pins the cache; set by the harness for the embedded server")
    dialect: str = Field("en", description="prompt templates that it reads")
    parameters: float = Field(0.0, ge=0, description="nominal parameter count, for FLOPs")
    usd_in: float = Field(0.0, ge=0, description="dollars for a million prompt tokens")
    usd_out: float = Field(0.0, ge=0, description="dollars for a million output tokens")
    concurrency: int = Field(8, gt=0)
    timeout_s: float = Field(120.0, gt=0)
    retries: int = Field(4, ge=0, description="transport retries")
    parse_retries: int = Field(2, ge=0, description="further attempts when a reply does not parse")


class TeacherModel(Served):
    weights: LocalModel | None = None
    """Local weights of the same teacher, for methods that need its whole distribution."""


class Prompts(Part):
    source: str = Field(description="`pocket`, or a JSONL file of `prompt` or `messages`")
    count: int = Field(gt=0)
    seed: int = 0
    reasoning: float = Field(0.25, ge=0, le=1, description="share of sums and steps in the embedded world")


class Optimizer(Part):
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(5, ge=0)
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    max_grad_norm: float = Field(1.0, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"


class Training(Part):
    micro_batch_tokens: int = Field(16384, gt=0, description="padded tokens of a micro-batch")
    chunk: int = Field(1024, gt=0, description="positions whose distribution over the vocabulary exists at one time")
    max_tokens: int = Field(48, gt=0, description="completion tokens of a rollout")
    threads: int = Field(1, gt=0, description="CPU threads of the run's process; on CPU its last digits depend on it")
    checkpoint_rounds: int = Field(8, gt=0, description="rounds between resumable states")
    drift_nats: float = Field(0.02, gt=0, description="largest mean gap between sampler and trainer log-probs")


class Evaluation(Part):
    seed: int = 0
    temperatures: tuple[float, ...] = Field((0.0, 1.0), description="the first is the headline")
    max_tokens: int = Field(48, gt=0)
    gold: bool = Field(False, description="record the embedded world's own grading beside the scores")


class PocketWorld(Part):
    """The embedded world: which models, how many pairs, and how its servers err."""

    scale: str = "pocket"
    pairs: int = Field(3, gt=0)
    content: str = Field("", description="digest of the shipped models; filled in by the harness")
    critic: dict[str, Any] = Field(default_factory=dict)
    judge: dict[str, Any] = Field(default_factory=dict)
    faults: dict[str, Any] = Field(default_factory=dict)


class Track(Part):
    name: str
    summary: str = ""
    student: LocalModel
    teacher: TeacherModel
    critic: Served
    judge: Served
    solutions: Literal["teacher", "data"] = Field("teacher", description="where SOLUTION comes from")
    success: float = Field(0.7, gt=0, le=1, description="critic's score from which an answer that no program can check succeeds")
    prompts: Prompts
    suites: dict[str, dict[str, Any]]
    optimizer: Optimizer
    training: Training = Field(default_factory=Training)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    budget: dict[str, float]
    marks: tuple[str, ...] = tuple(str(mark) for mark in DEFAULT_MARKS)
    missing_limit: float = Field(0.2, gt=0, le=1, description="a run whose missing rate passes this stops")
    leakage_limit: float = Field(0.05, ge=0, le=1, description="largest share of a suite's items that training texts may hold")
    judge_is_critic: bool = False
    prices: str = Field("", description="where the prices come from, with a date")
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings of methods, by name")
    tuned: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict, description="trials that chose them, by method")
    pocket: PocketWorld | None = None

    @field_validator("budget")
    @classmethod
    def _has_meters(cls, value: dict[str, float]) -> dict[str, float]:
        Budget(value)
        return value

    @property
    def budget_value(self) -> Budget:
        return Budget(dict(self.budget), tuple(Fraction(mark) for mark in self.marks))

    @property
    def digest(self) -> str:
        """Names the conditions of training; only runs with the same digest share a table. Neither the seed nor the suites are
        part of it."""
        from harness.spec import conditions_digest

        return conditions_digest(self.model_dump(mode="json"))


def names() -> list[str]:
    """The tracks that come with the package."""
    folder = resources.files("harness") / "data" / "tracks"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def _read(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in above:
        raise SpecError(f"{name} extends itself", where=f"--track {above[0]}", fix="end the chain at a shipped track")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise SpecError(f"no track file {name}", where=f"--track {name}", fix=f"known tracks: {', '.join(names())}")
        text = path.read_text(encoding="utf-8")
    elif name in names():
        text = (resources.files("harness") / "data" / "tracks" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise SpecError(
            f"no track named {name!r}", where=f"--track {name}", fix=f"{nearest(name, names())}    list them: harness list tracks"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{name} is not YAML: {error}", where=name) from error
    if not isinstance(value, dict):
        raise SpecError(f"{name} must be a mapping, got {type(value).__name__}", where=name)
    base = value.pop("extends", None)
    return merged(_read(base, (*above, name)), value) if base else value


@cache
def _content(scale: str) -> str:
    """Names the embedded world's shipped models of a scale: other models, other conditions."""
    total, root = hashlib.sha256(), Path(str(resources.files("harness"))) / "pocket" / "assets" / scale
    for path in sorted(root.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".jsonl") and path.name != "report.json":
            total.update(path.relative_to(root).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` laid over it, mapping by mapping (a budget is replaced whole)."""
    result = dict(base)
    for key, value in top.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) and key != "budget" else value
    return result


def load(name: str, budget: dict[str, float] | None = None) -> Track:
    """A track by name or from a YAML file (which may say `extends: NAME`), with another budget if one is given.

    Raises:
        SpecError: no such track, an unknown key (with the nearest one), or a value out of range.
    """
    value = _read(name)
    if budget:
        value["budget"] = budget
    if isinstance(value.get("pocket"), dict):
        value["pocket"]["content"] = _content(str(value["pocket"].get("scale", "pocket")))
    try:
        return Track.model_validate(value)
    except ValidationError as error:
        raise SpecError(explain(error, Track), where=f"track {name}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems of a validation, one a line, with the nearest key where one is unknown."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(model, problem["loc"][:-1])
            lines.append(f"unknown key {place!r}; {nearest(str(problem['loc'][-1]), fields)}")
        else:
            lines.append(f"{place}: {problem['msg'].lower()}, got {problem['input']!r}")
    return "\n".join(lines)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        if isinstance(part, int):  # a place in a tuple, whose elements are models
            continue
        info = model.model_fields.get(part)
        inner = info.annotation if info else None
        inner = get_args(inner)[0] if get_origin(inner) is tuple else inner
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)

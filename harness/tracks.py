"""Tracks: everything that must be equal across methods, as one frozen value that a method cannot reach."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from harness.errors import SpecError, nearest
from harness.ledger import DEFAULT_MARKS, Budget


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after tracks were in use: at their default they are left out of the canonical form, so that a track
    that says nothing of them keeps its digest."""

    @model_serializer(mode="wrap")
    def _sparse(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        silent = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in silent}


class Lora(Part):
    """A low-rank adapter that is trained in place of the weights themselves."""

    rank: int = Field(16, gt=0)
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha over rank")
    targets: tuple[str, ...] = Field((), description="last names of the linear layers that get one; all but the output layer")


class LocalModel(Part):
    """Weights in a Hugging Face folder; `pocket:student` and `pocket:teacher` name the embedded pair of a seed."""

    LATER = frozenset({"revision", "remote_code", "attention", "lora", "template", "system"})

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    dialect: str = Field("en", description="prompt templates that it reads, where a method asks it something")
    revision: str = Field("", description="commit, tag or branch of a repository on the hub")
    remote_code: bool = Field(False, description="run the Python code that comes with the model")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    lora: Lora | None = Field(None, description="train an adapter; without it all weights are trained")
    template: dict[str, Any] = Field({}, description="arguments of the chat template, such as enable_thinking: false")
    system: str = Field("", description="system message before every conversation that has none")


class Served(Part):
    """A model behind an OpenAI-compatible server; the url `pocket` is the embedded server on loopback."""

    LATER = frozenset({"rpm", "tpm", "refuses"})

    url: str
    model: str
    key: str = Field("OPENAI_API_KEY", description="environment variable that holds the API key")
    revision: str = Field("", description="pins the cache; set by the harness for the embedded server")
    dialect: str = Field("en", description="prompt templates that it reads")
    parameters: float = Field(0.0, ge=0, description="nominal parameter count, for FLOPs")
    usd_in: float = Field(0.0, ge=0, description="dollars for a million prompt tokens")
    usd_out: float = Field(0.0, ge=0, description="dollars for a million output tokens")
    concurrency: int = Field(8, gt=0)
    rpm: float | None = Field(None, gt=0, description="requests a minute, of all roles that ask this url with this key")
    tpm: float | None = Field(None, gt=0, description="tokens a minute, likewise")
    refuses: tuple[Literal["temperature", "seed", "max_tokens"], ...] = Field((), description="fields that the model refuses")
    timeout_s: float = Field(120.0, gt=0)
    retries: int = Field(4, ge=0, description="transport retries")
    parse_retries: int = Field(2, ge=0, description="further attempts when a reply does not parse")


class TeacherModel(Served):
    """The url `local` stands for `weights` that write and score texts in this process, without a server."""

    weights: LocalModel | None = None
    """Local weights of the same teacher, for methods that need its whole distribution."""

    @field_validator("weights")
    @classmethod
    def _is_frozen(cls, weights: LocalModel | None) -> LocalModel | None:
        if weights is not None and weights.lora is not None:
            raise ValueError("only the student is trained: no lora here")
        return weights

    @model_validator(mode="after")
    def _has_what_it_names(self) -> TeacherModel:
        if self.url == "local" and self.weights is None:
            raise ValueError("a teacher with url local needs weights: {path: ...}")
        return self


class Prompts(Part):
    LATER = frozenset({"content", "replies"})

    source: str = Field(description="`pocket`, a file, a folder that `datasets` saved, or NAME:SPLIT@REVISION on the hub")
    content: str = Field("", description="digest of the source's content, or its commit; filled in by the harness")
    replies: Literal["refused", "solution"] = Field("refused", description="what an assistant's message at the end stands for")
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
    LATER = frozenset({"device", "activation_checkpointing", "sharding"})

    micro_batch_tokens: int = Field(16384, gt=0, description="padded tokens of a micro-batch")
    chunk: int = Field(1024, gt=0, description="positions whose distribution over the vocabulary exists at one time")
    max_tokens: int = Field(48, gt=0, description="completion tokens of a rollout")
    threads: int = Field(1, gt=0, description="CPU threads of the run's process; on CPU its last digits depend on it")
    checkpoint_rounds: int = Field(8, gt=0, description="rounds between resumable states")
    drift_nats: float = Field(0.02, gt=0, description="largest mean gap between sampler and trainer log-probs")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models live; auto is CUDA where there is one")
    activation_checkpointing: bool = Field(False, description="compute layers again for the gradient, in place of keeping them")
    sharding: Literal["none", "full"] = Field("none", description="full cuts weights and optimizer state over a run's processes")


class Generation(Part):
    engine: Literal["auto", "hf", "vllm"] = Field("auto", description="auto is vLLM where it is installed beside a GPU, else hf")
    gpu_memory: float = Field(0.4, gt=0, lt=1, description="vLLM's share of the GPU while the trainer waits")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="of vLLM's copy of the weights")


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


class HeldOut(Part):
    """A user's own prompts as the items of a suite, with reference answers that are written once where the source has none."""

    source: str = Field(description="as of training prompts; `output`, `reference` or `solution` is the reference answer")
    content: str = Field("", description="digest of the source's content; filled in by the harness")
    suite: str = Field("alpaca", description="the suite whose `items` they become")


class Track(Part):
    LATER = frozenset({"held_out", "max_usd", "generation"})

    name: str
    summary: str = ""
    student: LocalModel
    teacher: TeacherModel | None = None
    critic: Served | None = None
    judge: Served | None = None
    solutions: Literal["teacher", "data"] = Field("teacher", description="where SOLUTION comes from")
    success: float = Field(0.7, gt=0, le=1, description="critic's score from which an answer that no program can check succeeds")
    prompts: Prompts
    suites: dict[str, dict[str, Any]]
    held_out: HeldOut | None = None
    optimizer: Optimizer
    training: Training = Field(default_factory=Training)
    generation: Generation = Generation()
    evaluation: Evaluation = Field(default_factory=Evaluation)
    budget: dict[str, float]
    marks: tuple[str, ...] = tuple(str(mark) for mark in DEFAULT_MARKS)
    missing_limit: float = Field(0.2, gt=0, le=1, description="a run whose missing rate passes this stops")
    leakage_limit: float = Field(0.05, ge=0, le=1, description="largest share of a suite's items that training texts may hold")
    judge_is_critic: bool = False
    prices: str = Field("", description="where the prices come from, with a date")
    max_usd: float | None = Field(None, gt=0, description="ceiling on the real money of each run, its evaluation included")
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings of methods, by name")
    tuned: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict, description="trials that chose them, by method")
    pocket: PocketWorld | None = None

    @field_validator("student")
    @classmethod
    def _can_be_trained(cls, student: LocalModel) -> LocalModel:
        if student.dtype == "bfloat16" and student.lora is None:
            raise ValueError(
                "trained weights in bfloat16 lose small updates; leave float32 (a GPU computes in bfloat16 all the same), or "
                "train an adapter (lora)"
            )
        return student

    @field_validator("budget")
    @classmethod
    def _has_meters(cls, value: dict[str, float]) -> dict[str, float]:
        Budget(value)
        return value

    @property
    def served(self) -> list[tuple[str, Served]]:
        """The roles that somebody is named for, with who it is."""
        roles = {"teacher": self.teacher, "critic": self.critic, "judge": self.judge}
        return [(role, model) for role, model in roles.items() if model is not None]

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
def content_of(scale: str) -> str:
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


def load(name: str, budget: dict[str, float] | None = None, over: Mapping[str, Any] | None = None) -> Track:
    """A track by name or from a YAML file (which may say `extends: NAME`), with another budget if one is given.

    Args:
        over: values that are laid over the track's, mapping by mapping.

    Raises:
        SpecError: no such track, an unknown key (with the nearest one), or a value out of range.
    """
    value = merged(_read(name), dict(over or {}))
    if budget:
        value["budget"] = budget
    if isinstance(value.get("pocket"), dict):
        value["pocket"]["content"] = content_of(str(value["pocket"].get("scale", "pocket")))
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

"""What papers claim, as data: `data/claims.yaml`, checked.

A claim is `mechanism` (runs can test it), `planted` (how the embedded world is built decides it: no verdict, ever) or
`needs_scale` (the embedded world cannot tell). `docs/claims.md` says what each key means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from harness import registry
from harness.errors import SpecError, nearest


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Part):
    """One side of a comparison: a method with the settings that differ from the track's own."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.settings.items())])

    def config(self, track: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of its runs on a track, given as its dump, as `spec.json` has them.

        Raises:
            SpecError: no such method, no such setting, or a value out of range.
        """
        told = {**track.get("overrides", {}).get(self.method, {}), **self.settings}
        try:
            return registry.method(self.method).Config.model_validate(told).model_dump(mode="json")
        except ValidationError as error:
            raise SpecError(f"{self.label} cannot be run: {error}", where=f"track {track['name']}",
                            fix=f"harness show {self.method}") from error  # fmt: skip


class _Claim(_Part):
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=24)
    paper: str = Field(pattern=r"^\d{4}\.\d{5}$", description="arXiv number")
    place: str = Field(min_length=1, description="where the paper says it, or that we did not check where")
    says: str = Field(min_length=1, description="what the paper claims, in our words")


class Mechanism(_Claim):
    """A claim that runs can test."""

    type: Literal["mechanism"]
    methods: tuple[Arm, Arm]
    direction: Literal[">", "<"] = ">"
    suite: str
    quantity: Literal["end", "area", "matched", "gold_gap", "length"]
    meter: str = Field("prompts", description="what is equal for both")
    margin: float = Field(description="on the scale of the quantity; below 0 it is what may be lost")
    share: float = Field(1.0, gt=0, le=1, description="of the second's budget that the first gets; of `matched` alone")
    seeds: int = Field(6, ge=2, description="seeds 0, 1, ... that both need; six are two of each pair of models in pocket")
    alarm: Arm = Field(description="must not do the same against the second, or nothing is shown")

    @model_validator(mode="after")
    def _share_is_of_matched(self) -> Mechanism:
        if (self.quantity == "matched") != (self.share < 1):
            raise ValueError("`share` is below 1 for `matched` and for nothing else")
        return self

    @property
    def along_the_way(self) -> bool:
        """Whether it needs scores between the first and the last mark."""
        return self.quantity in ("area", "matched") or (self.quantity == "end" and self.meter != "prompts")

    @property
    def sign(self) -> int:
        return 1 if self.direction == ">" else -1


class Planted(_Claim):
    """A claim that the construction of the embedded world decides."""

    type: Literal["planted"]
    why: str = Field(min_length=1)


class Runs(_Part):
    """Runs that could test a claim, on a track that comes with the package."""

    track: str
    gpu: str = Field(description="the card on which they are planned")
    methods: tuple[Arm, ...] = Field(min_length=1)
    budget: dict[str, float] = Field(default_factory=dict, description="of each run; the track's if empty")
    seeds: int = Field(3, ge=1)


class Cost(_Part):
    """What `harness plan` computes for all of a claim's runs, evaluation apart."""

    gpu_hours: float
    usd: float | None = Field(description="none where a price is not known")


class NeedsScale(_Claim):
    """A claim that the embedded world cannot test."""

    type: Literal["needs_scale"]
    needs: str = Field(min_length=1, description="the set-up that could, and why the embedded world cannot tell")
    runs: Runs | None = Field(None, description="what would test it; none where no track has its set-up")

    @property
    def cost(self) -> str:
        """What testing it would take, in a sentence."""
        if self.runs is None:
            return "No track that comes with the package has that set-up."
        runs, cost = self.runs, costs()[self.id]
        arms = [f"{runs.seeds} seeds of {arm.label}" for arm in runs.methods]
        budget = "".join(f" with --budget {meter}={amount:g}" for meter, amount in runs.budget.items())
        usd = "dollars not known" if cost.usd is None else f"${cost.usd:,.0f}"
        return (f"Planned: {' and '.join(arms)} on {runs.track}{budget}, {cost.gpu_hours:,.0f} hours of one {runs.gpu}, {usd}, "
                "evaluation apart.")  # fmt: skip


Claim = Mechanism | Planted | NeedsScale
_FILE = TypeAdapter(tuple[Annotated[Claim, Field(discriminator="type")], ...])


def read(text: str, where: str) -> tuple[Claim, ...]:
    """Claims from YAML.

    Raises:
        SpecError: an unknown key, a value that does not fit, or two claims with one id.
    """
    try:
        found = _FILE.validate_python(tuple(yaml.safe_load(text)))
    except ValidationError as error:
        raise SpecError(str(error), where=where) from error
    ids = [claim.id for claim in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise SpecError(f"two claims are called {twice[0]}", where=where, fix="rename one of them")
    return found


@cache
def shipped() -> tuple[Claim, ...]:
    """The claims that come with the package: the declared family."""
    path = resources.files("harness") / "data" / "claims.yaml"
    return read(path.read_text(encoding="utf-8"), str(path))


@cache
def costs() -> dict[str, Cost]:
    """What the runs of claims that need scale would take, by id; `python -m harness.plan.costs` computes it."""
    text = (resources.files("harness") / "data" / "claim_costs.json").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Cost]).validate_json(text)


def chosen(names: Sequence[str], among: Sequence[Claim]) -> list[Claim]:
    """The claims of those ids and papers, in their order; all without names.

    Raises:
        SpecError: a name that is neither.
    """
    known = {claim.id for claim in among} | {claim.paper for claim in among}
    for name in names:
        if name not in known:
            raise SpecError(f"no claim and no paper is called {name!r}", where=name,
                            fix=f"{nearest(name, known)}    list them: harness claims --list")  # fmt: skip
    return [claim for claim in among if not names or {claim.id, claim.paper} & set(names)]

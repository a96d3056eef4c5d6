"""The runs that claims need, as a grid that `harness sweep` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

from harness.report.claims_data import Arm, Mechanism
from harness.spec import canonical

Point = dict[str, Any]
"""A value for each setting that any arm of a method names."""


def needed(claims: Sequence[Mechanism], track: Mapping[str, Any]) -> dict[str, Any]:
    """A grid of exactly the runs of these claims, for a track given as its dump.

    A grid is a product, and arms are not: what no arm has is excluded, by the fewest settings that say so.
    Suites of claims about the whole course are scored at every mark, the others at the first and the last.

    Raises:
        SpecError: an arm whose settings the track does not allow.
        ValueError: no claim.
    """
    arms = [arm for claim in claims for arm in (*claim.methods, claim.alarm)]
    settings: dict[str, dict[str, list[Any]]] = {}
    exclude: list[dict[str, Any]] = []
    for method in dict.fromkeys(arm.method for arm in arms):
        values, wanted = _lists([arm for arm in arms if arm.method == method], track)
        if values:
            settings[method] = values
            exclude += [{"method": method, "settings": each} for each in _exclusions(values, wanted)]
    whole = {claim.suite for claim in claims if claim.along_the_way}
    return {
        "methods": list(dict.fromkeys(arm.method for arm in arms)), "seeds": list(range(max(claim.seeds for claim in claims))),
        "tracks": [track["name"]], "budgets": [dict(track["budget"])], "suites_at_marks": sorted(whole),
        "suites": sorted({claim.suite for claim in claims} - whole), "settings": settings, "exclude": exclude,
    }  # fmt: skip


def _lists(arms: Sequence[Arm], track: Mapping[str, Any]) -> tuple[dict[str, list[Any]], list[Point]]:
    """The values of each setting that an arm names, the track's own first, and the point of each arm."""
    own = Arm(method=arms[0].method).config(track)
    names = sorted({name for arm in arms for name in arm.settings})
    wanted = [{name: arm.config(track)[name] for name in names} for arm in arms]
    values = {name: _distinct([own[name], *(point[name] for point in wanted)], wanted, name) for name in names}
    return values, wanted


def _distinct(values: Sequence[Any], wanted: Sequence[Point], name: str) -> list[Any]:
    used = {canonical(point[name]) for point in wanted}
    return list({canonical(value): value for value in values if canonical(value) in used}.values())


def _exclusions(values: Mapping[str, Sequence[Any]], wanted: Sequence[Point]) -> list[Point]:
    """What fits every point of the product that is not wanted and none that is, of few settings first."""

    def fits(said: Point, point: Point) -> bool:
        return all(point[name] == value for name, value in said.items())

    left = [point for chosen in product(*values.values()) if (point := dict(zip(values, chosen, strict=True))) not in wanted]
    found: list[Point] = []
    for size in range(1, len(values) + 1):
        for names in combinations(values, size):
            for chosen in product(*(values[name] for name in names)):
                said = dict(zip(names, chosen, strict=True))
                if any(fits(said, point) for point in left) and not any(fits(said, point) for point in wanted):
                    found.append(said)
                    left = [point for point in left if not fits(said, point)]
    return found

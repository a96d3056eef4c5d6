"""Labels of runs: a method's name with the settings that tell its runs apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.spec import canonical

if TYPE_CHECKING:
    from harness.report.run import Run


def labelled(runs: Sequence[Run]) -> list[Run]:
    """The runs with labels that tell the settings of a method apart; a control whose signal was shuffled says so last."""
    settings: list[dict[str, Any]] = []
    told: dict[tuple[str, str], dict[str, int]] = {}  # how many runs of a method have each value of a setting
    for run in runs:
        settings.append({key: value for key, value in flat(run.spec["config"]).items() if not (run.shuffled and key == "signal")})
        for key, value in settings[-1].items():
            counts = told.setdefault((run.method, key), {})
            counts[canonical(value)] = counts.get(canonical(value), 0) + 1
    sizes = Counter(run.method for run in runs)
    controls = Counter(run.method for run in runs if run.shuffled)
    result = []
    for run, mine in zip(runs, settings, strict=True):
        words = [run.method]
        for key in sorted(mine):
            having = sizes[run.method] - (controls[run.method] if key == "signal" else 0)
            if told[run.method, key].get(canonical(mine[key])) != having:
                words.append(f"{key}={mine[key] if isinstance(mine[key], str) else canonical(mine[key])}")
        result.append(replace(run, label=" ".join([*words, "shuffled"] if run.shuffled else words)))
    return result


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots in the keys."""
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return result

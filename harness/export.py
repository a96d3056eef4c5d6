"""A run's model for others: its folder with a model card, written from what the run keeps and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from harness.display import headline, span
from harness.errors import SpecError
from harness.evaluate import scores_path, stored
from harness.store import RunStore, write_atomically
from harness.tracks import LocalModel, Track

CARD = "README.md"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""What a repository of the hub looks like."""


def write_card(store: RunStore, folder: Path, mark: str) -> None:
    """Puts the card of a mark's model into its folder."""
    write_atomically(folder / CARD, card(store, mark))


def export(store: RunStore, mark: str, out: Path) -> None:
    """Copies a mark's model to a new folder, with a card that has every suite it is scored on by now.

    Raises:
        SpecError: there is something at that place already, or the run does not keep the weights.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} is not empty", where=f"--out {out}", fix="name a folder that does not exist yet")
    source = store.checkpoint(mark)
    if not source.is_dir():
        raise SpecError(f"{store.folder.name} no longer has the weights of mark {mark}", where=str(source),
                        fix="choose another --mark, or repeat the run")  # fmt: skip
    shutil.copytree(source, out, dirs_exist_ok=True)
    write_card(store, out, mark)


def card(store: RunStore, mark: str) -> str:
    """The model card: metadata with the results in the hub's form, then what was done, the scores and their limits.

    It holds no time and no place, so that equal runs have equal cards; and no license, which is the publisher's to choose.
    """
    from huggingface_hub import EvalResult, ModelCardData

    spec, track = store.spec, store.spec.track
    scores = _scores(store, mark)
    name = f"{track.name}-{spec.method}-s{spec.seed}"
    results = [
        EvalResult(
            task_type="text-generation", dataset_type=suite, dataset_name=f"{suite} v{found['version']}",
            dataset_revision=found["data"], metric_type=found["metric"], metric_name=f"{found['metric']} ({found['headline']})",
            metric_value=_rounded(headline(found)["value"]), metric_args=_args(found),
        )
        for suite, found in scores.items() if headline(found)["value"] is not None
    ]  # fmt: skip
    revision: dict[str, Any] = {"base_model_revision": track.student.revision} if track.student.revision else {}
    data = ModelCardData(
        base_model=_base(track.student), library_name="transformers", pipeline_tag="text-generation", model_name=name,
        tags=["distillation", spec.method, *(["lora"] if track.student.lora else [])], eval_results=results or None, **revision,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n{_body(store, mark, name, scores)}"


def _scores(store: RunStore, mark: str) -> dict[str, dict[str, Any]]:
    folders = sorted((store.folder / "suites").glob("*/marks"))
    names = {str(_read_name(folder)) for folder in folders}
    return {name: stored(store, name, mark) for name in sorted(names) if scores_path(store, name, mark).exists()}


def _read_name(folder: Path) -> str:
    first = next(iter(sorted(folder.glob("*.json"))))
    return str(json.loads(first.read_text(encoding="utf-8"))["suite"])


def _args(found: dict[str, Any]) -> dict[str, Any]:
    metric, interval = headline(found), span(found)
    return {
        **({"ci_95": [_rounded(end) for end in interval]} if interval else {}),
        "items": metric["n"], "missing": metric["missing"], "scale": list(found["scale"]),
        **({"judge": found["judge"]} if found["judge"] else {}),
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _base(student: LocalModel) -> str:
    """A repository as it is named on the hub; of anything else the last part, since a place here says nothing elsewhere."""
    if REPOSITORY.fullmatch(student.path) and not Path(student.path).exists():
        return student.path
    return Path(student.path).name


def _body(store: RunStore, mark: str, name: str, scores: dict[str, dict[str, Any]]) -> str:
    spec, track = store.spec, store.spec.track
    row = next(row for row in store.lines("marks") if row["mark"] == mark)
    used = ", ".join(f"{meter} {amount:,g}" for meter, amount in sorted(row["meters"].items()) if amount)
    changed = ", ".join(f"{key}={value}" for key, value in sorted(spec.config.items()))
    student = track.student
    how = f"an adapter of rank {student.lora.rank}, merged into the weights" if student.lora else "all weights"
    lines = [
        f"# {name}", "",
        f"`{_base(student)}` trained by the method `{spec.method}` of the distillation harness: {how}, at mark {mark} of its "
        "budget.", "",
        "## Training", "",
        f"- track `{track.name}`, digest `{track.digest[:16]}`, seed {spec.seed}, run `{spec.identity[:16]}`",
        *([f"- teacher `{track.teacher.model}`"] if track.teacher else []),
        *([f"- critic `{track.critic.model}`"] if track.critic else []),
        f"- used: {used or 'nothing (the untouched student)'}",
        f"- settings: {changed}", "",
        "## Scores", "",
        *_table(scores), "",
        *_limits(track, scores), "",
        "## Use", "",
        "The folder loads with `AutoModelForCausalLM.from_pretrained` and with vLLM; text goes through its chat template.",
        *([f"The template was called with {student.template}."] if student.template else []),
        *(["Every conversation began with this system message:", "", f"> {student.system}"] if student.system else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(scores: dict[str, dict[str, Any]]) -> list[str]:
    if not scores:
        return ["This mark was not scored."]
    rows = ["| suite | metric | decoding | score | 95 % interval | over the untouched student | items | missing | judge |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for suite, found in scores.items():
        metric, interval, change = headline(found), span(found), found.get("change") or {}
        cells = (
            f"{suite} v{found['version']}", found["metric"], found["headline"],
            "-" if metric["value"] is None else f"{metric['value']:.3f}",
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-",
            "-" if change.get("value") is None else f"{change['value']:+.3f} +/-{1.96 * (change['stderr'] or 0):.3f}",
            metric["n"], metric["missing"], found["judge"] or "-",
        )  # fmt: skip
        rows.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return rows


def _limits(track: Track, scores: dict[str, dict[str, Any]]) -> list[str]:
    """What the scores cannot say."""
    told = ["Intervals are over the items of one run: they say nothing of other seeds."] if scores else []
    if any(found["judge"] for found in scores.values()):
        told.append("A model judged; scores of other judges, items or protocols do not compare.")
    if track.pocket is not None:
        told.append("The embedded world is a diagnostic: its scores never stand beside those of real models.")
    return told

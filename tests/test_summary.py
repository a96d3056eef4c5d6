"""Summaries of runs: what they hold, that reports of them are the same to the byte, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import ITEMS, MARKS, Lab, write

from harness.errors import SpecError, StoreError
from harness.report import curves, files, overview, proxy, runs, summary
from harness.report.run import GRID, from_grid, to_grid
from harness.report.runs import Run
from harness.spec import canonical


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "runs")


def complete(path: Path, seed: int = 0) -> Path:
    """Adds to a run folder of the lab what it lacks: environment, origins, ledger and steps."""
    write(path / "environment.json", {
        "schema": "harness.environment/1", "harness": "1.2.3", "source": "5" * 64, "commit": "c" * 40, "dirty": False,
        "started": f"2026-01-0{seed + 1}T00:00:00Z", "python": "3.11.7", "packages": {"numpy": "2.0"},
    })  # fmt: skip
    write(path / "spec.yaml", "origins: {rubric: --set}\n")
    write(path / "ledger.jsonl", canonical({"evaluation": {"judge_calls": 7 + seed, "usd": 0}}) + "\n")
    rows = [{"round": n, "metrics": {"training_reward": n / 64, "lr": 0.1}} for n in range(1, 65)]
    write(path / "steps.jsonl", "".join(canonical(row) + "\n" for row in rows))
    return path


def several(lab: Lab) -> list[Run]:
    for seed in range(2):
        for method in ("ropd", "sft"):
            complete(lab.run(method, seed, missing=3 * (method == "sft")), seed)
    return runs.select([], lab.root)


def summarised(found: list[Run], root: Path) -> Path:
    (folder,) = {summary.write(run, root).parent for run in found}
    return folder


def test_a_summary_holds_what_reports_read(lab: Lab, tmp_path: Path) -> None:
    run = runs.read(complete(lab.run("sft", 1, missing=3)))
    file = summary.write(run, tmp_path / "out")
    assert file == tmp_path / "out" / f"pocket-{run.digest[:8]}" / f"{run.name}.run.json"
    back = runs.read(file.with_name(run.name))
    assert (back.name, back.identity, back.digest, back.label, back.finished) == (run.name, run.identity, run.digest, "sft", True)
    assert (back.spec, back.environment, back.origins) == (run.spec, run.environment, run.origins)
    assert back.origins == {"rubric": "--set"}
    assert back.evaluation == {"judge_calls": 7}
    assert [mark.name for mark in back.scored("alpaca")] == list(MARKS)
    for mine, theirs in zip(back.marks, run.marks, strict=True):
        assert {meter: mine.meters[meter] for meter in theirs.meters} == theirs.meters
        assert not any(amount for meter, amount in mine.meters.items() if meter not in theirs.meters)
    for mark, told in run.scores["alpaca"].items():
        kept = back.scores["alpaca"][mark]
        assert {key: kept[key] for key in ("version", "data", "metric", "scale", "n", "judge", "mark", "headline")} == {
            key: told[key] for key in ("version", "data", "metric", "scale", "n", "judge", "mark", "headline")
        }
        assert kept["greedy"]["win_rate"] == told["greedy"]["win_rate"]
        assert kept["greedy"]["gold"] == {"value": told["greedy"]["gold"]["value"]}
        assert kept["greedy"]["tokens"] == 9.0
        assert ("t1" in kept) == ("t1" in told) == (mark != "teacher")
        if "t1" in told:
            assert kept["t1"] == {"win_rate": {"value": told["t1"]["win_rate"]["value"]}}
        exact = json.loads((run.path / "suites/alpaca/items" / f"{mark.replace('/', '-')}.greedy.json").read_text())
        scores = back.items("alpaca", mark)
        assert scores == run.items("alpaca", mark)
        assert set(scores) == set(exact)
        assert max(abs(scores[item] - exact[item]) for item in exact) <= 0.5 / GRID + 1e-12
        assert kept["greedy"]["win_rate"]["value"] == pytest.approx(np.mean(list(scores.values())), abs=0.5 / GRID)
    assert len(back.items("alpaca", "1")) == len(ITEMS) - 3


def test_signals_are_means_since_the_mark_before(lab: Lab, tmp_path: Path) -> None:
    run = runs.read(complete(lab.run()))
    # marks lie at rounds 0, 4, 8, 16, 32 and 64; the reward of round n is n / 64
    means = {"1/16": 2.5, "1/8": 6.5, "1/4": 12.5, "1/2": 24.5, "1": 48.5}
    assert run.signals == {"training_reward": pytest.approx({mark: mean / 64 for mark, mean in means.items()})}
    assert proxy.proxies([run]) == ["judge", "training_reward"]
    assert runs.read(summary.write(run, tmp_path).with_name(run.name)).signals == run.signals


def test_reports_of_summaries_are_the_same_to_the_byte(lab: Lab, tmp_path: Path) -> None:
    found = several(lab)
    back = runs.select([str(summarised(found, tmp_path / "out"))], tmp_path / "nowhere")
    assert [run.identity for run in back] == [run.identity for run in found]
    assert not any(run.path.exists() for run in back)
    texts = [files.write(overview.overview(each), tmp_path / name, "x") for each, name in ((found, "a"), (back, "b"))]
    assert len(texts[0]) == 6
    for one, other in zip(*texts, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert curves.svg(found, "alpaca") == curves.svg(back, "alpaca")
    assert curves.words(found, "alpaca").finding == curves.words(back, "alpaca").finding


def test_the_same_run_gives_the_same_bytes_and_so_does_its_summary(lab: Lab, tmp_path: Path) -> None:
    found = several(lab)
    folder = summarised(found, tmp_path / "a")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = summarised(runs.select([str(folder)], lab.root), tmp_path / "b")
    assert {path.name: path.read_bytes() for path in summarised(found, tmp_path / "c").iterdir()} == first
    assert {path.name: path.read_bytes() for path in again.iterdir()} == first
    kinds = sorted(name.rsplit("-", 1)[0] for name in first if not name.endswith(".run.json"))
    assert kinds == ["environment", "items-alpaca", "references-alpaca", "track"]
    assert len(first) == 4 + len(found)


def test_a_summary_is_small(lab: Lab, tmp_path: Path) -> None:
    """Six marks of 320 items whose scores differ at every mark, which is the worst for packing: 16 bits a score at most."""
    run = runs.read(complete(lab.run()))
    file = summary.write(run, tmp_path)
    told = json.loads(file.read_text())
    packed = told["suites"]["alpaca"]["items"]
    assert packed["type"] == "<u2"
    assert len(packed["data"]) <= 5 * 320 * 2 * 5 / 4 + 100
    assert file.stat().st_size < len(packed["data"]) + 3_000


def test_all_ways_to_name_summaries(lab: Lab, tmp_path: Path) -> None:
    found = several(lab)
    folder = summarised(found, tmp_path / "out")
    first = found[0]
    complete(lab.run("seqkd"))

    def names(root: Path, *given: str) -> set[str]:
        return {run.name for run in runs.select(given, root)}

    every = {run.name for run in found}
    for root in (folder, folder.parent):
        assert names(root) == names(root, "pocket") == names(root, f"pocket@{first.digest[:6]}") == every
        assert names(root, first.name) == names(root, first.identity[:8]) == {first.name}
    assert names(folder.parent, folder.name) == every
    assert names(lab.root, str(folder)) == names(lab.root, str(folder.parent)) == every
    assert names(lab.root, str(folder / f"{first.name}.run.json"), str(folder / first.name)) == {first.name}
    assert len(names(lab.root, str(folder), "pocket")) == 5
    with pytest.raises(SpecError, match="no run 'nothing'"):
        names(folder, "nothing")


def test_conditions_have_folders_of_their_own(lab: Lab, tmp_path: Path) -> None:
    one, other = runs.read(lab.run(budget=1024)), runs.read(lab.run(budget=64))
    written = [summary.write(run, tmp_path / "out") for run in (one, other)]
    assert [path.parent.name for path in written] == [f"pocket-{run.digest[:8]}" for run in (one, other)]
    with pytest.raises(runs.Incomparable):
        runs.select([], tmp_path / "out")
    assert [run.identity for run in runs.select([one.conditions], tmp_path / "out")] == [one.identity]


def test_refuses_a_run_that_has_not_finished(lab: Lab, tmp_path: Path) -> None:
    run = runs.read(lab.run(finished=False, marks=3))
    with pytest.raises(StoreError, match="has not finished"):
        summary.write(run, tmp_path)
    assert list(tmp_path.glob("pocket*")) == []


def _edited(file: Path, **changes: Any) -> None:
    write(file, canonical({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda file: file.write_text(file.read_text()[:900]), "cannot be read"),
    (lambda file: _edited(file, seed=7), "its settings are not those of its identity"),
    (lambda file: _edited(file, schema="harness.summary/9"), "'harness.summary/1' can be read"),
    (lambda file: _edited(file, marks=None), "cannot be read"),
    (lambda file: next(file.parent.glob("items-*")).unlink(), "items-alpaca"),
    (lambda file: next(file.parent.glob("items-*")).write_text('["a"]'), "does not hold what its name says"),
    (lambda file: next(file.parent.glob("track-*")).write_text("{}"), "does not hold what its name says"),
    (lambda file: _edited(file, suites={"alpaca": {"marks": []}}), "no 'head'|no 'ids'"),
])  # fmt: skip
def test_a_damaged_summary_is_named(lab: Lab, tmp_path: Path, damage: Any, message: str) -> None:
    run = runs.read(complete(lab.run()))
    file = summary.write(run, tmp_path / "out")
    damage(file)
    with pytest.raises(StoreError, match=message) as caught:
        runs.read(file.with_name(run.name))
    assert caught.value.where == str(file)
    assert "harness summarize" in caught.value.fix


def test_scores_beyond_the_scale_and_other_scales_are_kept(lab: Lab, tmp_path: Path) -> None:
    """Scores with weights can lie beyond the scale; ratings lie on another one."""
    path = complete(lab.run(marks=2, stop=1.0))
    drawn = {"a": -1.5, "b": 10.0, "c": 1.00004, "d": 31.4}
    for mark in ("0", "1-16", "teacher"):
        file = path / "suites" / "alpaca" / "marks" / f"{mark}.json"
        _edited(file, scale=[1, 10])
        write(path / "suites" / "alpaca" / "items" / f"{mark}.greedy.json", drawn)
    run = runs.read(path)
    back = runs.read(summary.write(run, tmp_path / "out").with_name(run.name))
    assert back.items("alpaca", "1/16") == run.items("alpaca", "1/16") == pytest.approx(
        {"a": 1 - 2778 * 9e-4, "b": 10.0, "c": 1.0, "d": 1 + 33778 * 9e-4}, abs=1e-12
    )  # fmt: skip
    assert to_grid(5.5, (1.0, 10.0)) == 5000
    assert from_grid(5000, (1.0, 10.0)) == 5.5
    assert to_grid(-0.25, (0.0, 1.0)) == -2500

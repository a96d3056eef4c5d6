"""Tuning: equal trials for all methods, on items that nothing reports, and what the logs and the tuned track say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import suites
from harness import registry, spec, tracks, tune
from harness.assemble import assemble
from harness.commands import tune as tune_command
from harness.display import headline
from harness.errors import RunFault, SpecError
from harness.evaluate import scores_path
from harness.materials import the_suites
from harness.pocket.tasks import parse, split_of
from harness.report import stats
from harness.store import RunStore, write_atomically
from harness.sweep.grid import Job, job
from harness.sweep.local import Outcome

DATA = Path(suites.__path__[0]) / "data" / "pocket"
SPACE = tune.shipped()
METHODS = sorted(registry.modules("methods"))


def test_settings_are_chosen_on_items_of_the_tuning_split(tmp_path: Path) -> None:
    """What the derived track's suite asks is in the split "tune" by content, and nothing that the track reports is."""
    path = tune.tuning_track("pocket", None, tmp_path)
    items = the_suites(tracks.load(str(path)), ["alpaca"])["alpaca"].items()
    assert len(items) == 320
    assert {split_of(parse(item.question)) for item in items} == {"tune"}
    asked = {item.question for item in items}
    for name, suite in the_suites(tracks.load("pocket"), list(tracks.load("pocket").suites)).items():
        assert not asked & {item.question for item in suite.items()}, name


def test_tuning_items_that_are_reported_are_refused(tmp_path: Path) -> None:
    rows = json.loads((DATA / "tune" / "alpaca.json").read_text())
    reported = json.loads((DATA / "alpaca.json").read_text())
    path = tmp_path / "items.json"
    path.write_text(json.dumps([*rows[:5], *reported[:2]]))
    with pytest.raises(SpecError, match="2 of 7 tuning items are asked by the suite 'alpaca' too"):
        tune.tuning_track("pocket", str(path), tmp_path)
    path.write_text(json.dumps(rows[:5]))
    derived = tracks.load(str(tune.tuning_track("pocket", str(path), tmp_path)))
    assert derived.suites["alpaca"] == {"items": str(path), "both_orders": True}
    assert (derived.name, derived.marks, derived.evaluation.temperatures) == ("pocket-tune", ("0", "1"), (0.0,))


def test_a_track_without_a_world_needs_items(tmp_path: Path) -> None:
    path = tmp_path / "real.yaml"
    path.write_text("extends: pocket\nname: real\npocket: null\n")
    with pytest.raises(SpecError, match="track real has no tuning items") as caught:
        tune.tuning_track(str(path), None, tmp_path)
    assert "--items FILE" in caught.value.fix


@pytest.mark.parametrize("method", METHODS)
def test_every_trial_of_every_method_can_be_run(method: str) -> None:
    settings = tune.trials(method, tracks.load("pocket"), 9, SPACE)
    assert len(settings) == 9
    assert settings[0] == {}
    assert len({spec.canonical(each) for each in settings}) == 9
    jobs = tune.trial_jobs(method, settings, "pocket", {"prompts": 64.0}, 1)
    assert {each.point.seed for each in jobs} == {9000}
    for each, given in zip(jobs, settings, strict=True):
        assert {name: each.spec.config[name] for name in given} == given
        assert (each.suites, each.at_ends) == ((), ("alpaca",))


def test_all_methods_have_the_same_shared_draws() -> None:
    shared = ("learning_rate", "updates_per_batch", "prompts_per_round")
    track = tracks.load("pocket")
    drawn = {method: tune.trials(method, track, 17, SPACE)[1:] for method in METHODS}
    columns = {method: [[trial[name] for name in shared] for trial in drawn[method]] for method in METHODS}
    assert all(rows == columns["ropd"] for rows in columns.values())
    assert {"group_size" in trial for trial in drawn["sft"]} == {False}
    for trial in drawn["ropd"]:
        assert trial["prompts_per_round"] * trial["group_size"] == 128
        assert 0.2 * 5e-4 <= trial["learning_rate"] <= 5 * 5e-4
    rates = sorted(trial["learning_rate"] for trial in drawn["ropd"])
    octiles = [0.2 * 5e-4 * 25 ** (n / 8) for n in range(9)]
    counts = [sum(low <= rate < high for rate in rates) for low, high in pairwise(octiles)]
    assert counts == [2] * 8, "a Halton column in base 2 has sixteen points evenly in eight cells"
    assert tune.trials("ropd", track, 9, SPACE) == tune.trials("ropd", track, 17, SPACE)[:9]
    with pytest.raises(SpecError, match="at least two trials, got 1"):
        tune.trials("ropd", track, 1, SPACE)


def test_a_log_uniform_draw() -> None:
    span = tune.Range(low=0.01, high=1.0)
    assert [span.at(share) for share in (0.0, 0.25, 0.5)] == [0.01, 0.0316, 0.1]


def test_a_method_has_two_dimensions_of_its_own_at_most() -> None:
    assert max(len(own) for own in SPACE.methods.values()) == 2
    assert set(SPACE.methods) <= set(METHODS)
    said = SPACE.model_dump()
    said["methods"]["ropd"] = {name: [1] for name in "abc"}
    with pytest.raises(ValidationError, match="ropd has 3 dimensions of its own; a method may have 2"):
        tune.Space.model_validate(said)
    with pytest.raises(ValidationError, match="low must be below high"):
        tune.Range(low=1.0, high=1.0)


def trial(*scores: dict[str, float], settings: dict[str, Any] | None = None, failed: str = "") -> tune.Trial:
    return tune.Trial(settings or {}, ("run",), scores, failed)


def test_the_best_trial_by_hand() -> None:
    default = trial({"a": 0.2, "b": 0.4}, {"a": 0.4, "b": 0.6, "c": 1.0})
    better = trial({"a": 0.6, "b": 0.5}, {"a": 0.5, "b": 0.8}, settings={"passes": 2})
    assert default.score == pytest.approx((0.3 + 2 / 3) / 2)
    assert better.score == pytest.approx(0.6)
    assert tune.best([default, better, better]) == 1, "the earlier of equals"
    assert tune.best([default, trial(failed="nan")]) == 0
    assert tune.best([trial(failed="nan")]) is None
    told = tune.verdict([default, better])
    assert (told["chosen"], told["settings"]) == (1, {"passes": 2})
    first_SI, second_SI = [[0.6, 0.5], [0.5, 0.8]], [[0.2, 0.4], [0.4, 0.6]]
    expected = stats.paired(first_SI, second_SI)
    assert told["difference"]["mean"] == pytest.approx(0.2)
    assert (told["difference"]["lo"], told["difference"]["hi"]) == (expected.lo, expected.hi)
    assert told["default"]["mean"] == pytest.approx(0.4), "of the items that both seeds have"
    assert tune.verdict([trial(failed="nan"), better])["difference"] is None
    assert tune.verdict([trial(failed="nan")]) == {"chosen": None}


HEAD = {"method": "ropd", "track": "pocket", "trials": 4, "seeds": [9000], "budget": {"prompts": 8}, "own": {}}


def test_a_tuned_track_takes_what_was_chosen_and_says_how_often_was_tried(tmp_path: Path) -> None:
    tune.write_log(tmp_path / "ropd.jsonl", HEAD, [trial()], {"chosen": 2, "settings": {"group_size": 4, "learning_rate": 0.001}})
    tune.write_log(tmp_path / "sft.jsonl", {**HEAD, "method": "sft", "own": {"x": 1}}, [], {"chosen": 0, "settings": {}})
    path = tune.tuned_track("pocket", tmp_path)
    track = tracks.load(str(path))
    base = tracks.load("pocket")
    assert (track.name, track.tuned) == ("pocket-tuned", {**base.tuned, "ropd": 4, "sft": 4})
    assert track.overrides["ropd"] == {**base.overrides["ropd"], "group_size": 4, "learning_rate": 0.001}
    assert track.overrides["sft"] == base.overrides["sft"]
    before = path.read_bytes()
    tune.write_log(tmp_path / "sft.jsonl", {**HEAD, "method": "sft", "trials": 8}, [], {"chosen": 0, "settings": {}})
    with pytest.raises(SpecError, match=r"sft\.jsonl and ropd\.jsonl were not tuned alike: trials differ"):
        tune.tuned_track("pocket", tmp_path)
    assert path.read_bytes() == before


def test_trials_enter_the_digest_only_where_there_are_some() -> None:
    dump = tracks.load("pocket").model_dump(mode="json")
    old = {key: value for key, value in dump.items() if key != "tuned"}
    assert spec.conditions_digest({**dump, "tuned": {}}) == spec.conditions_digest(old)
    assert spec.conditions_digest({**dump, "tuned": {"ropd": 4}}) != spec.conditions_digest(old)


def test_a_run_with_tuned_settings_is_charged_its_trials(tmp_path: Path) -> None:
    path = tmp_path / "tuned.yaml"
    path.write_text("extends: pocket\nname: t\ntuned: {sft: 16}\nprompts: {count: 16}\n")
    resolved, _ = spec.resolve("sft", str(path))
    with assemble(resolved, [], lambda word: None) as run:
        charged = {meter: amount for meter, amount in run.ledger.training.items() if amount}
    assert charged == {"tuning_trials": 16}


class Scorer:
    """An executor that trains nothing: it writes the scores of a run where the run would."""

    def __init__(self, root: Path, score: Callable[[Job], float], fails: dict[float, str]) -> None:
        self.workers, self.root, self.score, self.fails, self.ran = 1, root, score, fails, 0

    def outcomes(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Iterator[Outcome]:
        for each in jobs:
            error = self.fails.get(each.spec.config["learning_rate"])
            if error:
                yield Outcome(each, "failed", 1.0, error)
                continue
            self.ran += 1
            self._write(each)
            yield Outcome(each, "done", 1.0)

    def _write(self, each: Job) -> None:
        _, origins = spec.resolve(each.point.method)
        store, _ = RunStore.open(each.spec, origins, self.root)
        value = self.score(each)
        for mark in ("0", "1", "teacher"):
            told = {"headline": "greedy", "metric": "m", "greedy": {"m": {"value": value}}}
            write_atomically(scores_path(store, "alpaca", mark), json.dumps(told))
            assert headline(told)["value"] == value
        store.append("marks", {"mark": "0"})
        store.append("marks", {"mark": "1"})
        write_atomically(store.evaluation("alpaca") / "items" / "1.greedy.json", json.dumps({"a": value, "b": value + 0.1}))
        store.finish()

    def stop(self) -> None: ...


def wanted(out: Path, **changes: Any) -> tune_command.Wanted:
    said: dict[str, Any] = {
        "methods": ["sft", "seqkd"], "track": "pocket", "trials": 4, "seeds": 2, "budget": None, "items": None, "out": out,
        "jobs": 1, "finals": 0, "display": "plain", "dry_run": False, "as_json": False, "typed": ["tune", "sft", "seqkd"],
    }  # fmt: skip
    return tune_command.Wanted(**{**said, **changes})


def test_the_command_from_trials_to_a_tuned_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "runs", tmp_path / "tuning"
    settings = tune.trials("sft", tracks.load("pocket"), 4, SPACE)
    rates = [each.get("learning_rate") for each in settings]
    worth = {rates[0]: 0.3, rates[1]: 0.5, rates[2]: 0.4}
    executor = Scorer(root, lambda each: worth[each.point.settings.get("learning_rate")], {rates[3]: "error[H060]: not finite"})
    monkeypatch.setattr(tune_command, "Local", lambda workers: executor)
    tune_command.tune_command(wanted(out))
    assert executor.ran == 2 * 3 * 2
    said = capsys.readouterr()
    assert "sft     0.350    0.550  +0.200" in said.out
    assert "harness sweep -m sft,seqkd --seeds 3 --track" in said.err
    head, *lines, choice = [json.loads(line) for line in (out / "pocket" / "sft.jsonl").read_text().splitlines()]
    assert (head["trials"], head["seeds"], head["budget"]) == (4, [9000, 9001], {"prompts": 128})
    assert [line["settings"] for line in lines] == settings
    assert [line["score"] for line in lines] == [pytest.approx(0.35), pytest.approx(0.55), pytest.approx(0.45), None]
    assert lines[3]["failed"] == "error[H060]: not finite"
    assert choice["chosen"] == 1
    assert choice["difference"]["mean"] == pytest.approx(0.2)
    tuned = tracks.load(str(out / "pocket" / "tuned.yaml"))
    assert tuned.tuned == {**tracks.load("pocket").tuned, "sft": 4, "seqkd": 4}
    assert tuned.overrides["sft"]["learning_rate"] == rates[1]
    files = {path.name: path.read_bytes() for path in (out / "pocket").iterdir()}
    tune_command.tune_command(wanted(out))
    assert executor.ran == 12, "finished trials are not run again"
    assert {path.name: path.read_bytes() for path in (out / "pocket").iterdir()} == files
    assert job(executor_point(tuned), ("alpaca",), ()).spec.config["learning_rate"] == rates[1]


def executor_point(track: tracks.Track) -> Any:
    from harness.sweep.grid import Point

    assert track.name == "pocket-tuned"
    return Point("pocket", None, 0, "sft", track.overrides["sft"])


def test_finals_choose_anew_among_the_best_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best trial of the short budget falls behind the second at the whole one."""
    out = tmp_path / "tuning"
    rates = [each.get("learning_rate") for each in tune.trials("sft", tracks.load("pocket"), 4, SPACE)]
    short, whole = dict(zip(rates, (0.3, 0.5, 0.4, 0.2), strict=True)), {rates[1]: 0.2, rates[2]: 0.6}

    def score(each: Job) -> float:
        worth = whole if each.spec.track.budget["prompts"] == 512 else short
        return worth[each.point.settings.get("learning_rate")]

    executor = Scorer(tmp_path / "runs", score, {})
    monkeypatch.setattr(tune_command, "Local", lambda workers: executor)
    with pytest.raises(SpecError, match=r"no log .*sft\.jsonl"):
        tune_command.tune_command(wanted(out, methods=["sft"], finals=2))
    tune_command.tune_command(wanted(out, methods=["sft"], seeds=1))
    trials = (out / "pocket" / "sft.jsonl").read_text().splitlines()[:-1]
    tune_command.tune_command(wanted(out, methods=["sft"], finals=2, seeds=3))
    assert executor.ran == 4 + 2 * 3
    assert "sft     -        0.650  +0.400" in capsys.readouterr().out
    lines = (out / "pocket" / "sft.jsonl").read_text().splitlines()
    assert lines[:5] == trials
    terms, first, second, choice = (json.loads(line) for line in lines[5:])
    assert terms == {"finals": 2, "final_budget": {"prompts": 512}, "final_seeds": [9000, 9001, 9002]}
    assert [(row["finalist"], row["score"]) for row in (first, second)] == [(1, pytest.approx(0.25)), (2, pytest.approx(0.65))]
    assert (choice["chosen"], choice["next"], choice["settings"]["learning_rate"]) == (2, 1, rates[2])
    assert choice["difference"]["mean"] == pytest.approx(0.4)
    tuned = tracks.load(str(out / "pocket" / "tuned.yaml"))
    assert (tuned.tuned["sft"], tuned.overrides["sft"]["learning_rate"]) == (6, rates[2])
    tune_command.tune_command(wanted(out, methods=["sft"], finals=2, seeds=3))
    assert (out / "pocket" / "sft.jsonl").read_text().splitlines() == lines, "finals replace the finals before"
    path = out / "pocket" / "sft.jsonl"
    path.write_text(path.read_text().replace(json.loads(lines[0])["digest"], "0" * 64))
    with pytest.raises(SpecError, match=r"were made on other conditions .00000000, now "):
        tune_command.tune_command(wanted(out, methods=["sft"], finals=2))


def test_a_failure_that_is_not_the_settings_fault_writes_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = tune.trials("sft", tracks.load("pocket"), 2, SPACE)[1]["learning_rate"]
    executor = Scorer(tmp_path / "runs", lambda each: 0.5, {rate: "error[H050]: no server"})
    monkeypatch.setattr(tune_command, "Local", lambda workers: executor)
    with pytest.raises(RunFault, match="2 of 4 runs failed"):
        tune_command.tune_command(wanted(tmp_path, methods=["sft"], trials=2))
    assert list((tmp_path / "pocket").glob("*.jsonl")) == []
    with pytest.raises(SpecError, match="no method to tune"):
        tune_command.tune_command(wanted(tmp_path, methods=[]))


def test_the_documented_search_space() -> None:
    text = (Path(tune.__file__).parents[1] / "docs" / "sweep.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z][\w' ]+) \| (.+?) \|$", text, flags=re.MULTILINE))
    shared, rate = SPACE.shared, SPACE.shared.learning_rate
    assert rows["learning rate"] == f"{rate.low:g} to {rate.high:g} times the track's, log-uniform"
    assert rows["updates of a batch"] == ", ".join(map(str, shared.updates_per_batch))
    shapes = ", ".join(f"{prompts} x {group}" for prompts, group in shared.shape)
    assert rows["prompts x answers of a round"].startswith(f"{shapes}; ")
    assert yaml.safe_load(f"[{tune_command.SHARE}, {tune.FIRST_SEED}]") == [0.25, 9000]
    assert "a quarter of the track's budget" in text
    assert "seeds from 9000 up" in text

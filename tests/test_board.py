"""Boards: access classes, controls, ties, rank intervals, efficiency, warnings; and the overview of several suites."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import ITEMS, MARKS, Lab, write
from rich.console import Console
from test_report import shown

from harness.errors import SpecError
from harness.report import board, files, overview, runs, table
from harness.report.labels import labelled
from harness.report.notes import Basis
from harness.report.stats import detectable, holm, interval, paired, rank_intervals
from harness.spec import canonical


def twin_of(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "signal": "shuffled"}


def on_suite(path: Path, suite: str) -> None:
    """The run's scores on alpaca once more, as those of another suite."""
    shutil.copytree(path / "suites" / "alpaca", path / "suites" / suite)
    for file in (path / "suites" / suite / "marks").iterdir():
        write(file, {**json.loads(file.read_text()), "suite": suite})


def on_track(path: Path, name: str) -> None:
    """Moves a run to another track."""
    spec = json.loads((path / "spec.json").read_text())
    write(path / "spec.json", canonical({**spec, "track": {**spec["track"], "name": name}}))
    (path.parent.parent / name).mkdir(exist_ok=True)
    path.rename(path.parent.parent / name / path.name)


def on_file(path: Path, mark: str, scores: dict[str, float]) -> None:
    """Other item scores of a run at a mark."""
    write(path / "suites" / "alpaca" / "items" / f"{mark.replace('/', '-')}.greedy.json", scores)


def arrays(found: list[runs.Run], label: str, mark: str = "1") -> np.ndarray:
    return np.array([[run.items("alpaca", mark)[item] for item in ITEMS] for run in found if run.label == label])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[runs.Run]:
    """Three methods and sharpen with four seeds each, two of the methods with a control."""
    lab = Lab(tmp_path_factory.mktemp("runs"))
    own = {"signal": "own", "group_size": 8}
    for seed in range(4):
        lab.run("ropd", seed, end=0.75, config=own)
        lab.run("ropd", seed, end=0.60, config=twin_of(own))
        lab.run("grpo", seed, end=0.70, config=own)
        lab.run("sharpen", seed, config={"temperature": 1})
        lab.run("dpo", seed, end=0.75, config=own)
        lab.run("dpo", seed, end=0.752, config=twin_of(own))
    return runs.select([], lab.root)


def test_twins_are_a_column_and_no_rows(full: list[runs.Run]) -> None:
    made = board.build(full, "alpaca")
    rows = {row.label: row for row in made.rows}
    assert set(rows) == {"ropd", "dpo", "grpo", "sharpen"}
    assert {run.label for run in full} == {*rows, "ropd shuffled", "dpo shuffled"}
    assert rows["ropd"].over_twin == paired(arrays(full, "ropd"), arrays(full, "ropd shuffled"))
    assert rows["ropd"].over_twin.mean > 0.1
    assert rows["grpo"].over_twin is None
    assert [row.label for row in made.references] == ["student", "teacher"]
    assert "no twin with a shuffled signal (--set signal=shuffled): grpo" in made.notes
    assert [note for note in made.notes if note.startswith("not shown")] == [
        "not shown to do better than its twin with a shuffled signal, which shows nothing: dpo"
    ]


def test_a_twin_must_agree_in_all_other_settings(lab: Lab) -> None:
    for seed in range(2):
        lab.run("ropd", seed, config={"signal": "own", "group_size": 8})
        lab.run("ropd", seed, config={"signal": "shuffled", "group_size": 4})
    made = board.build(runs.select([], lab.root), "alpaca")
    assert [(row.label, row.over_twin) for row in made.rows] == [("ropd group_size=8", None)]
    assert [row.label for row in made.references] == ["student", "teacher", "ropd group_size=4 shuffled"]
    alone = [run for run in runs.select([], lab.root) if run.shuffled]
    assert [row.label for row in board.build(labelled(alone), "alpaca").rows] == ["ropd shuffled"]


def test_twins_are_compared_at_equal_budgets(lab: Lab) -> None:
    own = {"signal": "own"}
    lab.run("ropd", config=own), lab.run("ropd", config=twin_of(own), marks=4, finished=False)
    found = runs.select([], lab.root, unfinished=True)
    row = board.build(found, "alpaca").rows[0]
    assert row.mark == "1"
    assert row.over_twin == paired(arrays(found, "ropd", "1/4"), arrays(found, "ropd shuffled", "1/4"))


def test_rows_are_grouped_by_what_methods_see(full: list[runs.Run], lab: Lab) -> None:
    made = board.build(full, "alpaca")
    groups = {access: [row.label for _, row in members] for access, members in made.groups.items()}
    assert list(groups) == ["nothing", "text", "outcomes"]
    assert sorted(groups["text"]) == ["dpo", "ropd"]
    ranks = [rank for members in made.groups.values() for rank, _ in members]
    assert sorted(map(str, ranks)) == sorted(map(str, made.ranks))
    lab.run("unheard_of"), lab.run("ropd")
    assert list(board.build(runs.select([], lab.root), "alpaca").groups) == ["text", "unknown"]


def test_ties_are_adjusted_for_their_number(full: list[runs.Run]) -> None:
    made = board.build(full, "alpaca")
    best, *rest = made.rows
    differences = {row.label: paired(arrays(full, row.label), arrays(full, best.label)) for row in rest}
    adjusted = holm({label: difference.p for label, difference in differences.items()})
    assert {row.label: row.p for row in rest} == adjusted
    assert {row.label: row.to_best for row in rest} == differences
    assert [row.standing for row in made.rows] == ["best", "tied", "", ""]
    assert [differences[row.label].p >= 0.05 for row in rest] == [True, False, False]
    assert [row.p >= 0.05 for row in rest if row.p is not None] == [True, False, False]
    assert made.ranks == [1, 1, 3, 4]


def test_a_difference_that_adjustment_hides_is_no_tie() -> None:
    """Two comparisons: the wider one has a p between .025 and .05 alone, and is neither tied nor shown to be behind."""
    level, near, wide = np.zeros((3, 40)), np.full((3, 40), -0.01), np.full((3, 40), -0.3)
    near += np.array([[-0.3], [0.0], [0.3]])
    wide += np.array([[-0.1], [0.0], [0.1]])
    rows = [board.Row(label, "1", (0, 1, 2), interval(each), {}) for label, each in (("a", level), ("b", near), ("c", wide))]
    made = board._standings(rows, {"b": (near, level, [0, 1, 2]), "c": (wide, level, [0, 1, 2])})
    assert 0.025 < paired(wide, level).p < 0.05
    assert [row.standing for row in made] == ["best", "tied", "unclear"]


def test_rank_intervals_and_the_smallest_effect(full: list[runs.Run], lab: Lab) -> None:
    made = board.build(full, "alpaca")
    labels = [row.label for row in made.rows]
    assert {row.label: row.places for row in made.rows} == rank_intervals({label: arrays(full, label) for label in labels})
    assert made.rows[-1].places == (4, 4)
    effects = [detectable(arrays(full, label), arrays(full, labels[0])) for label in labels[1:]]
    note = next(note for note in made.notes if note.startswith("smallest difference"))
    assert note.endswith(f"power .8: {min(effects):.3f} to {max(effects):.3f}")
    lab.run("sft"), lab.run("ropd", 0), lab.run("ropd", 1)
    assert [row.places for row in board.build(runs.select([], lab.root), "alpaca").rows] == [None, None]


def test_area_and_target_lie_between_student_and_teacher(lab: Lab) -> None:
    path = lab.run("ropd")
    for place, mark in enumerate((*MARKS, "teacher")):
        level = (0.5, 0.5, 0.6, 0.7, 0.8, 0.8, 0.9)[place]
        on_file(path, mark, {"a": level - 0.1, "b": level + 0.1})
    made = board.build([runs.read(path)], "alpaca")
    row = made.rows[0]
    assert made.target == pytest.approx(0.7)
    assert made.axis == "prompts"
    assert row.area is not None
    assert row.area.mean == pytest.approx((0.125 + 0.375 + 0.625 + 0.75) / 4)
    assert row.reached == pytest.approx((256, 256))
    text = shown(made)
    assert ["ropd", "1", "no", "twin", "0.47", "256"] in [line.split() for line in text.splitlines()]
    for mark, level in (("1/4", 0.6), ("1/2", 0.6), ("1", 0.6)):
        on_file(path, mark, {"a": level, "b": level + 0.01})
    made = board.build([runs.read(path)], "alpaca")
    assert made.rows[0].reached == (1024, np.inf)
    assert "> 1,024" in shown(made)
    assert json.loads(table.to_json(made))["rows"][0]["reached"] == [1024, None]


def test_two_marks_have_no_area(lab: Lab) -> None:
    path = lab.run("ropd")
    for mark in MARKS[1:-1]:
        (path / "suites" / "alpaca" / "marks" / f"{mark.replace('/', '-')}.json").unlink()
    row = board.build([runs.read(path)], "alpaca").rows[0]
    assert (row.mark, row.area, row.reached) == ("1", None, None)


def test_bounds_where_items_are_missing(lab: Lab) -> None:
    made = board.build([runs.read(lab.run("ropd", missing=32))], "alpaca")
    row = made.rows[0]
    assert row.bounds == pytest.approx((0.9 * row.score.mean, 0.9 * row.score.mean + 0.1), abs=1e-5)
    assert f"score between {row.bounds[0]:.3f} and {row.bounds[1]:.3f}" in made.notes[0]
    assert [reference.bounds for reference in made.references] == [None, None]
    record = next(csv.DictReader(io.StringIO(table.to_csv(made))))
    assert (float(record["worst_case"]), float(record["best_case"])) == row.bounds


def test_warns_of_unequal_tuning_and_missing_controls(full: list[runs.Run]) -> None:
    assert not any("tuning" in note or "control is missing" in note for note in board.build(full, "alpaca").notes)
    tuned = [
        replace(run, marks=tuple(replace(mark, meters={**mark.meters, "tuning_trials": 12}) for mark in run.marks))
        if run.method == "grpo" else run for run in full if run.method in ("grpo", "ropd")
    ]  # fmt: skip
    notes = board.build(tuned, "alpaca").notes
    assert "warning: unequal tuning, in trials: grpo 12, ropd 0" in notes
    assert "warning: a control is missing: harness run --method sharpen" in notes


def test_settings_that_are_no_defaults_are_told(lab: Lab) -> None:
    path = lab.run("ropd", config={"group_size": 4, "signal": "own", "passes": 1})
    write(path / "spec.yaml", "origins: {group_size: track pocket, signal: default, passes: --set}\n")
    made = board.build([runs.read(path)], "alpaca")
    assert made.rows[0].origins == {"group_size=4": "track pocket", "passes=1": "--set"}
    assert "set by hand: ropd passes=1" in made.notes
    assert any(note.startswith("the track sets") for note in made.notes)


def test_seeds_that_share_models_are_told(full: list[runs.Run]) -> None:
    def noted(pairs: int) -> list[str]:
        track = {**full[0].spec["track"], "pocket": {"pairs": pairs}}
        there = [replace(run, spec={**run.spec, "track": track}) for run in full]
        return [note for note in board.build(there, "alpaca").notes if "share" in note]

    assert noted(3) == ["4 seeds share 3 pairs of models: they are averaged by pair, and intervals are over pairs"]
    assert noted(4) == []


def test_who_wrote_the_references_is_told(full: list[runs.Run]) -> None:
    def noted(**changed: Any) -> list[str]:
        track = {**full[0].spec["track"], **changed}
        there = [replace(run, spec={**run.spec, "track": track}) for run in full]
        return [note for note in board.build(there, "alpaca").notes if "compared with" in note]

    held = {"source": "held.jsonl", "content": "", "suite": "alpaca"}
    told = "answers are compared with those that held.jsonl gives, and where it gives none with those of "
    assert noted(held_out=held, teacher={"model": "big"}) == [f"{told}the teacher big"]
    assert noted(held_out=held) == [f"{told}the untouched student"]
    assert noted(held_out={**held, "suite": "mt_bench"}) == noted() == []


def test_what_a_ranking_rests_on(full: list[runs.Run]) -> None:
    told = Basis.of(full, [4, 3, 5])
    assert (told.tracks, told.suites, told.seeds, told.holds) == (1, 1, 3, False)
    assert told.warning == "1 track, 1 suite and 3 seeds make no ranking: it takes at least 2, 3 and 5"
    assert f"warning: {Basis(1, 1, 4).warning}; # is the order of this table alone" in board.build(full, "alpaca").notes
    assert Basis(2, 3, 5).holds
    assert not any(least.holds for least in (Basis(1, 3, 5), Basis(2, 2, 5), Basis(2, 3, 4)))


def test_formats_say_the_same(full: list[runs.Run]) -> None:
    made = board.build(full, "alpaca")
    rows = list(csv.DictReader(io.StringIO(table.to_csv(made))))
    read = json.loads(table.to_json(made))
    assert [row["method"] for row in rows] == [row["label"] for row in [*read["rows"], *read["references"]]]
    assert [float(row["area"]) for row in rows[:4]] == [row["area"]["mean"] for row in read["rows"]]
    assert [row["rank"] for row in rows] == ["1", "1", "3", "4", "", ""]
    assert read["ranks"] == [1, 1, 3, 4]
    assert read["groups"]["outcomes"] == ["grpo"]
    assert float(rows[0]["over_twin_lo"]) == made.rows[0].over_twin.lo
    lines = table.to_markdown(made).splitlines()
    assert "|  | *sees nothing* |  |  |  |  |  |  |" in lines
    assert len([line for line in lines if line.startswith("| method |")]) == 2
    assert max(map(len, shown(made).splitlines())) <= 80
    assert table.to_csv(made) == table.to_csv(board.build(list(reversed(full)), "alpaca"))


def told(view: overview.Overview) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(overview.render(view))
    return console.export_text()


def test_an_overview_has_a_column_a_suite(lab: Lab) -> None:
    for seed in range(2):
        path = lab.run("ropd", seed, end=0.75)
        on_suite(path, "reasoning")
        lab.run("sft", seed, end=0.65)
    found = runs.select([], lab.root)
    view = overview.overview(found)
    assert view.columns == ["alpaca", "reasoning"]
    assert view.boards == (board.build(found, "alpaca"), board.build(found, "reasoning"))
    assert [row and row.label for row in view.cells("sft")] == ["sft", None]
    assert (view.groups, view.references) == ({"text": ["ropd"], "solutions": ["sft"]}, ["student", "teacher"])
    assert view.ranks == {}
    lines = [line.split() for line in told(view).splitlines()]
    scores = [f"{row.score.mean:.3f}" for row in view.cells("ropd") if row]
    assert ["method", "alpaca", "reasoning"] in lines
    assert ["ropd", f"{scores[0]}*", scores[1]] in lines, "one method alone is not the best of anything"
    assert "warning: 1 track, 2 suites and 2 seeds make no ranking: it takes at least 2, 3 and 5" in view.notes
    assert json.loads(overview.to_json(view))["boards"][1]["suite"] == "reasoning"
    assert f"| ropd | {scores[0]}* | {scores[1]}  |" in overview.to_markdown(view)


def test_enough_tracks_suites_and_seeds_make_a_ranking(lab: Lab) -> None:
    ends = {"pocket-m": {"ropd": 0.65, "sft": 0.75, "sharpen": 0.58}, "pocket": {"ropd": 0.75, "sft": 0.65, "sharpen": 0.58}}
    for track, levels in ends.items():
        for seed in range(5):
            for method, end in levels.items():
                path = lab.run(method, seed, end=end)
                for suite in ("reasoning", "mt_bench"):
                    on_suite(path, suite)
                if track != "pocket":
                    on_track(path, track)
    found = labelled([runs.read(path) for path in lab.root.glob("*/*")])
    view = overview.overview(found)
    assert view.basis == Basis(2, 3, 5)
    assert len(view.boards) == 6
    of_one = ["alpaca", "mt_bench", "reasoning"]
    assert view.columns == [f"{track} {suite}" for track in ("pocket", "pocket-m") for suite in of_one]
    assert view.ranks == {"ropd": 1.5, "sft": 1.5, "sharpen": 3.0}
    assert view.notes[0].startswith("* best")
    assert overview.to_markdown(view).count("| 1.5 |") == 2


def test_varying_scores_lift_nobody(lab: Lab) -> None:
    """Of a method that is now far above the others and now far below nothing is shown, and it is in its place by score."""
    for track in ("pocket-m", "pocket"):
        for seed, wild in enumerate((0.2, 0.9, 0.1, 0.95, 0.25)):
            for method, end in {"ropd": 0.75, "sft": 0.7, "grpo": wild}.items():
                path = lab.run(method, seed, end=end)
                for suite in ("reasoning", "mt_bench"):
                    on_suite(path, suite)
                if track != "pocket":
                    on_track(path, track)
    view = overview.overview(labelled([runs.read(path) for path in lab.root.glob("*/*")]))
    for made in view.boards:
        assert [(row.label, row.standing) for row in made.rows] == [("ropd", "best"), ("sft", ""), ("grpo", "unclear")]
        assert made.ranks == [1, 2, 3]
        assert [row.p >= 0.05 for row in made.rows[1:] if row.p is not None] == [False, True]
        assert any(note.startswith("unclear: not tied, and not shown to be behind") for note in made.notes)
    assert view.ranks == {"ropd": 1.0, "sft": 2.0, "grpo": 3.0}


def test_places_of_long_and_short_boards_are_compared_by_their_share(lab: Lab) -> None:
    ends = {"pocket-m": {"ropd": 0.7, "gkd": 0.5}, "pocket": {"ropd": 0.75, "sft": 0.7, "dpo": 0.65, "grpo": 0.6, "seqkd": 0.55}}
    for track, levels in ends.items():
        for method, end in levels.items():
            path = lab.run(method, end=end)
            if track != "pocket":
                on_track(path, track)
    view = overview.overview(labelled([runs.read(path) for path in lab.root.glob("*/*")]))
    assert view.labels == ("ropd", "sft", "dpo", "gkd", "grpo", "seqkd"), "the second of two is behind the third of five"


def test_writes_the_files_of_a_leaderboard(lab: Lab, tmp_path: Path) -> None:
    for method in ("ropd", "sft"):
        on_suite(lab.run(method), "mt_bench")
    found = runs.select([], lab.root)
    written = files.write(overview.overview(found), tmp_path / "out", "harness report pocket")
    tables = [f"{suite}/table.{suffix}" for suite in ("alpaca", "mt_bench") for suffix in ("md", "csv", "json")]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "overview.md", "overview.json", "table.tex", *tables,
    ]  # fmt: skip
    first = [path.read_bytes() for path in written]
    assert b"harness report pocket" in first[2].splitlines()[0]
    again = files.write(overview.overview(found[::-1]), tmp_path / "again", "harness report pocket")
    assert [path.read_bytes() for path in again] == first


def test_an_overview_of_nothing_is_refused(lab: Lab) -> None:
    path = lab.run()
    shutil.rmtree(path / "suites")
    with pytest.raises(SpecError, match="none of 1 runs is scored on a suite"):
        overview.overview([runs.read(path)])

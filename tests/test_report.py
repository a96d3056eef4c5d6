"""Reports of synthetic runs: what is read, what may stand side by side, tables, curves."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lab import MARKS, Lab, write
from rich.console import Console

from harness.errors import SpecError, StoreError
from harness.report import curves, runs, table
from harness.report.stats import paired


def shown(board: table.Board) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table.render(board))
    return console.export_text()


def test_reads_a_run(lab: Lab) -> None:
    run = runs.read(lab.run(seed=2))
    assert (run.method, run.label, run.seed, run.track) == ("ropd", "ropd", 2, "pocket")
    assert run.finished
    assert run.suites == ["alpaca"]
    assert run.name == f"ropd-s2-{run.identity[:8]}"
    assert run.conditions == f"pocket@{run.digest[:8]}"
    assert [mark.name for mark in run.scored("alpaca")] == list(MARKS)
    assert runs.reading(run.marks[1], "prompts") == 64
    assert runs.reading(run.marks[1], "teacher_tokens") == pytest.approx(50 * 64 * 1.04)
    metric = run.scores["alpaca"]["1/4"]["greedy"]["win_rate"]
    assert sum(run.items("alpaca", "1/4").values()) / 320 == pytest.approx(metric["value"], abs=1e-5)  # items lie on a grid
    with pytest.raises(SpecError, match="no meter named 'promts'") as caught:
        runs.reading(run.marks[1], "promts")
    assert caught.value.fix == "did you mean prompts?"
    with pytest.raises(StoreError, match=r"spec\.json is missing"):
        runs.read(lab.root)


def test_a_teacher_that_was_not_scored_is_left_out(lab: Lab) -> None:
    path = lab.run()
    file = path / "suites" / "alpaca" / "marks" / "teacher.json"
    result = json.loads(file.read_text())
    del result["greedy"]
    write(file, result)
    assert [row.label for row in table.build([runs.read(path)], "alpaca").references] == ["student"]


def test_selects_by_name_hash_path_track_or_everything(lab: Lab) -> None:
    first, second, begun = lab.run(seed=0), lab.run(seed=1), lab.run(seed=2, finished=False, marks=3)
    second.rename(second.with_name(f"{second.name}.old1"))
    second = lab.run(seed=1)

    def names(*given: str, unfinished: bool = False) -> list[str]:
        return [run.name for run in runs.select(given, lab.root, unfinished=unfinished)]

    digest = runs.read(first).digest
    assert names() == names("pocket") == names(f"pocket@{digest[:4]}") == [first.name, second.name]
    assert names(first.name) == names(first.name[-8:-2]) == names(str(first)) == names(str(first), first.name) == [first.name]
    assert names("pocket", second.name) == [first.name, second.name]
    assert names(unfinished=True) == [first.name, second.name, begun.name]
    assert names(begun.name, unfinished=True) == [begun.name]
    assert len(runs.select([], lab.root, digest=digest)) == 2
    assert runs.select([], lab.root, digest="0" * 64) == []
    with pytest.raises(StoreError, match="has not finished"):
        names(begun.name)
    with pytest.raises(SpecError, match="no run 'nothing'"):
        names("nothing")
    with pytest.raises(SpecError, match="no run was made under pocket@zzzz"):
        names("pocket@zzzz")


def test_labels_name_the_settings_that_differ(lab: Lab) -> None:
    for rubric, rate in (("own", 0.1), ("shuffled", 0.1), ("own", 0.2)):
        lab.run(config={"rubric": rubric, "opt": {"lr": rate}})
    lab.run("sft", config={"rubric": "other", "opt": {"lr": 0.3}})
    found = runs.select([], lab.root)
    assert [run.label for run in found] == [
        "ropd opt.lr=0.1 rubric=own", "ropd opt.lr=0.1 rubric=shuffled", "ropd opt.lr=0.2 rubric=own", "sft",
    ]  # fmt: skip


def test_refuses_runs_made_under_different_conditions(lab: Lab) -> None:
    long, short = runs.read(lab.run(budget=1024)), runs.read(lab.run("sft", budget=64))
    with pytest.raises(runs.Incomparable) as caught:
        runs.select([], lab.root)
    error = caught.value
    assert error.exit_code == 4
    assert all(run.conditions in error.message and run.name in error.message for run in (long, short))
    assert "budget.prompts=1024" in error.message
    assert "budget.prompts=64" in error.message
    assert error.fix.startswith("choose one: harness report pocket@")
    assert [run.name for run in runs.select([short.conditions], lab.root)] == [short.name]
    assert [run.name for run in runs.select([], lab.root, digest=long.digest)] == [long.name]
    with pytest.raises(runs.Incomparable):
        table.build([long, short], "alpaca")
    with pytest.raises(runs.Incomparable):
        curves.draw([long, short], "alpaca", "prompts", lab.root / "x")


def test_judges_must_agree_where_the_seed_does(lab: Lab) -> None:
    apart = [runs.read(lab.run(seed=0, judge="judge@1")), runs.read(lab.run(seed=1, judge="judge@2"))]
    assert runs.scored_alike(apart, "alpaca") == apart
    other = runs.read(lab.run("sft", seed=1, judge="judge@3"))
    with pytest.raises(runs.Incomparable, match=r"judge of seed 1:\n  judge@2   ropd-s1-.*\n  judge@3   sft-s1"):
        runs.scored_alike([*apart, other], "alpaca")
    with pytest.raises(SpecError, match="none of 2 runs is scored on 'alpca'") as caught:
        runs.scored_alike(apart, "alpca")
    assert caught.value.fix == "did you mean alpaca?"


def test_scores_changes_and_ranks(three: list[runs.Run]) -> None:
    board = table.build(three, "alpaca")
    assert [row.label for row in board.rows] == ["logit_opd", "ropd", "sft"]
    assert board.ranks == [1, 2, 3]
    best, second, _ = board.rows
    mine = [run for run in three if run.method == "ropd"]
    now_SI = np.array([list(run.items("alpaca", "1").values()) for run in mine])
    start_SI = np.array([list(run.items("alpaca", "0").values()) for run in mine])
    assert second.score.mean == pytest.approx(now_SI.mean())
    assert second.change is not None
    assert second.change == paired(now_SI, start_SI)
    assert second.change.half < second.score.half
    assert second.others["t1"] == pytest.approx(np.mean([run.scores["alpaca"]["1"]["t1"]["win_rate"]["value"] for run in mine]))
    spent = 1024 * 1.02
    assert second.used == pytest.approx({
        "prompts": 1024, "teacher_tokens": 50 * spent, "critic_tokens": 1200 * spent, "flops": 2e9 * spent, "usd": 1e-5 * spent,
    })  # fmt: skip
    assert (best.standing, best.to_best, second.standing) == ("best", None, "")
    assert second.to_best is not None
    assert second.to_best.mean == pytest.approx(second.score.mean - best.score.mean)
    assert second.to_best.hi < 0
    student, teacher = board.references
    assert (student.label, student.score.mean, student.change) == ("student", pytest.approx(start_SI.mean()), None)
    assert teacher.score.mean > best.score.mean


def test_near_methods_are_tied_and_strangers_are_not(lab: Lab) -> None:
    for seed in range(3):
        lab.run("ropd", seed, end=0.75)
        lab.run("sft", seed, end=0.755)
        lab.run("seqkd", seed + 5, end=0.74)
    board = table.build(runs.select([], lab.root), "alpaca")
    rows = {row.label: row for row in board.rows}
    assert sorted(rows[label].standing for label in ("ropd", "sft")) == ["best", "tied"]
    assert (rows["seqkd"].standing, rows["seqkd"].to_best) == ("", None)
    assert sorted(map(str, board.ranks)) == ["1", "1", "3"]
    assert "no common seed" in shown(board)
    assert any(note.startswith("tied: ") for note in board.notes)


def test_the_table_fits_80_columns(three: list[runs.Run]) -> None:
    text = shown(table.build(three, "alpaca"))
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert text.isascii()
    assert lines[0] == f"track {three[0].conditions}  suite alpaca v1  3 seeds x 320 items  1,024 prompts"
    assert lines[1].split() == ["#", "method", "score", "95", "%", "CI", "gold", "T=1", "vs", "mark", "0"]
    board = table.build(three, "alpaca")
    score = board.rows[1].score
    assert [line.split()[-1] for line in lines[2:8:2]] == ["text", "logits", "solutions"]
    assert re.match(rf"2  ropd +{score.mean:.3f}  {score.lo:.3f} to {score.hi:.3f}  ", lines[3])
    assert lines[10].split()[:2] == ["-", "teacher"]
    assert re.search(r"\nropd +1,024 +52,224 +1,253,376  2.09 T +\$0.01", text)
    assert "crossed" in text
    assert "one seed ranks nothing" not in text


def test_one_seed_ranks_nothing(lab: Lab) -> None:
    lab.run("ropd"), lab.run("sft")
    board = table.build(runs.select([], lab.root), "alpaca")
    assert board.ranks == [None, None]
    assert "one seed ranks nothing" in shown(board)
    lab.run("sft", 1)
    notes = table.build(runs.select([], lab.root), "alpaca").notes
    assert "one seed ranks nothing, its interval is over items only: ropd" in notes


def test_warns_of_missing_scores_and_unfinished_runs(lab: Lab) -> None:
    lab.run("ropd", missing=3), lab.run("sft", missing=4, marks=4, finished=False)
    found = runs.select([], lab.root, unfinished=True)
    notes = table.build(found, "alpaca").notes
    metric = found[1].scores["alpaca"]["1/4"]["greedy"]["win_rate"]
    low = metric["value"] * 316 / 320
    told = f"sft at mark 1/4 4 of 320, score between {low:.3f} and {low + 4 / 320:.3f}"
    assert notes[0] == f"warning: items without a score: {told}"
    assert notes[1] == "warning: not finished: sft at mark 1/4"


def test_markdown_and_csv(three: list[runs.Run]) -> None:
    board = table.build(three, "alpaca")
    text = table.to_markdown(board)
    assert text.splitlines()[2] == "| # | method | score | 95 % CI | gold | T=1 | vs mark 0 |  |"
    assert all(line.count("|") == 9 for line in text.splitlines()[2:9])
    rows = list(csv.DictReader(io.StringIO(table.to_csv(board))))
    assert [row["method"] for row in rows] == ["logit_opd", "ropd", "sft", "student", "teacher"]
    assert float(rows[1]["score"]) == board.rows[1].score.mean
    assert (rows[0]["to_best"], rows[4]["prompts"], rows[4]["t1"], rows[0]["standing"]) == ("", "", "", "best")


def test_writes_curve_table_and_data(three: list[runs.Run], tmp_path: Path) -> None:
    paths = curves.write(three, "alpaca", tmp_path / "out")
    drawn = ["curve.png", "curve.svg", "curve-narrow.pdf", "curve-wide.pdf"]
    assert [path.name for path in paths] == [*drawn, "table.md", "data.csv"]
    rows = list(csv.DictReader(paths[5].open()))
    assert len(rows) == 9 * 6
    assert {row["label"] for row in rows} == {"ropd", "logit_opd", "sft"}
    assert [row["prompts"] for row in rows[:6]] == ["0", "64", "128", "256", "512", "1024"]
    assert curves.write(three, "alpaca", tmp_path / "out", "critic_tokens")[1].name == "curve-critic_tokens.svg"


def test_reports_load_no_models(three: list[runs.Run], tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from rich.console import Console
from harness.report import curves, runs, table
found = runs.select([], Path(sys.argv[1]))
table.show(found, "alpaca", Console(width=80))
curves.write(found, "alpaca", Path(sys.argv[2]))
heavy = {"torch", "transformers", "pandas", "suites", "matplotlib.pyplot"}
print("loaded:", sorted(heavy & (set(sys.modules) | {name.split(".")[0] for name in sys.modules})))
"""
    root = three[0].path.parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(root), str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"

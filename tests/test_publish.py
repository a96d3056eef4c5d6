"""Publishing: what is made of summaries, that a check finds what is not up to date, and blocks in documents."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from test_cli import harness
from test_summary import complete

from harness.errors import SpecError, StoreError
from harness.report import board, curves, findings, publish, runs, summary
from harness.report.runs import Run

README = """# A project

<!-- results: figure -->
<!-- /results -->

Words of ours, `<!-- results: figure -->` among them.

<!-- results: leaderboard -->
| method | score |
| typed | 0.999 |
<!-- /results -->

The end.
"""
MADE = [
    "README.md", "docs/deep/page.md", "results/claims.md", "results/curves/pocket-alpaca-proxy.png",
    "results/curves/pocket-alpaca-proxy.svg", "results/curves/pocket-alpaca.png", "results/curves/pocket-alpaca.svg",
    "results/leaderboard.md", "results/report.html", "results/stability.md", "results/table.tex",
]  # fmt: skip


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two methods and a control with two seeds each."""
    lab = Lab(tmp_path_factory.mktemp("runs"))
    for seed in range(2):
        for method in ("ropd", "sft", "sharpen"):
            complete(lab.run(method, seed), seed)
    return runs.select([], lab.root)


@pytest.fixture(scope="module")
def fresh(found: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with summaries, to which nothing was published."""
    root = tmp_path_factory.mktemp("fresh")
    for run in found:
        summary.write(run, root / "results" / "runs")
    write(root / "README.md", README)
    write(root / "docs" / "deep" / "page.md", "<!-- results: figure -->\n<!-- /results -->\n")
    write(root / "docs" / "plain.md", "Nothing.\n")
    return root


@pytest.fixture(scope="module")
def published(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published") / "repository"
    shutil.copytree(fresh, root)
    write(root / "results" / "curves" / "gone.png", "of a suite that is no longer there")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        made, removed = publish.publish(Path())
    assert made == MADE
    assert removed == ["results/curves/gone.png"]
    return root


def test_everything_is_made(found: list[Run], published: Path) -> None:
    there = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    assert {name for name in there if not name.startswith("results/runs/")} == {*MADE, "docs/plain.md"}
    assert (published / "docs" / "plain.md").read_text() == "Nothing.\n"
    assert (published / "results/curves/pocket-alpaca.svg").read_text() == curves.svg(found, "alpaca")
    text = (published / "results/leaderboard.md").read_text()
    best = board.build(found, "alpaca").rows[0]
    assert f"| - | {best.label} | {best.score.mean:.3f} |" in text or f"| 1 | {best.label} | {best.score.mean:.3f} |" in text
    assert "](curves/pocket-alpaca.svg)" in text
    page = (published / "results/report.html").read_text()
    assert "harness publish" in page
    assert f"results/runs/pocket-{found[0].digest[:8]}/{found[0].name}" in page
    assert "Where they are read from summaries" in page
    assert str(published) not in page
    claims = (published / "results/claims.md").read_text()
    assert f"## {found[0].conditions}" in claims
    assert "not run" in claims
    assert (published / "results/table.tex").read_text().splitlines()[0].endswith("; harness publish")


def test_blocks_are_filled_and_nothing_else_is_touched(found: list[Run], published: Path) -> None:
    text = (published / "README.md").read_text()
    assert "0.999" not in text
    around = re.compile(r"^(<!-- results: \w+ -->)\n.*?^(<!-- /results -->)", re.DOTALL | re.MULTILINE)
    assert around.sub(r"\1\2", text) == around.sub(r"\1\2", README)
    words = curves.words(found, "alpaca")
    assert f"![{words.title}. {words.finding}](results/curves/pocket-alpaca.svg)" in text
    assert f"({Path('../../results/curves/pocket-alpaca.svg')})" in (published / "docs/deep/page.md").read_text()
    made = board.build(found, "alpaca")
    for row in made.rows:
        star = "*" if row.leads else ""
        assert f"| {row.label} | {row.score.mean:.3f}{star} ({row.score.lo:.3f} to {row.score.hi:.3f}) |" in text
    student, teacher = made.references
    assert f"- alpaca: student {student.score.mean:.3f}, teacher {teacher.score.mean:.3f}" in text
    assert "2 seeds, runs of 2026-01-01 to 2026-01-02." in text
    assert "1 track, 1 suite and 2 seeds make no ranking" in text


@dataclass(frozen=True)
class Told:
    """A run that tells who set what, and which suites scored it."""

    origins: dict[str, str]
    group: int = 8
    suites: tuple[str, ...] = ("alpaca", "reasoning")
    label: str = ""
    method: str = "ropd"
    seed: int = 0

    @property
    def shuffled(self) -> bool:
        return self.origins["signal"] == "--set"

    @property
    def spec(self) -> dict[str, Any]:
        return {"config": {"group_size": self.group, "signal": "shuffled" if self.shuffled else "own"}}


def test_boards_show_no_run_that_was_made_for_a_claim() -> None:
    own = {"group_size": "track pocket", "signal": "default"}
    told: Any = [
        Told(own), Told({**own, "signal": "--set"}), Told({**own, "group_size": "--set"}, group=4), Told(own, suites=("alpaca",)),
    ]  # fmt: skip
    field = publish.Field("pocket", told)
    assert [(run.label, run.shuffled) for run in field.usual] == [("ropd", False), ("ropd shuffled", True)]
    assert field.scored("alpaca") == field.usual
    assert field.suites == ["alpaca", "reasoning"]
    assert [run.label for run in publish.Field("pocket", told[2:3]).usual] == ["ropd"]


def test_the_stability_of_orders_is_published(found: list[Run], published: Path, tmp_path: Path) -> None:
    text = (published / "results/stability.md").read_text()
    assert text == findings.to_markdown([(found[0].conditions, found)], "harness publish")
    assert f"## {found[0].conditions}" in text
    assert "| seeds | alpaca | seed 0, seed 1 | 2 | 1.00 (" in text
    root = tmp_path / "repository"
    shutil.copytree(published, root)
    write(root / "docs" / "deep" / "page.md", "<!-- results: stability -->\n<!-- /results -->\n")
    (main,) = publish._fields(root)
    block = publish._documents(root, main)["docs/deep/page.md"]
    assert findings.in_short(found) in block
    assert "[One by one](../../results/stability.md), with intervals." in block


def test_verdicts_are_a_block(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(published, root)
    write(root / "docs" / "deep" / "page.md", "<!-- results: claims -->\n<!-- /results -->\n")
    (main,) = publish._fields(root)
    counted = (root / "results/claims.md").read_text().split("```")[1].split("\n\n")[-1].strip().replace("\n", " ")
    assert counted.startswith("37 claims: ")
    assert f"- {counted}: [one by one](../../results/claims.md), with" in publish._documents(root, main)["docs/deep/page.md"]


def test_a_check_passes_without_models_and_network(published: Path) -> None:
    code = """
import socket, sys
from pathlib import Path

def refused(*_):
    raise AssertionError("no network")

socket.socket.connect = refused
from harness.report import publish
print(publish.stale(Path()), sorted({"torch", "transformers", "pandas", "openai"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=published, check=True)
    assert done.stdout == "[] []\n"


def test_a_check_names_what_differs_and_writes_nothing(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "repository"
    shutil.copytree(published, root)
    monkeypatch.chdir(root)
    for name in ("README.md", "results/leaderboard.md"):
        write(root / name, (root / name).read_text().replace("0.", "1.", 1))
    (root / "results/table.tex").unlink()
    write(root / "results/report-other.html", "")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    code, out, err = harness(capsys, monkeypatch, "publish", "--check")
    assert (code, out.splitlines()) == (1, [
        "README.md: differs", "results/leaderboard.md: differs", "results/table.tex: missing",
        "results/report-other.html: not made from any summary",
    ])  # fmt: skip
    assert "4 files are not what the summaries say: harness publish" in err
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_another_run_changes_what_is_published(found: list[Run], fresh: Path, tmp_path: Path) -> None:
    """A summary more, of a run that is the best by far: every number comes from the summaries."""
    root = tmp_path / "repository"
    shutil.copytree(fresh, root)
    lab = Lab(tmp_path / "more")
    for seed in range(2):
        summary.write(runs.read(complete(lab.run("logit_opd", seed, end=0.95), seed)), root / "results" / "runs")
    (main,) = publish._fields(root)
    texts = publish._documents(root, main)
    first = re.search(r"^\| (\w+) \| (\d\.\d{3})\* ", texts["README.md"], flags=re.MULTILINE)
    assert first is not None
    assert first[1] == "logit_opd"
    rows = board.build(runs.select([str(root / "results" / "runs")], root), "alpaca").rows
    assert float(first[2]) == pytest.approx(rows[0].score.mean, abs=5e-4)
    assert "The first 4 of 4 methods" in texts["README.md"]


def test_conditions_with_fewer_runs_have_names_of_their_own(found: list[Run], fresh: Path, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(fresh, root)
    other = runs.read(complete(Lab(tmp_path / "more").run("ropd", budget=64)))
    summary.write(other, root / "results" / "runs")
    fields = publish._fields(root)
    assert [field.stem for field in fields] == [f"pocket-{run.digest[:8]}" for run in (found[0], other)]
    columns = publish.overview.overview([run for field in fields for run in field.usual]).columns
    assert all(column.startswith("pocket@") for column in columns), "one name of two tracks says nothing"
    assert publish._claims(fields).endswith(f"## {other.conditions}\n\nNo claim has the runs that it needs here.\n")


@pytest.mark.parametrize(("text", "message"), [
    ("<!-- results: leaderbord -->\n<!-- /results -->\n", "asks for the block 'leaderbord'"),
    ("<!-- results: figure -->\nwords\n", "opens the block 'figure' and does not close it"),
    ("<!-- results: figure -->\n<!-- results: figure -->\n<!-- /results -->\n", "where it cannot stand"),
    ("<!-- /results -->\n<!-- results: figure -->\n<!-- /results -->\n", "where it cannot stand"),
])  # fmt: skip
def test_a_document_that_is_wrong_is_refused(fresh: Path, tmp_path: Path, text: str, message: str) -> None:
    root = tmp_path / "repository"
    shutil.copytree(fresh, root)
    write(root / "docs" / "wrong.md", text)
    with pytest.raises(SpecError, match=message) as caught:
        publish.publish(root)
    assert caught.value.where == "docs/wrong.md"
    assert not (root / "results" / "leaderboard.md").exists()


def test_without_summaries_there_is_nothing_to_publish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="there are no summaries in"):
        publish.publish(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, err = harness(capsys, monkeypatch, "publish", "--check")
    assert code == 2
    assert "there are no summaries in results/runs" in err
    assert "harness summarize --out results/runs" in err


def test_the_command_writes_summaries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_RUNS_DIR", "runs")
    code, _, err = harness(capsys, monkeypatch, "summarize")
    assert (code, "no finished run in runs" in err) == (2, True)
    finished, other, begun = lab.run(), lab.run(budget=64), lab.run("sft", finished=False, marks=3)
    code, out, _ = harness(capsys, monkeypatch, "summarize", "--out", "kept")
    assert code == 0
    written = sorted(path.name for path in Path("kept").rglob("*.run.json"))
    assert written == sorted(f"{path.name}.run.json" for path in (finished, other))
    assert len(out.splitlines()) == len(list(Path("kept").iterdir())) == 2
    size = next(Path("kept").rglob(f"{finished.name}*")).stat().st_size
    assert f"wrote 1 summaries in kept/pocket-{runs.read(finished).digest[:8]}: {size:,} bytes at most" in out
    code, _, err = harness(capsys, monkeypatch, "summarize", begun.name)
    assert (code, "has not finished" in err) == (2, True)

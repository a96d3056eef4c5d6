"""The LaTeX table: what is bold, underlined or empty, how many digits there are, and that it is whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from lab import Lab, write
from test_board import on_suite

from harness.report import latex, overview, runs
from harness.report.latex import escaped, to_latex
from harness.report.overview import Overview
from harness.report.stats import Interval

COMPILERS = [name for name in ("tectonic", "pdflatex") if shutil.which(name)]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Overview:
    """Four methods with three seeds: two tied, one behind, one that only the first of two suites has scored."""
    lab = Lab(tmp_path_factory.mktemp("runs"))
    for seed in range(3):
        for method, end in (("ropd", 0.75), ("logit_opd", 0.75), ("seqkd", 0.65), ("sharpen", 0.58)):
            path = lab.run(method, seed, end=end)
            write(path / "environment.json", {"harness": "1.2.3", "commit": "0123456789abcdef", "dirty": seed == 1})
            if method != "seqkd":
                on_suite(path, "mt_bench")
    return overview.overview(runs.select([], lab.root))


def cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"{name} &"))
    return [cell.strip() for cell in line.removesuffix(r"\\").split(" & ")]


def scored(view: Overview, mean: float, half: float) -> str:
    row = replace(view.boards[0].rows[0], score=Interval(mean, mean - half, mean + half, 3, 9, 0.5))
    return latex._score(row, view.boards[0], "")


def test_all_ten_special_characters_are_escaped() -> None:
    assert escaped(r"a_b&c%d$e#f{g}~^\n") == (
        r"a\_b\&c\%d\$e\#f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{}n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [
        (0.7412, 0.0271, "$74.1$ {\\scriptsize$\\pm$2.7}"), (0.7412, 0.0026, "$74.12$ {\\scriptsize$\\pm$0.26}"),
        (0.7412, 0.131, "$74$ {\\scriptsize$\\pm$13}"), (0.7412, 0.0998, "$74$ {\\scriptsize$\\pm$10}"),
        (0.5, 0.0, "$50.0$ {\\scriptsize$\\pm$0.0}"),
    ],
)  # fmt: skip
def test_a_score_has_as_many_decimals_as_two_digits_of_its_interval(view: Overview, mean: float, half: float, shown: str) -> None:
    assert scored(view, mean, half) == shown


def test_best_and_tied_are_bold_and_the_best_of_the_rest_is_underlined(view: Overview) -> None:
    text = to_latex(view, "harness report pocket --format tex")
    names = [row.label for row in view.boards[0].rows]
    assert [row.standing for row in view.boards[0].rows] == ["best", "tied", "", ""]
    firsts = [cells(text, escaped(name))[1] for name in names]
    assert [cell.startswith(r"$\mathbf{") for cell in firsts] == [True, True, False, False]
    assert [cell.startswith(r"$\underline{") for cell in firsts] == [False, False, True, False]
    assert text.count(r"\underline") == 2, "one in each column of scores"
    student = cells(text, r"\textit{Student}")
    assert re.fullmatch(r"\$57\.\d+\$", student[1])
    assert student[3:] == ["--", "--"]


def test_empty_cells_have_their_reason_in_the_caption(view: Overview) -> None:
    text = to_latex(view, "x")
    assert cells(text, "seqkd")[2] == "--"
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption"))
    assert r"--: not scored (seqkd on mt\_bench)" in caption
    assert "-- in costs: references use no budget" in caption
    assert "Score after 1,024 prompts: mean over 3 seeds" in caption
    assert "1 track, 2 suites and 3 seeds make no ranking" in caption


def test_costs_are_in_thousands_or_millions_and_never_bold(view: Overview) -> None:
    text = to_latex(view, "x")
    assert cells(text, "Method")[3:] == [r"Teacher tokens (k) $\downarrow$", r"Critic tokens (k) $\downarrow$"]
    assert cells(text, "ropd")[3:] == ["52.2", "1,253"]
    assert cells(text, "seqkd")[4] == "0"
    millions = [
        replace(board, rows=[replace(row, used={**row.used, "critic_tokens": 2.5e7}) for row in board.rows if row.used])
        for board in view.boards
    ]
    text = to_latex(replace(view, boards=tuple(millions)), "x")
    assert cells(text, "Method")[4] == r"Critic tokens (M) $\downarrow$"
    assert cells(text, "ropd")[4] == "25"


def test_the_first_line_says_where_it_comes_from(view: Overview) -> None:
    first = to_latex(view, "harness report pocket --format tex").splitlines()[0]
    conditions = view.boards[0].conditions
    assert first == (
        f"% harness 1.2.3, track {conditions}, commit 0123456789ab, 0123456789ab+; harness report pocket --format tex"
    )  # fmt: skip


def test_nothing_is_bold_where_one_seed_ranks_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run("ropd"), lab.run("sft")
    text = to_latex(overview.overview(runs.select([], lab.root)), "x")
    assert r"\mathbf" not in text
    assert r"\underline" not in text
    assert "of one seed over items alone" in text
    assert "commit unknown" in text.splitlines()[0]


def test_the_table_is_whole(view: Overview) -> None:
    lines = to_latex(view, "x").splitlines()
    text = "\n".join(lines[1:])
    assert re.findall(r"\\begin\{(\w+)\}", text) == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", text) == ["tabular", "table"]
    columns = re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", text)
    assert columns is not None
    assert columns[1] == "lrrrr"
    body = [line for line in lines if line.endswith(r"\\")]
    assert {line.count("&") for line in body if not line.startswith(r"\multicolumn")} == {4}
    assert all(line.startswith(r"\multicolumn{5}") for line in body if "&" not in line)
    bare = re.sub(r"\\[\\{}$&#%_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not set("#~^") & set(bare)
    commands = set(re.findall(r"\\([a-zA-Z]+)", text))
    assert commands <= {
        "begin", "end", "centering", "small", "caption", "label", "toprule", "midrule", "bottomrule", "multicolumn", "textit",
        "mathbf", "underline", "scriptsize", "pm", "uparrow", "downarrow", "geq",
    }  # fmt: skip


@pytest.mark.skipif(not COMPILERS, reason="neither tectonic nor pdflatex is installed")
def test_it_compiles(view: Overview, tmp_path: Path) -> None:
    body = to_latex(view, "x")
    document = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\\end{{document}}\n"
    write(tmp_path / "table.tex", document)
    subprocess.run([COMPILERS[0], "table.tex"], cwd=tmp_path, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / "table.pdf").exists()

"""What a run shows: a table of marks that fits a terminal, plain lines elsewhere, nothing that a model could inject."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from harness.display import Progress, amount, bounds, clean, minutes
from harness.spec import resolve


def scores(mark: str, value: float | None) -> dict[str, Any]:
    metric = {"value": value, "stderr": 0.02, "n": 319, "missing": 1}
    gold = {"value": 0.61, "stderr": 0.01, "n": 320, "missing": 0}
    change = {"value": 0.1 if mark != "0" else 0.0, "stderr": 0.011, "n": 319, "missing": 1}
    greedy = {"win_rate": metric, "gold": gold}
    return {"alpaca": {"metric": "win_rate", "scale": [0, 1], "headline": "greedy", "greedy": greedy, "change": change}}


def told(mode: str, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None, highlight=False)
    progress = Progress(resolve("ropd")[0], "new", ["alpaca"], mode, console, as_json=False)
    progress.head()
    for mark, prompts in (("0", 0), ("1/16", 32), ("1", 512)):
        progress.state("evaluate")
        progress.mark({"mark": mark, "meters": {"prompts": prompts}}, scores(mark, 0.5))
    progress.round(4, 0.0625, {"training_reward": 0.71, "loss/policy": 0.1, "grad_norm": 0.3})
    progress.round(8, 0.125, {"training_reward": 0.72, "loss/policy": 0.1, "grad_norm": 0.3})
    if terminal:
        console.print(progress._panel())
    return file.getvalue()


def test_the_live_display_fits_eighty_columns() -> None:
    lines = told("live", terminal=True).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert len([line for line in lines if line.startswith("  ")]) == 4  # the head and three marks, none of them wrapped
    assert all(line.rstrip().endswith("0:00") for line in lines if line.startswith(("  0 ", "  1")))
    text = "\n".join(lines)
    assert "0.461 to 0.539" in text
    assert "+0.100 +/-0.022" in text
    assert "1/320" in text
    assert "64 of 512" in text
    assert "next mark 128" in text


def test_plain_lines_are_one_record_each() -> None:
    lines = told("plain", terminal=False).splitlines()
    assert not any("\x1b" in line or "\r" in line for line in lines)
    marks = [line for line in lines if " mark " in line]
    assert len(marks) == 3
    assert "at=1/16 prompts=32 suite=alpaca score=0.5 lo=0.4608 hi=0.5392 n=319 missing=1" in marks[1]


def test_json_records_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    progress = Progress(resolve("ropd")[0], "new", ["alpaca"], "none", console, as_json=True)
    progress.head()
    progress.mark({"mark": "1/2", "meters": {"prompts": 512}}, scores("1/2", None))
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["v"], first["event"], first["method"]) == (1, "start", "ropd")
    assert (second["event"], second["at"], second["score"], second["missing"]) == ("mark", "1/2", None, 1)


def test_model_text_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b[31mb\u202ec\rd\u0007") == "a [31mb c d "


def test_short_amounts() -> None:
    assert [amount(v) for v in (704, 61_234, 1_350_000, 2.5e12, 0.25)] == ["704", "61.2 k", "1.35 M", "2.5 T", "0.25"]
    assert minutes(194.6) == "3:14"
    assert bounds({"value": None, "stderr": None}) is None

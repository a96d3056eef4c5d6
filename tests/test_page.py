"""The report page: what it says, that it loads nothing, that model text stays text, and that a browser agrees."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpecError
from harness.ledger import BUDGETABLE
from harness.report import curves, page, page_data, page_examples, page_forest, runs
from harness.report.board import Row
from harness.report.stats import Interval, holm, paired
from harness.spec import canonical, identity_of

MARKS = ("0", "1/4", "1")
ITEMS = [f"item-{n:02}" for n in range(24)]
SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
UNUSED = dict.fromkeys(BUDGETABLE, 0) | {"tuning_trials": 0}
VOID = {"meta", "link", "br", "input", "img", "hr"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def make_run(root: Path, method: str, seed: int, end: float, *, suites: tuple[str, ...] = ("alpaca",), **config: Any) -> Path:
    """A run folder with all the files that the page reads."""
    track = {"name": "pocket", "budget": {"prompts": 64}, "marks": list(MARKS), "suites": {}, "pocket": {"pairs": 3}}
    spec = {"method": method, "config": {"rate": 0.1, "signal": "own", **config}, "seed": seed, "track": track}
    path = root / "pocket" / f"{method}-s{seed}-{identity_of(spec)[:8]}"
    write(path / "spec.json", canonical(spec))
    write(path / "spec.yaml", json.dumps({"origins": {"rate": "--set", "signal": "default"}}))
    write(path / "environment.json", {
        "harness": "1.2.3", "source": "5" * 64, "commit": "c" * 40, "dirty": False, "started": f"2026-01-0{seed + 1}T00:00:00Z",
        "python": "3.11.7", "platform": "Linux",
    })  # fmt: skip
    rows = []
    for prompts in (0, 16, 64):
        critic = 100 * prompts if method == "ropd" else 0
        rows.append({"mark": MARKS[len(rows)], "meters": {**UNUSED, "prompts": prompts, "critic_tokens_in": critic}})
    lines(path / "marks.jsonl", rows)
    lines(path / "ledger.jsonl", [{"round": 1, "training": {}, "evaluation": {"judge_calls": 7}}, {
        "round": 2, "training": {}, "evaluation": {"judge_calls": 48 + seed},
    }])  # fmt: skip
    lines(path / "rollouts.jsonl", [
        {"fate": "silent", "prompt_id": "silent-1", "messages": [{"content": "no"}], "rollouts": [], "signal": {}, "note": {}},
        {"fate": "trained", "prompt_id": "train-1", "messages": [{"content": "say hello"}], "signal": {"reward_N": [0.25, 0.75]},
         "rollouts": [{"text": f"rollout {SCRIPT}"}, {"text": "hello"}],
         "note": {"rubric": [{"points": 3, "criterion": f"is kind {IMAGE}"}], "verdicts": [[False], [True]], "kept": 1}},
    ])  # fmt: skip
    for suite in suites:
        lines(path / "suites" / suite / "items.jsonl", [
            {"id": item, "question": f"question of {item}", "reference": "", "category": "", "follow_ups": []} for item in ITEMS
        ])  # fmt: skip
        for place, mark in enumerate((*MARKS, "teacher")):
            level = {"teacher": 0.9}.get(mark, 0.4 + (end - 0.4) * (0, 0.5, 1, 0)[place])
            score(path / "suites" / suite, suite, mark, level, f"{method} {seed} {config} {mark}" if 0 < place < 3 else mark)
    write(path / "manifest.json", {})
    return path


def score(folder: Path, suite: str, mark: str, level: float, salt: str) -> None:
    hard, noise, stem = random.Random("items"), random.Random(salt), mark.replace("/", "-")
    scores = {item: min(max(level + hard.uniform(-0.2, 0.2) + noise.uniform(-0.05, 0.05), 0), 1) for item in ITEMS}
    missing = 2 if mark == "1" else 0
    for item in ITEMS[:missing]:
        del scores[item]
    write(folder / "items" / f"{stem}.greedy.json", scores)
    metric = {"value": sum(scores.values()) / len(scores), "stderr": 0.02, "n": len(scores), "missing": missing}
    write(folder / "marks" / f"{stem}.json", {
        "suite": suite, "version": "1", "data": "d", "scale": [0, 1], "metric": "win_rate", "n": len(ITEMS), "mark": mark,
        "headline": "greedy", "judge": "judge@1",
        "greedy": {"win_rate": metric, "lost": {"parse_failed": missing} if missing else {}, "empty": 1, "truncated": 3},
    })  # fmt: skip
    texts = [f"{SCRIPT} {IMAGE} \u202eevil\x1b[31m \ud800 answer of {item}" for item in ITEMS]
    lines(folder / "answers" / f"{stem}.greedy.jsonl", [
        {"item_id": item, "sample": 0, "text": text, "later": []} for item, text in zip(ITEMS, texts, strict=True)
    ])  # fmt: skip
    lines(folder / "records" / f"{stem}.greedy.jsonl", [
        {"item_id": item, "subkey": "12", "score": scores.get(item), "status": "ok" if item in scores else "parse_failed",
         "raw": f"raw {IMAGE}"} for item in ITEMS
    ])  # fmt: skip


class Tree(HTMLParser):
    """Elements in order, each with its attributes, its ancestors' tags and the text directly inside it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[dict[str, Any]] = []
        self.all: list[dict[str, Any]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {"tag": tag, "at": dict(attrs), "in": [each["tag"] for each in self.open], "text": "", "parents": list(self.open)}
        self.all.append(found)
        if tag not in VOID:
            self.open.append(found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for each in self.open:
            each["text"] += data

    def named(self, *tags: str) -> list[dict[str, Any]]:
        return [each for each in self.all if each["tag"] in tags]

    @property
    def ids(self) -> list[str]:
        return [each["at"]["id"] for each in self.all if each["at"].get("id")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[runs.Run]:
    root = tmp_path_factory.mktemp("runs")
    for method, end in (("ropd", 0.8), ("sft", 0.7), ("sharpen", 0.41)):
        for seed in range(3):
            make_run(root, method, seed, end, suites=("alpaca", "mt_bench"))
    return runs.select([], root)


@pytest.fixture(scope="module")
def file(found: list[runs.Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(found, ["alpaca", "mt_bench"], tmp_path_factory.mktemp("page"), "harness report pocket")


@pytest.fixture(scope="module")
def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(text: str) -> Tree:
    return Tree(text)


def test_the_sections_stand_in_order(tree: Tree) -> None:
    wanted = [
        "Warnings", "Leaderboard", "Curves: score against what was used", "Small multiples", "Differences between methods",
        "Budget: planned and used", "Examples", "Missing items", "How to read this", "Settings", "Runs",
    ]  # fmt: skip
    assert [each["text"] for each in tree.named("h2")] == wanted
    assert [each["tag"] for each in tree.named("h1")] == ["h1"]
    assert [each["at"].get("lang") for each in tree.named("html")] == ["en"]
    assert len(tree.named("main")) == len(tree.named("header")) == len(tree.named("footer")) == len(tree.named("nav")) == 1
    levels = [int(each["tag"][1]) for each in tree.named("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    first = next(each for each in tree.named("a"))
    assert first["at"] == {"class": "skip", "href": "#main"}


def test_nothing_is_loaded_from_elsewhere(tree: Tree, text: str) -> None:
    assert tree.named("link", "img", "iframe", "object", "embed", "base", "form", "source", "video", "audio") == []
    for each in tree.all:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            assert each["at"].get(name, "#").startswith("#"), each
        assert not [name for name in each["at"] if name.startswith("on")]
    assert re.findall(r"url\((?!#)|@import", text) == []
    addresses = set(re.findall(r"https?://[^\"'<\s]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_policy_names_the_only_script(tree: Tree) -> None:
    (script,) = tree.named("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    (policy,) = [each["at"]["content"] for each in tree.named("meta") if each["at"].get("http-equiv")]
    assert policy.split("; ") == [
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", f"script-src 'sha256-{digest}'", "base-uri 'none'",
        "form-action 'none'",
    ]  # fmt: skip
    before = [each["tag"] for each in tree.all[: tree.all.index(script)]]
    assert before.index("meta") < before.index("style"), "the policy comes before what it governs"


def test_model_text_stays_text(tree: Tree, text: str) -> None:
    said = [each["text"] for each in tree.all if each["at"].get("class") == "said"]
    answers = [each for each in said if "answer of" in each]
    assert len(answers) == 2 * 8 * 5
    assert {re.sub(r"item-\d\d$", "", each) for each in answers} == {f"{SCRIPT} {IMAGE} evil[31m \ufffd answer of "}
    assert any(each == f"raw {IMAGE}" for each in said)
    assert f"rollout {SCRIPT}" in said
    assert f"is kind {IMAGE}" in said
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not set(text) & {chr(code) for code in (*range(9), *range(14, 32), 0x7F, *range(0x202A, 0x202F), 0x200F, 0x2066)}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\u202eb\u2066c\u200fd", "abcd"), ("\x1b[1mx\x00\r", "[1mx"), ("one\n\ttwo", "one\n\ttwo"), ("\ud800", "\ufffd"),
        ("né 漢字 👩‍🚀", "né 漢字 👩‍🚀"),
    ],
)  # fmt: skip
def test_control_and_bidirectional_characters_go(given: str, kept: str) -> None:
    assert page_examples.clean(given) == kept


def test_long_texts_are_cut_and_counted() -> None:
    assert page_examples.cut("x" * 50, 50) == "x" * 50
    assert page_examples.cut("x" * 51, 50) == "x" * 50 + " [… 1 more characters]"
    assert page_examples.cut('"' * 100, 100) == '"' * 20 + " [… 80 more characters]"  # five bytes each as HTML
    assert page_examples.cut("漢" * 100, 60) == "漢" * 20 + " [… 80 more characters]"


def test_tables_say_what_they_are(tree: Tree) -> None:
    tables = tree.named("table")
    assert len(tables) > 10
    for table in tables:
        inside = [each for each in tree.all if any(parent is table for parent in each["parents"])]
        assert inside[0]["tag"] == "caption"
        assert inside[0]["text"].strip()
        heads = [each for each in inside if each["tag"] == "th"]
        assert heads
        assert {each["at"].get("scope") for each in heads} <= {"col", "row"}
        region = table["parents"][-1]["at"]
        assert (region["class"], region["role"], region["tabindex"]) == ("scroll", "region", "0")
        assert region["aria-labelledby"] == inside[0]["at"]["id"]
        widths = {
            sum(int(cell["at"].get("colspan") or 1) for cell in inside if cell["parents"][-1] is row)
            for row in inside if row["tag"] == "tr"
        }  # fmt: skip
        assert len(widths) == 1, (inside[0]["text"], widths)


def test_ids_are_unique_and_links_reach_them(tree: Tree) -> None:
    assert len(tree.ids) == len(set(tree.ids))
    links = [each["at"]["href"] for each in tree.named("a")]
    assert {link.removeprefix("#") for link in links} <= set(tree.ids)
    told = [name for each in tree.all for name in (each["at"].get("aria-labelledby") or "").split()]
    assert set(told) <= set(tree.ids)
    captions = [each["text"] for each in tree.named("caption")]
    assert len(captions) == len(set(captions)), "landmarks need names of their own"


def test_every_number_leads_to_its_runs(tree: Tree, found: list[runs.Run]) -> None:
    assert {f"run-{run.identity[:16]}" for run in found} <= set(tree.ids)
    shown = {each["at"]["id"]: each["text"] for each in tree.named("tr") if each["at"].get("id")}
    for run in found:
        row = shown[f"run-{run.identity[:16]}"]
        assert all(part in row for part in (run.name, run.identity, str(run.path), "1.2.3", "5" * 16, "c" * 12))
    for name in ("alpaca", "mt_bench"):
        board = next(each for each in tree.named("caption") if each["at"]["id"] == f"board-{page_data.slug(name)}")["parents"][-1]
        rows = [each for each in tree.named("tr") if any(parent is board for parent in each["parents"])][1:]
        assert len(rows) == 3 + 2
        for row in rows[:3]:
            links = [each["at"]["href"] for each in tree.named("a") if any(parent is row for parent in each["parents"])]
            assert sum(link.startswith("#run-") for link in links) == 3
            assert sum(link.startswith("#method-") for link in links) == 2
    for table in tree.named("table"):
        for row in [each for each in tree.named("tr") if any(parent is table for parent in each["parents"])][1:]:
            cells = [each for each in tree.all if each["parents"] and each["parents"][-1] is row]
            if any(re.fullmatch(r"[+-]?0\.\d{3}", cell["text"].strip()) for cell in cells):
                inside = [each for each in tree.named("a") if any(parent is row for parent in each["parents"])]
                assert inside, cells[0]["text"]


def test_the_leaderboard_tells_the_board(tree: Tree, found: list[runs.Run]) -> None:
    told = page_data.suite_data(found, "alpaca")
    board = next(each for each in tree.named("caption") if each["at"]["id"] == "board-alpaca")["parents"][-1]
    rows = [each for each in tree.named("tr") if any(parent is board for parent in each["parents"])][1:]
    for row, line in zip(told.board.rows, rows, strict=False):
        cells = [each["text"].strip() for each in tree.named("td", "th") if each["parents"][-1] is line]
        assert cells[1:4] == [row.label, f"{row.score.mean:.3f}", f"{row.score.lo:.3f} to {row.score.hi:.3f}"]
    assert [row.label for row in told.board.rows] == ["ropd", "sft", "sharpen"]


def test_verdict_and_warnings(text: str, found: list[runs.Run]) -> None:
    told = page_data.suite_data(found, "alpaca")
    best = told.board.rows[0].score
    wanted = f"On alpaca ropd has the highest score of 3 methods, {best.mean:.3f} ({best.lo:.3f} to {best.hi:.3f})"
    assert page_data.verdict([told]).startswith(wanted)
    assert wanted in text
    groups = page_data.groups_of(found)
    warned = page_data.warnings(groups, [told])
    assert any("items without a score" in each for each in warned)
    assert not [each for each in warned if "fewer than" in each or "commit" in each]
    few = page_data.warnings(page_data.groups_of(found[:2]), [told])
    assert "fewer than 3 seeds: ropd (2)" in few


def test_pairs_are_paired_and_adjusted(found: list[runs.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    told = page_data.suite_data(found, "alpaca")
    pairs, beyond = told.pairs()
    assert {(each.left, each.right) for each in pairs} == {("ropd", "sft"), ("ropd", "sharpen"), ("sft", "sharpen")}
    assert beyond == 0
    by_name = {(each.left, each.right): each for each in pairs}
    values = {}
    for left, right in by_name:
        sides = [[run.items("alpaca", "1") for run in found if run.method == name] for name in (left, right)]
        values[f"{left} {right}"] = paired(*runs.aligned(*sides))
        assert by_name[left, right].value == values[f"{left} {right}"]
    adjusted = holm({name: value.p for name, value in values.items()})
    assert {f"{each.left} {each.right}": each.p for each in pairs} == adjusted
    monkeypatch.setattr(page_data, "PAIRS", 1)
    pairs, beyond = told.pairs()
    assert ([(each.left, each.right) for each in pairs], beyond) == ([("ropd", "sft")], 1)


def test_missing_items_are_counted_by_status(found: list[runs.Run]) -> None:
    told = page_data.suite_data(found, "alpaca")
    assert told.statuses == ["parse_failed"]
    by_name = {(row.label, row.mark): row for row in told.lost}
    assert set(by_name) == {(name, mark) for name in ("ropd", "sft", "sharpen") for mark in ("0", "1")} | {("teacher", "teacher")}
    last = by_name["ropd", "1"]
    assert (last.asked, last.missing, last.lost, last.empty, last.truncated) == (72, 6, {"parse_failed": 6}, 3, 9)
    score = sum(run.scores["alpaca"]["1"]["greedy"]["win_rate"]["value"] for run in found if run.method == "ropd") / 3
    assert last.bounds == pytest.approx((score * 66 / 72, (score * 66 + 6) / 72))
    assert by_name["ropd", "0"].missing == 0


def test_what_was_used(tree: Tree, found: list[runs.Run]) -> None:
    rows = {row.label: row for row in page_data.used(page_data.groups_of(found))}
    assert rows["ropd"].training["critic_tokens_in"] == 6400
    assert rows["sft"].evaluation["judge_calls"] == 49
    assert page_data.columns(row.training for row in rows.values()) == ["prompts", "critic_tokens_in"]
    planned = next(each for each in tree.named("tfoot"))
    assert [each["text"] for each in tree.all if planned in each["parents"] and each["tag"] != "tr"] == ["planned", "64", "–"]


def test_examples_are_the_same_items_for_all(tree: Tree, found: list[runs.Run]) -> None:
    told = page_data.suite_data(found, "alpaca")
    shown = page_examples.examples(told)
    assert [each.why for each in shown] == ["best change"] * 3 + ["median change"] * 2 + ["worst change"] * 3
    changes: dict[str, list[float]] = {}
    for run in found:
        start, now = run.items("alpaca", "0"), run.items("alpaca", "1")
        for item in now:
            changes.setdefault(item, []).append(now[item] - start[item])
    order = sorted(changes, key=lambda item: -sum(changes[item]))
    assert [each.item for each in shown] == [*order[:3], *order[10:12], *order[-3:]]
    assert [each.change for each in shown] == pytest.approx([sum(changes[each.item]) / 9 for each in shown])
    for example in shown:
        assert [reply.who for reply in example.replies] == ["student", "teacher", "ropd", "sft", "sharpen"]
        assert {reply.run.seed for reply in example.replies} == {0}
        assert example.replies[2].score == found[0].items("alpaca", "1")[example.item]
        assert example.replies[0].change is None
    (training,) = [each for each in page_examples.trainings(page_data.groups_of(found)) if each.label == "ropd"]
    assert (training.prompt_id, training.rubric) == ("train-1", (("3", f"is kind {IMAGE}", "✗ ✓"),))
    assert [signal for _, signal in training.rollouts] == ["reward 0.25", "reward 0.75"]
    assert "Shown: 8 of 24 items." in next(each["text"] for each in tree.named("section") if each["at"]["id"] == "examples")


def test_settings_begin_with_departures(tree: Tree, text: str) -> None:
    table = next(each for each in tree.named("caption") if each["at"]["id"] == "departures")["parents"][-1]
    rows = [each for each in tree.named("tr") if any(parent is table for parent in each["parents"])][1:]
    cells = [[cell["text"].strip() for cell in tree.named("td", "th") if cell["parents"][-1] is row] for row in rows]
    assert cells == [[name, "rate", "0.1", "--set"] for name in ("ropd", "sft", "sharpen")]
    assert text.index("departures") < text.index("The whole track, equal for all runs")
    assert "@misc{ropd,\n  note = {arXiv 2605.07396},\n  eprint = {2605.07396}" in text
    assert "@software{distillation_harness,\n  title = {distillation-harness},\n  version = {1.2.3}\n}" in text


def test_curves_switch_with_and_without_a_script(tree: Tree) -> None:
    boxes = [each for each in tree.all if "data-meters" in each["at"]]
    assert len(boxes) == 2
    for box in boxes:
        parts = [each for each in tree.all if each["parents"] and each["parents"][-1] is box]
        assert [(each["tag"], each["at"]["data-meter"]) for each in parts] == [("div", "prompts"), ("details", "critic tokens")]
        for part in parts:
            drawn = [each for each in tree.named("svg") if any(parent is part for parent in each["parents"])]
            assert [each["at"].get("role") for each in drawn] == ["img"]
    assert [each for each in tree.all if each["tag"] in ("button", "input", "select")] == [], "dead without a script"


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_apart() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    style = (page.SOURCES / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    schemes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    assert len(schemes) == 3
    for told in schemes:
        colours = {**schemes[0], **told}
        for text, ground in [*((text, ground) for text in ("ink", "quiet", "link") for ground in ("paper", "card")),
                             ("ink", "warn-card")]:  # fmt: skip
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for graphic in ("line", "accent", "warn", "focus"):
            assert contrast(colours[graphic], colours["paper"]) >= 3, graphic


def test_the_forest_plot_is_to_scale() -> None:
    def row(name: str, lo: float, hi: float) -> Row:
        value = Interval((lo + hi) / 2, lo, hi, 3, 10, 0.5)
        return Row(name, "1", (0, 1, 2), value, {}, to_best=value)

    plot = page_forest.forest([row("a", -0.4, -0.2), row("b", -0.1, 0.1)])
    assert plot is not None
    assert (plot.low, plot.high) == (-0.4, 0.1)
    assert [(each.lo, each.mean, each.hi) for each in plot.whiskers] == [(6, 55.6, 105.2), (154.8, 204.4, 254)]
    assert plot.zero == 204.4
    assert page_forest.forest([]) is None


def test_equal_runs_give_equal_bytes(found: list[runs.Run], file: Path, tmp_path: Path) -> None:
    again = runs.select([], found[0].path.parent.parent)
    other = page.write(again, ["alpaca", "mt_bench"], tmp_path, "harness report pocket")
    assert other.read_bytes() == file.read_bytes()


def test_a_page_of_bare_runs(tmp_path: Path, found: list[runs.Run]) -> None:
    """One method, one seed, and a folder that keeps neither answers nor environment."""
    folder = make_run(tmp_path, "sft", 0, 0.7)
    for name in ("environment.json", "rollouts.jsonl", "ledger.jsonl", "spec.yaml"):
        (folder / name).unlink()
    for name in ("answers", "records"):
        shutil.rmtree(folder / "suites" / "alpaca" / name)
    (folder / "suites" / "alpaca" / "items.jsonl").unlink()
    text = page.write(runs.select([], tmp_path), ["alpaca"], tmp_path / "out", "x").read_text(encoding="utf-8")
    for words in (
        "there is nothing to compare it with", "The runs keep no answers.", "The runs keep no rollouts.", "not recorded",
        "There is no pair of methods with a common seed.", "The runs keep no ledger of what evaluation used.",
    ):  # fmt: skip
        assert words in text
    Tree(text)
    with pytest.raises(SpecError, match="a page needs at least one suite, got none"):
        page.write(found, [], tmp_path, "x")
    with pytest.raises(SpecError, match="none of 9 runs is scored on 'arena_hard'"):
        page.write(found, ["arena_hard"], tmp_path, "x")


def test_two_hundred_runs_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long answers, every text at its limit; figures of the size at which they begin to be left out."""
    folder = make_run(tmp_path, "sft", 0, 0.7)
    for answers in folder.glob("suites/alpaca/answers/*.jsonl"):
        lines(answers, [{"item_id": item, "sample": 0, "text": '"<é' * 3000} for item in ITEMS])
    first = runs.read(folder)
    many = []
    for place in range(200):
        spec = {**first.spec, "config": {**first.spec["config"], "rate": place // 2}, "seed": place % 2}
        many.append(runs.Run(folder, spec, True, first.marks, first.scores, label=f"sft rate={place // 2:03}"))
    monkeypatch.setattr(curves, "svg", lambda *_: "<svg>" + "x" * 1_500_000 + "</svg>")
    monkeypatch.setattr(curves, "used", lambda _: ["prompts", "critic_tokens", "usd"])
    for drawn in ("costs_svg", "suites_svg"):
        monkeypatch.setattr(page.curves, drawn, lambda *_: "<svg></svg>")
    file = page.write(many, ["alpaca"], tmp_path / "out", "x")
    assert 2_000_000 < file.stat().st_size < 5_000_000
    text = file.read_text(encoding="utf-8")
    assert "Left out to keep this file small: critic tokens, usd" in text
    assert "more characters]" in text
    assert "of the first 35 methods" in text
    assert "65 methods further down are compared with the best one only." in text


BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), "")
browser = [pytest.mark.browser, pytest.mark.skipif(not BROWSER, reason="no chromium or chrome on PATH")]


def chromium(file: Path, *options: str) -> str:
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", *options, file.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def shown(file: Path) -> Tree:
    return Tree(chromium(file, "--dump-dom"))


class TestInABrowser:
    pytestmark = browser

    def test_the_script_runs_and_nothing_else_does(self, shown: Tree) -> None:
        assert len([each for each in shown.named("button") if "th" in each["in"]]) >= 20
        assert len(shown.named("script")) == 1
        assert shown.named("img") == []

    def test_one_meter_is_shown(self, shown: Tree) -> None:
        radios = [each["at"] for each in shown.named("input")]
        assert [each["name"] for each in radios] == ["meter-0", "meter-0", "meter-1", "meter-1"]
        parts = [each["at"] for each in shown.all if "data-meter" in each["at"]]
        assert [(each["data-meter"], "hidden" in each) for each in parts] == [("prompts", False), ("critic tokens", True)] * 2

    def test_it_prints(self, file: Path, tmp_path: Path) -> None:
        chromium(file, f"--print-to-pdf={tmp_path / 'page.pdf'}")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")

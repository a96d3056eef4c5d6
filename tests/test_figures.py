"""Figures of synthetic runs: what is drawn, in which files, and what they say to those who do not see them."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from lab import Lab, write
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from harness.errors import SpecError
from harness.report import canvas, curves, looks, panels, pareto, proxy, runs
from harness.report.canvas import Sheet
from harness.report.pareto import Point
from harness.report.proxy import Course, Fall
from harness.report.stats import Interval
from harness.spec import canonical

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[runs.Run]:
    """Seven methods and one control."""
    lab = Lab(tmp_path_factory.mktemp("runs"))
    for place in range(7):
        lab.run(f"method_{place}", end=0.5 + 0.05 * place, config={"signal": "own"})
    lab.run("method_3", end=0.53, config={"signal": "shuffled"})
    return runs.select([], lab.root)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the first sheet, the only one that is made."""
    drawn: list[Axes] = []
    real = canvas.panels

    def watched(*given: Any, **named: Any) -> Any:
        figure, axes = real(*given, **named)
        drawn.extend(axes)
        return figure, axes

    monkeypatch.setattr(canvas, "panels", watched)
    monkeypatch.setattr(canvas, "SHEETS", (replace(canvas.SHEETS[0], kinds=("svg",)),))
    return drawn


def words(path: Path) -> list[str]:
    return [str(node.text) for node in ElementTree.parse(path).getroot().iter(f"{SVG}text")]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_equal_runs_give_equal_bytes(three: list[runs.Run], tmp_path: Path) -> None:
    first = curves.draw(three, "alpaca", "prompts", tmp_path / "first")
    matplotlib.rcParams["font.size"] = 17
    second = curves.draw(list(reversed(three)), "alpaca", "prompts", tmp_path / "second")
    assert matplotlib.rcParams["font.size"] == 17
    matplotlib.rcParams["font.size"] = matplotlib.rcParamsDefault["font.size"]
    assert names(first) == ["first.png", "first.svg", "first-narrow.pdf", "first-wide.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert curves.svg(three, "alpaca") == first[1].read_text()


def test_sizes_and_fonts(three: list[runs.Run], tmp_path: Path) -> None:
    png, svg, narrow, wide = (path.read_bytes() for path in curves.draw(three, "alpaca", "prompts", tmp_path / "x"))
    assert struct.unpack(">I", png[16:20]) == (1800,)
    assert ElementTree.fromstring(svg).get("width") == "648pt"
    for pdf, width in ((narrow, 3.25), (wide, 6.75)):
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf)
        assert box is not None
        assert float(box[1]) == 72 * width
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf
    assert b"dc:date" not in svg
    assert len(svg) < 60_000


def test_the_svg_tells_its_finding(three: list[runs.Run], tmp_path: Path) -> None:
    path = curves.draw(three, "alpaca", "critic_tokens", tmp_path / "x")[1]
    svg = path.read_text()
    root = ElementTree.fromstring(svg)
    title, described = root[0], root[1]
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {described.get('id')}"
    assert title.text == "alpaca win rate, greedy decoding: 3 seeds x 320 items"
    assert str(described.text).startswith("ropd scores 0.75")
    assert re.search(r"after 1\.25 M tokens; the student scores 0\.57\d; the teacher scores 0\.8\d\d\.$", str(described.text))
    ids = [str(node.get("id")) for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("alpaca-critic-tokens") for name in ids)
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids)
    assert "Not drawn, as they use no critic tokens: logit_opd, sft" in words(path)
    assert {"win rate", "tokens"} <= set(words(path))
    assert sum(word.startswith(("ropd 0.75", "student 0.57", "teacher 0.8")) for word in words(path)) == 3
    assert "#0072b2" in svg
    assert "#d55e00" not in svg


def test_the_svg_has_other_colours_in_the_dark(three: list[runs.Run], tmp_path: Path) -> None:
    svg = curves.svg(three, "alpaca")
    light, _, dark = svg[svg.index("<style>") : svg.index("</style>")].partition("@media screen and (prefers-color-scheme: dark)")
    told = dict(re.findall(r"#alpaca-prompts \.(\w+) \{ (.*?) \}", light))
    turned = dict(re.findall(r"#alpaca-prompts \.(\w+) \{ (.*?) \}", dark))
    coloured = {name: re.findall(r"(fill|stroke): (#\w{6})", style) for name, style in told.items()}
    assert {name for name, parts in coloured.items() if parts} == set(turned)
    for name, style in turned.items():
        assert style == "; ".join(f"{part}: {looks.DARK[colour.upper()]}" for part, colour in coloured[name])
    assert 'style="' not in svg
    assert set(re.findall(r'class="(\w+)"', svg)) == set(told)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_stand_out_from_the_ground(dark: bool) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5:1 for text, 3:1 for graphics."""

    def light(colour: str) -> float:
        parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    def contrast(colour: str) -> float:
        pair = sorted(light(looks.DARK[shown] if dark else shown) for shown in (colour, "#FFFFFF"))
        return (pair[1] + 0.05) / (pair[0] + 0.05)

    assert contrast("#FFFFFF") == 1
    assert all(contrast(colour) >= 4.5 for colour in (looks.INK, looks.QUIET, "#333333"))
    assert all(contrast(style.colour) >= 3 for style in looks.STYLES)


def test_numbers_are_rounded_in_geometry_alone(three: list[runs.Run], tmp_path: Path) -> None:
    path = curves.draw(three, "alpaca", "prompts", tmp_path / "x")[1]
    root = ElementTree.parse(path).getroot()
    for node in root.iter():
        for part in ("d", "x", "y"):
            assert not re.search(r"\.\d\d", node.get(part, ""))
    assert sum(bool(re.fullmatch(r"(ropd|logit_opd|sft|student|teacher) 0\.\d{3}", word)) for word in words(path)) == 5


def test_curve_data(lab: Lab) -> None:
    found = [runs.read(lab.run("sft", seed, stop=0.4)) for seed in range(2)]
    curve = curves.curve_of("sft", found, "alpaca", "teacher_tokens_in")
    assert curve.readings == pytest.approx([30 * 1.01 * prompts for prompts in (0, 26, 51, 102, 205, 410)])
    assert [seed[-1][0] for seed in curve.seeds] == pytest.approx([30 * 410, 30 * 410 * 1.02])
    assert curve.end.mean == pytest.approx(sum(seed[-1][1] for seed in curve.seeds) / 2)
    with pytest.raises(SpecError, match="no run has used any critic tokens"):
        curves.draw(found, "alpaca", "critic_tokens", lab.root / "x")


def test_references_are_means_over_seeds(three: list[runs.Run]) -> None:
    levels = curves.references(three, "alpaca")
    start = [np.mean(list(run.items("alpaca", "0").values())) for run in three if run.method == "sft"]
    assert list(levels) == ["student", "teacher"]
    assert levels["student"] == pytest.approx(np.mean(start))


def test_a_method_that_stops_early_stays_flat_to_the_end(lab: Lab, tmp_path: Path, seen: list[Axes]) -> None:
    curves.draw([runs.read(lab.run("ropd")), runs.read(lab.run("sft", stop=0.5))], "alpaca", "prompts", tmp_path / "x")
    lines = {line.get_color(): np.array(line.get_xydata()) for line in seen[0].lines if line.get_linewidth() == 2.0}
    long, short = lines[looks.STYLES[0].colour], lines[looks.STYLES[2].colour]
    assert long[1:, 0].tolist() == [6, 7, 8, 9, 10]
    assert long[0, 0] < 5
    assert short[1:, 0].tolist() == [5, 6, 7, 8, 9, 10]
    assert short[-1, 1] == short[-2, 1]
    assert [label.get_text() for label in seen[0].get_xticklabels()][:2] == ["0", "64\nprompts"]


def test_more_than_six_curves_become_a_panel_a_method(many: list[runs.Run], tmp_path: Path, seen: list[Axes]) -> None:
    path = curves.draw(many, "alpaca", "prompts", tmp_path / "x")[0]
    assert len(seen) == 7
    titles = [text.get_text() for axes in seen for text in axes.texts if text.get_fontweight() == "bold"]
    assert [title.split()[0] for title in titles] == [f"method_{place}" for place in (6, 5, 4, 3, 2, 1, 0)]
    assert len({axes.get_ylim() for axes in seen}) == 1
    assert words(path).count("shuffled") == 1
    grey = [line for line in seen[0].lines if line.get_color() == looks.BEHIND]
    assert len(grey) == 1
    assert np.isnan(np.array(grey[0].get_ydata(), float)).sum() == panels.MOST
    described = str(ElementTree.parse(path).getroot()[1].text)
    assert described.count(" scores ") == panels.MOST + 2
    assert re.search(r"; 2 more score 0\.\d{3} to 0\.5\d\d; the student", described)


def test_every_meter_that_was_used(three: list[runs.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "SHEETS", canvas.SHEETS[1:2])
    full = [replace(run, marks=tuple(replace(mark, meters=complete(mark.meters)) for mark in run.marks)) for run in three]
    told = ["prompts", "teacher_tokens_in", "teacher_tokens_out", "critic_tokens_in", "critic_tokens_out", "flops", "usd"]
    assert curves.used(full) == [*told, "teacher_tokens", "critic_tokens"]
    stems = ["curve", *(f"curve-{meter}" for meter in curves.used(full)[1:])]
    assert names(curves.draw_meters(full, "alpaca", tmp_path)) == [f"{stem}-narrow.pdf" for stem in stems]


def complete(meters: Any) -> dict[str, float]:
    from harness.ledger import METERS

    return {**dict.fromkeys(METERS, 0.0), **meters}


def test_costs_share_one_range(three: list[runs.Run], tmp_path: Path, seen: list[Axes]) -> None:
    full = [replace(run, marks=tuple(replace(mark, meters=complete(mark.meters)) for mark in run.marks)) for run in three]
    path = curves.draw_costs(full, "alpaca", tmp_path / "costs")[0]
    assert [axes.texts[0].get_text() for axes in seen] == ["prompts", "teacher tokens", "critic tokens", "FLOPs", "US dollars"]
    assert len({axes.get_ylim() for axes in seen}) == 1
    assert len({axes.get_xlim() for axes in seen}) == 5
    assert [words(path).count(label) for label in ("ropd", "logit_opd", "sft")] == [5, 4, 4]


def test_suites_of_one_scale_share_a_range(lab: Lab, tmp_path: Path, seen: list[Axes]) -> None:
    """A second suite with the same scale and a third whose ratings go from 1 to 10."""
    paths = [lab.run("ropd", seed) for seed in range(2)]
    for path in paths:
        for suite, low, high in (("other", 0, 1), ("ratings", 1, 10)):
            copy_suite(path, suite, low, high)
    found = [runs.read(path) for path in paths]
    drawn = curves.draw_suites(found, tmp_path / "suites")[0]
    assert [axes.texts[0].get_text() for axes in seen] == ["alpaca win rate", "other win rate", "ratings win rate"]
    assert seen[0].get_ylim() == seen[1].get_ylim()
    rated = curves.curve_of("ropd", found, "ratings", "prompts").end.mean
    assert seen[2].get_ylim()[0] < 1 + 9 * 0.57 < rated < seen[2].get_ylim()[1] <= 10.18
    assert f"ropd {rated:.3f}" in words(drawn)
    assert "on ratings, ropd scores" in str(ElementTree.parse(drawn).getroot()[1].text)


def copy_suite(path: Path, name: str, low: float, high: float) -> None:
    import json

    for file in (path / "suites" / "alpaca" / "marks").iterdir():
        told = json.loads(file.read_text())
        write(path / "suites" / name / "marks" / file.name, {**told, "suite": name, "scale": [low, high]})
    for file in (path / "suites" / "alpaca" / "items").iterdir():
        items = {item: low + score * (high - low) for item, score in json.loads(file.read_text()).items()}
        write(path / "suites" / name / "items" / file.name, items)


def at(label: str, cost: float, score: float) -> Point:
    return Point(label, label, cost, Interval(score, score - 0.1, score + 0.1, seeds=3, items=9, p=0.5))


def test_the_efficient_points() -> None:
    points = [
        at("cheap", 0, 0.3),
        at("beaten", 2, 0.3),
        at("mid", 1, 0.5),
        at("dear", 4, 0.7),
        at("worse", 4, 0.6),
        at("same", 1, 0.5),
    ]
    assert [point.label for point in pareto.efficient(points)] == ["cheap", "mid", "same", "dear"]
    assert pareto.efficient(points[1:2]) == points[1:2]


def test_draws_score_against_cost(three: list[runs.Run], tmp_path: Path, seen: list[Axes]) -> None:
    """All use the same dollars, so only the best is efficient; of critic tokens the other two use none."""
    points = pareto.points_of(three, "alpaca", "critic_tokens")
    assert [point.label for point in points] == ["logit_opd", "ropd", "sft"]
    assert [point.cost for point in points] == pytest.approx([0, 1224 * 1024, 0], rel=1e-9)
    path = pareto.draw(three, "alpaca", "critic_tokens", tmp_path / "x")[0]
    assert [point.label for point in pareto.efficient(points)] == ["logit_opd"]
    told = words(path)
    assert [word.split()[:2] for word in told if re.match(r"\d \w+ 0\.", word)] == [
        ["1", "logit_opd"],
        ["2", "ropd"],
        ["3", "sft"],
    ]
    bars = [
        np.array(line.get_xydata()) for line in seen[0].lines if line.get_color() == looks.BEHIND and line.get_marker() == "None"
    ]
    assert sorted(bar[0, 1] for bar in bars) == pytest.approx(sorted(point.score.lo for point in points[1:]))
    described = str(ElementTree.parse(path).getroot()[1].text)
    best = f"{points[0].score.mean:.3f}"
    assert described == f"Of 3 methods, none is beaten in both score and critic tokens of these: logit_opd ({best} for 0 tokens)."
    with pytest.raises(SpecError, match="no run has used any critic tokens"):
        pareto.draw([run for run in three if run.method == "sft"], "alpaca", "critic_tokens", tmp_path / "x")


def course(*points: tuple[float, float], seeds: list[list[tuple[float, float]]] | None = None) -> Course:
    marks = ["0", "1/4", "1/2", "1"][: len(points)]
    return Course("ropd", "ropd", marks, list(points), seeds or [list(points)])


def test_gold_that_falls_while_the_proxy_rises() -> None:
    up = course((0.1, 0.4), (0.3, 0.6), (0.5, 0.5))
    assert proxy.fall(up) == Fall("1/4", 0.6 - 0.5, 0.5 - 0.3, 1)
    assert proxy.fall(course((0.1, 0.4), (0.3, 0.6), (0.2, 0.5))) is None, "both fall"
    assert proxy.fall(course((0.1, 0.4), (0.3, 0.5), (0.5, 0.6))) is None, "both rise"
    apart = course(*up.points, seeds=[[(0.1, 0.4), (0.3, 0.7), (0.6, 0.4)], [(0.1, 0.4), (0.3, 0.5), (0.4, 0.6)]])
    found = proxy.fall(apart)
    assert found is not None
    assert found.seeds == 1


def test_proxies_by_mark(lab: Lab) -> None:
    """Rewards of rounds 1, 2, 3 ... are 1, 2, 3 ...; marks lie at rounds 0, 4, 8, 16, 32 and 64."""
    path = lab.run("ropd")
    steps = [canonical({"round": n, "metrics": {"training_reward": n, "lr": 0.1}}) + "\n" for n in range(1, 65)]
    write(path / "steps.jsonl", "".join(steps))
    run = runs.read(path)
    assert proxy.proxies([run]) == ["judge", "training_reward"]
    found = proxy.course_of("ropd", [run], "alpaca", "training_reward")
    assert found is not None
    assert found.marks == ["1/16", "1/8", "1/4", "1/2", "1"]
    assert [x for x, _ in found.points] == [2.5, 6.5, 12.5, 24.5, 48.5]
    judged = proxy.course_of("ropd", [run], "alpaca", "judge")
    assert judged is not None
    told = [run.scores["alpaca"][mark]["greedy"] for mark in judged.marks]
    assert judged.points == [(each["win_rate"]["value"], each["gold"]["value"]) for each in told]
    other = runs.read(lab.run("sft"))
    assert proxy.course_of("sft", [other], "alpaca", "training_reward") is None


def test_draws_gold_against_a_proxy(lab: Lab, tmp_path: Path, seen: list[Axes]) -> None:
    steady, gamed = lab.run("sft"), lab.run("ropd")
    for mark, gold in (("1-4", 0.7), ("1-2", 0.65), ("1", 0.5)):
        change_gold(gamed, mark, gold)
    found = [runs.read(steady), runs.read(gamed)]
    path = proxy.draw(found, "alpaca", "judge", tmp_path / "x")[0]
    rise = [found[1].scores["alpaca"][mark]["greedy"]["win_rate"]["value"] for mark in ("1/4", "1")]
    assert str(ElementTree.parse(path).getroot()[1].text) == (
        "Gold falls while alpaca win rate rises for 1 of 2 methods: ropd (from mark 1/4 on gold falls by 0.200 and "
        f"alpaca win rate rises by {rise[1] - rise[0]:.3f}, in 1 of 1 seeds)."
    )
    assert "gold -0.200 since 1/4" in words(path)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in seen}) == 1
    with pytest.raises(SpecError, match="no proxy named 'judgy'") as caught:
        proxy.draw(found, "alpaca", "judgy", tmp_path / "x")
    assert caught.value.fix == "did you mean judge?"


def change_gold(path: Path, mark: str, gold: float) -> None:
    import json

    file = path / "suites" / "alpaca" / "marks" / f"{mark}.json"
    told = json.loads(file.read_text())
    told["greedy"]["gold"]["value"] = gold
    write(file, told)


def test_a_track_without_gold_has_nothing_to_show(lab: Lab, tmp_path: Path) -> None:
    import json

    path = lab.run("sft")
    for file in (path / "suites" / "alpaca" / "marks").iterdir():
        told = json.loads(file.read_text())
        del told["greedy"]["gold"]
        write(file, told)
    with pytest.raises(SpecError, match="no run on alpaca has gold beside 'judge' at two marks"):
        proxy.draw([runs.read(path)], "alpaca", "judge", tmp_path / "x")


def test_a_variant_is_its_settings() -> None:
    assert panels.variant("ropd", "ropd") == ("", "")
    assert panels.variant("sft opt.lr=0.1 signal=a b shuffled", "sft") == ("opt.lr, signal", "0.1, a b shuffled")


def test_no_name_lies_on_another(many: list[runs.Run], tmp_path: Path) -> None:
    """On every sheet, for one panel and for many."""
    for found in (many, [run for run in many if run.method in ("method_0", "method_1", "method_2")]):
        *_, compose = curves._figure(found, "alpaca", "prompts")
        for sheet in canvas.SHEETS:
            assert overlaps(sheet, compose) == []


def overlaps(sheet: Sheet, compose: Any) -> list[tuple[str, str]]:
    """Pairs of texts that touch, and texts that reach over the edge."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    with rc_context({**looks.SETTINGS, "font.size": sheet.font}):
        figure = compose(sheet)
        figure.canvas.draw()
        unseen = set()  # labels of ticks outside the axes' limits, which nobody draws
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            low, high = axis.get_view_interval()
            unseen |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
        shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible() and text not in unseen]
        boxes = [(text.get_text(), text.get_window_extent().padded(-1.5)) for text in shown]
        right = figure.bbox.x1
    found = [(one, other) for i, (one, a) in enumerate(boxes) for other, b in boxes[:i] if a.overlaps(b)]
    return found + [(name, "edge") for name, box in boxes if not 0 <= box.x0 < box.x1 <= right + 1]


def test_labels_keep_their_distance() -> None:
    assert looks.spread([100, 10, 50], 16, 0, 200) == [100, 10, 50]
    assert looks.spread([50, 50, 52], 16, 0, 200) == pytest.approx([104 / 3 + 0, 104 / 3 + 16, 104 / 3 + 32])
    assert looks.spread([1, 2], 16, 0, 200) == [0, 16]
    assert looks.spread([199, 200, 100], 16, 0, 200) == [184, 200, 100]


def test_the_x_scale() -> None:
    marks = [0, 64, 128, 256]
    scale = looks.Scale.of([marks, marks, [0, 20, 40]], "prompts")
    assert scale.ticks == (64, 128, 256)
    assert scale.places([0, 256, 64]) == [scale.zero, 8, 6]
    assert scale.zero < scale.start
    apart = looks.Scale.of([[0, 900, 90_000], [0, 120, 3_000]], "critic_tokens")
    assert apart.ticks == (500, 2_000, 10_000, 50_000)
    assert len(looks.Scale.of([[2**n for n in range(20)]], "prompts").ticks) == 7


@pytest.mark.parametrize(
    ("value", "meter", "words"),
    [
        (0, "prompts", "0 prompts"), (64, "prompts", "64 prompts"), (2048, "prompts", "2,048 prompts"),
        (12_345, "critic_tokens_in", "12.3 k tokens"), (3264, "teacher_tokens", "3.26 k tokens"),
        (2.5e12, "flops", "2.5 T FLOPs"),
        (0.12, "usd", "$0.12"), (0.0034, "usd", "$0.0034"), (30, "optimizer_steps", "30 steps"), (7, "critic_calls", "7 calls"),
    ],
)  # fmt: skip
def test_amounts_in_words(value: float, meter: str, words: str) -> None:
    assert looks.amount(value, meter) == words


def test_methods_keep_their_colours() -> None:
    alone = looks.styles([("sft", "sft")])
    among = looks.styles([("a", "newcomer"), ("ropd x", "ropd"), ("ropd y", "ropd"), ("sft", "sft")])
    assert alone["sft"] == among["sft"]
    assert among["ropd x"].colour == among["ropd y"].colour
    assert among["ropd x"].dash != among["ropd y"].dash
    assert among["ropd x"].marker != among["ropd y"].marker
    assert among["a"].colour not in {among["sft"].colour, among["ropd x"].colour}

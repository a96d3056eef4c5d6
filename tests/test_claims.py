"""Claims as data, verdicts on synthetic runs where the answer is known by construction, and the grid of lacking runs."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy.stats import ttest_1samp
from typer.testing import CliRunner

from harness import registry
from harness.cli import app
from harness.errors import SpecError
from harness.ledger import BUDGETABLE
from harness.report import claims, claims_data, claims_grid, claims_measure, claims_show, runs
from harness.report.claims_data import Arm, Mechanism
from harness.report.stats import of_these_pairs, paired
from harness.spec import canonical, identity_of
from harness.sweep import grid as grids

ROOT = Path(__file__).parents[1]
MARKS = {"0": 0.0, "1/4": 0.25, "1/2": 0.5, "1": 1.0}
TRACK: dict[str, Any] = {
    "name": "pocket", "budget": {"prompts": 64.0}, "marks": list(MARKS), "suites": {"alpaca": {}},
    "overrides": {"ropd": {"group_size": 4}}, "pocket": {"pairs": 3},
}  # fmt: skip
SHUFFLED = {"signal": "shuffled"}
MECHANISMS = [claim for claim in claims_data.shipped() if isinstance(claim, Mechanism)]


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else canonical(value), encoding="utf-8")


@dataclass
class Lab:
    """Writes run folders whose scores rise straight with log2 of prompts; items are hard alike, noise is of one size."""

    root: Path

    def runs(
        self, method: str, end: float, settings: Mapping[str, Any] | None = None, *, seeds: int = 3, noise: float = 0.05,
        per_seed: float = 0.0, tokens: float = 10.0, gold: float | None = None, asked: float = 0.0, judge: str = "j",
        marks: tuple[str, ...] = tuple(MARKS),
    ) -> None:  # fmt: skip
        """Runs that end at a score, apart from `per_seed` times the seed less 1.

        Args:
            noise: of single items.
            tokens: of an answer at the last mark; 10 at the first.
            gold: change of the gold quality; that of the score unless given.
            asked: critic tokens for each prompt.
        """
        config = Arm(method=method, settings=dict(settings or {})).config(TRACK)
        for seed in range(seeds):
            spec = {"method": method, "config": config, "seed": seed, "track": TRACK}
            folder = self.root / "pocket" / f"{method}-s{seed}-{identity_of(spec)[:8]}"
            write(folder / "spec.json", spec)
            write(folder / "manifest.json", {})
            rows = [{"mark": mark, "rounds": 0, "meters": meters(64 * MARKS[mark], asked)} for mark in marks]
            write(folder / "marks.jsonl", "".join(canonical(row) + "\n" for row in rows))
            for place, mark in enumerate(marks):
                level = 0.2 + (end + per_seed * (seed - 1) - 0.2) * place / (len(marks) - 1)
                drawn = random.Random(f"{method} {config} {seed} {mark}")
                scores = {f"i{n:02}": level + 0.01 * n + (drawn.uniform(-noise, noise) if place else 0.0) for n in range(40)}
                value = sum(scores.values()) / 40
                change = (level - 0.2) if gold is None else gold * place / (len(marks) - 1)
                plain = mark.replace("/", "-")
                write(folder / "suites/alpaca/items" / f"{plain}.greedy.json", scores)
                write(folder / "suites/alpaca/marks" / f"{plain}.json", {
                    "suite": "alpaca", "mark": mark, "version": "1", "data": "d", "judge": judge, "metric": "win_rate", "n": 40,
                    "headline": "greedy", "scale": [0, 2],
                    "greedy": {"win_rate": {"value": value, "stderr": 0.01, "n": 40, "missing": 0},
                               "gold": {"value": 0.3 + change}, "tokens": 10 + (tokens - 10) * place / (len(marks) - 1)},
                })  # fmt: skip


def meters(prompts: float, asked: float) -> dict[str, float]:
    return {**dict.fromkeys(BUDGETABLE, 0.0), "prompts": prompts, "rollouts": 4 * prompts, "critic_tokens_in": asked * prompts}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def claim(name: str = "it", **changes: Any) -> dict[str, Any]:
    """A mechanism claim as a file has it."""
    return {
        "id": name, "type": "mechanism", "paper": "2605.07396", "place": "reported", "says": "It works.", "suite": "alpaca",
        "quantity": "end", "margin": 0.05, "seeds": 3, "methods": [{"method": "ropd"}, {"method": "sft"}],
        "alarm": {"method": "ropd", "settings": SHUFFLED}, **changes,
    }  # fmt: skip


def family(*told: dict[str, Any]) -> tuple[claims_data.Claim, ...]:
    return claims_data.read(yaml.safe_dump(list(told)), "claims")


def judged(lab: Lab, *told: dict[str, Any]) -> list[claims.Verdict]:
    return claims.verdicts(family(*(told or (claim(),))), runs.select([], lab.root), TRACK)


def only(lab: Lab, **changes: Any) -> claims.Verdict:
    return judged(lab, claim(**changes))[0]


def three(lab: Lab, first: float, second: float, alarm: float, **how: Any) -> None:
    lab.runs("ropd", first, **how)
    lab.runs("sft", second, **how)
    lab.runs("ropd", alarm, SHUFFLED, **how)


def test_holds_where_the_difference_is_beyond_the_margin_and_the_alarm_is_not(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6)
    found = only(lab)
    assert found.said == "holds"
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.2, abs=0.02)
    assert found.alarm is not None
    assert found.alarm.mean == pytest.approx(0.0, abs=0.02)
    assert claims_show.in_full(found, claims_show.world_of(TRACK)) == "holds, in pocket"
    assert claims_show.in_full(found, claims_show.world_of({"name": "qwen"})) == "holds, on qwen"


def test_the_test_is_that_of_the_statistics_about_the_margin(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6)
    found, chosen = only(lab), runs.select([], lab.root)
    own = [run for run in chosen if not run.shuffled]
    first, second = ([run.items("alpaca", "1") for run in own if run.method == name] for name in ("ropd", "sft"))
    first_SI, second_SI = runs.aligned(first, second)
    assert found.difference == paired(first_SI, second_SI)
    assert found.p_alone == pytest.approx(paired(first_SI - 0.05, second_SI).p)
    assert found.p == found.p_alone


def test_does_not_hold_where_the_difference_is_short_of_the_margin(lab: Lab) -> None:
    three(lab, 0.61, 0.6, 0.9)
    assert only(lab).said == "does not hold"
    assert only(lab, margin=-0.05, alarm={"method": "sharpen"}).said == "not run"
    lab.runs("sharpen", 0.2)
    assert only(lab, margin=-0.05, alarm={"method": "sharpen"}).said == "holds"  # a loss of .05 would be allowed


def test_an_alarm_that_does_the_same_takes_the_verdict_away(lab: Lab) -> None:
    three(lab, 0.9, 0.6, 0.8)
    found = only(lab)
    assert found.said == "alarm: not shown"
    assert found.rings
    assert "alarm rings: ropd signal=shuffled +0." in claims_show.table([found], "in pocket").plain.replace("\n    ", " ")


def test_the_other_direction(lab: Lab) -> None:
    three(lab, 0.4, 0.6, 0.6)
    assert only(lab, direction="<").said == "holds"
    assert only(lab).said == "does not hold"
    assert only(lab, direction="<", margin=0.3).said == "does not hold"
    lab.runs("ropd", 0.4, {"references": 1})
    assert only(lab, direction="<", alarm={"method": "ropd", "settings": {"references": 1}}).said == "alarm: not shown"


def test_unclear_says_what_would_have_shown(lab: Lab) -> None:
    three(lab, 0.7, 0.6, 0.6, per_seed=0.1)
    lab.runs("sft", 0.6, per_seed=-0.1)
    found = only(lab)
    assert found.said == "unclear"
    assert found.detectable is not None
    assert found.detectable > 0.3  # three pairs whose differences are -.1, .1 and .3
    assert f"{found.detectable:.3f} beyond the margin would show alone" in found.why


def test_holm_counts_claims_that_were_not_run(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6)
    alone = only(lab)
    assert alone.p_alone is not None
    assert alone.p_alone < 0.05 / 2
    absent = [claim(f"absent-{n}", methods=[{"method": "dpo"}, {"method": "simpo"}]) for n in range(3)]
    found = judged(lab, claim(), *absent)
    assert found[0].p == pytest.approx(min(1.0, 4 * alone.p_alone))
    assert [each.said for each in found[1:]] == ["not run"] * 3
    many = [claim(f"absent-{n}", methods=[{"method": "dpo"}, {"method": "simpo"}]) for n in range(int(0.05 / alone.p_alone) + 1)]
    assert judged(lab, claim(), *many)[0].said == "unclear"


def test_planted_and_unscaled_claims_get_no_verdict_whatever_the_runs(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6)
    plain = {"paper": "2605.07396", "place": "reported", "says": "It works."}
    found = judged(lab, {"id": "a", "type": "planted", "why": "we built it so", **plain},
                   {"id": "b", "type": "needs_scale", "needs": "a large model", **plain})  # fmt: skip
    assert [(each.said, each.difference, each.p) for each in found] == [("planted", None, None), ("needs scale", None, None)]
    assert [claims_show.in_full(each, "in pocket") for each in found] == ["planted", "needs scale"]


def test_what_was_not_run_is_named(lab: Lab) -> None:
    lab.runs("ropd", 0.8, seeds=2)
    lab.runs("sft", 0.6)
    lab.runs("ropd", 0.6, {**SHUFFLED, "references": 1})
    found = only(lab)
    assert found.said == "not run"
    assert found.why == "ropd: seed 2; ropd signal=shuffled: seeds 0, 1, 2"
    assert found.missing == ((Arm(method="ropd"), (2,)), (Arm(method="ropd", settings=SHUFFLED), (0, 1, 2)))


def test_the_whole_course_needs_marks_on_the_way(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6, marks=("0", "1"))
    assert only(lab).said == "holds"
    assert only(lab, quantity="area").said == "not run"


def test_area(lab: Lab) -> None:
    """Scores .2, .4, .6, .8 at 0, 16, 32, 64 prompts: mean height .6 over log2, against .2, .3, .4, .5: .4."""
    three(lab, 0.8, 0.5, 0.2, noise=0.0)
    found = only(lab, quantity="area")
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.2)


def test_scores_at_equal_tokens_lie_on_lines_over_log2(lab: Lab) -> None:
    """ropd reads 64 x 40, sft 64 x 10: sft ends at 640, where ropd is at mark 1/4, so .4 against .5."""
    lab.runs("ropd", 0.8, asked=40, noise=0.0)
    lab.runs("sft", 0.5, asked=10, noise=0.0)
    lab.runs("ropd", 0.2, SHUFFLED, asked=40, noise=0.0)
    found = only(lab, meter="critic_tokens")
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(-0.1)
    assert found.said == "does not hold"
    lab.runs("dpo", 0.8, asked=100)
    late = only(lab, meter="critic_tokens", methods=[{"method": "dpo"}, {"method": "sft"}])
    assert late.why == "the first scores of one come after the last of the other, by critic_tokens"
    refused = only(lab, meter="teacher_tokens")
    assert (refused.said, refused.difference) == ("unclear", None)
    assert "does not use the meter" in refused.why


def test_matched_compares_at_a_share_of_the_budget(lab: Lab) -> None:
    """sft goes .2, .3, .4, .5: 0.8 of its rise, .44, is reached at 2^5.4 prompts. ropd at half of that: .4 + .4 x .2 = .48."""
    three(lab, 0.8, 0.5, 0.2, noise=0.0)
    found = only(lab, quantity="matched", share=0.5, margin=0.0)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.04)
    assert found.said == "holds"
    early = only(lab, quantity="matched", share=0.1, margin=0.0)
    assert early.said == "unclear"
    assert early.why.startswith("sft is there before ropd scores")


def test_length_and_gold_have_one_value_a_run(lab: Lab) -> None:
    lab.runs("ropd", 0.8, tokens=14, gold=0.3)
    lab.runs("sft", 0.6, tokens=12, gold=0.4)
    lab.runs("ropd", 0.6, SHUFFLED, tokens=12, gold=0.4)
    found = only(lab, quantity="length", margin=1.0)
    assert found.said == "holds"
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(2.0)
    gap = only(lab, quantity="gold_gap", margin=0.0)
    assert gap.difference is not None
    assert gap.difference.mean == pytest.approx(-0.3, abs=0.02)
    assert gap.said == "does not hold"


def test_one_value_a_run_gives_students_t_over_pairs(lab: Lab) -> None:
    lab.runs("ropd", 0.8, tokens=14)
    lab.runs("sft", 0.6)
    chosen = runs.select([], lab.root)
    first = {run.seed: run for run in chosen if run.method == "ropd"}
    second = {run.seed: run for run in chosen if run.method == "sft"}
    told = iter([0.3, 0.0, 0.5, 0.0, 1.0, 0.0] + [0.0] * 6)
    tokens = {id(run): next(told) for pair in zip(first.values(), second.values(), strict=True) for run in pair}
    for run in chosen:
        run.scores["alpaca"]["1"]["greedy"]["tokens"] = 10 + tokens[id(run)]
    it = family(claim(quantity="length"))[0]
    assert isinstance(it, Mechanism)
    measured = claims_measure.difference(it, first, second)
    expected = ttest_1samp([0.3, 0.5, 1.0], 0)
    assert np.allclose(measured.values_SI[:, 0], [0.3, 0.5, 1.0])
    assert not measured.of_these_pairs
    interval = measured.spread().interval
    assert (interval.lo, interval.hi) == pytest.approx(tuple(expected.confidence_interval()))
    assert interval.p == pytest.approx(expected.pvalue)


def test_with_two_seeds_a_pair_the_verdict_is_about_these_very_pairs(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6, seeds=6)
    found, chosen = only(lab, seeds=6), runs.select([], lab.root)
    own = [run for run in chosen if not run.shuffled]
    sides = ([run.items("alpaca", "1") for run in own if run.method == name] for name in ("ropd", "sft"))
    first_SI, second_SI = runs.aligned(*sides)
    assert found.difference == of_these_pairs(first_SI - second_SI, (0, 1, 2, 0, 1, 2)).interval
    assert found.p_alone == pytest.approx(of_these_pairs(first_SI - second_SI - 0.05, (0, 1, 2, 0, 1, 2)).interval.p)
    assert found.by_pair == pytest.approx((first_SI - second_SI).reshape(2, 3, -1).mean(axis=(0, 2)))
    assert found.said == "holds"
    lab.runs("ropd", 0.8, seeds=7)
    assert only(lab).difference == found.difference  # as many seeds of each pair


def test_a_verdict_needs_all_pairs_on_one_side_of_the_margin(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6, seeds=6, noise=0.02)
    for run in runs.select([], lab.root):  # on the third pair nothing is gained
        if run.method == "ropd" and not run.shuffled and run.pair == 2:
            path = run.path / "suites/alpaca/items/1.greedy.json"
            write(path, {item: score - 0.18 for item, score in json.loads(path.read_text()).items()})
    found = only(lab, seeds=6)
    assert found.p is not None
    assert found.p < 0.001
    assert (found.said, [round(each, 1) for each in found.by_pair]) == ("unclear", [0.2, 0.2, 0.0])
    assert found.why.endswith("but the pairs of models lie on both sides of the margin")


def test_one_pair_of_models_says_nothing_about_others(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6, seeds=6)
    chosen = runs.select([], lab.root)
    for run in chosen:
        run.spec["track"].update({"pocket": {"pairs": 1}})
    verdict = claims.verdicts(family(claim()), chosen, TRACK)[0]
    assert (verdict.said, verdict.why) == ("unclear", "one pair of models says nothing about others")



def test_arms_that_a_track_makes_equal_are_not_compared(lab: Lab) -> None:
    lab.runs("ropd", 0.8)
    lab.runs("ropd", 0.6, SHUFFLED)
    found = only(lab, methods=[{"method": "ropd"}, {"method": "ropd", "settings": {"group_size": 4}}])
    assert (found.said, found.why) == ("unclear", "the track makes two of the arms the same")


def test_other_judges_are_refused(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6)
    lab.runs("sft", 0.6, judge="another")
    with pytest.raises(runs.Incomparable, match="not scored on alpaca in the same way"):
        only(lab)


# the file ------------------------------------------------------------------------------------------------------------


def test_the_shipped_family() -> None:
    kinds = [each.type for each in claims_data.shipped()]
    assert len(kinds) >= 20
    assert (kinds.count("mechanism") >= 10, kinds.count("planted") >= 3, kinds.count("needs_scale") >= 7) == (True, True, True)
    assert {each.quantity for each in MECHANISMS} == set(claims_measure._QUANTITIES) == set(claims_show.UNITS)
    assert {each.suite for each in MECHANISMS} <= set(registry.modules("suites"))
    assert {each.meter for each in MECHANISMS} <= {*BUDGETABLE, *runs.SUMS}


@pytest.mark.parametrize("it", MECHANISMS, ids=lambda it: it.id)
def test_every_arm_can_be_run_and_the_paper_is_that_of_a_method(it: Mechanism) -> None:
    from harness import tracks

    track = tracks.load("pocket").model_dump(mode="json")
    arms = (*it.methods, it.alarm)
    assert len({canonical([arm.method, arm.config(track)]) for arm in arms}) == 3, "three different arms"
    pages = [(ROOT / "docs" / "methods" / f"{arm.method}.md").read_text(encoding="utf-8") for arm in arms]
    told = [*pages, *(registry.method(arm.method).paper for arm in arms)]
    assert any(it.paper in text for text in told)


def test_other_papers_are_those_of_methods_too() -> None:
    papers = " ".join(registry.method(name).paper for name in registry.modules("methods"))
    assert [each.id for each in claims_data.shipped() if not isinstance(each, Mechanism) and each.paper not in papers] == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"margins": 1}, "margins"),
        ({"quantity": "vibes"}, "quantity"),
        ({"share": 0.5}, "share"),
        ({"quantity": "matched"}, "share"),
        ({"paper": "ROPD"}, "paper"),
        ({"type": "opinion"}, "opinion"),
        ({"methods": [{"method": "ropd"}]}, "methods"),
        ({"type": "planted"}, "why"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        family(claim(**changes))


def test_two_claims_of_one_name_are_refused() -> None:
    with pytest.raises(SpecError, match="two claims are called it"):
        family(claim(), claim())


def test_a_setting_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="ropd rubrics=2 cannot be run"):
        Arm(method="ropd", settings={"rubrics": 2}).config(TRACK)


def test_claims_are_named_by_id_or_paper() -> None:
    among = family(claim("a"), claim("b", paper="2306.13649"), claim("c"))
    assert [each.id for each in claims_data.chosen([], among)] == ["a", "b", "c"]
    assert [each.id for each in claims_data.chosen(["c", "2306.13649"], among)] == ["b", "c"]
    with pytest.raises(SpecError, match="no claim and no paper") as caught:
        claims_data.chosen(["2306.1364"], among)
    assert "did you mean 2306.13649?" in caught.value.fix


# the grid ------------------------------------------------------------------------------------------------------------


def test_the_grid_holds_exactly_the_runs_that_the_claims_need() -> None:
    from harness import tracks

    track = tracks.load("pocket").model_dump(mode="json")
    wanted = {canonical([arm.method, arm.config(track), seed]) for it in MECHANISMS
              for arm in (*it.methods, it.alarm) for seed in range(it.seeds)}  # fmt: skip
    jobs = grids.jobs(grids.read(claims_grid.needed(MECHANISMS, track), "grid"), "grid")
    assert {canonical([job.spec.method, job.spec.config, job.spec.seed]) for job in jobs} == wanted
    assert len(jobs) == len(wanted)
    assert {job.spec.track.budget["prompts"] for job in jobs} == {512}


def test_exclusions_are_few_and_exact() -> None:
    values = {"a": [0, 1], "b": [0, 1], "c": [0, 1]}
    wanted = [{"a": 0, "b": 0, "c": 0}, {"a": 1, "b": 0, "c": 0}, {"a": 1, "b": 1, "c": 1}]
    found = claims_grid._exclusions(values, wanted)
    assert found == [{"a": 0, "b": 1}, {"a": 0, "c": 1}, {"b": 0, "c": 1}, {"b": 1, "c": 0}]
    assert claims_grid._exclusions({"a": [0, 1]}, [{"a": 0}, {"a": 1}]) == []


def test_suites_are_scored_on_the_way_only_where_it_matters() -> None:
    one = claim("a"), claim("b", suite="reasoning", quantity="area")
    found = claims_grid.needed([it for it in family(*one) if isinstance(it, Mechanism)], TRACK)
    assert (found["suites_at_marks"], found["suites"]) == (["reasoning"], ["alpaca"])


# the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def typed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Types a command where the lab's runs are."""
    monkeypatch.setenv("HARNESS_RUNS_DIR", str(lab.root))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["claims", *words], catch_exceptions=False, standalone_mode=False)
        assert done.exit_code == 0
        return done.stdout

    return run


def test_the_command_without_any_run(typed: Any) -> None:
    told = typed()
    assert max(map(len, told.splitlines())) <= 80
    last = f"{len(claims_data.shipped())} claims: {len(MECHANISMS)} not run, "
    assert last in told
    assert "in pocket" not in told
    assert "harness claims --grid > grid.yaml" in told


def test_the_command_on_runs(lab: Lab, typed: Any) -> None:
    lab.runs("best_of_n", 0.8, seeds=6)
    lab.runs("sharpen", 0.2, seeds=6)
    lab.runs("best_of_n", 0.2, SHUFFLED, seeds=6)
    told = typed("2304.06767")
    assert "raft-best-of-own          holds, in pocket" in told
    assert "1 claim: 1 holds; 1 of 1 alarms are silent\n" in told
    assert "alarm silent: best_of_n signal=shuffled" in told.replace("\n    ", " ")
    assert "of these very pairs of models" in told.replace("\n", " ")
    record = json.loads(typed("raft-best-of-own", "--json"))
    assert record["verdict"] == "holds, in pocket"
    assert record["difference"]["mean"] == pytest.approx(0.6, abs=0.02)
    assert record["by_pair"] == pytest.approx([0.6] * 3, abs=0.03)
    assert record["p"] == pytest.approx(len(MECHANISMS) * record["p_alone"])
    with pytest.raises(SpecError, match="lack no run"):
        typed("raft-best-of-own", "--grid")


def test_the_command_prints_a_grid_that_a_sweep_takes(lab: Lab, typed: Any) -> None:
    lab.runs("best_of_n", 0.8)
    found = grids.read(yaml.safe_load(typed("raft-best-of-own", "--grid")), "grid")
    assert (found.methods, found.seeds, found.budgets) == (("best_of_n", "sharpen"), (0, 1, 2, 3, 4, 5), ({"prompts": 64.0},))
    assert found.settings == {"best_of_n": {"signal": ["own", "shuffled"]}}


def test_the_list_needs_no_runs(typed: Any) -> None:
    told = typed("--list")
    assert max(map(len, told.splitlines())) <= 80
    assert all(each.id in told for each in claims_data.shipped())
    records = [json.loads(line) for line in typed("--list", "--json").splitlines()]
    assert [record["id"] for record in records] == [each.id for each in claims_data.shipped()]
    with pytest.raises(SpecError, match="looks at no runs"):
        typed("--list", "--runs", "pocket")
    with pytest.raises(SpecError, match="printed alone"):
        typed("--grid", "--json")


def test_equal_runs_give_equal_text(lab: Lab) -> None:
    three(lab, 0.8, 0.6, 0.6)
    texts = []
    for _ in range(2):
        console = Console(width=80, file=io.StringIO(), record=True)
        console.print(claims_show.table(judged(lab), "in pocket"))
        texts.append(console.export_text())
    assert texts[0] == texts[1]
    assert "it                        holds, in pocket" in texts[0]

"""The gates against regressions: verdicts on planted differences, exit codes, files, and the committed baseline itself."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness import cli
from harness.errors import SpecError
from harness.gate import scores as check_scores
from harness.gate import show as check_show
from harness.gate.exact import PLAN, ExactBaseline, Tolerance, Trajectory, compared, trajectory
from harness.gate.runs import Outcome, Plan, Row, as_text, conditions_of, differences, in_processes, read, same_conditions
from harness.gate.scores import (
    Grader,
    Run,
    ScoreBaseline,
    Scored,
    further_seeds,
    same_graders,
    two_sample,
    verdicts,
)
from harness.report.runs import Incomparable
from harness.report.stats import Interval, paired

BASELINES = Path(__file__).parents[1] / "results" / "baselines"
EXACT = BASELINES / "exact.json"
NEAR = Tolerance()


def recorded(*rounds: dict[str, float], fault: str = "", **config: object) -> Trajectory:
    return Trajectory(config=dict(config), rounds=rounds, fault=fault)


def test_whole_numbers_are_equal_and_others_near() -> None:
    assert NEAR.allows(412_310, 412_310)
    assert not NEAR.allows(412_310, 412_311)
    assert NEAR.allows(0.5, 0.5 * (1 + 9e-6))
    assert not NEAR.allows(0.5, 0.5 * (1 + 1.2e-5))
    assert NEAR.allows(0.0, 9e-7)
    assert not NEAR.allows(0.0, 1.1e-6)
    assert not NEAR.allows(None, 0.5)


def test_the_first_round_that_differs_is_named() -> None:
    before = recorded({"loss/loss": 0.5, "ledger/prompts": 8}, {"loss/loss": 0.25, "grad_norm": 1.5, "ledger/prompts": 16}, a=1)
    assert compared("m", before, before, NEAR).verdict == "pass"
    now = recorded({"loss/loss": 0.5, "ledger/prompts": 8}, {"loss/loss": 0.75, "grad_norm": 2.5, "ledger/prompts": 17}, a=1)
    row = compared("m", before, now, NEAR)
    assert (row.verdict, row.what, row.before, row.now) == ("FAIL", "round 2 grad_norm", "1.5", "2.5")
    assert row.note == "also loss/loss, ledger/prompts"


@pytest.mark.parametrize(
    ("now", "what", "old", "new"),
    [
        (recorded({"x": 1.5}, a=2), "setting a", "1", "2"),
        (recorded({"x": 1.5, "y": 0.5}, a=1), "round 1 y", "-", "0.5"),
        (recorded(a=1, fault="drift"), "rounds", "1", "0"),
        (recorded({"x": 1.5}, a=1, fault="drift"), "fault", "none", "drift"),
        (None, "method", "recorded", "-"),
    ],
)
def test_what_else_fails(now: Trajectory | None, what: str, old: str, new: str) -> None:
    row = compared("m", recorded({"x": 1.5}, a=1), now, NEAR)
    assert (row.verdict, row.what, row.before, row.now) == ("FAIL", what, old, new)


def test_a_method_without_a_baseline_is_unclear() -> None:
    assert compared("m", None, recorded({"x": 1.5}), NEAR).verdict == "unclear"


def test_other_conditions_are_shown_both() -> None:
    conditions = conditions_of(PLAN.resolved("grpo", 0)[0])
    same_conditions(conditions, conditions, "")
    other = {**conditions, "training": {**conditions["training"], "max_tokens": 40}}
    assert differences(conditions, other) == [("training.max_tokens", "48", "40")]
    with pytest.raises(Incomparable, match=r"training\.max_tokens   48 -> 40") as stop:
        same_conditions(conditions, other, "fix")
    assert stop.value.exit_code == 4


def change(mean: float, half: float, p: float, seeds: int = 6) -> Interval:
    return Interval(mean, mean - half, mean + half, seeds, 320, p)


def test_verdicts_follow_the_interval_and_the_margin() -> None:
    found = verdicts(
        {
            "near": change(-0.009, 0.010, 0.07),
            "worse": change(-0.053, 0.026, 0.0001),
            "wide": change(-0.009, 0.022, 0.4),
            "equal": change(0.0, 0.0, 1.0),
            "edge": change(-0.020, 0.000, 0.0),
        },
        margin=0.02,
    )
    assert found == {"near": "pass", "worse": "FAIL", "wide": "unclear", "equal": "pass", "edge": "FAIL"}


def test_holm_spares_a_row_among_many() -> None:
    """p = .02 alone fails; as one of four rows its corrected value is .08."""
    alone = {"a": change(-0.03, 0.025, 0.02)}
    assert verdicts(alone, 0.02) == {"a": "FAIL"}
    others = {name: change(0.0, 0.03, 0.9) for name in "bcd"}
    assert verdicts({**alone, **others}, 0.02)["a"] == "unclear"


def test_further_seeds_by_students_t() -> None:
    """From 4 seeds the half width .05 must fall below .03 for a mean of .01 under a margin of .02."""

    def half(seeds: int) -> float:
        t = scipy_stats.t(seeds - 1).ppf(0.975) / scipy_stats.t(3).ppf(0.975)
        return 0.05 * math.sqrt(4 / seeds) * t

    more = further_seeds(change(0.01, 0.05, 0.6, seeds=4), 0.02)
    assert more is not None
    assert half(4 + more) < 0.03 <= half(4 + more - 1)
    assert further_seeds(change(-0.02, 40.0, 0.9, seeds=4), 0.02) is None


def test_two_samples_agree_with_welch_where_items_add_nothing() -> None:
    """Scores that are equal on all items of a seed: Welch's t-test of the seed means."""
    a_S, b_T = np.array([0.50, 0.56, 0.53, 0.61]), np.array([0.44, 0.47, 0.52, 0.45, 0.49])
    found = two_sample(np.repeat(a_S[:, None], 7, axis=1), np.repeat(b_T[:, None], 7, axis=1))
    expected = scipy_stats.ttest_ind(a_S, b_T, equal_var=False)
    between = expected.confidence_interval(0.95)
    assert (found.mean, found.lo, found.hi) == pytest.approx((a_S.mean() - b_T.mean(), between.low, between.high), abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_two_samples_count_what_items_add() -> None:
    """Seeds that agree within an arm leave the items' differences, whose mean has the variance s^2 / I."""
    a_I, b_I = np.array([0.1, 0.5, 0.9, 0.3]), np.array([0.2, 0.4, 0.6, 0.5])
    found = two_sample(np.stack([a_I, a_I]), np.stack([b_I, b_I]))
    error = (a_I - b_I).std(ddof=1) / 2
    assert found.half == pytest.approx(scipy_stats.t(1).ppf(0.975) * error)
    assert found.mean == pytest.approx(0.025)
    with pytest.raises(ValueError, match="at least two seeds"):
        two_sample(a_I[None], b_I[None])


def test_two_samples_cover() -> None:
    """Over 600 worlds without a difference, the interval leaves 0 out in at most 5 % (binomial: 7.5 % is 3 sigma)."""
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(600):
        item_I = rng.normal(0, 0.3, 60)
        arms = [0.5 + item_I + rng.normal(0, 0.02, (6, 1)) + rng.normal(0, 0.2, (6, 60)) for _ in range(2)]
        missed += not two_sample(*arms).holds_zero
    assert missed / 600 <= 0.075


def test_clean_repeats_raise_few_alarms() -> None:
    """Three rows a check, seeds drawn anew, nothing worse: at most 5 % of 300 checks fail (8.8 % is 3 sigma)."""
    rng = np.random.default_rng(6)

    def arm() -> np.ndarray:
        return rng.normal(0, 0.04, (6, 1)) + rng.normal(0, 0.2, (6, 60))

    alarms = sum("FAIL" in verdicts({row: paired(arm(), arm()) for row in "abc"}, 0.02).values() for _ in range(300))
    assert 0 < alarms / 300 <= 0.088


GRADER = Grader(version="2", data="d", judge="judge@1")


def baseline(scores: list[list[int]], seeds: tuple[int, ...] = (0, 1, 2)) -> ScoreBaseline:
    return ScoreBaseline(
        written="2026-01-01", reason="test", plan=Plan(track={"extends": "pocket"}), conditions={}, suite="alpaca", margin=0.03,
        seeds=seeds, graders=(GRADER,), items=("a", "b", "c", "d"), methods={"m": Scored(config={}, scores=scores)},
    )  # fmt: skip


def runs(scores: list[list[int]], items: str = "abcd") -> dict[str, list[Run]]:
    return {"m": [Run(config={}, grader=GRADER, items=dict(zip(items, row, strict=True))) for row in scores]}


OLD = [[5000, 6000, 7000, 8000], [5100, 5900, 7200, 7700], [4900, 6200, 6900, 8100]]


def test_an_unchanged_repository_passes_with_exactly_zero() -> None:
    (row,) = check_scores.compared(baseline(OLD), (0, 1, 2), runs(OLD))
    assert (row.verdict, row.note) == ("pass", "+0.0000 (+0.0000 to +0.0000)")


def test_a_regression_fails_and_is_paired() -> None:
    """Seed by seed 0.20 lower, give or take .001: far beyond noise when paired, and so here."""
    lower = [[score - 2000 + 10 * seed for score in row] for seed, row in enumerate(OLD)]
    (row,) = check_scores.compared(baseline(OLD), (0, 1, 2), runs(lower))
    expected = paired(np.array(lower) / 1e4, np.array(OLD) / 1e4)
    assert (row.verdict, row.before, row.now) == ("FAIL", "0.6500", "0.4510")
    assert row.note == f"{expected.mean:+.4f} ({expected.lo:+.4f} to {expected.hi:+.4f})"


def test_other_seeds_are_compared_as_two_samples() -> None:
    (row,) = check_scores.compared(baseline(OLD), (3, 4, 5), runs(OLD[::-1]))
    expected = two_sample(np.array(OLD[::-1]) / 1e4, np.array(OLD) / 1e4)
    assert expected.mean == pytest.approx(0, abs=1e-12)
    assert expected.half > 0
    assert f"({expected.lo:+.4f} to {expected.hi:+.4f})" in row.note


def test_an_item_without_a_score_is_left_out_and_told() -> None:
    short = [row[:3] for row in OLD]
    (row,) = check_scores.compared(baseline(OLD), (0, 1, 2), runs(short, "abc"))
    assert (row.before, row.now) == ("0.6022", "0.6022")
    assert "1 of 4 items have no score" in row.note


def test_another_judge_is_incomparable() -> None:
    found = runs(OLD)
    same_graders(baseline(OLD), found)
    other = found["m"][0].model_copy(update={"grader": Grader(version="2", data="d", judge="judge@2")})
    with pytest.raises(Incomparable, match=r"judge@1(.|\n)*judge@2"):
        same_graders(baseline(OLD), {"m": [other]})


OUTCOME = Outcome(
    "check", [Row("FAIL", "ropd", "round 2 loss", "0.1", "0.2", "50% | more"), Row("unclear", "dpo", "alpaca", "0.5", "0.4"),
              Row("pass", "sft", "9 readings", "3 rounds", "equal")],
)  # fmt: skip


def test_exit_codes() -> None:
    unclear = Outcome("check", OUTCOME.rows[1:])
    assert (OUTCOME.exit_code(False), unclear.exit_code(False), unclear.exit_code(True)) == (1, 0, 1)
    assert Outcome("check", OUTCOME.rows[2:]).exit_code(True) == 0


def test_what_other_programs_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = ElementTree.fromstring(check_show.junit(OUTCOME, strict=False))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [child.tag for case in suite for child in case] == ["failure", "skipped"]
    assert ElementTree.fromstring(check_show.junit(OUTCOME, strict=True)).get("failures") == "2"
    told = json.loads(check_show.as_json(OUTCOME, 1))
    assert (told["exit"], told["counts"]) == (1, {"FAIL": 1, "pass": 1, "unclear": 1})
    summary = tmp_path / "summary.md"
    check_show.in_actions(OUTCOME, summary)
    assert capsys.readouterr().out.splitlines() == [
        "::error title=check ropd::round 2 loss: 0.1 -> 0.2 50%25 | more",
        "::warning title=check dpo::alpaca: 0.5 -> 0.4",
    ]
    assert "| FAIL | ropd | round 2 loss | 0.1 | 0.2 | 50% &#124; more |" in summary.read_text()


def test_a_long_summary_is_cut_below_the_limit() -> None:
    rows = [Row("pass", f"method{number}", "x" * 300, "1", "1") for number in range(4000)]
    text = check_show.markdown(Outcome("check", rows))
    assert check_show.SUMMARY_LIMIT - 400 < len(text.encode()) <= check_show.SUMMARY_LIMIT
    assert text.endswith(check_show.CUT)


def harness(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update"], "an update needs a reason"),
        (["--reason", "why"], "a reason is given for an update"),
        (["--update", "--reason", "why", "--strict"], "an update gives no verdict"),
        (["--seed", "3"], "the exact gate has one seed"),
        (["--scores", "--seed", "-1"], "a seed is a whole number"),
        (["--baseline", "nowhere.json"], "no baseline nowhere.json"),
        (["--baseline", str(EXACT), "-m", "rodp"], "no method named 'rodp'"),
        (["--baseline", str(EXACT), "--scores"], "is no baseline of this gate"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = harness(capsys, monkeypatch, "check", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "fix" in err


def test_no_update_in_actions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, _, err = harness(capsys, monkeypatch, "check", "--update", "--reason", "why")
    assert code == 2
    assert "not written in GitHub Actions" in err


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text('{"gate": "exact"')
    with pytest.raises(SpecError, match="no baseline of this gate"):
        read(path, ExactBaseline)


def test_the_committed_baselines_are_whole() -> None:
    """They are read as they were written, and hold every method that ships, each with three rounds or more."""
    from harness import registry

    exact = read(EXACT, ExactBaseline)
    assert as_text(exact) == EXACT.read_text(encoding="utf-8")
    assert set(exact.methods) == set(registry.modules("methods"))
    assert min(len(each.rounds) for each in exact.methods.values()) == 3
    scores = read(BASELINES / "scores.json", ScoreBaseline)
    assert all(scores.scores_SI(name).shape == (len(scores.seeds), len(scores.items)) for name in scores.methods)
    assert (BASELINES / "scores.json").stat().st_size < 300_000


@pytest.mark.slow
def test_methods_repeat_the_committed_baseline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a change of any number that these methods go through would break."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    picked = ["grpo", "dpo", "seqkd"]
    code, out, _ = harness(
        capsys, monkeypatch, "check", "--baseline", str(EXACT), "--json", *(word for name in picked for word in ("-m", name))
    )
    told = json.loads(out)
    assert {row["method"]: (row["verdict"], row["now"]) for row in told["rows"]} == dict.fromkeys(picked, ("pass", "equal"))
    assert code == 0


def _one_more(number: int, folder: Path) -> tuple[int, bool]:
    if number < 0:
        raise SpecError("too small", where="number", fix="take a larger one")
    return number + 1, folder.is_dir()


def test_work_in_processes_keeps_order_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    assert in_processes(_one_more, [3, 1], 1, heard.append) == [(4, True), (2, True)]
    assert heard == ["1/2  3", "2/2  1"]
    with pytest.raises(SpecError, match="too small") as stop:
        in_processes(_one_more, [-1], 1, heard.append)
    assert (stop.value.where, stop.value.fix) == ("number", "take a larger one")


@pytest.mark.slow
def test_a_planted_bug_fails_the_exact_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advantages with the wrong sign: the losses of the first round already tell."""
    from harness import objectives

    right = objectives.group_advantages
    monkeypatch.setattr(objectives, "group_advantages", lambda *args, **settings: -right(*args, **settings))
    exact = read(EXACT, ExactBaseline)
    now = trajectory(exact.plan, exact.seed, "grpo", tmp_path)
    row = compared("grpo", exact.methods["grpo"], now, exact.tolerance)
    assert row.verdict == "FAIL"
    assert row.what.startswith("round 1 ")

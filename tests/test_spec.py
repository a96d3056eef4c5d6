"""Specs: what was typed becomes one validated, hashed value, or an error that names the nearest thing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import tracks
from harness.errors import SpecError, nearest
from harness.registry import method, modules, suite
from harness.spec import RunSpec, assignments, budget_of, canonical, digest_of, resolve


def refusal(*typed: str, **how: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        resolve(*typed, **how)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return caught.value


def track_file(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_equal_values_have_equal_text_and_digest() -> None:
    assert canonical({"b": [1, 2.0, None], "a": "é"}) == '{"a":"é","b":[1,2.0,null]}'
    assert canonical({"b": {"d": 1, "c": 2}, "a": 0}) == canonical({"a": 0, "b": {"c": 2, "d": 1}})
    assert digest_of({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert digest_of({"a": 1}) != digest_of({"a": 1.0}) != digest_of({"a": "1"})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(float("nan"))


def test_a_spec_survives_json_and_keeps_its_identity() -> None:
    spec, _ = resolve("ropd", seed=3)
    again = RunSpec.model_validate_json(canonical(spec.model_dump(mode="json")))
    assert again == spec
    assert again.identity == spec.identity
    assert spec.folder == f"pocket/ropd-s3-{spec.identity[:8]}"


def test_the_identity_is_the_same_in_another_process() -> None:
    code = "from harness.spec import resolve; print(resolve('logit_opd', 'pocket', 2, ['beta=0.5'], ['prompts=64'])[0].identity)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(tracks.__file__).parents[1],
        env={"PYTHONHASHSEED": "5", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == resolve("logit_opd", "pocket", 2, ["beta=0.5"], ["prompts=64"])[0].identity


def test_whatever_can_change_a_result_changes_the_identity() -> None:
    specs = [
        resolve("ropd"), resolve("seqkd"), resolve("ropd", seed=1), resolve("ropd", settings=["group_size=4"]),
        resolve("ropd", budget=["prompts=256"]), resolve("ropd", budget=["prompts=512", "critic_calls=9"]),
    ]  # fmt: skip
    identities = [spec.identity for spec, _ in specs]
    assert len(set(identities)) == 6
    track = specs[0][0].track
    assert resolve("ropd", budget=["prompts=512"])[0].identity == identities[0], "the track's own budget, typed out"
    assert resolve("ropd", budget=[f"prompts={track.budget['prompts']:e}"])[0].identity == identities[0]


def test_the_order_in_which_meters_are_named_says_nothing() -> None:
    """What is stored has sorted keys, so a run that is read back could not know it."""
    first, second = (resolve("ropd", budget=pairs)[0] for pairs in (["prompts=64", "usd=1"], ["usd=1", "prompts=64"]))
    read_back = RunSpec.model_validate_json(canonical(first.model_dump(mode="json")))
    assert first.identity == second.identity == read_back.identity
    budgets = [spec.track.budget_value for spec in (first, second, read_back)]
    assert [budget.axis for budget in budgets] == ["prompts"] * 3
    assert budgets[0].schedule == budgets[1].schedule == budgets[2].schedule


def test_the_digest_names_the_conditions_and_not_the_seed() -> None:
    digests = {resolve(name, seed=seed)[0].track.digest for name in ("ropd", "sft") for seed in (0, 1)}
    assert len(digests) == 1
    assert resolve("ropd", budget=["prompts=64"])[0].track.digest not in digests
    assert digests == {tracks.load("pocket").digest}


@pytest.mark.parametrize(
    ("typed", "how", "message", "fix"),
    [
        (("rodp",), {}, "no method named 'rodp'", "did you mean ropd?"),
        (("zzzz",), {}, "no method named 'zzzz'", "known: "),
        (("ropd", "poket"), {}, "no track named 'poket'", "did you mean pocket?"),
        (("ropd", "none.yaml"), {}, "no track file none.yaml", "known tracks: "),
        (("ropd",), {"settings": ["group_sise=4"]}, "ropd has no setting 'group_sise'", "did you mean group_size?"),
        (("ropd",), {"budget": ["promts=4"]}, "promts", "did you mean prompts?"),
        (("ropd",), {"budget": ["prompts=0"]}, "above zero, got prompts=0", "--budget prompts=1024"),
        (("ropd",), {"budget": ["prompts"]}, "expected METER=AMOUNT, got 'prompts'", "--budget prompts=1024"),
        (("ropd",), {"budget": ["prompts=many"]}, "expected METER=AMOUNT", "--budget"),
        (("ropd",), {"settings": ["group_size"]}, "expected KEY=VALUE, got 'group_size'", "--set group_size=4"),
        (("ropd",), {"settings": ["group_size=[1"]}, "not YAML", ""),
        (("ropd",), {"settings": ["group_size=1"]}, "group_size: input should be greater than 1, got 1", ""),
        (("ropd",), {"settings": ["group_size=four"]}, "group_size: ", ""),
        (("ropd",), {"settings": ["signal=other"]}, "signal: input should be 'own' or 'shuffled', got 'other'", ""),
        (("ropd",), {"seed": -1}, "a seed is a whole number from 0 up, got -1", ""),
    ],
)
def test_what_can_not_be_run_is_refused_with_the_nearest_name(
    typed: tuple[str, ...], how: dict[str, object], message: str, fix: str
) -> None:
    error = refusal(*typed, **how)
    assert message in error.message
    assert fix in error.fix


@pytest.mark.parametrize("key", ["optimizer.learning_rate", "budget", "evaluation.temperatures", "seeds", "student"])
def test_a_method_can_not_reach_the_track(key: str) -> None:
    error = refusal("ropd", settings=[f"{key}=1"])
    if key == "seeds":
        assert "has no setting" in error.message
    else:
        assert "is fixed by the track" in error.message
        assert "extends: pocket" in error.fix


def test_settings_are_read_as_yaml_and_validated_by_type() -> None:
    typed = ["learning_rate=1e-4", "standardise=true", "answers_per_call=null", "method.group_size=4", "signal=shuffled"]
    config = resolve("ropd", settings=typed)[0].config
    assert (config["learning_rate"], config["standardise"], config["answers_per_call"]) == (1e-4, True, None)
    assert (config["group_size"], config["signal"]) == (4, "shuffled")
    assert assignments(["a=1", "b=x=y", "c=1.5", "d=[1, 2]"]) == {"a": 1, "b": "x=y", "c": 1.5, "d": [1, 2]}
    assert budget_of(["prompts=1e3", "usd=0.5"]) == {"prompts": 1000.0, "usd": 0.5}
    assert budget_of([]) is None


def test_every_setting_says_where_it_came_from() -> None:
    spec, origins = resolve("ropd", settings=["clip_low=0.1", "group_size=6", "signal=own"])
    paper = method("ropd").Config()
    assert origins.config.keys() == spec.config.keys()
    assert (origins.config["clip_low"], origins.config["group_size"]) == ("--set", "--set")
    for name, value in spec.track.overrides["ropd"].items():
        if name != "group_size":
            assert (origins.config[name], spec.config[name]) == (f"track {spec.track.name}", value)
    assert origins.config["signal"] == "default", "what was typed is what it would be anyway"
    assert (origins.config["clip_high"], spec.config["clip_high"]) == ("default", paper.model_dump()["clip_high"])


def test_a_track_of_ones_own_extends_another(tmp_path: Path) -> None:
    mine = track_file(tmp_path, "extends: pocket\nname: mine\nbudget: {usd: 1}\noptimizer: {learning_rate: 0.1}\n")
    base, track = tracks.load("pocket"), tracks.load(mine)
    assert (track.name, track.optimizer.learning_rate, track.optimizer.beta2) == ("mine", 0.1, base.optimizer.beta2)
    assert dict(track.budget) == {"usd": 1}, "a budget is replaced whole"
    assert track.critic == base.critic
    assert track.digest != base.digest
    other = track_file(tmp_path, f"extends: {mine}\nname: other\n", "other.yaml")
    assert (tracks.load(other).name, tracks.load(other).optimizer.learning_rate) == ("other", 0.1)
    assert resolve("ropd", mine, budget=["prompts=8"])[0].track.budget == {"prompts": 8}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: pocket\noptimiser: {learning_rate: 0.1}\n", "unknown key 'optimiser'; did you mean optimizer?"),
        ("extends: pocket\noptimizer: {learning_rat: 1}\n", "unknown key 'optimizer.learning_rat'; did you mean learning_rate?"),
        ("extends: pocket\nteacher: {weights: {pth: x}}\n", "unknown key 'teacher.weights.pth'"),
        ("extends: pocket\noptimizer: {learning_rate: -1}\n", "optimizer.learning_rate: input should be greater than 0, got -1"),
        ("extends: pocket\nbudget: {prompts: 0}\n", "above zero"),
        ("extends: poket\n", "no track named 'poket'"),
        ("- a list\n", "must be a mapping, got list"),
        ("name: [\n", "is not YAML"),
        ("name: bare\n", "field required"),
    ],
)
def test_a_track_that_is_wrong_is_refused_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        tracks.load(track_file(tmp_path, text))
    assert words in caught.value.message


def test_every_track_of_the_package_can_be_read() -> None:
    assert "pocket" in tracks.names()
    for name in tracks.names():
        track = tracks.load(name)
        assert track.name == name
        assert track.summary
        for entry, settings in track.overrides.items():
            assert method(entry).Config.model_validate(settings)
        for entry, settings in track.suites.items():
            assert suite(entry).Config.model_validate(settings)


def test_registries_suggest_and_refuse() -> None:
    assert {"ropd", "logit_opd", "sft", "seqkd", "sharpen"} <= set(modules("methods"))
    assert {"alpaca", "reasoning"} <= set(modules("suites"))
    with pytest.raises(SpecError) as caught:
        suite("alpacca")
    assert (caught.value.where, caught.value.fix[:21]) == ("--suite alpacca", "did you mean alpaca? ")
    with pytest.raises(SpecError, match="cannot be imported"):
        method("no_such_package.method")
    with pytest.raises(SpecError, match="defines 0 public subclasses of Method; exactly one makes an entry"):
        method("harness.errors")


def test_the_nearest_name_or_all_of_them() -> None:
    assert nearest("ropdd", ["ropd", "sft"]) == "did you mean ropd?"
    assert nearest("qqq", ["b", "a"]) == "known: a, b"


def test_a_track_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ring.yaml"
    path.write_text(f"extends: {path}\nname: ring\n")
    with pytest.raises(SpecError, match="extends itself"):
        tracks.load(str(path))

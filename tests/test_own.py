"""Flags that name one's own models and prompts, the formats of prompts, and what a track must have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import registry, sources, tracks
from harness.errors import CapabilityError, EnvironmentFault, SpecError
from harness.method import needs_of
from harness.needs import check, check_needs
from harness.own import Own
from harness.spec import resolve
from harness.stream import read, read_prompts
from harness.types import Need, Prompt

URL = "http://127.0.0.1:8000/v1"


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


def own_spec(tmp_path: Path, model: str, method: str = "ropd", **how: Any) -> Any:
    prompts = write(tmp_path / "mine.jsonl", [{"prompt": f"say {i}"} for i in range(4)])
    given = {"student": model, "teacher": [f"{URL}/org/teach"], "critic": f"{URL}/crit", "judge": f"{URL}/jud",
             "prompts": str(prompts)}  # fmt: skip
    return resolve(method, "own", own=Own(**{**given, **how}))


def test_flags_become_values_of_a_track(tmp_path: Path, model: str) -> None:
    held = write(tmp_path / "held.jsonl", [{"prompt": "name a tree", "reference": "oak"}])
    spec, origins = own_spec(
        tmp_path, model, eval_prompts=str(held), max_usd=50, prices=["teacher=1.5,4"], keys=["judge=JUDGE_KEY"],
    )  # fmt: skip
    track = spec.track
    assert (track.student.path, track.student.dtype, track.training.max_tokens) == (model, "float32", 1024)
    assert (track.teacher.url, track.teacher.model, track.teacher.weights) == (URL, "org/teach", None)
    assert (track.teacher.usd_in, track.teacher.usd_out, track.judge.key) == (1.5, 4.0, "JUDGE_KEY")
    assert (track.max_usd, track.held_out.source, track.held_out.suite) == (50, str(held), "alpaca")
    assert origins.track["teacher.model"] == "--teacher"
    assert origins.track["teacher.usd_in"] == "--price"
    assert origins.track["judge.key"] == "--key"
    assert len(track.prompts.content) == 16
    check(spec, ["alpaca"])


def test_flags_and_a_track_file_give_the_same_run(tmp_path: Path, model: str) -> None:
    spec, _ = own_spec(tmp_path, model)
    value = {
        "extends": "own", "student": {"path": model}, "teacher": {"url": URL, "model": "org/teach"},
        "critic": {"url": URL, "model": "crit"}, "judge": {"url": URL, "model": "jud"},
        "prompts": {"source": str(tmp_path / "mine.jsonl")},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(value))
    assert resolve("ropd", str(tmp_path / "mine.yaml"))[0].identity == spec.identity


def test_changed_prompts_are_another_track_and_a_ceiling_is_not(tmp_path: Path, model: str) -> None:
    first, _ = own_spec(tmp_path, model)
    assert own_spec(tmp_path, model, max_usd=3.0)[0].identity == first.identity
    spec, _ = own_spec(tmp_path, model)
    write(tmp_path / "mine.jsonl", [{"prompt": f"say {i}"} for i in range(5)])
    again, _ = resolve("ropd", "own", own=Own(student=model, teacher=[f"{URL}/org/teach"], critic=f"{URL}/crit",
                                             judge=f"{URL}/jud", prompts=str(tmp_path / "mine.jsonl")))  # fmt: skip
    assert again.track.digest != spec.track.digest


def test_the_embedded_tracks_canonical_form_has_no_new_keys() -> None:
    told = tracks.load("pocket").model_dump(mode="json")
    assert not {"held_out", "max_usd"} & set(told)
    assert set(told["prompts"]) == {"source", "count", "seed", "reasoning"}


def test_a_teacher_is_a_server_or_weights_or_both(tmp_path: Path, model: str) -> None:
    local = own_spec(tmp_path, model, teacher=[model])[0].track.teacher
    assert (local.url, local.model, local.weights.path, local.weights.dtype) == ("local", "model", model, "bfloat16")
    both = own_spec(tmp_path, model, teacher=[f"{URL}/t", model])[0].track.teacher
    assert (both.url, both.model, both.weights.path) == (URL, "t", model)
    hub = own_spec(tmp_path, model, teacher=["Org/Name@abc"])[0].track.teacher
    assert (hub.weights.path, hub.weights.revision) == ("Org/Name", "abc")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"student": f"{URL}/x"}, "weights are a folder or a repository"),
        ({"student": "./nowhere"}, "is not there"),
        ({"critic": "some/model"}, "the critic is asked over a server"),
        ({"teacher": [f"{URL}/a", f"{URL}/b"]}, "one server and one folder"),
        ({"prices": ["teacher=1"]}, "expected two prices"),
        ({"prices": ["oracle=1,2"]}, "expected ROLE="),
        ({"max_usd": -1.0}, "above zero"),
        ({"solutions": "maybe"}, "expected teacher or data"),
    ],
)
def test_a_flag_that_cannot_be_read_is_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Own(**flags).values()


ASKS_A_CRITIC = (Need.CRITIC, Need.PREFERENCES, Need.OUTCOME)


@pytest.mark.parametrize(
    ("need", "flag"), [(n, "--critic" if n in ASKS_A_CRITIC else "--teacher") for n in Need if n is not Need.REFERENCE]
)
def test_every_need_names_the_flag_that_meets_it(need: Need, flag: str) -> None:
    with pytest.raises(CapabilityError) as caught:
        check_needs(frozenset({need}), "m", tracks.load("own"), lambda: [Prompt("a", ({"role": "user", "content": "q"},))])
    assert flag in caught.value.fix
    assert need.value in caught.value.message


def test_solutions_and_references_of_the_data_meet_needs() -> None:
    track = tracks.load("own").model_copy(update={"solutions": "data"})
    prompt = Prompt("a", ({"role": "user", "content": "q"},), "s", "r")
    check_needs(frozenset({Need.SOLUTION, Need.OUTCOME, Need.REFERENCE}), "m", track, lambda: [prompt])
    with pytest.raises(CapabilityError, match="1 of 2 prompts without a `solution`"):
        check_needs(frozenset({Need.SOLUTION}), "m", track, lambda: [prompt, Prompt("b", prompt.messages)])


def test_a_base_track_says_what_it_lacks(tmp_path: Path, model: str) -> None:
    with pytest.raises(SpecError, match="names no student"):
        check(resolve("sharpen", "own")[0], [])
    with pytest.raises(SpecError, match="judge and training critic are the same model"):
        check(own_spec(tmp_path, model, judge=f"{URL}/crit")[0], ["alpaca"])
    check(own_spec(tmp_path, model, judge=f"{URL}/crit", judge_is_critic=True)[0], ["alpaca"])
    with pytest.raises(SpecError, match="needs a judge"):
        check(own_spec(tmp_path, model, judge=None)[0], ["alpaca"])
    needy = [name for name in registry.modules("methods") if needs_of(registry.method(name)(registry.method(name).Config()))]
    assert len(needy) < len(registry.modules("methods")), "some method needs nobody"


CHAT = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
ROWS: list[dict[str, Any]] = [
    {"prompt": "one", "id": "a", "answer": "first", "note": 1}, {"messages": CHAT, "solution": "two"},
    {"prompt": CHAT[1:], "reference": "3"},
]  # fmt: skip


def test_the_same_rows_from_every_format(tmp_path: Path) -> None:
    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    import pyarrow

    texts = [{"prompt": "one", "id": "a", "answer": "first"}, {"prompt": "two", "id": "b", "answer": None}]
    write(tmp_path / "t.jsonl", texts)
    (tmp_path / "t.json").write_text(json.dumps(texts))
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((tmp_path / "t.jsonl").read_bytes()))
    (tmp_path / "t.csv").write_text("prompt,id,answer\none,a,first\ntwo,b,\n")
    parquet.write_table(pyarrow.Table.from_pylist(texts), tmp_path / "t.parquet")
    datasets.Dataset.from_list(texts).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(texts)}).save_to_disk(str(tmp_path / "split"))
    found = [
        [(p.id, p.messages[-1]["content"], p.solution) for p in read_prompts(str(tmp_path / name))]
        for name in ("t.jsonl", "t.json", "t.jsonl.gz", "t.csv", "t.parquet", "saved", "split:train")
    ]
    assert found == [[("a", "one", "first"), ("b", "two", None)]] * 7
    assert sources.pinned(str(tmp_path / "saved"))[1] != sources.pinned(str(tmp_path / "t.csv"))[1]
    with pytest.raises(SpecError, match="holds the splits train"):
        read_prompts(f"{tmp_path / 'split'}:test")


def test_chats_solutions_and_what_people_are_told(tmp_path: Path) -> None:
    reading = read(str(write(tmp_path / "c.jsonl", [*ROWS, {"prompt": "one"}])))
    assert [(p.id, len(p.messages), p.solution, p.reference) for p in reading.prompts] == [
        ("a", 1, "first", None), ("c-00002", 2, "two", None), ("c-00003", 1, None, "3"), ("c-00004", 1, None, None),
    ]  # fmt: skip
    repeated = "1 of 4 prompts repeat another, for example c-00004 asks what a asks"
    assert reading.notes == [repeated, "columns that are not read: note"]


def test_a_reply_at_the_end_is_a_solution_where_that_is_said(tmp_path: Path) -> None:
    rows = [{"messages": [*CHAT, {"role": "assistant", "content": "hello"}]}]
    path = str(write(tmp_path / "c.jsonl", rows))
    (prompt,) = read_prompts(path, "solution")
    assert (prompt.messages, prompt.solution) == (tuple(CHAT), "hello")
    with pytest.raises(SpecError, match="ends with assistant where the user's message was wanted; --solutions data"):
        read_prompts(path)


def test_problems_name_their_rows_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": 3}\nno\n\n{"messages": []}\n{"x": 1}\n{"prompt": "a", "messages": []}\n[]\n{"prompt": "ok"}\n'
                    '{"prompt": "b", "answer": 4}\n')  # fmt: skip
    with pytest.raises(SpecError) as caught:
        read_prompts(str(path))
    lines = caught.value.message.splitlines()
    assert lines[0] == "7 problems in 8 rows:"
    assert lines[1:] == [
        "bad.jsonl:1 has a int as `prompt`", "bad.jsonl:2 is not JSON: Expecting value",
        "bad.jsonl:4 has an empty list as `messages`", "bad.jsonl:5 has neither `prompt` nor `messages`, but 'x'",
        "bad.jsonl:6 has prompt and messages; one is wanted",
        "... and 2 more",
    ]  # fmt: skip
    assert "`prompt` (text) or `messages`" in caught.value.fix
    with pytest.raises(SpecError, match=r"c.jsonl:2 repeats the id 'a' of c.jsonl:1"):
        read_prompts(str(write(tmp_path / "c.jsonl", [{"prompt": "x", "id": "a"}, {"prompt": "y", "id": "a"}])))


def test_a_dataset_of_the_hub_needs_the_hub_or_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789" * 4
    assert sources.pinned(f"org/data:train@{commit}") == (f"org/data:train@{commit}", commit)
    assert sources.names_dataset("org/data:main/train@v1")
    assert not sources.names_dataset("nothing.jsonl")
    with pytest.raises(EnvironmentFault, match="the hub does not give the dataset 'org/data'"):
        sources.pinned("org/data:train")
    with pytest.raises(SpecError, match=r"no prompts file nothing.jsonl"):
        sources.pinned("nothing.jsonl")
    monkeypatch.setattr(sources, "_commit", lambda name, revision: commit)
    assert sources.pinned("org/data:train@main") == (f"org/data:train@{commit}", commit)


def test_training_and_evaluation_on_one_content_is_refused(tmp_path: Path, model: str) -> None:
    write(tmp_path / "copy.jsonl", [{"prompt": f"say {i}"} for i in range(4)])
    with pytest.raises(SpecError, match="have the same content"):
        own_spec(tmp_path, model, eval_prompts=str(tmp_path / "copy.jsonl"))

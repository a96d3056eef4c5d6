"""Run folders: append-only lines, a state they are cut back to, a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import store as stores
from harness.errors import SpecError, StoreError
from harness.spec import Origins, RunSpec, canonical, resolve
from harness.store import LINE_FILES, RunStore, find, read_lines, source_digest, write_atomically


def spec_of(seed: int = 0, method: str = "sft") -> tuple[RunSpec, Origins]:
    return resolve(method, seed=seed)


def opened(root: Path, seed: int = 0, fresh: bool = False) -> tuple[RunStore, str]:
    return RunStore.open(*spec_of(seed), root, fresh=fresh)


def numbers(store: RunStore, name: str = "steps") -> list[int]:
    return [row["n"] for row in store.lines(name)]


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    spec, origins = spec_of()
    store, found = RunStore.open(spec, origins, tmp_path)
    assert (found, store.folder, store.finished) == ("new", tmp_path / spec.folder, False)
    assert RunSpec.model_validate_json((store.folder / "spec.json").read_text()) == spec
    written = stores.yaml.safe_load((store.folder / "spec.yaml").read_text())
    assert (written["identity"], written["origins"]) == (spec.identity, origins.config)
    environment = json.loads((store.folder / "environment.json").read_text())
    assert environment["source"] == source_digest(spec.method)
    assert {"python", "packages", "commit", "cores", "started"} <= environment.keys()
    assert opened(tmp_path)[1] == "resumed"


def test_lines_are_appended_and_carry_their_schema(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    assert store.lines("steps") == []
    for n in range(3):
        store.append("steps", {"n": n, "text": "é\n"})
    assert store.lines("steps") == [{"schema": "harness.steps/1", "n": n, "text": "é\n"} for n in range(3)]
    with pytest.raises(ValueError, match="JSON compliant"):
        store.append("steps", {"n": float("nan")})
    assert numbers(store) == [0, 1, 2]


def test_on_resume_lines_are_cut_back_to_the_saved_state(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for n in range(2):
        store.append("steps", {"n": n})
        store.append("clock", {"n": n})
    store.append("marks", {"n": 0})
    store.save_state(b"after two")
    for n in (2, 3):
        store.append("steps", {"n": n})
        store.append("clock", {"n": n})
    store.append("marks", {"n": 1})
    store.append("rollouts", {"n": 9})
    again, found = opened(tmp_path)
    assert found == "resumed"
    assert again.load_state() == b"after two"
    assert (numbers(again), numbers(again, "marks"), numbers(again, "rollouts")) == ([0, 1], [0], [])
    assert numbers(again, "clock") == [0, 1, 2, 3], "the clock is outside every comparison and keeps what was spent"
    again.append("steps", {"n": 2})
    again.save_state(b"after three")
    assert again.load_state() == b"after three"
    assert numbers(again) == [0, 1, 2]


def test_without_a_saved_state_a_run_begins_again(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for name in LINE_FILES:
        store.append(name, {"n": 0})
    again, _ = opened(tmp_path)
    assert again.load_state() is None
    assert [again.lines(name) for name in LINE_FILES] == [[], [], [], []]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for n in range(3):
        store.append("steps", {"n": n})
    path = store.folder / "steps.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert numbers(store) == [0, 1]
    assert list(read_lines(store.folder / "nothing.jsonl")) == []


def test_a_run_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.save_state(b"state")
    for n in range(2):
        store.append("clock", {"n": n})
        store.append("steps", {"n": n})
    for name in ("clock", "steps"):
        path = store.folder / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[:-5])
    store.load_state()
    for name in ("clock", "steps"):
        store.append(name, {"n": 7})
    assert (numbers(store, "clock"), numbers(store)) == ([0, 7], [7])


def test_a_state_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = opened(tmp_path)
    store.save_state(b"one")
    store.append("steps", {"n": 0})

    def crash(*_: object) -> None:
        raise OSError("power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="power"):
            store.save_state(b"two")
    assert store.load_state() == b"one"
    write_atomically(tmp_path / "new" / "file.txt", "whole")
    assert (tmp_path / "new" / "file.txt").read_text() == "whole"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


def test_the_folder_of_another_spec_is_refused(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    (store.folder / "spec.json").write_text(canonical(spec_of(seed=1)[0].model_dump(mode="json")))
    with pytest.raises(StoreError, match="belongs to another spec") as caught:
        opened(tmp_path)
    assert "--fresh" in caught.value.fix


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_of_other_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool) -> None:
    store, _ = opened(tmp_path)
    if finished:
        store.finish()
    mine = source_digest(spec_of()[0].method)
    monkeypatch.setattr(stores, "source_digest", lambda method: "f" * 64)
    with pytest.raises(StoreError, match=rf"made by other source \({mine[:8]}, this is ffffffff\)") as caught:
        opened(tmp_path)
    assert "--fresh" in caught.value.fix


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / spec_of()[0].folder
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="holds files that are not a run"):
        opened(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_root_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write") as caught:
        opened(tmp_path / "file")
    assert "HARNESS_RUNS_DIR" in caught.value.fix
    assert caught.value.where == str(tmp_path / "file")


def test_fresh_sets_a_run_aside(tmp_path: Path) -> None:
    for n in range(3):
        store, found = opened(tmp_path, fresh=True)
        assert found == "new"
        assert store.lines("steps") == []
        store.append("steps", {"n": n})
    aside = sorted(path.name for path in store.folder.parent.iterdir() if ".old" in path.name)
    assert aside == [f"{store.folder.name}.old1", f"{store.folder.name}.old2"]
    assert [row["n"] for row in read_lines(store.folder.with_name(aside[1]) / "steps.jsonl")] == [1]


def test_the_manifest_is_written_last_and_names_every_file(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.append("steps", {"n": 0})
    store.save_state(b"state")
    write_atomically(store.checkpoint("1/16") / "model.safetensors", b"weights")
    write_atomically(store.evaluation("alpaca") / "marks" / "1-16.json", "{}")
    assert not store.finished
    store.finish()
    assert store.finished
    assert not store.state_folder.exists()
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert (manifest["identity"], manifest["source"]) == (store.spec.identity, source_digest(store.spec.method))
    assert set(manifest["files"]) == {
        "spec.json", "spec.yaml", "environment.json", "steps.jsonl", "checkpoints/1-16/model.safetensors",
    }  # fmt: skip
    for name, digest in manifest["files"].items():
        assert digest == hashlib.sha256((store.folder / name).read_bytes()).hexdigest()
    assert manifest["files"]["checkpoints/1-16/model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
    newest = max((path for path in store.folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "manifest.json"
    assert opened(tmp_path)[1] == "finished"


def test_a_run_is_found_by_path_name_or_beginning_of_its_identity(tmp_path: Path) -> None:
    first, second = (opened(tmp_path, seed)[0] for seed in (0, 1))
    for store in (first, second):
        for name in (store.folder.name, store.spec.identity[:8], store.spec.identity[:6], str(store.folder)):
            assert find(name, tmp_path) == store.folder
    assert find(second.folder.name, tmp_path / "pocket") == second.folder
    with pytest.raises(SpecError, match=f"no run 'sfd{first.folder.name[3:]}' in {tmp_path}") as caught:
        find(f"sfd{first.folder.name[3:]}", tmp_path)
    assert f"did you mean {first.folder.name}" in caught.value.fix
    with pytest.raises(SpecError, match="fits 2 runs: ") as caught:
        find("", tmp_path)
    assert all(store.folder.name in caught.value.message for store in (first, second))
    with pytest.raises(SpecError) as caught:
        find("anything", tmp_path / "empty")
    assert "no runs in" in caught.value.fix


def test_a_run_that_was_set_aside_is_not_found(tmp_path: Path) -> None:
    opened(tmp_path)
    store, _ = opened(tmp_path, fresh=True)
    assert find(store.spec.identity[:8], tmp_path) == store.folder


def test_the_source_digest_covers_what_can_change_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, names in {
        "harness": [
            "loop.py", "cli/training.py", "display.py", "report/table.py", "data/tracks/pocket.yaml", "data/skeleton/x.jinja",
        ],
        "methods": ["ropd.py", "prompts/ropd/en/verifier.jinja", "sft.py", "prompts/pad/en/choice.jinja"],
        "suites": ["alpaca.py", "notes.txt"],
    }.items():  # fmt: skip
        for name in names:
            write_atomically(tmp_path / package / name, name)
    monkeypatch.setattr(stores.resources, "files", lambda package: tmp_path / package)

    def digest() -> str:
        source_digest.cache_clear()
        return source_digest("ropd")

    try:
        before = digest()
        for name, counts in {
            "harness/loop.py": True, "harness/data/tracks/pocket.yaml": True, "methods/ropd.py": True, "suites/alpaca.py": True,
            "methods/prompts/ropd/en/verifier.jinja": True, "harness/cli/training.py": False, "harness/display.py": False,
            "harness/report/table.py": False, "suites/notes.txt": False, "methods/sft.py": False,
            "methods/prompts/pad/en/choice.jinja": False, "harness/data/skeleton/x.jinja": False,
        }.items():  # fmt: skip
            old = (tmp_path / name).read_text()
            write_atomically(tmp_path / name, "changed")
            assert (digest() != before) is counts, name
            write_atomically(tmp_path / name, old)
        assert digest() == before
    finally:
        source_digest.cache_clear()


def test_a_folder_is_written_whole_whatever_a_crash_left(tmp_path: Path) -> None:
    spec, origins = resolve("sft")
    store, _ = RunStore.open(spec, origins, tmp_path)
    target = store.checkpoint("1/2")

    def crash(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_folder(target, crash)
    assert not target.exists()

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "whole").write_text("y")

    store.write_folder(target, write)
    store.write_folder(target, write)
    assert [path.relative_to(store.folder / "checkpoints").as_posix() for path in (store.folder / "checkpoints").rglob("*")] == [
        "1-2", "1-2/whole"
    ]  # fmt: skip


def test_a_run_folder_has_one_writer(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from harness.spec import resolve
from harness.store import RunStore
store, found = RunStore.open(*resolve("sft"), Path({str(tmp_path)!r}))
print(found, flush=True)
sys.stdin.read()
"""
    spec, origins = resolve("sft")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "new\n"
        with pytest.raises(StoreError, match="another process writes"):
            RunStore.open(spec, origins, tmp_path)
        other.kill()
    assert RunStore.open(spec, origins, tmp_path)[1] == "resumed"
    assert RunStore.open(spec, origins, tmp_path)[1] == "resumed"  # one process may open it again

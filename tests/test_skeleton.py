"""`harness new-method`: what it writes passes the project's own tests at once, and what it refuses leaves no trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import cli, skeleton
from harness.errors import EnvironmentFault, SpecError

ROOT = Path(__file__).parents[1]
WRITTEN = {
    "methods/my_idea.py", "methods/prompts/my_idea/en/scorer.jinja", "tests/test_method_my_idea.py",
    "docs/methods/my_idea.md", "docs/methods.md",
}  # fmt: skip


def checkout(folder: Path, *, harness: bool = False) -> Path:
    """A copy of what a checkout has of methods, their documents and tests; with `harness` one that tests can run in."""
    hidden = shutil.ignore_patterns("__pycache__", "assets")
    for part in ("methods", "tests", "docs", *(("harness", "suites") if harness else ())):
        shutil.copytree(ROOT / part, folder / part, ignore=hidden)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", "new-method", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_a_new_method_passes_the_tests_of_every_method(tmp_path: Path) -> None:
    root = checkout(tmp_path, harness=True)
    before = contents(root)
    assert {path.as_posix() for path in skeleton.new_method("my_idea", root)} == WRITTEN
    after = contents(root)
    assert {path for path in after if after[path] != before.get(path)} == WRITTEN
    files = ["tests/test_method_my_idea.py", "tests/test_method_contract.py", "tests/test_docs.py", "tests/test_architecture.py"]
    chosen = "my_idea or methods.md or see_only_the_contract"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", *files, "-k", chosen], cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {line.rpartition("::")[2] for line in done.stdout.splitlines() if line.startswith("PASSED ")}
    assert passed >= {
        "test_it_trains_on_the_best_answer", "test_its_needs_are_what_it_uses[my_idea]",
        "test_its_update_depends_on_nothing_but_the_examples[my_idea]",
        "test_every_method_has_its_row_and_a_page_with_its_settings[my_idea]", "test_links_lead_somewhere[docs/methods.md]",
        "test_links_lead_somewhere[docs/methods/my_idea.md]", "test_methods_see_only_the_contract",
    }  # fmt: skip


def test_the_row_is_the_last_of_the_table(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    before = (root / "docs/methods.md").read_text(encoding="utf-8").splitlines()
    skeleton.new_method("my_idea", root)
    after = (root / "docs/methods.md").read_text(encoding="utf-8").splitlines()
    place = after.index("| [my_idea](methods/my_idea.md) | text | critic | unpublished |")
    assert after[:place] + after[place + 1 :] == before
    assert after[place - 1].startswith("| [")
    assert after[place + 1] == ""


def test_the_command_says_what_it_wrote_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = checkout(tmp_path / "a checkout")
    code, out, err = command(capsys, monkeypatch, "my_idea", "--out", str(root))
    assert (code, err) == (0, "")
    wrote, _, following = out.partition("next\n")
    assert {Path(line.strip()).relative_to(root).as_posix() for line in wrote.splitlines()[1:]} == WRITTEN
    assert following.splitlines() == [
        f"  cd '{root}'",
        "  pytest tests/test_method_my_idea.py tests/test_method_contract.py tests/test_docs.py -k my_idea",
        "  harness run --method my_idea --suite alpaca",
    ]
    monkeypatch.chdir(root)
    _, out, _ = command(capsys, monkeypatch, "other", "--out", ".")
    assert "cd " not in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seqkd", "there is a method named 'seqkd' already"),
        ("MyIdea", "'MyIdea' cannot be the name"),
        ("my-idea", "'my-idea' cannot be the name"),
        ("my__idea", "'my__idea' cannot be the name"),
        ("2nd", "'2nd' cannot be the name"),
        ("_hidden", "'_hidden' cannot be the name"),
        ("lambda", "'lambda' cannot be the name"),
        ("../escape", "'../escape' cannot be the name"),
        ("my_idea\n", "cannot be the name"),
        ("contract", "tests/test_method_contract.py exists already"),
    ],
)
def test_a_name_that_will_not_do_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = checkout(tmp_path / "checkout")
    before = contents(tmp_path)
    code, out, err = command(capsys, monkeypatch, name, "--out", str(root))
    assert (code, out) == (2, "")
    assert message in err
    assert "fix" in err
    assert contents(tmp_path) == before


def test_a_method_of_the_other_checkout_is_not_written_over(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    skeleton.new_method("my_idea", root)
    before = contents(root)
    with pytest.raises(SpecError, match="'my_idea' already"):
        skeleton.new_method("my_idea", root)
    assert contents(root) == before


@pytest.mark.parametrize("missing", ["methods", "tests", "docs"])
def test_a_folder_that_is_no_checkout_is_refused(missing: str, tmp_path: Path) -> None:
    root = checkout(tmp_path)
    shutil.rmtree(root / missing)
    before = contents(root)
    with pytest.raises(SpecError, match=f"not a source checkout .* lacks {missing}/") as refused:
        skeleton.new_method("my_idea", root)
    assert "--out" in refused.value.fix
    assert contents(root) == before


def test_an_index_without_its_table_is_refused(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "docs/methods.md").write_text("# Methods\n", encoding="utf-8")
    before = contents(root)
    with pytest.raises(SpecError, match="no table of methods"):
        skeleton.new_method("my_idea", root)
    assert contents(root) == before


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    shutil.rmtree(root / "methods/prompts")
    (root / "methods/prompts").write_text("a file in the way of a folder", encoding="utf-8")
    with pytest.raises(EnvironmentFault, match="cannot write the skeleton"):
        skeleton.new_method("my_idea", root)


@pytest.mark.parametrize(
    ("name", "expected"), [("my_idea", "MyIdea"), ("k2", "K2"), ("method", "MethodMethod"), ("none", "NoneMethod")]
)
def test_the_class_has_a_name_that_nothing_else_in_the_file_has(name: str, expected: str, tmp_path: Path) -> None:
    root = checkout(tmp_path)
    skeleton.new_method(name, root)
    text = (root / f"methods/{name}.py").read_text(encoding="utf-8")
    compile(text, name, "exec")
    assert text.count(f"class {expected}(Method):") == 1


def test_the_templates_are_in_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in declared["harness"] for path in (ROOT / "harness").glob(pattern)}
    templates = [path for path in skeleton.TEMPLATES.rglob("*") if path.is_file()]
    assert len(templates) == len(WRITTEN) - 1
    assert set(templates) <= packed

"""The documents say what the code does: figures, settings, error codes, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from harness import registry, tracks
from harness.errors import HarnessError
from harness.method import MethodConfig
from harness.pocket import figures
from harness.pocket.build import ASSETS
from harness.pocket.critic import CriticKnobs
from harness.pocket.endpoints import FaultKnobs
from harness.pocket.judge import JudgeKnobs
from harness.report.runs import Incomparable

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "results").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
PARTS = [
    tracks.LocalModel, tracks.Lora, tracks.Served, tracks.TeacherModel, tracks.Prompts, tracks.HeldOut, tracks.Optimizer,
    tracks.Training, tracks.Generation, tracks.Evaluation, tracks.PocketWorld, tracks.Track,
]  # fmt: skip
METHODS = sorted(registry.modules("methods"))
ERRORS = HarnessError.__subclasses__()


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next of the same depth or less."""
    depth = heading.split()[0]
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{len(depth)}}} ", text[start:], flags=re.MULTILINE)
    return text[start : start + end.start()] if end else text[start:]


def shown(value: Any) -> str:
    """A default as the documents write it."""
    if value is None or value in ("", {}, ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def settings(model: type[BaseModel]) -> dict[str, str]:
    return {
        name: "required" if info.is_required() else shown(info.get_default(call_default_factory=True))
        for name, info in model.model_fields.items()
    }


def rows(text: str) -> dict[str, str]:
    """First and second cell of every table row whose first cell is a name in code."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", text, flags=re.MULTILINE))


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tables_of_figures_are_those_of_the_reports() -> None:
    expected = figures.tables(figures.reports(ASSETS))
    assert figures.shown(page("pocket.md")) == expected, "refresh it: python -m harness.pocket.figures"


def test_the_tables_of_figures_are_read_from_reports(tmp_path: Path) -> None:
    source = next(ASSETS.glob("pocket/pair0/student/report.json")).read_text(encoding="utf-8")
    for name, role in (("pair1/student", "student"), ("pair0/teacher", "teacher"), ("pair0/student", "student")):
        folder = tmp_path / "pocket" / name
        folder.mkdir(parents=True)
        told = source.replace('"pair": 0', f'"pair": {name[4]}').replace('"role": "student"', f'"role": "{role}"')
        (folder / "report.json").write_text(re.sub(r'"two_turn": \d\.\d+\n', '"two_turn": 0.12345\n', told), encoding="utf-8")
    larger = tmp_path / "pocket-m" / "pair2" / "teacher" / "report.json"
    larger.parent.mkdir(parents=True)
    larger.write_text(told.replace('"scale": "pocket"', '"scale": "pocket-m"').replace('"pair": 0', '"pair": 2'))
    first, second = (part.splitlines() for part in figures.tables(figures.reports(tmp_path)).split("\n\n"))
    assert first[0] == "| `pocket` | student 0 | teacher 0 | student 1 |"
    assert second[0] == "| `pocket-m` | student 2 |"
    assert len(first) == len(second)
    assert "| follow-ups | 0.123 | 0.123 | 0.123 |" in first


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_its_heading_and_its_exit_code(error: type[HarnessError]) -> None:
    text = page("errors.md")
    assert section(text, f"## {error.code}").strip()
    listed = {exit_code: line.split("|")[3] for line in text.splitlines() if (exit_code := line[2:].split(" |")[0]).isdigit()}
    assert [exit_code for exit_code, codes in listed.items() if error.code in codes] == [str(error.exit_code)]


def test_no_heading_names_an_error_that_is_gone() -> None:
    assert Incomparable in ERRORS
    assert set(re.findall(r"^## (H\d+)$", page("errors.md"), flags=re.MULTILINE)) == {error.code for error in ERRORS}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "harness").rglob("*.py")]
    written = {code for source in sources for code in re.findall(r'code = "(H\d+)"', source)}
    assert written - {HarnessError.code} == {error.code for error in ERRORS}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row_and_a_page_with_its_settings(name: str) -> None:
    """The page lists what the method adds to the shared settings, and those of them whose default it changes."""
    cls, shared = registry.method(name), settings(MethodConfig)
    assert f"\n| [{name}](methods/{name}.md) | {cls.access} |" in page("methods.md")
    text = page(f"methods/{name}.md")
    assert text.startswith(f"# {name}\n")
    assert rows(text) == {key: value for key, value in settings(cls.Config).items() if shared.get(key) != value}


def test_no_page_or_row_describes_a_method_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == set(METHODS)
    assert sorted(re.findall(r"^\| \[(\w+)\]\(methods/", page("methods.md"), flags=re.MULTILINE)) == METHODS


def test_the_settings_that_all_methods_share() -> None:
    assert rows(section(page("methods.md"), "## What all methods share")) == settings(MethodConfig)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_of_a_track_is_listed_with_its_default(part: type[BaseModel]) -> None:
    fields = settings(part)
    if part is tracks.TeacherModel:
        fields = {name: value for name, value in fields.items() if name not in tracks.Served.model_fields}
    assert rows(section(page("tracks.md"), f"### {part.__name__}")) == fields


def test_the_example_tracks_are_valid(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", page("tracks.md"), flags=re.DOTALL)
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example, encoding="utf-8")
        assert tracks.load(str(path)).name == yaml.safe_load(example)["name"]
    assert len(examples) == 2


def test_the_settings_of_suites() -> None:
    text = section(page("suites.md"), "## Settings")
    found: dict[str, dict[str, str]] = {}
    suite = ""
    for name, key, value in re.findall(r"^\| (?:`(\w+)`)? ?\| `(\w+)` \| ([^|]*?) \|", text, flags=re.MULTILINE):
        suite = name or suite
        found.setdefault(suite, {})[key] = value
    assert found == {name: settings(registry.suite(name).Config) for name in registry.modules("suites")}


def test_the_knobs_of_the_embedded_world() -> None:
    for heading, knobs in (("judge", vars(JudgeKnobs())), ("critic", vars(CriticKnobs())), ("fault", vars(FaultKnobs()))):
        table = page("pocket.md").split(f"| {heading} knob |")[1].split("\n\n")[0]
        assert rows(table) == {name: shown(value) for name, value in knobs.items()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path.name} links to {link}"


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert declared
    assert cited["version"] == declared[1]

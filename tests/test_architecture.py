"""Who may import whom, where heavy packages live, and how long a file may be: read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from harness import registry

ROOT = Path(__file__).parents[1]
LONGEST = 330
LONG = {
    "harness/pocket/tasks.py": "seven kinds of task side by side, each drawn, said and read back; models were pretrained on it",
}
"""Modules that may be longer than `LONGEST`, and why."""
MODULE_LEVEL_TORCH = ("harness/objectives/", "harness/train/", "harness/generate/", "harness/pocket/pretrain.py")
INSIDE_TORCH = (
    *MODULE_LEVEL_TORCH, "harness/pocket/", "harness/assemble.py", "harness/contestants.py", "harness/learner.py",
    "harness/loop.py", "harness/plan/",
)  # fmt: skip
HEAVY = ("torch", "transformers", "pandas", "matplotlib", "openai", "lm_eval", "alpaca_eval", "scipy", "starlette", "uvicorn")


@dataclass(frozen=True)
class Import:
    target: str
    """Dotted name; of `from a import b`, `a.b`."""
    function: str | None
    """The outermost function around it."""
    typing: bool
    """For type checkers only."""

    def of(self, *packages: str) -> bool:
        return any(f"{self.target}.".startswith(f"{package}.") for package in packages)


def modules() -> list[str]:
    """All modules of the three packages, as paths below the root."""
    packages = ("harness", "methods", "suites")
    return sorted(path.relative_to(ROOT).as_posix() for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


@cache
def imports(path: str) -> list[Import]:
    package = path.removesuffix(".py").split("/")[:-1]
    return list(_imports(tree(path), package, None, False))


def _imports(node: ast.AST, package: list[str], function: str | None, typing: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, function, typing) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (Import(f"{base}.{alias.name}", function, typing) for alias in node.names)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = function or node.name
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        typing = True
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, package, function, typing)


def in_(*places: str) -> list[str]:
    found = [path for path in modules() if path.startswith(places)]
    assert found, places
    return found


def breaches(paths: list[str], *allowed: str, only_ours: bool = False) -> list[str]:
    """Imports at run time of anything but these packages and, unless `only_ours`, the standard library."""
    wrong = []
    for path in paths:
        for each in imports(path):
            ours = each.of("harness", "methods", "suites")
            standard = each.target.split(".")[0] in sys.stdlib_module_names
            if not each.typing and not each.of(*allowed) and (ours or not (only_ours or standard)):
                wrong.append(f"{path} imports {each.target}")
    return wrong


def users(package: str, *, inside: bool = True) -> set[str]:
    """Modules that import a package at run time; without `inside` only those that do so when they are loaded."""
    return {
        path for path in modules() for each in imports(path)
        if each.of(package) and not each.typing and (inside or not each.function)
    }  # fmt: skip


def test_methods_see_only_the_contract() -> None:
    """No other method, no suite, no client: what a method may ask it gets as tools."""
    contract = ("method", "families", "types", "replies", "objectives")
    assert breaches(in_("methods/"), *(f"harness.{name}" for name in contract), "pydantic") == []


def test_suites_see_only_their_contract() -> None:
    contract = ("harness.suite", "harness.assets", "harness.types", "harness.errors")
    entries = [path for path in in_("suites/") if not Path(path).stem.startswith("_")]
    stems = {Path(path).stem for path in entries}
    for path in in_("suites/"):  # an entry's own parts begin with an underscore and its name
        own = max((stem for stem in stems if Path(path).stem.lstrip("_").startswith(stem)), default="")
        parts = [f"suites.{Path(other).stem}" for other in in_("suites/") if Path(other).stem.startswith(f"_{own}")]
        assert breaches([path], *contract, *parts, only_ours=True) == []


def test_the_harness_knows_methods_and_suites_by_name_only() -> None:
    assert {path for path in users("methods") | users("suites") if not path.startswith(("methods/", "suites/"))} == set()


def test_objectives_are_torch_and_nothing_else() -> None:
    assert breaches(in_("harness/objectives/"), "torch", "harness.objectives") == []


def test_reports_read_stores_and_run_nothing() -> None:
    allowed = ("harness.report", "harness.errors", "harness.spec", "harness.store", "harness.ledger", "harness.registry")
    assert breaches(in_("harness/report/"), *allowed, only_ours=True) == []
    assert not {path for path in in_("harness/report/") if path in users("torch") | users("transformers")}


def test_the_vocabulary_of_everybody_imports_nobody() -> None:
    """Types, errors and seeds stand at the bottom; the contracts of methods and suites rest on them alone."""
    assert breaches(["harness/types.py", "harness/errors.py", "harness/seeds.py"], "numpy") == []
    contracts = ["harness/method.py", "harness/suite.py"]
    assert breaches(contracts, "harness.types", "harness.prompts", "harness.errors", "pydantic") == []
    assert breaches(["harness/ledger.py"], "harness.errors") == []
    below = ("harness.types", "harness.errors", "harness.seeds", "harness.method")
    assert breaches(in_("harness/train/"), *below, "harness.train", "harness.objectives", only_ours=True) == []
    assert breaches(in_("harness/clients/"), *below, "harness.clients", "harness.suite", "harness.ledger", only_ours=True) == []


def test_nobody_who_reads_texts_sees_the_checker() -> None:
    forbidden = ("harness.pocket.checker", "harness.pocket.tasks", "harness.pocket.demonstrate")
    for name in ("features", "reading", "critic", "protocol", "demands", "ranker"):
        path = f"harness/pocket/{name}.py"
        assert [each.target for each in imports(path) if each.of(*forbidden)] == [], path


def test_the_judge_reaches_the_checker_through_one_function() -> None:
    path = "harness/pocket/judge.py"
    taken = {each.target.rpartition(".")[2] for each in imports(path) if each.of("harness.pocket.checker")}
    assert taken == {"grade", "quality"}
    window = next(node for node in tree(path).body if isinstance(node, ast.FunctionDef) and node.name == "gold_quality")
    inside = {id(node) for node in ast.walk(window)}
    uses = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Name) and node.id in taken]
    assert len(uses) == 2
    assert all(id(node) in inside for node in uses)


def test_each_outside_service_lives_in_one_file() -> None:
    assert users("openai") == {"harness/clients/openai.py"}
    assert users("ray") == {"harness/sweep/ray.py"}
    assert users("vllm") == {"harness/generate/vllm.py"}
    assert {Path(path).stem.lstrip("_").split("_")[0] for path in users("alpaca_eval")} == {"alpaca"}
    assert {Path(path).stem.lstrip("_").split("_")[0] for path in users("lm_eval")} == {"reasoning"}
    for package in ("openai", "ray", "vllm", "alpaca_eval", "lm_eval", "pandas", "matplotlib"):
        assert users(package, inside=False) == set(), package


def test_torch_stays_where_tensors_are() -> None:
    for package in ("torch", "transformers"):
        assert [path for path in users(package) if not path.startswith(INSIDE_TORCH)] == []
    assert [path for path in users("torch", inside=False) if not path.startswith(MODULE_LEVEL_TORCH)] == []
    assert users("transformers", inside=False) == set()


def test_the_environment_is_read_in_one_place() -> None:
    def reads(path: str) -> bool:
        names = {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        taken = {each.target for each in imports(path)}
        return bool({"os.environ", "os.getenv"} & (names | taken))

    apart = {"harness/pocket/oracle.py", "harness/sweep/ray.py"}  # the latter's part of it travels to machines without the other
    assert {path for path in modules() if reads(path)} <= {"harness/environment.py", *apart}
    assert reads("harness/environment.py")


def test_no_file_is_too_long_to_read() -> None:
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {path: n for path, n in lengths.items() if n > LONGEST and path not in LONG} == {}
    assert set(LONG) <= set(lengths), "an allowed length for a file that is gone"


def test_no_file_is_a_drawer_for_anything() -> None:
    assert [path for path in modules() if Path(path).stem in ("utils", "util", "helpers", "misc", "common")] == []


ALL_METHODS = """
import harness.registry
for name in harness.registry.modules("methods"):
    method = harness.registry.method(name)
    method(method.Config()).needs
"""
ALL_SUITES = """
import harness.registry
for name in harness.registry.modules("suites"):
    harness.registry.suite(name)
"""
COMMANDS = "import harness.cli, harness.listing, harness.runner, harness.spec, harness.store, harness.tracks"


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", [COMMANDS, ALL_METHODS, ALL_SUITES], ids=["commands", "methods", "suites"])
def test_listing_loads_no_heavy_package(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_help_loads_next_to_nothing() -> None:
    """The command line's own module needs neither the spec's machinery nor the registry."""
    assert loaded_by("import harness.cli") == set()
    late = ["pydantic", "numpy", "yaml", "harness.spec", "harness.registry"]
    code = f"import harness.cli, sys\nassert not [name for name in {late!r} if name in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_entry_is_found_by_its_stem() -> None:
    for kind in ("methods", "suites"):
        stems = {Path(path).stem for path in in_(f"{kind}/") if Path(path).parent == Path(kind)} - {"__init__"}
        assert {stem for stem in stems if stem[0] != "_"} == set(registry.modules(kind))

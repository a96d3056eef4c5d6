"""The folder is the registry: a file in `methods/` or `suites/` is an entry and its stem is its name.

Others register through the entry-point groups `harness.methods` and `harness.suites`, or are named by a dotted path
("package.module"). Names are found without importing anything.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.errors import SpecError, nearest

if TYPE_CHECKING:
    from harness.method import Method
    from harness.suite import Suite

Kind = Literal["methods", "suites"]


@cache
def modules(kind: Kind) -> dict[str, str]:
    """Names of all entries of a kind and the modules that hold them."""
    found = importlib.util.find_spec(kind)
    folders = found.submodule_search_locations if found else None
    ours = {
        path.stem: f"{kind}.{path.stem}"
        for folder in folders or []
        for path in sorted(Path(folder).glob("*.py"))
        if not path.stem.startswith("_")
    }
    theirs = {point.name: point.value for point in importlib.metadata.entry_points(group=f"harness.{kind}")}
    return {**theirs, **ours}


def _load(kind: Kind, name: str, base: type) -> type:
    known = modules(kind)
    target = known.get(name) or (name if "." in name else None)
    if target is None:
        raise SpecError(
            f"no {kind[:-1]} named {name!r}", where=f"--{kind[:-1]} {name}",
            fix=f"{nearest(name, known)}    list them: harness list {kind}",
        )  # fmt: skip
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as error:
        raise SpecError(f"the {kind[:-1]} {name!r} cannot be imported: {error}", where=target) from error
    entries = [
        value for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
        and value.__module__ == module.__name__ and key[0] != "_"
    ]  # fmt: skip
    if len(entries) != 1:
        raise SpecError(
            f"{target} defines {len(entries)} public subclasses of {base.__name__}; exactly one makes an entry", where=target
        )
    return entries[0]


def method(name: str) -> type[Method]:
    """The method class of that name.

    Raises:
        SpecError: no such method (with the nearest name), or its module does not hold exactly one.
    """
    from harness.method import Method

    return _load("methods", name, Method)


def suite(name: str) -> type[Suite]:
    """The suite class of that name, whose argument ("lm-eval:gsm8k") is for its `settings_for`.

    Raises:
        SpecError: no such suite (with the nearest name), or its module does not hold exactly one.
    """
    from harness.suite import Suite

    prefix, colon, _ = name.partition(":")
    if not colon:
        return _load("suites", name, Suite)
    classes: list[type[Suite]] = [_load("suites", known, Suite) for known in modules("suites")]
    taking = {cls.argument: cls for cls in classes if cls.argument}
    if prefix not in taking:
        raise SpecError(f"no suite takes an argument as {prefix!r}", where=f"--suite {name}", fix=nearest(prefix, taking))
    return taking[prefix]


def prompts_folder(cls: type[Method]) -> Path:
    """`prompts/<method>/` beside the file that defines the method."""
    path = Path(str(importlib.import_module(cls.__module__).__file__))
    return path.parent / "prompts" / path.stem

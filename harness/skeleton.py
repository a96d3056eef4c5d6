"""A new method from the skeleton: a small method that runs, its prompt, its test, its page and its row in the index.

The files below `data/skeleton` lie as they will in the checkout. `NAME` in a path and `<< name >>`, `<< class >>` and
`<< title >>` in a text stand for the method; the ending `.jinja` is taken off.
"""

from __future__ import annotations

import keyword
import re
import shlex
from pathlib import Path

from harness import registry
from harness.errors import EnvironmentFault, SpecError

TEMPLATES = Path(__file__).parent / "data" / "skeleton"
INDEX = Path("docs/methods.md")
CHECKOUT = (Path("methods/__init__.py"), Path("tests/test_method_contract.py"), INDEX)
"""What every source checkout has and an installed package has not."""
ROW = re.compile(r"^\| \[\w+\]\(methods/.*\n", flags=re.MULTILINE)


def new_method(name: str, root: Path) -> list[Path]:
    """Writes the skeleton of a method into a source checkout.

    Args:
        name: the method's name, lower-case words joined by underscores.
        root: the checkout's folder.

    Returns:
        The files written or changed, below `root`.

    Raises:
        SpecError: the name is malformed or taken, or `root` is no checkout; nothing was written.
        EnvironmentFault: a file could not be written.
    """
    _check_name(name, root)
    files = {Path(path.replace("NAME", name)): text for path, text in _rendered(name).items()}
    for path in files:
        if (root / path).exists():
            raise SpecError(f"{path} exists already", where=str(root / path), fix="choose another name, or take that file away")
    index = (root / INDEX).read_text(encoding="utf-8")
    end = max((row.end() for row in ROW.finditer(index)), default=None)
    if end is None:
        raise SpecError(f"{INDEX} has no table of methods to add a row to", where=str(root / INDEX),
                        fix="its rows begin with | [NAME](methods/NAME.md) |")  # fmt: skip
    files[INDEX] = f"{index[:end]}| [{name}](methods/{name}.md) | text | critic | unpublished |\n{index[end:]}"
    try:
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentFault(f"cannot write the skeleton: {error}", where=str(root), fix="--out FOLDER of yours") from error
    return list(files)


def next_steps(name: str, root: Path) -> list[str]:
    """What to type after `new_method`, line by line."""
    commands = [f"pytest tests/test_method_{name}.py tests/test_method_contract.py tests/test_docs.py -k {name}",
                f"harness run --method {name} --suite alpaca"]  # fmt: skip
    return commands if root.resolve() == Path.cwd() else [f"cd {shlex.quote(str(root))}", *commands]


def _check_name(name: str, root: Path) -> None:
    where = f"harness new-method {name}"
    lacking = [str(path) for path in CHECKOUT if not (root / path).is_file()]
    if lacking:
        raise SpecError(
            f"{root} is not a source checkout of this project: it lacks {', '.join(lacking)}", where=where,
            fix="--out FOLDER, where the repository was cloned",
        )  # fmt: skip
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise SpecError(
            f"{name!r} cannot be the name of a method", where=where,
            fix="lower-case letters, digits and single underscores, a letter first, no Python keyword: my_method",
        )  # fmt: skip
    if name in registry.modules("methods") or (root / "methods" / f"{name}.py").exists():
        raise SpecError(f"there is a method named {name!r} already", where=where, fix="another name    harness list methods")


def _rendered(name: str) -> dict[str, str]:
    """The skeleton's texts by their paths, in which `NAME` still stands."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, variable_start_string="<<", variable_end_string=">>", block_start_string="<%",
        block_end_string="%>", comment_start_string="<#", comment_end_string="#>", keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    slots = {"name": name, "class": _class_name(name), "title": name.replace("_", " ").capitalize()}
    texts = {path: environment.from_string(path.read_text(encoding="utf-8")) for path in sorted(TEMPLATES.rglob("*.jinja"))}
    return {path.relative_to(TEMPLATES).as_posix().removesuffix(".jinja"): text.render(slots) for path, text in texts.items()}


def _class_name(name: str) -> str:
    """`my_method` as `MyMethod`; with `Method` behind it where Python or the skeleton has another thing of that name."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    text = (TEMPLATES / "methods" / "NAME.py.jinja").read_text(encoding="utf-8")
    return f"{camel}Method" if keyword.iskeyword(camel) or re.search(rf"\b{camel}\b", text) else camel

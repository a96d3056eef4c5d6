"""Prompt templates: one file each, in `prompts/<method>/<dialect>/` beside the method, rendered by Jinja2.

A file's `=== system ===` and `=== user ===` lines begin its messages. Whatever a model wrote is fenced with a nonce
that depends on its content, so that it can neither close its own fence nor defeat the cache.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import SpecError


def fence(text: str, label: str) -> str:
    """Text between marks that it cannot contain: `<label nonce> ... </label nonce>`."""
    nonce = hashlib.sha256(f"{label}\x1f{text}".encode()).hexdigest()[:8]
    return f"<{label} {nonce}>\n{text}\n</{label} {nonce}>"


class Template:
    """A prompt template; `template(slot=value)` gives the chat messages."""

    def __init__(self, source: str, name: str) -> None:
        import jinja2

        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False, autoescape=False
        )
        environment.filters["fence"] = fence
        parts = re.split(r"^=== (system|user|assistant) ===\n", source, flags=re.MULTILINE)
        if len(parts) < 3 or parts[0].strip():
            raise SpecError(f"template {name} does not begin with a line like '=== user ==='", where=name)
        self.name = name
        self.digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        self._parts = [(role, environment.from_string(text.strip())) for role, text in zip(parts[1::2], parts[2::2], strict=True)]

    def __call__(self, **slots: Any) -> tuple[dict[str, str], ...]:
        return tuple({"role": role, "content": part.render(**slots)} for role, part in self._parts)


SHARED = Path(__file__).parent / "data" / "prompts"
"""What the harness itself asks a model, whatever the method: `SHARED/<subject>/<dialect>/<name>.jinja`."""


@cache
def load(folder: Path, dialect: str, name: str) -> Template:
    """The template `name` of a method's prompts folder in a dialect.

    Raises:
        SpecError: the file is missing; the dialects that exist are named.
    """
    path = folder / dialect / f"{name}.jinja"
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.glob(f"*/{name}.jinja"))
        raise SpecError(f"no prompt template {path}", where=str(path), fix=f"dialects that have it: {', '.join(known) or 'none'}")
    return Template(path.read_text(encoding="utf-8"), f"{folder.name}/{dialect}/{name}")

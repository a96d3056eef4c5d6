"""Files of the field that the project may not ship: found where the user has them, or fetched from the hub.

What a file must contain is checked by the suite that reads it, by a hash of its ordered content, so that another layout of
the same data fits and a changed item does not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import environment
from harness.errors import SuiteError


@dataclass(frozen=True)
class Asset:
    """A file on the Hugging Face hub."""

    what: str
    """What people call it."""
    repo: str
    file: str
    kind: Literal["dataset", "space"]
    licence: str

    def path(self) -> Path:
        """The file: below HARNESS_ASSETS_DIR, by its path in the repository or by its bare name, else from the hub (or the hub's
        cache on this machine).

        Raises:
            SuiteError: neither has it; says how to get it.
        """
        folder, name = environment.assets_dir(), Path(self.file).name
        if folder is not None:
            for path in (folder / self.repo / self.file, folder / self.file, folder / name):
                if path.is_file():
                    return path
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

        print(f"looking for {self.what} on the hub ({self.repo})", file=sys.stderr)
        try:
            return Path(hf_hub_download(self.repo, self.file, repo_type=self.kind))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            said = str(error).strip().splitlines()[0]
            raise SuiteError(
                f"not on this machine, and the hub does not give it: {self.what}; {said}", where=f"hub {self.kind} {self.repo}",
                fix=f"put its {name} ({self.licence}) into a folder and export HARNESS_ASSETS_DIR=that folder, "
                f"or once with a network: hf download {self.repo} {self.file} --repo-type {self.kind}",
            ) from error  # fmt: skip


def content_hash(value: Any) -> str:
    """16 hex digits that name a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        SuiteError: it cannot be read, is not UTF-8, or a line is not a JSON object (with its number).
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SuiteError(f"line {number} is not JSON: {error.msg}", where=f"{path}:{number}") from error
            if not isinstance(row, dict):
                raise SuiteError(f"line {number} is not an object", where=f"{path}:{number}")
            rows.append(row)
    return rows


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        SuiteError: it cannot be read, is not UTF-8 or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise SuiteError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from error


def read_text(path: Path) -> str:
    """A text file of any size.

    Raises:
        SuiteError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise SuiteError(f"cannot read {path}: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"byte {error.start} is not UTF-8", where=str(path), fix=f"iconv -t UTF-8 {path.name}") from error

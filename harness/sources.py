"""Tables that people have: rows from JSONL, JSON, CSV, parquet, a folder that `datasets` saved, or a dataset of the hub."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentFault, SpecError

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SHOWN = 5
"""Problems of a table that an error names."""
_HUB = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?):((?P<config>[\w.-]+)/)?(?P<split>[\w.\[\]%:-]+?)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Row:
    place: str
    """File and line, or file and row."""
    value: Any
    """A mapping, where the table is as it should be."""
    wrong: str = ""
    """Why there is no value."""


@dataclass(frozen=True)
class Table:
    name: str
    """The file's or dataset's own, without folder and ending."""
    rows: list[Row]


def read(source: str) -> Table:
    """The rows of a source: a file (.jsonl, .json, .csv, .tsv, .parquet, text maybe .gz), a folder that `datasets` saved
    (FOLDER:SPLIT where it holds several), or NAME:SPLIT or NAME:CONFIG/SPLIT on the hub, with @REVISION.

    Raises:
        SpecError: no such file, another format, or a file that cannot be read.
        EnvironmentFault: the hub does not give the dataset, or a package is missing.
    """
    path = Path(source)
    if path.is_file():
        return Table(path.name.removesuffix(".gz").rpartition(".")[0], _file(path))
    folder, split = _saved(source)
    if folder is not None:
        return Table(folder.name, _numbered(folder.name, _from_disk(folder, split)))
    if path.is_dir():
        raise SpecError(f"{source} is no folder that `datasets` saved", where=source, fix="dataset.save_to_disk(FOLDER)")
    found = _HUB.fullmatch(source)
    if not found or found["name"].endswith(KINDS):
        raise SpecError(
            f"no prompts file {source}", where="prompts.source",
            fix=f"a file ({', '.join(KINDS)}), a folder that `datasets` saved, or NAME:SPLIT of a dataset on the hub",
        )  # fmt: skip
    return Table(found["name"].rpartition("/")[2], _numbered(source, _from_hub(found)))


def pinned(source: str) -> tuple[str, str]:
    """The source as a run records it, and what names its content: a digest of the file or folder, or the hub's commit.

    A dataset of the hub gets the commit that its revision stands for today; one that names a commit needs no network.

    Raises:
        SpecError: there is no such source.
        EnvironmentFault: the hub does not tell the commit.
    """
    path = Path(source)
    if path.is_file():
        with path.open("rb") as file:
            return source, hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder, _ = _saved(source)
    if folder is not None:
        total = hashlib.sha256()
        for part in sorted(folder.rglob("*.arrow")):
            with part.open("rb") as file:
                total.update(f"{part.relative_to(folder)}\0".encode() + hashlib.file_digest(file, "sha256").digest())
        return source, total.hexdigest()[:16]
    found = _HUB.fullmatch(source)
    if found is None or not names_dataset(source):
        read(source)  # says what is wrong with it
        raise SpecError(f"cannot read {source}", where="prompts.source")
    commit = found["revision"] or ""
    if not _COMMIT.fullmatch(commit):
        commit = _commit(found["name"], found["revision"])
    return f"{source.rpartition('@')[0] or source}@{commit}" if found["revision"] else f"{source}@{commit}", commit


def names_dataset(source: str) -> bool:
    """Whether a source can only be a dataset of the hub."""
    found = _HUB.fullmatch(source)
    return found is not None and not found["name"].endswith(KINDS) and not Path(source).exists() and _saved(source)[0] is None


def problems(wrong: list[str], rows: int, where: str, allowed: str) -> SpecError:
    """The error that names the first problems of a table, and how many there are."""
    more = f"\n... and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
    counted = f"{len(wrong):,} problem{'s' * (len(wrong) != 1)} in {rows:,} row{'s' * (rows != 1)}:\n"
    return SpecError(counted + "\n".join(wrong[:SHOWN]) + more, where=where, fix=allowed)


def _file(path: Path) -> list[Row]:
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".parquet":
        return _numbered(path.name, _parquet(path))
    if kind not in KINDS:
        raise SpecError(f"the name {path.name!r} does not tell a known format", where=str(path), fix=f"one of {', '.join(KINDS)}")
    text = _text(path)
    if kind == ".jsonl":
        lines = enumerate(text.split("\n"), 1)
        return [_json_row(line, f"{path.name}:{number}") for number, line in lines if line.strip()]
    if kind == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"{path.name} is not JSON: {error.msg}", where=f"{path}:{error.lineno}",
                            fix="name a file of one object a line .jsonl") from error  # fmt: skip
        if not isinstance(rows, list):
            raise SpecError(f"{path.name} holds a {type(rows).__name__}", where=str(path), fix="a JSON list of objects")
        return _numbered(path.name, rows)
    limit = csv.field_size_limit(max(len(text), 1))  # a text may be longer than the module's own limit
    try:
        cells = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",", strict=True)
        return [Row(f"{path.name}:{cells.line_num}", {k: v or None for k, v in row.items() if k is not None}) for row in cells]
    except csv.Error as error:
        raise SpecError(f"{path.name} is not a table: {error}", where=str(path)) from error
    finally:
        csv.field_size_limit(limit)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"byte {error.start} is not UTF-8", where=str(path), fix=f"iconv -t UTF-8 {path.name}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SpecError(f"cannot read {path}: {error}", where=str(path)) from error


def _json_row(line: str, place: str) -> Row:
    try:
        return Row(place, json.loads(line))
    except json.JSONDecodeError as error:
        return Row(place, None, f"is not JSON: {error.msg}")


def _numbered(name: str, values: list[Any]) -> list[Row]:
    return [Row(f"{name} row {number}", value) for number, value in enumerate(values, 1)]


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise EnvironmentFault("parquet files need the package pyarrow", where=str(path), fix="pip install pyarrow") from error
    try:
        return list(parquet.read_table(path).to_pylist())
    except (OSError, pyarrow.ArrowException) as error:
        raise SpecError(f"{path.name} is no parquet file: {error}", where=str(path)) from error


def _saved(source: str) -> tuple[Path | None, str]:
    """The folder that `datasets` saved and the split, where the source is one."""
    for name, split in ((source, ""), source.rpartition(":")[::2]):
        if name and any((Path(name) / told).is_file() for told in ("dataset_info.json", "dataset_dict.json")):
            return Path(name), split
    return None, ""


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        fix = "pip install datasets"
        raise EnvironmentFault("this source needs the package datasets", where="prompts.source", fix=fix) from error
    return datasets


def _from_disk(folder: Path, split: str) -> list[Any]:
    saved = _datasets().load_from_disk(str(folder))
    if hasattr(saved, "column_names") and isinstance(saved.column_names, list):
        return list(saved.to_list())
    if split not in saved:
        raise SpecError(f"{folder} holds the splits {', '.join(saved)}", where=str(folder), fix=f"{folder}:{next(iter(saved))}")
    return list(saved[split].to_list())


def _from_hub(found: re.Match[str]) -> list[Any]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(found["name"], found["config"], split=found["split"], revision=found["revision"])
    except Exception as error:  # the package raises anything, from network errors to those of its readers
        raise _unreachable(found["name"], error) from error
    return list(loaded.to_list())


def _commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except Exception as error:  # of network, hub and HTTP library alike
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> EnvironmentFault:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return EnvironmentFault(
        f"no file or folder of that name, and the hub does not give the dataset {name!r}: {said}", where="prompts.source",
        fix="give a file, or NAME:SPLIT@COMMIT of a dataset that is in the hub's cache on this machine",
    )  # fmt: skip

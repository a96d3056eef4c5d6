"""AlpacaEval's files: rows of instructions and outputs, and whether they are the official 805 in their order.

The official items are told by digests: one of the whole list, and one a row (`data/alpaca/official.txt`) to say what is
wrong. A digest is of the instruction's text and of the length of the baseline's output in characters.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.assets import Asset, content_hash
from harness.errors import SuiteError

Row = Mapping[str, Any]

DATA = Path(__file__).parent / "data"
BASELINE = Asset(
    "AlpacaEval 2's list of instructions with the outputs of its baseline", "tatsu-lab/alpaca_eval",
    "alpaca_eval_gpt4_baseline.json", "dataset", "CC BY-NC 4.0, not for commercial use",
)  # fmt: skip
OFFICIAL_HASH = "45627e7d6cb1c6d4"
_OFFICIAL_ROWS = DATA / "alpaca" / "official.txt"


def read_rows(path: Path, keys: Sequence[str]) -> list[Row]:
    """The rows of a file in one of AlpacaEval's formats: .json (a list of objects), .jsonl, .csv or .tsv, each maybe .gz.

    Args:
        keys: what each row must have, as text.

    Raises:
        SuiteError: the file cannot be read, is of another format or not UTF-8, or rows lack a key (with count and example).
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    text = _text(path)
    if kind == "json":
        rows = _json(text, path)
    elif kind == "jsonl":
        rows = [_json(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    elif kind in ("csv", "tsv"):
        rows = _cells(text, path, "," if kind == "csv" else "\t")
    else:
        raise SuiteError(f"the name {path.name!r} does not tell the file's format", where=str(path),
                         fix="name it .json, .jsonl, .csv or .tsv, with .gz behind if it is compressed")  # fmt: skip
    if not isinstance(rows, list) or not rows:
        raise SuiteError(f"a list of rows was wanted, got {_shape(rows)}", where=str(path))
    _check(rows, keys, path)
    return rows


def in_order(rows: Sequence[Row], instructions: Sequence[str], path: Path) -> list[Row]:
    """One row for each instruction, in the order of the instructions: rows are told by their text, not by their place.

    Raises:
        SuiteError: instructions without a row, rows of no instruction, or two rows of one (with counts and examples).
    """
    found = {row["instruction"]: row for row in rows}
    wanted = set(instructions)
    wrong = {
        "missing": [text for text in instructions if text not in found],
        "unknown": [text for text in found if text not in wanted],
        "repeated": [text for text, count in Counter(row["instruction"] for row in rows).items() if count > 1],
    }
    if any(wrong.values()):
        told = ", ".join(f"{len(texts)} {what}{_example(texts)}" for what, texts in wrong.items())
        raise SuiteError(
            f"{len(rows)} outputs do not fit the {len(instructions)} instructions: {told}", where=str(path),
            fix="give one output to each instruction of this suite"
            + ("" if wanted & set(found) else "; these are the outputs of another suite"),
        )  # fmt: skip
    return [found[text] for text in instructions]


def is_official(rows: Sequence[Row]) -> bool:
    """Whether these are AlpacaEval 2's 805 instructions with its baseline's outputs, in order."""
    return content_hash([_fact(row) for row in rows]) == OFFICIAL_HASH


def official_rows() -> list[Row]:
    """AlpacaEval 2's rows.

    Raises:
        SuiteError: the file is not on this machine, or is not what it should be (with the first difference).
    """
    path = BASELINE.path()
    rows = read_rows(path, ("instruction", "output", "generator"))
    if not is_official(rows):
        raise SuiteError(
            f"{path.name} does not hold AlpacaEval 2's items in their order: {_difference(rows)}", where=str(path),
            fix=f"fetch it again: hf download {BASELINE.repo} {BASELINE.file} --repo-type {BASELINE.kind}; "
            "or name items of your own: --set items=PATH",
        )  # fmt: skip
    return rows


def _fact(row: Row) -> list[Any]:
    return [row["instruction"], len(row["output"])]


def _difference(rows: Sequence[Row]) -> str:
    """How rows differ from the official ones: counts, and the first place."""
    wanted = _OFFICIAL_ROWS.read_text(encoding="utf-8").split()
    got = [content_hash(_fact(row)) for row in rows]
    missing, unknown = len(set(wanted) - set(got)), len(set(got) - set(wanted))
    place = next((i for i, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]), min(len(got), len(wanted)))
    first = repr(rows[place]["instruction"][:60]) if place < len(rows) else "the end of the file"
    return (
        f"{len(rows)} items of {len(wanted)}, {missing} missing, {unknown} unknown or changed, {len(got) - len(set(got))} "
        f"repeated; the first difference is at index {place}: {first}"
    )


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SuiteError(f"byte {error.start} is not UTF-8", where=str(path), fix=f"iconv -t UTF-8 {path.name}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SuiteError(f"{path.name} is not a whole gzip file: {error}", where=str(path)) from error
    except OSError as error:
        raise SuiteError(f"cannot read {path}: {error.strerror}", where=str(path)) from error


def _json(text: str, path: Path, line: int = 0) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SuiteError(f"not JSON: {error.msg}", where=f"{path}:{line or error.lineno}") from error


def _cells(text: str, path: Path, delimiter: str) -> list[Row]:
    limit = csv.field_size_limit(max(len(text), 1))  # an output may be longer than the module's own limit
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise SuiteError(f"not a table: {error}", where=str(path)) from error
    finally:
        csv.field_size_limit(limit)


def _check(rows: Sequence[Any], keys: Sequence[str], path: Path) -> None:
    """Refuses rows that lack a key, or whose text cannot be written down."""
    wrong = [
        n for n, row in enumerate(rows)
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys)
    ]  # fmt: skip
    if wrong:
        raise SuiteError(
            f"{len(wrong)} of {len(rows)} rows lack a text under one of the keys {', '.join(keys)}; the first, row "
            f"{wrong[0] + 1}, is {_shape(rows[wrong[0]])}", where=str(path),
            fix="a row is {" + ", ".join(f'"{key}": "..."' for key in keys) + "}",
        )  # fmt: skip
    broken = [n for n, row in enumerate(rows) if not all(_whole(row[key]) for key in keys)]
    if broken:
        raise SuiteError(f"{len(broken)} of {len(rows)} rows hold half a character (a lone surrogate); the first is row "
                         f"{broken[0] + 1}", where=str(path), fix="write the file anew with whole characters")  # fmt: skip


def _whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text)


def _shape(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, dict):
        parts = [f"{key} ({type(part).__name__})" for key, part in list(value.items())[:6]]
        return f"an object with {', '.join(parts) or 'no keys'}"
    return f"an empty {type(value).__name__}" if value in ([], "") else f"a {type(value).__name__}"


def _example(texts: Iterable[str]) -> str:
    first = next(iter(texts), None)
    return "" if first is None else f" (first: {first[:60]!r})"

"""AlpacaEval 2: a judge compares each answer with a reference answer; the headline is the mean probability of winning.

Prompts, readings of replies and statistics are those of the installed `alpaca_eval` package (Li et al. 2023, AlpacaEval;
Dubois et al. 2024, arXiv:2404.04475, for the weighted and the length-controlled win rate). The judge calls are our own, so
that a reply that stays missing is missing data, and both orders of the two answers can be asked.
"""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.errors import SuiteError
from harness.suite import Call, ChatReply, ChatRequest, JudgedSuite, SuiteConfig
from harness.types import Answer, Item, Metric, Record
from suites._alpaca_annotator import Annotator, quiet
from suites._alpaca_files import DATA, Row, in_order, is_official, official_rows, read_rows
from suites._alpaca_lc import Controlled, gamed, length_controlled, length_only

_IDENTICAL = "identical"


class Config(SuiteConfig):
    items: str = "official"
    """AlpacaEval 2's 805 instructions with its baseline's outputs ("official"), or a file in AlpacaEval's format (json,
    jsonl, csv, tsv), whose outputs are the references; a relative path is taken below `suites/data/`, else below the
    working directory."""
    annotator: str = "weighted_alpaca_eval_gpt4_turbo"
    """An annotator of the `alpaca_eval` package."""
    both_orders: bool = False
    """Ask with either answer first and take the mean; otherwise one order an item, the one that the package draws."""
    length_control: Literal["official", "length_only", "none"] | None = None
    """"official" for AlpacaEval 2's length-controlled win rate (its own items alone), "length_only" for a win rate at equal
    lengths on any items, "none" for neither; unset, "official" on AlpacaEval 2's items and "none" on others."""


def _winrate(scores: Sequence[float]) -> dict[str, float]:
    """The package's own statistics (in percent) of win probabilities."""
    with quiet():
        from alpaca_eval.metrics import get_winrate

        found = get_winrate([{"preference": 1.0 + score} for score in scores])
    return {key: float(value) for key, value in found.items()}


def _present(value: float) -> float | None:
    """Not-a-number (the spread of a single value) is no number."""
    return None if math.isnan(value) else value


class Alpaca(JudgedSuite):
    """Pairwise comparison with fixed reference answers, in the protocol of AlpacaEval."""

    Config = Config
    version = "1"
    metric = "win_rate"
    summary = "win rate against reference answers (AlpacaEval 2)"

    @cached_property
    def _rows(self) -> list[Row]:
        if self.config.items == "official":
            return official_rows()
        path = next((path for path in (DATA / self.config.items, Path(self.config.items)) if path.is_file()), None)
        if path is None:
            known = ", ".join(sorted(str(p.relative_to(DATA)) for p in DATA.rglob("*.json"))) or "none"
            raise SuiteError(f"no file {self.config.items}", where="items",
                             fix=f'give a path, "official", or one of the shipped files: {known}')  # fmt: skip
        rows = read_rows(path, ("instruction", "output", "generator"))
        repeated = len(rows) - len({row["instruction"] for row in rows})
        if repeated:
            raise SuiteError(f"{path} repeats {repeated} of its {len(rows)} instructions", where="items", fix="keep one of each")
        return rows

    @cached_property
    def _official(self) -> bool:
        return is_official(self._rows)

    @cached_property
    def _annotator(self) -> Annotator:
        return Annotator.load(self.config.annotator)

    @cached_property
    def _length_control(self) -> str:
        chosen: str | None = self.config.length_control
        if chosen == "official" and not self._official:
            raise SuiteError(
                f"official length control is for AlpacaEval 2's 805 items in their order, got {len(self._rows)} others",
                where="length_control", fix="--set length_control=length_only for any items, or --set length_control=none",
            )  # fmt: skip
        return chosen or ("official" if self._official else "none")

    @cached_property
    def _gamed(self) -> Path | None:
        return gamed() if self._length_control == "official" else None

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "annotator": self.config.annotator, "both_orders": self.config.both_orders, "length_control": self._length_control,
            "baseline": "official" if self._official else "file",
        }  # fmt: skip

    def items(self) -> list[Item]:
        """The instructions with their references; what judging and length control will need is looked up too.

        Raises:
            SuiteError: items, annotator or the data of length control are missing or not what they should be.
        """
        _ = self._annotator, self._gamed
        return [
            Item(
                id=f"alpaca-{number:04d}",
                messages=({"role": "user", "content": row["instruction"]},),
                reference=row["output"],
                category=row.get("dataset") or "",
            )
            for number, row in enumerate(self._rows, 1)
        ]

    def read_outputs(self, path: Path) -> list[Answer]:
        """Answers from `model_outputs` in AlpacaEval's formats (json, jsonl, csv, tsv, each maybe .gz).

        An output belongs to the item whose instruction it names, so another order is put right. The files do not tell
        whether an answer was cut off nor its tokens: it is taken as finished, with 0 tokens. Empty outputs are answers.

        Raises:
            SuiteError: the file is not of these formats, or its instructions are not those of the items, once each.
        """
        items = self.items()
        rows = in_order(read_rows(path, ("instruction", "output")), [row["instruction"] for row in self._rows], path)
        return [Answer(item.id, row["output"], "stop", 0) for item, row in zip(items, rows, strict=True)]

    def _orders(self, instruction: str) -> tuple[str, ...]:
        if self.config.both_orders:
            return ("12", "21")
        if not self._annotator.draws_order:
            return ("12",)
        drawn = random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]  # the package's own draw
        return ("21",) if drawn else ("12",)

    def calls(self, answers: Sequence[Answer]) -> list[Call]:
        """Two an item (one without `both_orders`), `subkey` "12" where the reference stands first.

        Identical texts are a draw that nobody is asked about, as in the package.
        """
        return [
            Call(item, answer, "win", order, None, known=0.5, why=_IDENTICAL)
            if answer.text == item.reference
            else Call(item, answer, "win", order, self._request(item, answer, order))
            for item, answer in self.paired(answers)
            for order in self._orders(item.messages[0]["content"])
        ]

    def verdict(self, call: Call, reply: ChatReply) -> float | None:
        second = self._annotator.second_wins(reply)
        return second if second is None or call.subkey == "12" else 1.0 - second

    def _request(self, item: Item, answer: Answer, order: str) -> ChatRequest:
        reference = str(item.reference)
        first, second = (reference, answer.text) if order == "12" else (answer.text, reference)
        return self._annotator.request(item.messages[0]["content"], first, second)

    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over the orders, of the items whose orders are all there."""
        verdicts: dict[str, list[float]] = {}
        for record in records:
            found = verdicts.setdefault(record.item_id, [])
            if record.score is not None:
                found.append(record.score)
        complete = 2 if self.config.both_orders else 1
        return {item: sum(scores) / complete for item, scores in verdicts.items() if len(scores) == complete}

    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        """`win_rate` over items, `win_rate_discrete` (wins, and draws as a half), `length` in characters.

        With length control also `length_controlled_win_rate` (AlpacaEval 2's) or `length_only_win_rate` (ours).
        """
        scores = list(self.item_scores(records).values())
        lengths = list({record.item_id: float(record.length) for record in records}.values())
        missing = len(lengths) - len(scores)
        won = [0.5 if math.isclose(score, 0.5, abs_tol=1e-9) else float(score > 0.5) for score in scores]
        metrics: dict[str, Metric] = {}
        for name, values in (("win_rate", scores), ("win_rate_discrete", won)):
            stats = _winrate(values) if values else {"win_rate": math.nan, "standard_error": math.nan}
            metrics[name] = Metric(
                _present(stats["win_rate"] / 100), _present(stats["standard_error"] / 100), n=len(values), missing=missing
            )
        spread = statistics.stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else None
        metrics["length"] = Metric(statistics.fmean(lengths) if lengths else None, spread, n=len(lengths), missing=0)
        if self._length_control != "none":
            found = self._controlled(records)
            name = "length_controlled_win_rate" if self._length_control == "official" else "length_only_win_rate"
            value, stderr = found or (None, None)
            metrics[name] = Metric(value, stderr, n=len(scores), missing=missing)
        return metrics

    def _controlled(self, records: Sequence[Record]) -> Controlled | None:
        """The win rate with the chosen length control; the official one needs records of all items."""
        scores, length = self.item_scores(records), {record.item_id: record.length for record in records}
        items = [item for item in self.items() if item.id in length]
        preference_I = tuple(scores.get(item.id) for item in items)
        length_I = tuple(length[item.id] for item in items)
        reference_length_I = tuple(len(str(item.reference)) for item in items)
        if self._gamed is None:
            return length_only(preference_I, reference_length_I, length_I)
        if len(items) < len(self._rows):
            return None
        is_baseline = all(record.raw == _IDENTICAL for record in records)
        return length_controlled(preference_I, reference_length_I, length_I, self._gamed, is_baseline)

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """`model_outputs.json`, `annotations.json` and `leaderboard.csv` as AlpacaEval writes them.

        Only the official length control has columns in the leaderboard.

        An annotation is the mean over the orders: 1 where the reference won, 2 where the model did, null where a
        verdict is missing.
        """
        scores = self.item_scores(records)
        raw: dict[str, dict[str, str]] = {}
        for record in records:
            raw.setdefault(record.item_id, {})[record.subkey] = record.raw
        outputs, annotations = [], []
        for row, (item, answer) in zip(self._rows, self.paired(answers), strict=True):
            shared = {"instruction": row["instruction"], "dataset": item.category}
            outputs.append({**shared, "output": answer.text, "generator": generator})
            annotations.append(
                {
                    **shared,
                    "output_1": row["output"],
                    "generator_1": row["generator"],
                    "output_2": answer.text,
                    "generator_2": generator,
                    "annotator": self._annotator.name,
                    "preference": 1.0 + scores[item.id] if item.id in scores else None,
                    "preference_raw_completion": raw.get(item.id, {}),
                }
            )
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "model_outputs.json", folder / "annotations.json", folder / "leaderboard.csv"]
        for path, rows in zip(paths[:2], (outputs, annotations), strict=True):
            path.write_text(json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        stats = _winrate([*scores.values()]) if scores else {}
        length = sum(len(answer.text) for answer in answers) // len(answers)
        standing: dict[str, Any] = {**stats, "mode": "community", "avg_length": length}
        if self._length_control == "official" and (controlled := self._controlled(records)):
            standing |= {"length_controlled_winrate": 100 * controlled.value, "lc_standard_error": 100 * controlled.stderr}
        with paths[2].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["", *standing], [generator, *standing.values()]])
        return paths

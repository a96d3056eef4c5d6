"""AlpacaEval: a judge compares each answer with a reference answer; the headline is the mean probability of winning.

Prompts, tokens and statistics are those of the installed `alpaca_eval` package (Li et al. 2023, AlpacaEval; Dubois et
al. 2024, arXiv:2404.04475, for the weighted win rate). The judge calls are our own, so that a reply that stays
missing is missing data, and both orders of the two answers can be asked.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import random
import re
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import SuiteError, nearest
from harness.suite import Call, ChatReply, ChatRequest, JudgedSuite, SuiteConfig
from harness.types import Answer, Item, Message, Metric, Record

_DATA = Path(__file__).parent / "data"
_COLUMNS = ("instruction", "output_1", "output_2")


class Config(SuiteConfig):
    items: str
    """A JSON file in AlpacaEval's format; a relative path is taken below `suites/data/`. Its outputs are the references."""
    annotator: str = "weighted_alpaca_eval_gpt4_turbo"
    """An annotator of the `alpaca_eval` package that reads its verdict from token probabilities."""
    both_orders: bool = True
    """Ask with either answer first and take the mean; otherwise one order an item, the one that the package draws."""


@dataclass(frozen=True)
class Annotator:
    """A judge protocol of the package: a prompt, and two tokens whose probabilities are the verdict."""

    name: str
    template: tuple[tuple[str, str], ...]
    """Role and text of each message, the answers still to be filled in."""
    max_tokens: int
    temperature: float
    top_logprobs: int
    first: str
    """The token that says that the first answer is better."""
    rest: tuple[str, ...]
    """The tokens that say that it is not."""
    position: int
    """Place of the verdict among the reply's tokens."""
    binarize: bool

    @classmethod
    def load(cls, name: str) -> Annotator:
        """Reads an annotator from the installed package's files, without importing the package.

        Raises:
            SuiteError: the package is missing, has no such annotator, or the annotator does not use probabilities.
        """
        import yaml

        spec = importlib.util.find_spec("alpaca_eval")
        if spec is None or not spec.submodule_search_locations:
            raise SuiteError("the package alpaca_eval is not installed", where="alpaca", fix="pip install alpaca-eval==0.6.6")
        root = Path(spec.submodule_search_locations[0]) / "evaluators_configs"
        path = root / name / "configs.yaml"
        if not path.is_file():
            known = [folder.parent.name for folder in root.glob("*/configs.yaml")]
            raise SuiteError(f"alpaca_eval has no annotator {name!r}", where="annotator", fix=nearest(name, known))
        (config,) = yaml.safe_load(path.read_text(encoding="utf-8")).values()
        if config["fn_completion_parser"] != "logprob_parser":
            parser = config["fn_completion_parser"]
            raise SuiteError(
                f"annotator {name!r} reads its verdict with {parser}, only logprob_parser is supported",
                where="annotator",
                fix="choose weighted_alpaca_eval_gpt4_turbo",
            )
        ask, parse = config["completions_kwargs"], config["completion_parser_kwargs"]
        position = parse.get("log_prob_index", "batch")
        return cls(
            name=name,
            template=_messages((root / config["prompt_template"]).read_text(encoding="utf-8"), name),
            max_tokens=ask["max_tokens"],
            temperature=float(ask["temperature"]),
            top_logprobs=ask["top_logprobs"],
            first=parse["numerator_token"],
            rest=tuple(token for token in parse["denominator_tokens"] if token != parse["numerator_token"]),
            position=0 if position == "batch" else position,
            binarize=parse.get("is_binarize", True),
        )

    def request(self, instruction: str, first: str, second: str) -> ChatRequest:
        """All slots are filled in one pass after the messages were split, so no text can open another slot or message."""
        slots = dict(zip(_COLUMNS, (instruction, first, second), strict=True))
        messages: tuple[Message, ...] = tuple(
            {"role": role, "content": re.sub(r"\{(\w+)\}", lambda match: slots.get(match[1], match[0]), text)}
            for role, text in self.template
        )
        return ChatRequest(messages, self.max_tokens, self.temperature, self.top_logprobs)

    def second_wins(self, reply: ChatReply) -> float | None:
        """The probability that the second answer is better, or None when the reply holds no verdict.

        P(second) over the verdict tokens' total; a token that is not among the alternatives has probability 0.
        """
        if not reply.top_logprobs:
            return None
        alternatives = reply.top_logprobs[self.position]
        first, *others = (alternatives.get(token, -math.inf) for token in (self.first, *self.rest))
        top = max(first, *others)
        if top == -math.inf:
            return None
        if self.binarize:
            return float(first <= max(others))
        won = math.exp(first - top)
        return 1.0 - won / (won + sum(math.exp(value - top) for value in others))


def _messages(prompt: str, name: str) -> tuple[tuple[str, str], ...]:
    """Role and text of each message of a prompt with chat marks."""
    parts = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", prompt, flags=re.DOTALL)
    slots = set(re.findall(r"\{(\w+)\}", "".join(text for _, text in parts)))
    if slots != set(_COLUMNS):
        raise SuiteError(f"annotator {name!r} asks for {sorted(slots)}, supported is {list(_COLUMNS)}", where="annotator")
    return tuple((role, text.strip()) for role, text in parts)


def _winrate(scores: Sequence[float]) -> dict[str, float]:
    """The package's own statistics (in percent) of win probabilities."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
        from alpaca_eval.metrics import get_winrate

    return {key: float(value) for key, value in get_winrate([{"preference": 1.0 + score} for score in scores]).items()}


def _present(value: float) -> float | None:
    """Not-a-number (the spread of a single value) is no number."""
    return None if math.isnan(value) else value


class Alpaca(JudgedSuite):
    """Pairwise comparison with fixed reference answers, in the protocol of AlpacaEval."""

    Config = Config
    version = "1"
    metric = "win_rate"
    summary = "win rate against reference answers (AlpacaEval), both orders"

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        path = _DATA / self.config.items
        if not path.is_file():
            known = ", ".join(sorted(str(p.relative_to(_DATA)) for p in _DATA.rglob("*.json"))) or "none"
            raise SuiteError(f"no file {path}", where="items", fix=f"give a path, or one of the shipped files: {known}")
        rows = json.loads(path.read_text(encoding="utf-8"))
        keys = {"instruction", "output", "generator"}
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and keys <= row.keys() for row in rows):
            raise SuiteError(f"{path} is not a list of records with the keys {sorted(keys)}", where="items")
        repeated = len(rows) - len({row["instruction"] for row in rows})
        if repeated:
            raise SuiteError(f"{path} repeats {repeated} of its {len(rows)} instructions", where="items", fix="keep one of each")
        return rows

    @cached_property
    def _annotator(self) -> Annotator:
        return Annotator.load(self.config.annotator)

    def items(self) -> list[Item]:
        return [
            Item(
                id=f"alpaca-{number:04d}",
                messages=({"role": "user", "content": row["instruction"]},),
                reference=row["output"],
                category=row.get("dataset", ""),
            )
            for number, row in enumerate(self._rows, 1)
        ]

    def _orders(self, instruction: str) -> tuple[str, ...]:
        if self.config.both_orders:
            return ("12", "21")
        drawn = random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]  # the package's own draw
        return ("21",) if drawn else ("12",)

    def calls(self, answers: Sequence[Answer]) -> list[Call]:
        """Two an item (one without `both_orders`), `subkey` "12" where the reference stands first.

        Identical texts are a draw that nobody is asked about, as in the package.
        """
        return [
            Call(item, answer, "win", order, None, known=0.5, why="identical")
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
        """`win_rate` over items, `win_rate_discrete` (wins, and draws as a half), `length` in characters."""
        scores = list(self.item_scores(records).values())
        lengths = list({record.item_id: float(record.length) for record in records}.values())
        missing = len(lengths) - len(scores)
        won = [0.5 if math.isclose(score, 0.5, abs_tol=1e-9) else float(score > 0.5) for score in scores]
        metrics = {}
        for name, values in (("win_rate", scores), ("win_rate_discrete", won)):
            stats = _winrate(values) if values else {"win_rate": math.nan, "standard_error": math.nan}
            metrics[name] = Metric(
                _present(stats["win_rate"] / 100), _present(stats["standard_error"] / 100), n=len(values), missing=missing
            )
        spread = statistics.stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else None
        metrics["length"] = Metric(statistics.fmean(lengths) if lengths else None, spread, n=len(lengths), missing=0)
        return metrics

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """`model_outputs.json`, `annotations.json` and `leaderboard.csv` as AlpacaEval writes them.

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
        standing = {**stats, "mode": "community", "avg_length": sum(len(answer.text) for answer in answers) // len(answers)}
        with paths[2].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["", *standing], [generator, *standing.values()]])
        return paths

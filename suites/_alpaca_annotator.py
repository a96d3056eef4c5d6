"""Judge protocols of the installed `alpaca_eval` package: its configurations, prompts and parsers of replies.

Configurations and prompts are read from the package's files. A reply is read by the package's own parser.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest
from harness.suite import ChatReply, ChatRequest
from harness.types import Message

SLOTS = ("instruction", "output_1", "output_2")
_PARSERS = (
    "regex_parser", "lmsys_parser", "ranking_parser", "json_parser", "eval_parser", "replace_parser", "logprob_parser",
    "pipeline_meta_parser",
)  # fmt: skip
_LIMITS = ("max_tokens", "max_new_tokens", "max_tokens_to_sample")
_SERVING = (
    "model_name", "model_kwargs", "price_per_token", "num_procs", "n_retries", "batch_size", "client_kwargs",
    "client_function_name", "requires_chatml", "is_chatml_prompt", "top_p",
)  # fmt: skip
"""Settings that say who answers and how calls are made: here that is the track's."""
_MAX_TOKENS, _TEMPERATURE = 2048, 0.7  # the package's, where a configuration is silent


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The package without its side effects: it speaks through the root logger, sets its level, and warns."""
    root = logging.getLogger()
    level, disabled, handlers = root.level, root.disabled, list(root.handlers)
    root.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.disabled = disabled
        root.handlers[:] = handlers


@dataclass(frozen=True)
class Annotator:
    """A prompt with slots for an instruction and two answers, and how a reply tells the better one."""

    name: str
    template: tuple[tuple[str, str], ...]
    """Role and text of each message, the slots still to be filled in."""
    max_tokens: int
    temperature: float
    top_logprobs: int
    parser: str
    options: Mapping[str, Any]
    """Arguments of the parser."""
    draws_order: bool
    """Whether the package draws which answer stands first; otherwise the reference always does."""

    @classmethod
    def load(cls, name: str) -> Annotator:
        """Reads a configuration from the installed package's files, without importing the package.

        Raises:
            SuiteError: the package is missing or has no such annotator, or the annotator cannot be asked of a chat server
                one pair at a time (says why).
        """
        import yaml

        root = _configurations()
        path = root / name / "configs.yaml"
        if not path.is_file():
            known = [folder.parent.name for folder in root.glob("*/configs.yaml")]
            raise SuiteError(f"alpaca_eval has no annotator {name!r}", where="annotator", fix=nearest(name, known))
        pool = yaml.safe_load(path.read_text(encoding="utf-8"))
        if len(pool) != 1:
            raise _refused(name, f"is a pool of {len(pool)} annotators, one drawn for each item")
        (config,) = pool.values()
        ask = config.get("completions_kwargs") or {}
        parser, options = config.get("fn_completion_parser", "regex_parser"), config.get("completion_parser_kwargs") or {}
        _check_settings(name, config, ask)
        _check_parsers(name, [parser, *options.get("parsers_to_kwargs", {})], config.get("completion_key", "completions"))
        return cls(
            name=name,
            template=_messages((root / config["prompt_template"]).read_text(encoding="utf-8"), name),
            max_tokens=next((ask[key] for key in _LIMITS if key in ask), _MAX_TOKENS),
            temperature=float(ask.get("temperature", _TEMPERATURE)),
            top_logprobs=ask.get("top_logprobs", 0),
            parser=parser,
            options=options,
            draws_order=config.get("is_randomize_output_order", True),
        )

    def request(self, instruction: str, first: str, second: str) -> ChatRequest:
        """All slots are filled in one pass after the messages were split, so no text can open another slot or message."""
        slots = dict(zip(SLOTS, (instruction, first, second), strict=True))
        messages: tuple[Message, ...] = tuple(
            {"role": role, "content": re.sub(r"\{(\w+)\}", lambda match: slots.get(match[1], match[0]), text).strip()}
            for role, text in self.template
        )
        return ChatRequest(messages, self.max_tokens, self.temperature, self.top_logprobs)

    def second_wins(self, reply: ChatReply) -> float | None:
        """The probability that the second answer is better (a draw is 0.5), or None when the reply holds no verdict."""
        completion: Any = reply.text
        if self.parser == "logprob_parser":
            tokens = [[{"token": token, "logprob": value} for token, value in top.items()] for top in reply.top_logprobs]
            completion = {"logprobs": {"content": [{"top_logprobs": top} for top in tokens]}}
        with quiet():
            from alpaca_eval import completion_parsers

            try:
                (found,) = getattr(completion_parsers, self.parser)(completion, **copy.deepcopy(dict(self.options)))
                preference = float(found)
            except Exception:  # the package's parsers raise anything on a reply that they cannot read
                return None
        if preference == 0:
            return 0.5
        return preference - 1.0 if 1.0 <= preference <= 2.0 else None


def _configurations() -> Path:
    """The package's folder of annotators."""
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or not spec.submodule_search_locations:
        raise SuiteError("the package alpaca_eval is not installed", where="alpaca", fix="pip install alpaca-eval==0.6.6")
    return Path(spec.submodule_search_locations[0]) / "evaluators_configs"


def _refused(name: str, why: str) -> SuiteError:
    return SuiteError(f"annotator {name!r} {why}, which is not supported", where="annotator",
                      fix="choose another, for example --set annotator=weighted_alpaca_eval_gpt4_turbo")  # fmt: skip


def _check_settings(name: str, config: Mapping[str, Any], ask: Mapping[str, Any]) -> None:
    if config.get("batch_size", 1) != 1:
        raise _refused(name, f"asks about {config['batch_size']} pairs in one prompt")
    if "tools" in ask:
        raise _refused(name, "wants its verdict as a tool call")
    known = (*_LIMITS, *_SERVING, "temperature", "logprobs", "top_logprobs")
    if more := sorted(ask.keys() - set(known)):
        raise _refused(name, f"sets {', '.join(more)} in its calls")


def _check_parsers(name: str, parsers: Sequence[str], reads: str) -> None:
    if strange := [parser for parser in parsers if parser not in _PARSERS]:
        raise _refused(name, f"reads its verdict with {', '.join(strange)}")
    wanted = "completions_all" if parsers[0] == "logprob_parser" else "completions"
    if reads != wanted or "logprob_parser" in parsers[1:]:
        raise _refused(name, f"gives {reads} to {' and '.join(parsers)}")


def _messages(prompt: str, name: str) -> tuple[tuple[str, str], ...]:
    """Role and text of each message of a prompt with chat marks; a prompt without them is one message of the user's."""
    slots = Counter(re.findall(r"\{(\w+)\}", prompt))
    if slots != Counter(SLOTS):
        raise _refused(name, f"has the slots {', '.join(slots.elements()) or '(none)'} and not {', '.join(SLOTS)}, once each")
    if "<|im_start|>" not in prompt:
        return (("user", prompt),)
    parts = [part.split("\n", 1) for part in prompt.split("<|im_start|>")[1:]]
    roles = [part[0].strip() for part in parts]
    if strange := [role for role in roles if role not in ("system", "user", "assistant")]:
        raise _refused(name, f"has messages of the roles {', '.join(strange)}")
    return tuple((role, part[1].split("<|im_end|>", 1)[0]) for role, part in zip(roles, parts, strict=True))

"""The probe against scripted critics and judges of known faults, in process and over HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from loopback import Reply, Stub
from rich.console import Console
from scipy.stats import binom

from harness import cli, probe
from harness.clients.metered import Client, Tariff
from harness.commands.probe import show
from harness.connect import served_at
from harness.errors import ProbeRefused, SpecError
from harness.ledger import Budget, Ledger
from harness.probe import FLOOR, INJECTION, KindReport, ProbeReport
from harness.report.shares import wilson
from harness.types import Failure

PAIRS = probe.the_pairs()
ORDINARY = [pair for pair in PAIRS if pair.domain != INJECTION]
GOOD = {pair.good for pair in PAIRS}
INJECTED = {pair.bad for pair in PAIRS if pair.domain == INJECTION}
CRITIC, JUDGE = ("preferences", "outcome", "ropd"), ("alpaca",)

Taste = Callable[[str, Sequence[str]], list[float]]
"""From a question and the answers in the order in which they are shown, a liking for each."""


def right(question: str, texts: Sequence[str]) -> list[float]:
    return [float(text in GOOD) for text in texts]


def coin(question: str, texts: Sequence[str]) -> list[float]:
    """Depends on the order as well; equal texts may be liked unequally."""
    return [hashlib.sha256(f"{question} {i} {'|'.join(texts)}".encode()).digest()[0] / 255 for i in range(len(texts))]


def first(question: str, texts: Sequence[str]) -> list[float]:
    return [1.0, *(0.0 for _ in texts[1:])]


def fooled(question: str, texts: Sequence[str]) -> list[float]:
    return [2.0 if text in INJECTED else float(text in GOOD) for text in texts]


def no_difference(question: str, texts: Sequence[str]) -> list[float]:
    return [1.0 for _ in texts]


def fenced(prompt: str, label: str) -> list[str]:
    return [text for _, text in re.findall(rf"<{label} (\w{{8}})>\n(.*?)\n</{label} \1>", prompt, flags=re.DOTALL)]


class Scripted:
    """A server that judges by a taste, in whatever form is asked for; or in none, or not at all."""

    def __init__(self, taste: Taste, *, prose: bool = False, unread: frozenset[str] = frozenset()) -> None:
        self.taste, self.prose, self.unread = taste, prose, unread
        self.bodies: list[dict[str, Any]] = []

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Failure:
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        if body.get("logprobs"):
            outputs = re.findall(r'"output": """(.*?)"""\n', prompt, flags=re.DOTALL)
            likes = self.taste(prompt.split('"instruction": """')[1].split('"""')[0], outputs)
            text, tops = "m", [{"token": token, "logprob": like - 2} for token, like in zip("mM", likes, strict=True)]
        else:
            text, tops = self._critic(body["response_format"]["json_schema"]["name"], prompt), []
        if self.prose:
            text, tops = "Both have their merits.", []
        tokens = [{"token": text, "logprob": -0.1, "top_logprobs": tops}] if tops else []
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": {"content": tokens}}
        return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}

    def _critic(self, form: str, prompt: str) -> str:
        (question,) = fenced(prompt, "question")
        texts = fenced(prompt, "answer")
        likes = self.taste(question, texts) if texts else []
        if question in self.unread:
            return "cannot say"
        if form == "ranking_v1":
            order = sorted(range(len(texts)), key=lambda i: -likes[i])
            return json.dumps({"schema_version": "ranking.v1", "order": ["ABC"[i] for i in order]})
        if form == "scores_v1":
            return json.dumps({"schema_version": "scores.v1", "scores": [round(5 * like) for like in likes]})
        if form == "ropd_rubric_v1":
            rows = [{"criterion_id": f"c{i}", "category": "task fulfilment", "criterion": "right", "points": 1} for i in range(8)]
            return json.dumps({"schema_version": "ropd.rubric.v1", "rubrics": rows, "maximum_score": 8})
        assert form == "ropd_batch_verifier_v2"
        ticks = [[k < 4 * like for k in range(8)] for like in likes]
        answers = [{"answer_index": i, "judgement": row, "final_score": sum(row)} for i, row in enumerate(ticks, 1)]
        return json.dumps({"schema_version": "ropd.batch_verifier.v2", "answers": answers})


def probed(server: Scripted, role: str) -> tuple[dict[str, KindReport], ProbeReport, Ledger]:
    ledger = Ledger(Budget({"prompts": 1}))
    client = Client(server, None, ledger, role, "m", "r", Tariff(), concurrency=1)
    report = probe.probe(client, ledger)
    client.close()
    return {kind.kind: kind for kind in report.kinds}, report, ledger


# ------------------------------------------------------------------------------------------------------------- the pairs


def test_the_pairs_are_balanced() -> None:
    assert len(PAIRS) == 43
    assert len({pair.id for pair in PAIRS}) == len({pair.question for pair in PAIRS}) == len(PAIRS)
    assert Counter(pair.domain for pair in ORDINARY) == dict.fromkeys(
        ["arithmetic", "facts", "instructions", "summary", "tone", "code", "translation", "reasoning"], 5
    )  # fmt: skip
    assert all(pair.good.strip() and pair.bad.strip() and pair.good != pair.bad and pair.why for pair in PAIRS)
    assert sum(len(pair.good) > len(pair.bad) for pair in ORDINARY) == 20
    page = (Path(__file__).parents[1] / "docs" / "probe.md").read_text(encoding="utf-8")
    good, bad = (sum(len(getattr(pair, which)) for pair in ORDINARY) / 40 for which in ("good", "bad"))
    assert f"{good:.0f} characters on average against {bad:.0f}" in page
    assert not GOOD & {pair.bad for pair in PAIRS}


def test_the_bad_answers_to_countable_demands_are_bad() -> None:
    by_id = {pair.id: pair for pair in PAIRS}

    def sentences(text: str) -> int:
        return len(re.findall(r"\.(?:\s|$)", text))

    assert [sentences(getattr(by_id["instructions-2"], which)) for which in ("good", "bad")] == [2, 4]
    assert ["book" in getattr(by_id["instructions-3"], which) for which in ("good", "bad")] == [False, True]
    assert [getattr(by_id["instructions-4"], which).isupper() for which in ("good", "bad")] == [True, False]
    assert [len(getattr(by_id["summary-3"], which).split()) <= 10 for which in ("good", "bad")] == [True, False]
    for which, wanted in (("good", 7), ("bad", 3)):
        scope: dict[str, Any] = {}
        exec(getattr(by_id["code-1"], which), scope)
        assert scope["larger"](3, 7) == wanted
    assert [eval(getattr(by_id["code-3"], which), {"xs": [1, 2, 3, 4]}) for which in ("good", "bad")] == [6, 4]


# ---------------------------------------------------------------------------------------------------- what it measures


@pytest.mark.parametrize("role", ["critic", "judge"])
def test_one_that_is_right_passes_with_full_marks(role: str) -> None:
    server = Scripted(right)
    kinds, report, ledger = probed(server, role)
    assert tuple(kinds) == {"critic": CRITIC, "judge": JUDGE}[role]
    for name, kind in kinds.items():
        assert (kind.read, kind.accuracy, kind.swapped, kind.draws, kind.fooled, kind.lost) == (1, 1, 0, 0, (), {})
        assert (kind.pairs, kind.calls) == (40, 172 if name == "ropd" else 86)
        assert (kind.tokens_in, kind.tokens_out) == (100, 10)
        assert kind.interval == pytest.approx((0.912, 1.0), abs=5e-4)
        assert set(kind.domains.values()) == {1.0}
        assert len(kind.domains) == 8
    assert ledger.training[f"{role}_calls"] == len(server.bodies) == {"critic": 344, "judge": 86}[role]
    assert report.breaches == []
    probe.refuse(report.model, report.role, report.breaches)


@pytest.mark.parametrize("role", ["critic", "judge"])
def test_a_coin_is_refused(role: str) -> None:
    kinds, report, _ = probed(Scripted(coin), role)
    for kind in kinds.values():
        assert kind.read == 1
        assert kind.accuracy is not None
        assert 0.3 < kind.accuracy < FLOOR.accuracy
        assert kind.swapped is not None
        if kind.kind != "ropd":  # its few ticks often draw
            assert FLOOR.swapped < kind.swapped < 0.7
    with pytest.raises(ProbeRefused, match="accuracy 0"):
        probe.refuse(report.model, report.role, report.breaches)


def test_one_that_always_takes_the_first_turns_round_with_the_order() -> None:
    for role, names in (("critic", ("preferences", "outcome")), ("judge", JUDGE)):
        kinds, report, _ = probed(Scripted(first), role)
        for name in names:
            kind = kinds[name]
            assert (kind.accuracy, kind.swapped, kind.draws) == (0.5, 1.0, 0.0)
            assert kind.interval == pytest.approx((0.352, 0.648), abs=5e-4)
            assert kind.fooled == ("injection-1", "injection-2", "injection-3")
        with pytest.raises(ProbeRefused) as caught:
            probe.refuse(report.model, report.role, report.breaches)
        assert f"{names[0]}: accuracy 0.50, at least 0.70 is asked" in caught.value.message
        assert f"{names[0]}: swapped 1.00 of the pairs with the order, at most 0.30 is allowed" in caught.value.message
        assert "--force" in caught.value.fix
    assert caught.value.exit_code == 2


def test_a_verifier_that_only_ticks_the_first_is_refused() -> None:
    """Where the pool shows the reference first, both rollouts draw."""
    kind = probed(Scripted(first), "critic")[0]["ropd"]
    assert kind.draws is not None
    assert 0.1 < kind.draws < 0.6
    assert kind.accuracy is not None
    assert kind.accuracy < FLOOR.accuracy


@pytest.mark.parametrize("role", ["critic", "judge"])
def test_replies_in_another_form_are_missing_and_refused(role: str) -> None:
    kinds, report, _ = probed(Scripted(right, prose=True), role)
    for name, kind in kinds.items():
        assert (kind.read, kind.pairs, kind.accuracy, kind.interval, kind.swapped, kind.domains) == (0, 0, None, None, None, {})
        assert kind.lost == {"parse_failed": kind.calls} == {"parse_failed": 86}, name  # no rubric, so no verdicts on it
    with pytest.raises(ProbeRefused, match=r"read 0\.00 of its replies, at least 0\.95 is asked"):
        probe.refuse(report.model, report.role, report.breaches)


@pytest.mark.parametrize("role", ["critic", "judge"])
def test_one_that_obeys_an_injection_is_refused_however_right_it_is(role: str) -> None:
    kinds, report, _ = probed(Scripted(fooled), role)
    for kind in kinds.values():
        assert (kind.accuracy, kind.swapped, kind.read) == (1, 0, 1)
        assert kind.fooled == ("injection-1", "injection-2", "injection-3")
    assert len(report.breaches) == len(kinds)
    with pytest.raises(ProbeRefused, match="fooled by injection-1"):
        probe.refuse(report.model, report.role, report.breaches)


@pytest.mark.parametrize("name", ["outcome", "ropd", "alpaca"])
def test_draws_are_halves(name: str) -> None:
    kind = probed(Scripted(no_difference), "judge" if name == "alpaca" else "critic")[0][name]
    assert (kind.accuracy, kind.draws, kind.swapped, kind.fooled) == (0.5, 1.0, 0.0, ())
    assert kind.breaches == [f"{name}: accuracy 0.50, at least 0.70 is asked"]


def test_a_reply_that_cannot_be_read_is_no_wrong_answer() -> None:
    facts = [pair.question for pair in PAIRS if pair.domain == "facts"]
    kinds, report, _ = probed(Scripted(right, unread=frozenset(facts[:3])), "critic")
    kind = kinds["preferences"]
    assert (kind.pairs, kind.accuracy, kind.read) == (37, 1, pytest.approx(80 / 86))
    assert kind.lost == {"parse_failed": 6}
    assert kind.domains["facts"] == 1
    assert kinds["ropd"].lost == {"parse_failed": 6}  # the verifier is not asked where there is no rubric
    assert kinds["ropd"].read == pytest.approx(160 / 166)
    assert report.breaches == [f"{name}: read 0.93 of its replies, at least 0.95 is asked" for name in ("preferences", "outcome")]


def test_accuracy_is_by_domain() -> None:
    wrong = {pair.question for pair in PAIRS if pair.domain == "code"}

    def no_coder(question: str, texts: Sequence[str]) -> list[float]:
        return [like if question not in wrong else 1 - like for like in right(question, texts)]

    for kind in (*probed(Scripted(no_coder), "critic")[0].values(), *probed(Scripted(no_coder), "judge")[0].values()):
        assert kind.accuracy == pytest.approx(35 / 40)
        assert kind.domains == {domain: float(domain != "code") for domain in kind.domains}
        assert (kind.swapped, kind.breaches) == (0, [])


def test_the_real_templates_are_what_is_asked() -> None:
    server = Scripted(right)
    probed(server, "critic")
    systems = Counter(body["messages"][0]["content"].split(".")[0] for body in server.bodies)
    assert systems == {
        "You put answers to a question in order, from the best to the worst": 86,
        "You score answers to a question": 86,
        "You write marking sheets": 86,
        "You mark answers with a given marking sheet": 86,
    }
    sheet = next(body for body in server.bodies if body["messages"][0]["content"].startswith("You write marking"))
    prompt = sheet["messages"][1]["content"]
    assert fenced(prompt, "reference") == [ORDINARY[0].good]
    assert fenced(prompt, "student") == [ORDINARY[0].good, ORDINARY[0].bad]
    assert {body["seed"] for body in server.bodies} == {0}


# --------------------------------------------------------------------------------------------------- floors and figures


def test_the_floor_is_above_a_coin() -> None:
    """The figures of docs/probe.md."""
    assert binom.sf(25, 40, 0.5) == pytest.approx(0.04, abs=0.005)
    assert binom.sf(27, 40, 0.5) == pytest.approx(0.008, abs=0.0005)
    assert binom.cdf(12, 40, 0.5) == pytest.approx(0.008, abs=0.0005)
    assert math.isclose(FLOOR.accuracy * 40, 28)
    assert math.isclose(FLOOR.swapped * 40, 12)
    assert wilson(28, 40)[0] == pytest.approx(0.55, abs=0.005)


def printed(report: ProbeReport, model: str = "m") -> str:
    console = Console(width=80, file=io.StringIO())
    show(replace(report, model=model), console)
    return cast(io.StringIO, console.file).getvalue()


def test_the_table_is_plain_and_narrow() -> None:
    for role in ("critic", "judge"):
        report = probed(Scripted(first, unread=frozenset([ORDINARY[0].question])), role)[1]
        tables, _, rest = printed(report).partition("\n\npreferences: " if role == "critic" else "\n\nbelow the floor: ")
        assert max(map(len, tables.splitlines())) <= 80
        assert "…" not in tables
        assert re.search(r"\nfloor +0\.95 +0\.70 +0\.30 +0 *\n", tables)
        assert "fooled by injection-1, injection-2, injection-3" in rest
    assert printed(report, "critic: [x]").startswith("probe of critic: [x] as a judge")
    text = printed(probed(Scripted(right), "critic")[1])
    assert re.search(r"\noutcome +40 +1\.00 +1\.00 +0\.91 to 1\.00 +0\.00 +0\.00 +0 +100 +10 *\n", text)
    assert re.search(r"\ntranslation +1\.00 +1\.00 +1\.00 *\n", text)
    assert "below" not in text
    unread = printed(probed(Scripted(right, prose=True), "critic")[1])
    assert "outcome: 86 of 86 calls parse_failed\n" in unread
    assert "by domain" not in unread


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def running() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.stop()


class Server:
    """A scripted judge behind HTTP."""

    def __init__(self, stub: Stub) -> None:
        self.scripted, self.model = Scripted(right), f"{stub.url}/org/some-model"
        stub.answer = lambda body: Reply(self.scripted.post("", body))


@pytest.fixture
def server(running: Stub) -> Server:
    return Server(running)


def harness(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", "probe", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_the_command_passes_a_good_critic_over_http(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.scripted = Scripted(right)
    began = time.monotonic()
    code, out, _ = harness(capsys, monkeypatch, server.model, "--json")
    assert time.monotonic() - began < 30
    told = json.loads(out)
    assert (code, told["role"], told["breaches"]) == (0, "critic", [])
    assert told["model"].startswith("org/some-model@")
    assert [(kind["kind"], kind["accuracy"], kind["calls"]) for kind in told["kinds"]] == [
        ("preferences", 1, 86), ("outcome", 1, 86), ("ropd", 1, 172),
    ]  # fmt: skip
    assert {body["model"] for body in server.scripted.bodies} == {"org/some-model"}


def test_the_command_refuses_a_judge_unless_forced(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.scripted = Scripted(first)
    code, out, err = harness(capsys, monkeypatch, server.model, "--role", "judge")
    assert code == 2
    assert "H090" in err
    assert "alpaca: accuracy 0.50, at least 0.70 is asked" in err
    assert "--force" in err
    assert "nothing was spent" not in err
    assert "only the calls of the probe were spent" in err
    assert "accuracy by domain" in out
    asked = len(server.scripted.bodies)
    code, out, err = harness(capsys, monkeypatch, server.model, "--role", "judge", "--force")
    assert (code, "H090" in err) == (0, False)
    assert "below the floor: alpaca: accuracy 0.50" in out
    assert len(server.scripted.bodies) == 2 * asked == 172  # nothing came from a cache


@pytest.mark.parametrize(
    ("arguments", "message", "fix"),
    [
        (["http://127.0.0.1:1/v1/m", "--role", "jugde"], "no role named 'jugde'", "did you mean judge?"),
        (["http://127.0.0.1:1/some-model"], "URL/MODEL", "http://127.0.0.1:8000/v1/Qwen/Qwen3-8B"),
        (["https://judge.example/v1/m", "--key", "NO_SUCH_KEY"], "no API key", "export NO_SUCH_KEY="),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, fix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = harness(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert fix in err
    assert "nothing was spent" in err


def test_an_address_is_read_up_to_its_version() -> None:
    served = served_at("http://127.0.0.1:8000/v1/Qwen/Qwen3-8B", "MY_KEY")
    assert (served.url, served.model, served.key) == ("http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B", "MY_KEY")
    assert served_at("https://host.example/openai/v1/m", "K").url == "https://host.example/openai/v1"
    for text in ("Qwen/Qwen3-8B", "http://host/m", "http://host/v1/", "host/v1/m", "ftp://host/v1/m", "http:///v1/m"):
        with pytest.raises(SpecError, match="URL/MODEL") as caught:
            served_at(text, "K")
        assert "http://127.0.0.1:8000/v1/Qwen/Qwen3-8B" in caught.value.fix

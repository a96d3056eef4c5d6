"""Servers that differ: how fast they may be asked, which fields they take, and the shapes of vLLM's replies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from loopback import Reply, Stub, said

from harness.clients.metered import Client, Tariff
from harness.clients.openai import Endpoint
from harness.clients.pace import Pace, shared
from harness.clients.roles import CHAT, COMPLETIONS, ServedCritic, ServedTeacher
from harness.errors import ClientError
from harness.ledger import Budget, Ledger
from harness.method import Ask
from harness.tracks import Served, load
from harness.types import Failure, Prompt, Rollout

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture
def stub() -> Iterator[Stub]:
    running = Stub()
    yield running
    running.stop()


@pytest.fixture
def endpoint(stub: Stub) -> Iterator[Endpoint]:
    made = Endpoint(stub.url, "sk-loopback", timeout_s=5, retries=2)
    yield made
    made.close()


def wrong(message: str, param: str | None, status: int = 400, kind: str = "invalid_request_error") -> Reply:
    """An error as OpenAI and vLLM both send it."""
    return Reply({"error": {"message": message, "type": kind, "param": param, "code": "unsupported_parameter"}}, status)


# ----------------------------------------------------------------------------------------------------------------- pace


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_requests_are_spread_over_the_minute() -> None:
    clock = Clock()
    pace = Pace(30, None, lambda: clock.now, clock.sleep)
    times = []
    for _ in range(4):
        pace.attempt()
        times.append(clock.now - 100)
    assert times == [0, 2, 4, 6]
    clock.now += 60
    pace.attempt()
    assert clock.now - 100 == 66, "a pause is not made up for by a burst"


def test_tokens_are_reserved_and_settled() -> None:
    clock = Clock()
    pace = Pace(None, 6000, lambda: clock.now, clock.sleep)
    pace.reserve(500)  # the first goes at once, what it may use keeps the next waiting for 5 s
    assert clock.now == 100
    pace.settle(500, 200)  # it used 2 s worth
    pace.reserve(100)
    assert clock.now == pytest.approx(102)
    Pace(None, None, lambda: clock.now, clock.sleep).reserve(10**9)
    assert clock.now == pytest.approx(102)


def test_a_busy_server_is_left_alone_by_everybody() -> None:
    clock = Clock()
    pace = Pace(None, None, lambda: clock.now, clock.sleep)
    pace.hush(7)
    pace.hush(3)
    pace.attempt()
    assert clock.now == 107


def test_roles_that_share_url_and_key_share_a_pace() -> None:
    first = shared("http://a/v1", "k1", 60, None)
    assert shared("http://a/v1", "k1", 30, 5000) is first
    assert (first.rpm, first.tpm) == (30, 5000)
    assert shared("http://a/v1", "k1", None, None).rpm == 30
    assert shared("http://a/v1", "k2", None, None).rpm is None
    assert shared("http://b/v1", "k1", None, None) is not first


def test_threads_keep_the_pace_over_http(stub: Stub) -> None:
    endpoint, began = Endpoint(stub.url, "k", pace=Pace(rpm=1200)), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: endpoint.post(CHAT, BODY), range(8)))
    endpoint.close()
    assert not any(isinstance(reply, Failure) for reply in replies)
    assert stub.times[-1] - began >= 7 * 0.05


def test_a_storm_of_429_ends_well(stub: Stub) -> None:
    """Of eight at once all are refused; afterwards nobody asks before the time is over, and then each gets its reply."""
    lock, began = threading.Lock(), time.monotonic()

    def answer(body: dict[str, Any]) -> Reply:
        with lock:
            late = time.monotonic() - began > 1
            return said("there") if late else Reply({"error": {"message": "slow"}}, 429, {"retry-after": "1"})

    stub.answer = answer
    endpoint = Endpoint(stub.url, "k", retries=2)
    ledger = Ledger(Budget({"prompts": 1}))
    client = Client(endpoint, None, ledger, "critic", "m", "r", Tariff(), concurrency=8)
    replies = client.call(CHAT, [{"messages": [], "n": 1, "seed": i} for i in range(24)])
    client.close()
    endpoint.close()
    assert not any(isinstance(reply, Failure) for reply in replies)
    assert stub.most_open <= 8
    refused = sum(moment - stub.times[0] < 0.9 for moment in stub.times)
    assert refused <= 8, "one refusal for each that was under way, none for those behind"
    assert len(stub.seen) <= 24 + 8 + 8


def test_a_storm_that_stays_is_bounded(stub: Stub) -> None:
    stub.script(Reply({"error": {"message": "slow"}}, 429, {"retry-after-ms": "1"}))
    endpoint = Endpoint(stub.url, "k", retries=2)
    reply = endpoint.post(CHAT, BODY)
    endpoint.close()
    assert isinstance(reply, Failure)
    assert "HTTP 429" in reply.detail
    assert len(stub.seen) == 3


# --------------------------------------------------------------------------------------------------- fields that differ


def ask(schema: dict[str, Any] | None = None) -> Ask:
    return Ask(({"role": "user", "content": "rate"},), int, schema=schema)


def test_a_server_without_response_formats_is_asked_without_once_and_for_all(stub: Stub, endpoint: Endpoint) -> None:
    stub.answer = lambda body: wrong("json_schema is not supported", None) if "response_format" in body else said("7")
    client = Client(endpoint, None, Ledger(Budget({"prompts": 1})), "critic", "m", "r", Tariff())
    critic = ServedCritic(client, 0)
    assert critic.ask([ask({"type": "integer"})]) == [7]
    assert ["response_format" in body for body in stub.seen] == [True, False]
    assert critic.ask([ask({"type": "integer"}), ask({"type": "integer"})]) == [7, 7]
    assert ["response_format" in body for body in stub.seen] == [True, False, False, False]
    client.close()


def test_a_refusal_of_the_question_is_not_taken_for_one_of_the_format(stub: Stub, endpoint: Endpoint) -> None:
    stub.answer = lambda body: wrong("content filter", None) if body["messages"][0]["content"] == "bad" else said("7")
    schema = {"response_format": {"type": "json_schema"}}
    bad = endpoint.post(CHAT, {**BODY, **schema, "messages": [{"role": "user", "content": "bad"}]})
    assert isinstance(bad, Failure)
    assert bad.status == "refused"
    assert not isinstance(endpoint.post(CHAT, {**BODY, **schema}), Failure)
    assert "response_format" in stub.seen[-1]
    named = [body for body in stub.seen if body["messages"][0]["content"] == "bad"]
    assert len(named) == 2


def reasoning(body: dict[str, Any]) -> Reply:
    """A model that takes neither max_tokens nor a seed."""
    for field in ("max_tokens", "seed"):
        if field in body:
            return wrong(f"Unsupported parameter: '{field}' is not supported with this model.", field)
    return said(str(body["max_completion_tokens"]))


def test_a_field_is_renamed_or_left_out_where_the_server_names_it(stub: Stub, endpoint: Endpoint) -> None:
    stub.answer = reasoning
    for _ in range(2):
        reply = endpoint.post(CHAT, {**BODY, "seed": 3})
        assert isinstance(reply, dict)
        assert reply["choices"][0]["message"]["content"] == "5"
    assert len(stub.seen) == 4
    assert stub.seen[-1] == {"model": "m", "messages": BODY["messages"], "max_completion_tokens": 5}
    endpoint.post(CHAT, {**BODY, "model": "other"})
    assert "max_tokens" in stub.seen[-2], "another model is asked as usual"


def test_a_temperature_is_not_given_up_unless_the_track_says_so(stub: Stub, endpoint: Endpoint) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return wrong("does not support 0.0 with this model", "temperature") if "temperature" in body else said("ok")

    stub.answer = answer
    with pytest.raises(ClientError, match=r"does not take temperature 0\.0") as caught:
        endpoint.post(CHAT, {**BODY, "temperature": 0.0})
    assert "refuses: [temperature]" in caught.value.fix
    told = Endpoint(stub.url, "k", refuses=("temperature",))
    assert not isinstance(told.post(CHAT, {**BODY, "temperature": 0.0}), Failure)
    assert len(stub.seen) == 2
    told.close()


def test_pace_and_refusals_belong_to_tracks_and_leave_names_alone() -> None:
    plain = load("pocket")
    assert plain.critic is not None
    dump = plain.model_dump(mode="json")
    assert not {"rpm", "tpm", "refuses"} & dump["critic"].keys()
    assert "generation" not in dump
    paced = load("pocket", over={"critic": {"rpm": 60}, "judge": {"tpm": 9000}})
    assert paced.critic is not None
    assert (paced.critic.rpm, paced.digest) == (60, plain.digest)
    assert load("pocket", over={"critic": {"refuses": ["temperature"]}}).digest != plain.digest
    assert load("pocket", over={"generation": {"engine": "vllm"}}).digest != plain.digest
    assert Served(url="http://a/v1", model="m").rpm is None


# ------------------------------------------------------------------------------------------------------ vLLM's protocol


def vllm(body: dict[str, Any]) -> Reply:
    """Completions as vLLM's server gives them: each prompt token's entry has its own id first, with rank and text."""
    if body["model"] != "teacher":
        return wrong(f"The model `{body['model']}` does not exist.", "model", 404, "NotFoundError")
    if body["prompt_logprobs"] > 20:
        told = "Requested prompt logprobs of 50, which is greater than max allowed: 20"
        return wrong(told, "prompt_logprobs", kind="BadRequestError")
    choices = []
    for i, row in enumerate(body["prompt"]):
        entries: list[Any] = [None]
        for token in row[1:]:
            entries.append({str(token): {"logprob": -token / 10, "rank": 2, "decoded_token": f"t{token}"}})
        choices.append({
            "index": i, "text": " a", "logprobs": None, "finish_reason": "length", "stop_reason": None,
            "prompt_logprobs": entries, "prompt_token_ids": None, "token_ids": None,
        })  # fmt: skip
    tokens = sum(map(len, body["prompt"]))
    return Reply({
        "id": "cmpl-1", "object": "text_completion", "model": "teacher", "choices": choices,
        "usage": {"prompt_tokens": tokens, "completion_tokens": len(choices), "total_tokens": tokens + len(choices)},
    })  # fmt: skip


def test_a_teacher_behind_vllm_scores_the_students_tokens(stub: Stub, endpoint: Endpoint) -> None:
    stub.answer = vllm
    client = Client(endpoint, None, Ledger(Budget({"prompts": 1})), "teacher", "teacher", "r", Tariff())
    prompt = Prompt("p", ({"role": "user", "content": "x"},))
    rollouts = [Rollout(prompt, [1, 2], tokens, None, "", "stop") for tokens in ([3, 4], [5])]
    assert ServedTeacher(client, 8, 0).score(rollouts) == [[-0.3, -0.4], [-0.5]]
    assert (stub.paths, stub.seen[0]["prompt_logprobs"]) == ([f"/v1{COMPLETIONS}"], 0)
    client.close()


def test_vllms_refusals_are_told_in_its_own_words(stub: Stub, endpoint: Endpoint) -> None:
    stub.answer = vllm
    with pytest.raises(ClientError, match="The model `student` does not exist"):
        endpoint.post(COMPLETIONS, {"model": "student", "prompt": [[1, 2]], "prompt_logprobs": 0})
    reply = endpoint.post(COMPLETIONS, {"model": "teacher", "prompt": [[1, 2]], "prompt_logprobs": 50})
    assert isinstance(reply, Failure)
    assert (reply.status, "max allowed: 20" in reply.detail) == ("refused", True)

"""Clients over real HTTP on loopback, through the real `openai` package."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from loopback import Reply, Stub, fault, said

from harness.clients.cache import ReplyCache, key_of
from harness.clients.metered import Client, Tariff
from harness.clients.openai import Endpoint
from harness.clients.roles import CHAT, ServedCritic, ServedJudge, ServedTeacher
from harness.errors import ClientError, EnvironmentFault
from harness.ledger import Budget, Ledger
from harness.method import Ask
from harness.suite import ChatReply, ChatRequest
from harness.types import Failure, Prompt, Rollout

KEY = "sk-loopback"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def running() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.stop()


@pytest.fixture
def stub(running: Stub) -> Stub:
    while running.open:  # somebody else's request that was given up
        time.sleep(0.01)
    for record in (running.seen, running.times, running.paths, running.keys):
        record.clear()
    running.most_open = 0
    running.answer = lambda body: said("hello")
    return running


@pytest.fixture
def endpoint(stub: Stub) -> Iterator[Endpoint]:
    made = Endpoint(stub.url, KEY, timeout_s=5, retries=2)
    yield made
    made.close()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Budget({"prompts": 10}))


@dataclass
class Maker:
    """Clients in a role, on one stub and one ledger."""

    endpoint: Endpoint
    ledger: Ledger
    made: list[Client] = field(default_factory=list)

    def __call__(self, role: str = "critic", cache: ReplyCache | None = None, **how: Any) -> Client:
        settings = {"model": "m", "revision": "r1", "tariff": Tariff(100.0, 2.0, 5.0), **how}
        self.made.append(Client(self.endpoint, cache, self.ledger, role, **settings))
        return self.made[-1]


@pytest.fixture
def client_of(endpoint: Endpoint, ledger: Ledger) -> Iterator[Maker]:
    maker = Maker(endpoint, ledger)
    yield maker
    for client in maker.made:
        client.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ReplyCache]:
    opened = ReplyCache(tmp_path / "replies")
    yield opened
    opened.close()


def body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def text_of(reply: Any) -> str:
    return reply["choices"][0]["message"]["content"]


# ------------------------------------------------------------------------------------------------------------ transport


def test_a_reply_comes_back_as_it_was_sent(stub: Stub, endpoint: Endpoint) -> None:
    reply = endpoint.post(CHAT, BODY)
    assert reply == said("hello").body
    assert (stub.paths, stub.seen, stub.keys) == (["/v1/chat/completions"], [BODY], [f"Bearer {KEY}"])


def test_a_busy_server_is_asked_again_when_it_says(stub: Stub, endpoint: Endpoint) -> None:
    """Left to itself the package would wait half a second."""
    stub.script(Reply({}, 429, {"retry-after": "1"}), said("later"))
    assert text_of(endpoint.post(CHAT, BODY)) == "later"
    first, second = stub.times
    assert 0.95 < second - first < 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_faults_are_retried(stub: Stub, endpoint: Endpoint, status: int) -> None:
    stub.script(fault(status), fault(status), said("at last"))
    assert text_of(endpoint.post(CHAT, BODY)) == "at last"
    assert len(stub.seen) == 3


def test_a_fault_that_stays_is_a_failure_after_bounded_retries(stub: Stub, endpoint: Endpoint) -> None:
    stub.script(fault(500, "broken"))
    reply = endpoint.post(CHAT, BODY)
    assert isinstance(reply, Failure)
    assert reply.status == "judge_error"
    assert "HTTP 500" in reply.detail
    assert "broken" in reply.detail
    assert len(stub.seen) == 3


def test_a_server_that_does_not_answer_in_time_is_a_failure(stub: Stub) -> None:
    impatient = Endpoint(stub.url, KEY, timeout_s=0.15, retries=1)
    stub.script(Reply({}, delay=0.6))
    reply = impatient.post(CHAT, BODY)
    assert isinstance(reply, Failure)
    assert (reply.status, reply.detail[:9]) == ("judge_error", "timed out")
    assert len(stub.seen) == 2
    impatient.close()


@pytest.mark.parametrize(("status", "words"), [(401, "refused the key"), (403, "refused the key"), (404, "knows no model 'm'")])
def test_a_server_that_can_not_be_asked_at_all_ends_the_run(stub: Stub, endpoint: Endpoint, status: int, words: str) -> None:
    stub.script(fault(status, "because"))
    with pytest.raises(ClientError, match=words) as caught:
        endpoint.post(CHAT, BODY)
    assert "because" in caught.value.message
    assert KEY not in caught.value.message
    assert caught.value.exit_code == 3
    assert len(stub.seen) == 1


def test_a_server_that_is_not_there_ends_the_run() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    gone = Endpoint(url, KEY, timeout_s=5, retries=0)
    with pytest.raises(ClientError, match=f"cannot reach {url}"):
        gone.post(CHAT, BODY)
    gone.close()


@pytest.mark.parametrize("status", [400, 422])
def test_a_request_that_the_server_refuses_is_a_failure_of_that_request(stub: Stub, endpoint: Endpoint, status: int) -> None:
    stub.script(fault(status, "content filter"))
    reply = endpoint.post(CHAT, BODY)
    assert isinstance(reply, Failure)
    assert reply.status == "refused"
    assert "content filter" in reply.detail
    assert len(stub.seen) == 1


@pytest.mark.parametrize(
    "broken",
    [Reply('{"choices": [{"index"'), Reply(""), Reply("[1, 2]"), Reply("null"), Reply("<html>proxy</html>", kind="text/html")],
    ids=["truncated", "empty", "list", "null", "html"],
)
def test_a_body_that_is_no_reply_is_a_failure(stub: Stub, endpoint: Endpoint, broken: Reply) -> None:
    stub.script(broken)
    reply = endpoint.post(CHAT, BODY)
    assert isinstance(reply, Failure)
    assert reply.status == "judge_error"
    assert reply.detail.startswith("unreadable reply")


# ----------------------------------------------------------------------------------------------------- charges and cache


def test_replies_keep_the_order_of_the_requests_and_only_so_many_go_out_at_once(stub: Stub, client_of: Maker) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        number = int(body["messages"][0]["content"])
        reply = said(str(number))
        reply.delay = 0.03 * (6 - number)
        return reply

    stub.answer = answer
    replies = client_of(concurrency=3).call(CHAT, [body(str(i)) for i in range(6)])
    assert [text_of(reply) for reply in replies] == list("012345")
    assert stub.most_open == 3
    assert {request["model"] for request in stub.seen} == {"m"}


def test_calls_are_charged_by_what_the_server_says_it_used(stub: Stub, client_of: Maker, ledger: Ledger) -> None:
    client_of("teacher").call(CHAT, [body("a"), body("b")])
    readings = ledger.training
    assert (readings["teacher_calls"], readings["teacher_tokens_in"], readings["teacher_tokens_out"]) == (2, 14, 6)
    assert readings["flops"] == 2 * 100 * 20
    assert readings["usd"] == pytest.approx((2 * 14 + 5 * 6) / 1e6)
    assert readings["critic_calls"] == 0
    with ledger.off_the_clock():
        client_of("judge").call(CHAT, [body("a")])
    assert (readings["judge_calls"], ledger.evaluation["judge_calls"], ledger.evaluation["judge_tokens_in"]) == (0, 1, 7)


def test_a_failure_is_a_call_without_tokens(stub: Stub, client_of: Maker, ledger: Ledger) -> None:
    stub.script(fault(400))
    (reply,) = client_of("critic").call(CHAT, [body("a")])
    assert isinstance(reply, Failure)
    assert (ledger.training["critic_calls"], ledger.training["critic_tokens_in"]) == (1, 0)


def test_a_hit_gives_the_same_reply_and_is_charged_like_a_call(
    stub: Stub, client_of: Maker, ledger: Ledger, cache: ReplyCache
) -> None:
    first = client_of(cache=cache)
    asked = first.call(CHAT, [body("a"), body("b")])
    once = dict(ledger.training)
    second = client_of(cache=cache)
    assert second.call(CHAT, [body("a"), body("b")]) == asked
    assert len(stub.seen) == 2
    assert ledger.training == {meter: 2 * amount for meter, amount in once.items()}
    assert [(client.sent, client.hits) for client in (first, second)] == [(2, 0), (0, 2)]


def test_failures_are_not_cached(stub: Stub, client_of: Maker, cache: ReplyCache) -> None:
    stub.script(fault(400), said("now"))
    client = client_of(cache=cache)
    assert isinstance(client.call(CHAT, [body("a")])[0], Failure)
    assert text_of(client.call(CHAT, [body("a")])[0]) == "now"
    assert text_of(client.call(CHAT, [body("a")])[0]) == "now"
    assert len(stub.seen) == 2
    assert (client.sent, client.hits) == (2, 1)


def test_whatever_can_change_a_reply_changes_its_key(stub: Stub, client_of: Maker, cache: ReplyCache) -> None:
    client_of(cache=cache).call(CHAT, [body("a")])
    client_of(cache=cache).call(CHAT, [body("a")], attempt=1)
    client_of(cache=cache, revision="r2").call(CHAT, [body("a")])
    client_of(cache=cache, model="n").call(CHAT, [body("a")])
    client_of(cache=cache).call("/completions", [body("a")])
    for other in ({"temperature": 0.5}, {"seed": 1}, {"n": 2}, {"max_tokens": 9}):
        client_of(cache=cache).call(CHAT, [{**body("a"), **other}])
    assert len(stub.seen) == 9
    client_of(cache=cache).call(CHAT, [dict(reversed({**body("a"), "seed": 1}.items()))])
    assert len(stub.seen) == 9  # the order of keys says nothing
    assert key_of("m@r", CHAT, {"a": 1, "b": 2}, 0) == key_of("m@r", CHAT, {"b": 2, "a": 1}, 0)


def test_threads_and_processes_share_a_cache(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from harness.clients.cache import ReplyCache
cache = ReplyCache(Path(sys.argv[1]))
for i in range(200):
    cache.put(f"theirs {i}", {"text": f"theirs {i}"})
    cache.put(f"both {i}", {"text": "one of us"})
"""
    folder = tmp_path / "replies"
    cache = ReplyCache(folder)
    with subprocess.Popen([sys.executable, "-c", code, str(folder)]) as other, ThreadPoolExecutor(4) as pool:
        for i in range(200):
            pool.submit(cache.put, f"ours {i}", {"text": f"ours {i} é"}).result()
            pool.submit(cache.put, f"both {i}", {"text": "one of us"}).result()
        assert other.wait(30) == 0
    again = ReplyCache(folder)
    for reader in (cache, again):
        assert [reader.get(f"theirs {i}") for i in range(200)] == [{"text": f"theirs {i}"} for i in range(200)]
        assert [reader.get(f"ours {i}") for i in range(200)] == [{"text": f"ours {i} é"} for i in range(200)]
        assert reader.get("both 7") == {"text": "one of us"}
        assert reader.get("nobody's") is None
        reader.close()


def test_the_first_reply_stands(cache: ReplyCache) -> None:
    cache.put("k", {"text": "first"})
    cache.put("k", {"text": "second"})
    assert cache.get("k") == {"text": "first"}


def test_a_cache_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot write the reply cache") as caught:
        ReplyCache(tmp_path / "file")
    assert "HARNESS_CACHE_DIR" in caught.value.fix


# ---------------------------------------------------------------------------------------------------------------- roles


def prompts_of(*ids: str, visit: int = 0) -> list[Prompt]:
    return [Prompt(name, ({"role": "user", "content": f"ask {name}"},), visit=visit) for name in ids]


def test_a_teacher_gives_so_many_texts_for_each_prompt_in_order(stub: Stub, client_of: Maker) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        question = body["messages"][0]["content"]
        if question == "ask b":
            return fault(400, "not this one")
        reply = said(*(f"{question} {i}" for i in range(body["n"])))
        reply.body["choices"].reverse()  # their own index decides
        return reply

    stub.answer = answer
    teacher = ServedTeacher(client_of("teacher"), max_tokens=48, seed=3)
    a, b, c = teacher.texts(prompts_of("a", "b", "c"), 3, 0.7)
    assert (a, c) == (["ask a 0", "ask a 1", "ask a 2"], ["ask c 0", "ask c 1", "ask c 2"])
    assert isinstance(b, Failure)
    assert {(request["temperature"], request["max_tokens"], request["n"]) for request in stub.seen} == {(0.7, 48, 3)}
    assert teacher.solutions(prompts_of("a")) == ["ask a 0"]
    assert (stub.seen[-1]["temperature"], stub.seen[-1]["n"]) == (0.0, 1)


def test_a_teachers_seed_is_its_prompts_and_its_visits_own(stub: Stub, client_of: Maker) -> None:
    def seeds(seed: int, *prompts: Prompt) -> list[int]:
        stub.seen.clear()
        for prompt in prompts:
            ServedTeacher(client_of("teacher"), 48, seed).texts([prompt], 1, 1.0)
        return [request["seed"] for request in stub.seen]

    a, b = prompts_of("a", "b")
    (later,) = prompts_of("a", visit=1)
    assert seeds(0, a, b) == seeds(0, a, b)
    assert len({*seeds(0, a, b, later), *seeds(1, a)}) == 4


def test_a_teacher_that_gives_fewer_texts_or_none_has_failed(stub: Stub, client_of: Maker) -> None:
    empty = said("one", "two")
    empty.body["choices"][1]["message"]["content"] = None
    refusal = said("one", "two")
    refusal.body["choices"][0]["message"]["refusal"] = "I would rather not"
    teacher = ServedTeacher(client_of("teacher"), 48, 0)
    for reply, wanted in (
        (said("one"), Failure("judge_error", "asked for 2 answers, got 1")),
        (empty, Failure("judge_error", "the reply has no text")),
        (refusal, Failure("refused", "I would rather not")),
        (Reply({"choices": []}), Failure("judge_error", "asked for 2 answers, got 0")),
    ):
        stub.script(reply)
        assert teacher.texts(prompts_of("a"), 2, 1.0) == [wanted]


def rollout(prompt: Prompt, front: list[int], tokens: list[int]) -> Rollout:
    return Rollout(prompt, front, tokens, None, "", "stop")


def scores_of(body: dict[str, Any]) -> Reply:
    """Each token's log-prob is minus its id over a hundred; the likeliest alternative is always 9."""
    choices = [
        {"index": i, "prompt_logprobs": [None, *({str(t): {"logprob": -t / 100}, "9": {"logprob": -0.5}} for t in row[1:])]}
        for i, row in enumerate(body["prompt"])
    ]
    return Reply({"choices": choices[::-1], "usage": {"prompt_tokens": sum(map(len, body["prompt"])), "completion_tokens": 0}})


def test_a_teacher_scores_the_very_ids_it_was_sent(stub: Stub, client_of: Maker, ledger: Ledger) -> None:
    stub.answer = scores_of
    a, b = prompts_of("a", "b")
    teacher = ServedTeacher(client_of("teacher"), 48, 0)
    rollouts = [rollout(a, [1, 2], [3, 4, 5]), rollout(b, [6], [7]), rollout(a, [1, 2], [8])]
    assert teacher.score(rollouts) == [[-0.03, -0.04, -0.05], [-0.07], [-0.08]]
    assert sorted(request["prompt"] for request in stub.seen) == [[[1, 2, 3, 4, 5], [1, 2, 8]], [[6, 7]]]
    assert {request["prompt_logprobs"] for request in stub.seen} == {0}
    readings = ledger.training
    assert (readings["teacher_calls"], readings["teacher_scored_tokens"], readings["teacher_tokens_in"]) == (2, 5, 10)


def test_a_teacher_tells_its_likeliest_tokens(stub: Stub, client_of: Maker, ledger: Ledger) -> None:
    stub.answer = scores_of
    (a,) = prompts_of("a")
    teacher = ServedTeacher(client_of("teacher"), 48, 0)
    told, short = teacher.likeliest([rollout(a, [1, 2], [3, 80]), rollout(a, [1, 2], [9])], 2)
    assert told == [[(3, -0.03), (9, -0.5)], [(9, -0.5), (80, -0.8)]]
    assert isinstance(short, Failure)  # the token that was sent is the likeliest one, so two are one too few
    assert "1 of 2 likeliest tokens, 9 told" in short.detail
    assert [request["prompt_logprobs"] for request in stub.seen] == [2]
    assert ledger.training["teacher_scored_tokens"] == 2
    assert teacher.likeliest([rollout(a, [1, 2], [3, 80])], 1) == [[[(3, -0.03)], [(9, -0.5)]]]


def test_a_score_of_another_id_or_of_fewer_tokens_is_missing(stub: Stub, client_of: Maker, ledger: Ledger) -> None:
    def other_ids(body: dict[str, Any]) -> Reply:
        reply = scores_of(body)
        for choice in reply.body["choices"]:
            if choice["index"] == 0:
                choice["prompt_logprobs"][2] = {"99": {"logprob": -0.1}}
        return reply

    def cut_off(body: dict[str, Any]) -> Reply:
        reply = scores_of(body)
        for choice in reply.body["choices"]:
            if choice["index"] == 0:
                choice["prompt_logprobs"].pop()
        return reply

    def without(body: dict[str, Any]) -> Reply:
        reply = scores_of(body)
        reply.body["choices"] = [choice for choice in reply.body["choices"] if choice["index"] == 1]
        return reply

    (a,) = prompts_of("a")
    rollouts = [rollout(a, [1], [3, 4]), rollout(a, [1], [5])]
    teacher = ServedTeacher(client_of("teacher"), 48, 0)
    for number, answer in enumerate((other_ids, cut_off, without), 1):
        stub.answer = answer
        lost, kept = teacher.score(rollouts)
        assert isinstance(lost, Failure)
        assert lost.status == "parse_failed"
        assert kept == [-0.05]
        assert ledger.training["teacher_scored_tokens"] == number
    stub.script(fault(500))
    assert [type(score) for score in teacher.score(rollouts)] == [Failure, Failure]
    assert ledger.training["teacher_scored_tokens"] == 3


def ask(text: str, parse: Callable[[str], Any] = int, **how: Any) -> Ask:
    return Ask(({"role": "user", "content": text},), parse, **how)


def test_a_critic_is_asked_again_under_another_seed_until_its_reply_parses(
    stub: Stub, client_of: Maker, ledger: Ledger, cache: ReplyCache
) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        patience = {"at once": 0, "second": 1, "never": 99}[body["messages"][0]["content"]]
        return said("42" if body["seed"] >= patience else "forty")

    stub.answer = answer
    asks = [ask("second"), ask("never"), ask("at once")]
    first, never, third = ServedCritic(client_of(cache=cache), retries=2).ask(asks)
    assert (first, third) == (42, 42)
    assert isinstance(never, Failure)
    assert never.status == "parse_failed"
    assert "'forty'" in never.detail
    assert sorted((request["messages"][0]["content"], request["seed"]) for request in stub.seen) == [
        ("at once", 0), ("never", 0), ("never", 1), ("never", 2), ("second", 0), ("second", 1),
    ]  # fmt: skip
    readings = dict(ledger.training)
    assert (readings["critic_calls"], readings["critic_tokens_in"], readings["critic_tokens_out"]) == (6, 42, 18)
    assert ServedCritic(client_of(cache=cache), retries=2).ask(asks) == [first, never, third]
    assert len(stub.seen) == 6
    assert ledger.training["critic_calls"] == 12


def test_a_critic_that_never_answers_or_refuses_is_missing(stub: Stub, client_of: Maker, ledger: Ledger) -> None:
    stub.script(fault(400, "no"))
    (reply,) = ServedCritic(client_of(), retries=1).ask([ask("a")])
    assert (reply.status, ledger.training["critic_calls"]) == ("refused", 2)
    refusal = said("")
    refusal.body["choices"][0]["message"]["refusal"] = "I cannot judge this"
    stub.script(refusal)
    assert ServedCritic(client_of(), retries=0).ask([ask("a")]) == [Failure("refused", "I cannot judge this")]
    stub.script(Reply({"choices": []}))
    assert ServedCritic(client_of(), retries=0).ask([ask("a")]) == [Failure("judge_error", "the reply has no text")]
    assert ServedCritic(client_of(), retries=0).ask([]) == []


def test_only_a_reply_at_fault_is_forgiven(stub: Stub, client_of: Maker) -> None:
    """A mistake in the method's own parser is not the critic's."""

    def wrong(text: str) -> Any:
        raise KeyError(text)

    with pytest.raises(KeyError):
        ServedCritic(client_of(), retries=0).ask([ask("a", wrong)])


def test_a_critic_is_sent_the_schema_of_its_reply(stub: Stub, client_of: Maker) -> None:
    schema = {"title": "ropd.rubric.v1", "type": "object", "additionalProperties": False}
    ServedCritic(client_of(), 0).ask([ask("a", str, schema=schema, temperature=0.3, max_tokens=99), ask("b", str)])
    with_schema, without = sorted(stub.seen, key=lambda request: request["messages"][0]["content"])
    assert with_schema["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "ropd_rubric_v1", "strict": True, "schema": schema},
    }  # fmt: skip
    assert (with_schema["temperature"], with_schema["max_tokens"]) == (0.3, 99)
    assert "response_format" not in without


def test_a_judge_tells_the_alternatives_of_each_token(stub: Stub, client_of: Maker) -> None:
    reply = said("m")
    reply.body["choices"][0]["logprobs"] = {
        "content": [{"token": "m", "top_logprobs": [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.4}]}]
    }
    stub.script(reply)
    judge = ServedJudge(client_of("judge"))
    asked = ({"role": "user", "content": "which?"},)
    assert judge.chat([ChatRequest(asked, max_tokens=1, top_logprobs=5)]) == [ChatReply("m", ({"m": -0.1, "M": -2.4},))]
    assert (stub.seen[-1]["logprobs"], stub.seen[-1]["top_logprobs"], stub.seen[-1]["max_tokens"]) == (True, 5, 1)
    assert judge.id == "m@r1"
    stub.script(said("plain"))
    assert judge.chat([ChatRequest(asked)]) == [ChatReply("plain", ())]
    assert "logprobs" not in stub.seen[-1]
    stub.script(fault(400, "no"))
    (missing,) = judge.chat([ChatRequest(asked)])
    assert isinstance(missing, Failure)


def test_processes_that_make_the_cache_at_once_all_get_it(tmp_path: Path) -> None:
    """Changing the journal of a new file fails at once while another process does the same; the cache waits."""
    code = """
import sys, time
from pathlib import Path
from harness.clients.cache import ReplyCache
while time.time() < float(sys.argv[1]):
    pass
for number in range(8):
    cache = ReplyCache(Path(sys.argv[2]) / str(number))
    cache.put("key", {"from": 1})
    assert cache.get("key")
    cache.close()
"""
    start = str(time.time() + 1.0)
    racing = [
        subprocess.Popen([sys.executable, "-c", code, start, str(tmp_path)], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [process.communicate()[1] for process in racing] == [""] * 4

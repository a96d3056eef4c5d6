"""A vLLM server as teacher, critic and judge: what it answers over HTTP is what its weights say, in the shapes that we read."""

from __future__ import annotations

import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import needs_engine
from tiny_chat import saved

from harness.clients.metered import Client, Tariff
from harness.clients.openai import Endpoint
from harness.clients.roles import COMPLETIONS, ServedCritic, ServedJudge, ServedTeacher
from harness.errors import ClientError
from harness.generate.student import ChatCodec
from harness.ledger import Budget, Ledger
from harness.method import Ask
from harness.replies import Ranking, Scores
from harness.suite import ChatRequest
from harness.train.load import load_causal_lm, load_tokenizer
from harness.types import Failure, Prompt, Rollout
from methods.ropd import Rubric, Verdicts

pytestmark = [pytest.mark.gpu, needs_engine]
TEXTS = ["How many plums are left? A B C D", "say one two three", "quick brown foxes jump over dogs"]
CONTEXT = 256
SCHEMA = {
    "title": "verdict", "type": "object", "additionalProperties": False, "required": ["better", "sure"],
    "properties": {"better": {"type": "string", "enum": ["A", "B", "tie"]}, "sure": {"type": "boolean"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("served"), "Qwen2", TEXTS, context=CONTEXT, head=32)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "tiny",
             "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
             "--gpu-memory-utilization", "0.2", "--api-key", "sk-tiny"],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            raise RuntimeError((folder / "server.log").read_text()[-3000:])
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Budget({"prompts": 10}))


@pytest.fixture
def endpoint(url: str) -> Iterator[Endpoint]:
    made = Endpoint(url, "sk-tiny", retries=0)
    yield made
    made.close()


@pytest.fixture
def client(endpoint: Endpoint, ledger: Ledger) -> Iterator[Client]:
    made = Client(endpoint, None, ledger, "teacher", "tiny", "server", Tariff())
    yield made
    made.close()


@pytest.fixture(scope="module")
def local(folder: Path) -> tuple[Any, ChatCodec]:
    return load_causal_lm(str(folder), torch.float32), ChatCodec(load_tokenizer(str(folder)))


def rollouts(vocabulary: int) -> list[Rollout]:
    rng = random.Random(0)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(5, vocabulary) for _ in range(rng.randint(low, high))]

    found = []
    for i in range(3):
        prompt, asked = Prompt(f"p{i}", ()), ids(3, 20)
        found += [Rollout(prompt, asked, ids(1, 30), [], "", "length") for _ in range(3)]
    return found


@torch.no_grad()
def said(model: Any, rollout: Rollout) -> torch.Tensor:
    """Log-probs at each completion position, [T, V]."""
    logits = model(input_ids=torch.tensor([rollout.prompt_tokens + rollout.tokens])).logits[0]
    return torch.log_softmax(logits[len(rollout.prompt_tokens) - 1 : -1].float(), -1)


def test_scores_are_the_log_probs_of_the_weights(client: Client, ledger: Ledger, local: tuple[Any, ChatCodec]) -> None:
    model, _ = local
    asked = rollouts(model.config.vocab_size)
    scores = ServedTeacher(client, 8, 0).score(asked)
    for rollout, score in zip(asked, scores, strict=True):
        wanted = said(model, rollout)[range(len(rollout.tokens)), rollout.tokens]
        assert score == pytest.approx(wanted.tolist(), abs=1e-4)
    assert ledger.training["teacher_scored_tokens"] == sum(len(rollout.tokens) for rollout in asked)
    assert ledger.training["teacher_tokens_in"] == sum(len(r.prompt_tokens) + len(r.tokens) for r in asked)


@pytest.mark.parametrize("count", [1, 20])
def test_the_likeliest_tokens_are_those_of_the_weights(client: Client, local: tuple[Any, ChatCodec], count: int) -> None:
    model, _ = local
    asked = rollouts(model.config.vocab_size)[:4]
    for rollout, told in zip(asked, ServedTeacher(client, 8, 0).likeliest(asked, count), strict=True):
        assert not isinstance(told, Failure)
        best = said(model, rollout).topk(count, -1)
        for row, values, tokens in zip(told, best.values.tolist(), best.indices.tolist(), strict=True):
            assert [token for token, _ in row] == tokens
            assert [logp for _, logp in row] == pytest.approx(values, abs=1e-4)


def test_more_of_them_than_the_server_tells_are_a_failure_that_says_how_to_get_them(client: Client) -> None:
    (told,) = ServedTeacher(client, 8, 0).likeliest(rollouts(100)[:1], 21)
    assert isinstance(told, Failure)
    assert "max_logprobs" in told.detail or "max-logprobs" in told.detail or "20" in told.detail, told


def test_texts_are_seeded_and_many(client: Client, ledger: Ledger) -> None:
    asked = [Prompt(f"p{i}", ({"role": "user", "content": f"say {i}"},)) for i in range(3)]
    teacher = ServedTeacher(client, 12, 3)
    first = teacher.texts(asked, 3, 1.0)
    assert [len(texts) for texts in first if not isinstance(texts, Failure)] == [3, 3, 3]
    assert len({text for texts in first if not isinstance(texts, Failure) for text in texts}) == 9
    assert teacher.texts(asked, 3, 1.0) == first
    assert ServedTeacher(client, 12, 4).texts(asked, 3, 1.0) != first
    assert ledger.training["teacher_calls"] == 9


def test_greedy_answers_are_those_of_the_weights(client: Client, local: tuple[Any, ChatCodec]) -> None:
    from harness.generate.hf import HFGenerator
    from harness.types import Sampling

    model, codec = local
    asked = Prompt("p", ({"role": "user", "content": "How many plums are left?"},))
    (answer,) = ServedTeacher(client, 12, 0).solutions([asked])
    (written,) = HFGenerator(model, sorted(codec.ends), codec.pad).generate(
        [codec.prompt(asked.messages)], Sampling(0.0, 12), [("row", 0)]
    )
    assert not isinstance(answer, Failure)
    assert answer.rstrip("\ufffd") == codec.text(written.tokens).rstrip("\ufffd"), "the server leaves out half a character"


@torch.no_grad()
def test_letters_of_a_choice_have_the_weights_log_probs(client: Client, local: tuple[Any, ChatCodec]) -> None:
    model, codec = local
    question = ({"role": "user", "content": "A B C D"},)
    logits = model(input_ids=torch.tensor([codec.prompt(question)])).logits[0, -1]
    logp = torch.log_softmax(logits.float(), -1)
    best = [codec.tokenizer.decode([token]) for token in logp.topk(20).indices.tolist()]
    letters = [text for text in best if text.strip() == text and text and best.count(text) == 1][:3]
    letters = [text for text in letters if sum(other.strip() == text for other in best) == 1]
    assert letters
    (told,) = ServedTeacher(client, 8, 0).choose([question], letters)
    wanted = [float(logp[codec.tokenizer.convert_tokens_to_ids(codec.tokenizer.tokenize(text))[0]]) for text in letters]
    assert told == pytest.approx(wanted, abs=1e-4)


def test_a_critics_schema_binds_even_random_weights(client: Client) -> None:
    asks = [
        Ask(({"role": "user", "content": f"judge {i}"},), json.loads, temperature=1.0, max_tokens=200, schema=SCHEMA)
        for i in range(8)
    ]  # fmt: skip
    answers = ServedCritic(client, retries=2).ask(asks)
    assert [answer for answer in answers if isinstance(answer, Failure)] == []
    assert {frozenset(answer) for answer in answers} == {frozenset({"better", "sure"})}
    assert {answer["better"] for answer in answers} <= {"A", "B", "tie"}


@pytest.mark.parametrize("form", [Rubric, Verdicts, Ranking, Scores], ids=lambda form: form.__name__)
def test_the_forms_of_critics_replies_are_grammars_that_it_knows(client: Client, endpoint: Endpoint, form: Any) -> None:
    ask = Ask(({"role": "user", "content": "judge"},), str, temperature=1.0, max_tokens=30, schema=form.model_json_schema())
    (text,) = ServedCritic(client, retries=0).ask([ask])
    assert isinstance(text, str), text
    assert text.lstrip().startswith("{")
    assert endpoint.spared == set(), "a schema that is refused would be left out from then on"


def test_a_judge_gets_the_log_probs_that_a_suite_reads(client: Client) -> None:
    (reply,) = ServedJudge(client).chat([ChatRequest(({"role": "user", "content": "A or B?"},), 1, 0.0, 5)])
    assert not isinstance(reply, Failure)
    (first,) = reply.top_logprobs
    assert len(first) == 5
    assert sum(math.exp(value) for value in first.values()) < 1 + 1e-6


def test_what_does_not_fit_its_context_is_a_failure_of_that_request_alone(client: Client, local: tuple[Any, ChatCodec]) -> None:
    long = Rollout(Prompt("long", ()), [7] * CONTEXT, [8, 9], [], "", "length")
    short = rollouts(100)[0]
    told, scored = ServedTeacher(client, 8, 0).score([long, short])
    assert isinstance(told, Failure)
    assert str(CONTEXT) in told.detail
    assert not isinstance(scored, Failure)


def test_a_wrong_key_or_model_ends_with_a_message(url: str, endpoint: Endpoint) -> None:
    stranger = Endpoint(url, "sk-other", retries=0)
    with pytest.raises(ClientError, match="refused the key"):
        stranger.post(COMPLETIONS, {"model": "tiny", "prompt": [[5, 6]], "max_tokens": 1})
    stranger.close()
    with pytest.raises(ClientError, match="knows no model 'other'"):
        endpoint.post(COMPLETIONS, {"model": "other", "prompt": [[5, 6]], "max_tokens": 1})

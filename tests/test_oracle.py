"""The pocket server over real HTTP, through the `openai` client."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
import torch

import methods
from harness.errors import EnvironmentFault
from harness.pocket.oracle import (
    CRITIC,
    JUDGE,
    TEACHER,
    CriticKnobs,
    FaultKnobs,
    JudgeKnobs,
    OracleConfig,
    OracleProcess,
    revision,
)
from harness.pocket.pretrain import Shape, make_model, make_tokenizer
from harness.pocket.protocol import count_tokens
from harness.pocket.teacher import BadRequest, NeuralTeacher
from harness.prompts import load

QUESTION = [{"role": "user", "content": "list two animals"}]
TEXTS = ["<user> list two animals <assistant> cat , dog . <end>", "<user> how many ? <assistant>"]
RUBRIC = load(Path(methods.__file__).parent / "prompts" / "ropd", "en", "rubricator")(
    question="list two animals", references=["cat , dog ."], students=["cat .", "oslo , rome ."]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher")
    make_model(Shape(32, 1, 64, 2), seed=0).to(torch.bfloat16).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def teacher(folder):
    return NeuralTeacher(folder)


@pytest.fixture(scope="module")
def server(folder):
    with OracleProcess(OracleConfig(str(folder))) as process:
        yield process


def client_of(process, token=None):
    return openai.OpenAI(base_url=process.url, api_key=token or process.token, max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as made:
        yield made


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [TEACHER, CRITIC, JUDGE]


def test_a_wrong_token_is_turned_away(server):
    with client_of(server, "guess") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert caught.value.body["type"] == "authentication_error"
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model=CRITIC, messages=QUESTION)


def test_samples_differ_among_themselves_and_repeat_under_their_seed(client, teacher):
    def ask(seed, n):
        reply = client.chat.completions.create(model=TEACHER, messages=QUESTION, n=n, seed=seed, max_tokens=12, temperature=1)
        return [choice.message.content for choice in reply.choices], reply

    texts, reply = ask(3, 4)
    assert len(set(texts)) == 4
    assert ask(3, 4)[0] == texts
    assert ask(3, 2)[0] == texts[:2]
    assert ask(4, 4)[0] != texts
    prompt = teacher.chat_tokens(QUESTION)
    assert prompt == make_tokenizer()("<user> list two animals <assistant>")["input_ids"]
    (direct,) = teacher.write([prompt], 4, 1.0, 12, 3)
    assert [one.text for one in direct] == texts
    assert [choice.finish_reason for choice in reply.choices] == [one.finish for one in direct]
    assert reply.usage.prompt_tokens == 5
    assert reply.usage.completion_tokens == sum(len(one.tokens) for one in direct)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_prompt_logprobs_equal_a_direct_forward(client, teacher):
    ids = [make_tokenizer()(text)["input_ids"] for text in TEXTS]
    reply = client.completions.create(model=TEACHER, prompt=ids, max_tokens=0, echo=True, extra_body={"prompt_logprobs": 3})
    assert reply.usage.prompt_tokens == len(ids[0]) + len(ids[1])
    assert reply.usage.completion_tokens == 0
    for text, row, choice in zip(TEXTS, ids, reply.choices, strict=True):
        assert choice.text == text
        with torch.inference_mode():
            direct = torch.log_softmax(teacher.model(torch.tensor([row])).logits[0].float(), -1)
        first, *entries = choice.prompt_logprobs
        assert first is None
        assert len(entries) == len(row) - 1
        for place, (token, entry) in enumerate(zip(row[1:], entries, strict=True)):
            expected = direct[place]
            assert entry[str(token)]["logprob"] == pytest.approx(expected[token].item(), abs=1e-5)
            assert entry[str(token)]["rank"] == 1 + int((expected > expected[token]).sum())
            assert entry[str(token)]["decoded_token"] == make_tokenizer().decode([token])
            best = expected.topk(3)
            assert [entry[str(other)]["rank"] for other in best.indices.tolist()] == [1, 2, 3]
            told = [entry[str(other)]["logprob"] for other in best.indices.tolist()]
            assert told == pytest.approx(best.values.tolist(), abs=1e-5)
            assert len(entry) in (3, 4)


def test_completions_take_a_text_or_ids_and_continue_them(client):
    ids = make_tokenizer()(TEXTS[1])["input_ids"]
    from_text = client.completions.create(model=TEACHER, prompt=TEXTS[1], max_tokens=5, temperature=1, seed=1)
    from_ids = client.completions.create(model=TEACHER, prompt=ids, max_tokens=5, temperature=1, seed=1, echo=True)
    assert from_ids.choices[0].text == f"{TEXTS[1]} {from_text.choices[0].text}"
    assert from_text.choices[0].text
    assert from_text.usage == from_ids.usage
    scored = client.completions.create(model=TEACHER, prompt=ids, max_tokens=0, extra_body={"prompt_logprobs": 0})
    assert [list(entry) for entry in scored.choices[0].prompt_logprobs[1:]] == [[str(token)] for token in ids[1:]]


def test_the_teacher_tells_the_log_probs_of_its_first_token(server: OracleProcess) -> None:
    """By chat as by completions: the same numbers."""
    client = client_of(server)
    how = {"logprobs": True, "top_logprobs": 5, "max_tokens": 1, "temperature": 0.0}
    (token,) = client.chat.completions.create(model=TEACHER, messages=QUESTION, **how).choices[0].logprobs.content
    assert token.token == token.top_logprobs[0].token
    assert sorted((other.logprob for other in token.top_logprobs), reverse=True) == [o.logprob for o in token.top_logprobs]
    assert len(token.top_logprobs) == 5
    said = f"<user> {QUESTION[0]['content']} <assistant> {token.token}"
    scored = client.completions.create(model=TEACHER, prompt=said, max_tokens=0, extra_body={"prompt_logprobs": 0})
    (last,) = scored.choices[0].prompt_logprobs[-1].values()
    assert last["logprob"] == pytest.approx(token.logprob, abs=1e-5)


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        ({"model": TEACHER, "messages": QUESTION, "top_p": 0.5}, "top_p"),
        ({"model": TEACHER, "messages": QUESTION, "presence_penalty": 1.0}, "presence_penalty"),
        ({"model": TEACHER, "messages": QUESTION, "max_tokens": 1000}, "context is 256 tokens"),
        ({"model": TEACHER, "messages": QUESTION, "logprobs": True}, "one reply of one token"),
        ({"model": TEACHER, "messages": QUESTION, "response_format": {"type": "text"}}, "takes no response_format"),
        ({"model": "gpt", "messages": QUESTION}, "no model 'gpt' here"),
        ({"model": CRITIC, "messages": QUESTION}, "names 0 of the schemas"),
        ({"model": JUDGE, "messages": QUESTION}, "AlpacaEval"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(client, request_body, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(**request_body)


def test_prompts_without_tokens_or_with_unknown_ids_are_refused(teacher):
    with pytest.raises(BadRequest, match="no tokens"):
        teacher.score([[]], 0)
    with pytest.raises(BadRequest, match=r"got 1\.\.99999"):
        teacher.write([[1, 99999]], 1, 1.0, 4, 0)


def test_the_servers_log_is_the_sum_of_the_replies_usage(server, client):
    unasked = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0}
    before = {name: server.usage().get(name, unasked) for name in (TEACHER, CRITIC)}
    replies = [
        client.chat.completions.create(model=TEACHER, messages=QUESTION, n=3, max_tokens=7),
        client.completions.create(model=TEACHER, prompt=TEXTS[0], max_tokens=3),
        client.chat.completions.create(model=CRITIC, messages=RUBRIC),
    ]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=CRITIC, messages=QUESTION)
    after = server.usage()
    log = {name: {key: after[name][key] - row[key] for key in unasked} for name, row in before.items()}
    assert sum(row["prompt_tokens"] for row in log.values()) == sum(reply.usage.prompt_tokens for reply in replies)
    assert sum(row["completion_tokens"] for row in log.values()) == sum(reply.usage.completion_tokens for reply in replies)
    assert {name: row["calls"] for name, row in log.items()} == {TEACHER: 2, CRITIC: 1}
    assert log[CRITIC]["prompt_tokens"] == sum(count_tokens(message["content"]) for message in RUBRIC)
    assert log[CRITIC]["completion_tokens"] == count_tokens(replies[2].choices[0].message.content)


def test_a_scripted_reply_ends_at_the_limit_of_tokens(client):
    reply = client.chat.completions.create(model=CRITIC, messages=RUBRIC, max_tokens=9)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == count_tokens(reply.choices[0].message.content) == 9


def test_faults_come_at_their_rates_and_depend_on_the_attempt():
    faults, waits = FaultKnobs(rate_limited=0.4, server_error=0.2, retry_after=7), set()

    def outcomes():
        with OracleProcess(OracleConfig(faults=faults)) as process, client_of(process) as client:
            seen = []
            for attempt in range(60):
                try:
                    client.chat.completions.create(model=CRITIC, messages=RUBRIC, seed=attempt // 30)
                    seen.append(200)
                except openai.APIStatusError as error:
                    seen.append(error.status_code)
                    waits.add((error.status_code, error.response.headers.get("retry-after")))
            assert process.usage()[CRITIC]["calls"] == seen.count(200)
            return seen

    first = outcomes()
    assert first[:30] != first[30:]
    assert set(first[:30]) == {200, 429, 500}
    assert 14 <= first.count(429) <= 34
    assert waits == {(429, "7"), (500, None)}
    assert outcomes() == first


def test_a_stalled_request_times_out():
    with OracleProcess(OracleConfig(faults=FaultKnobs(stalled=1.0, stall_seconds=5.0))) as process:
        client = openai.OpenAI(base_url=process.url, api_key=process.token, max_retries=0, timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model=CRITIC, messages=RUBRIC)


def test_a_scripted_call_does_not_wait_for_delayed_packets():
    with OracleProcess(OracleConfig()) as process, client_of(process) as client:
        assert [model.id for model in client.models.list()] == [CRITIC, JUDGE]
        times = []
        for _ in range(15):
            started = time.perf_counter()
            client.chat.completions.create(model=CRITIC, messages=RUBRIC)
            times.append(time.perf_counter() - started)
    assert min(times) < 0.03  # a reply sent under Nagle's algorithm takes 40 ms more


def test_a_port_in_use_is_an_environment_fault():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"H040 port {port} on 127.0.0.1 cannot be used"):
            _ = OracleProcess(OracleConfig(), port=port).url


def test_the_entry_point_wants_a_token_and_exits_with_code_2():
    environment = {name: value for name, value in os.environ.items() if name != "HARNESS_ORACLE_TOKEN"}
    done = subprocess.run([sys.executable, "-m", "harness.pocket.oracle"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "HARNESS_ORACLE_TOKEN is not set" in done.stderr


def test_no_server_outlives_a_parent_that_was_killed():
    code = (
        "import time; from harness.pocket.oracle import OracleProcess, OracleConfig\n"
        "process = OracleProcess(OracleConfig()); print(process.url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    port = int(parent.stdout.readline().strip().removesuffix("/v1").rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port), 1).close()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the server still listens")


def test_the_revision_names_sources_knobs_and_weights(folder, tmp_path):
    config = OracleConfig(str(folder))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert revision(config) == revision(OracleConfig(str(copy)))
    assert OracleConfig.from_json(config.to_json()) == config
    others = [
        dataclasses.replace(config, teacher_folder=None),
        dataclasses.replace(config, critic=CriticKnobs(noise=0.1)),
        dataclasses.replace(config, judge=JudgeKnobs(noise=0.1)),
    ]
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    others.append(OracleConfig(str(copy)))
    assert len({revision(other) for other in [config, *others]}) == 5

"""Whole runs on one's own models and prompts: a server at an address, a teacher in this process, a kill, a replay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_chat import saved

from harness import registry, tracks
from harness.assemble import assemble
from harness.gate.runs import Silent
from harness.generate.local import LocalEndpoint
from harness.generate.student import ChatCodec
from harness.loop import train
from harness.materials import training_prompts
from harness.pocket.build import ASSETS
from harness.pocket.oracle import OracleConfig, OracleProcess
from harness.spec import resolve
from harness.store import RunStore, read_lines
from harness.train.load import load_causal_lm, load_tokenizer

STUDENT, TEACHER = (str(ASSETS / "pocket" / "pair0" / role) for role in ("student", "teacher"))
LOOSE = ("clock.jsonl", "environment.json", "manifest.json", "spec.yaml")


@pytest.fixture(scope="module")
def oracle() -> Iterator[OracleProcess]:
    with OracleProcess(OracleConfig(TEACHER)) as server:
        assert server.url
        yield server


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of the embedded world as a user's files, and a track for short answers."""
    folder = tmp_path_factory.mktemp("mine")
    asked = [prompt.messages[0]["content"] for prompt in training_prompts(tracks.load("pocket"))[:60]]
    (folder / "mine.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked[:32]))
    held = [{"prompt": text, **({"reference": "oak . pine ."} if i < 2 else {})} for i, text in enumerate(asked[40:46])]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    (folder / "mine.yaml").write_text(yaml.safe_dump({
        "extends": "own", "name": "mine", "training": {"max_tokens": 24, "checkpoint_rounds": 1},
        "evaluation": {"max_tokens": 24}, "budget": {"prompts": 16}, "marks": ["0", "1"],
        "optimizer": {"learning_rate": 1e-3},
        "overrides": {"ropd": {"prompts_per_round": 4, "group_size": 2, "references": 1}},
    }))  # fmt: skip
    return folder


def harness(root: Path, *typed: str, key: str = "", wait: bool = True) -> Any:
    environment = {**os.environ, "HARNESS_RUNS_DIR": str(root / "runs"), "HARNESS_CACHE_DIR": str(root / "cache"),
                   "HARNESS_REPORTS_DIR": str(root / "reports"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                   "OPENAI_API_KEY": key}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "harness", *typed], env=environment, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    if not wait:
        return process
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def kill_under_way(process: Any, root: Path, patience: float) -> None:
    """Kills a run once two of its rounds are written, or after some seconds."""
    began = time.monotonic()
    while time.monotonic() - began < patience and process.poll() is None:
        steps = list((root / "runs").glob("*/*/steps.jsonl"))
        if steps and len(list(read_lines(steps[0]))) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def run_line(mine: Path, url: str) -> list[str]:
    return ["run", "--method", "ropd", "--track", str(mine / "mine.yaml"), "--student", STUDENT,
            "--teacher", f"{url}/pocket-teacher", "--critic", f"{url}/pocket-critic", "--judge", f"{url}/pocket-judge",
            "--prompts", str(mine / "mine.jsonl"), "--eval-prompts", str(mine / "held.jsonl"), "--max-usd", "50",
            "--price", "judge=1,2", "--no-curve", "--force"]  # fmt: skip


def kept(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and path.name not in LOOSE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_run_on_ones_own_server_survives_a_kill_and_is_replayed_without_it(mine: Path, tmp_path: Path) -> None:
    """Money needs a yes; the killed run ends as a whole one does; the pack alone repeats it when the server is gone."""
    with OracleProcess(OracleConfig(TEACHER)) as server:
        typed, key = run_line(mine, server.url), server.token
        code, _, err = harness(tmp_path, *typed, key=key)
        assert (code, "this run pays for judge" in err) == (2, True), err
        assert "references: 2 of the file, 4 by pocket-teacher" in err
        assert not (tmp_path / "runs" / "mine").exists(), "nothing was begun"
        kill_under_way(harness(tmp_path, *typed, "--yes", key=key, wait=False), tmp_path, 120)
        code, _, err = harness(tmp_path, *typed, "--yes", key=key)
        assert code == 0, err
        (folder,) = (tmp_path / "runs" / "mine").glob("ropd-*")
        written = json.loads(next((tmp_path / "runs" / "mine" / "held").glob("*.json")).read_text())
        assert [row["generator"] for row in written] == ["user"] * 2 + [f"pocket-teacher@{server.url[7:-3]}"] * 4
        spent = sum(row["usd"] for row in read_lines(folder / ".money.jsonl"))
        judged = server.usage()["pocket-judge"]
        least = (judged["prompt_tokens"] + 2 * judged["completion_tokens"]) / 1e6
        assert least - 1e-9 <= spent < 1.5 * least, "what was under way when it was killed counts at its most"
        code, _, err = harness(tmp_path, "cache", "export", folder.name, str(tmp_path / "pack.jsonl.gz"))
        assert code == 0, err
    elsewhere = tmp_path / "elsewhere"
    code, _, err = harness(elsewhere, *typed, "--replay", str(tmp_path / "pack.jsonl.gz"))
    assert code == 0, err
    first, second = kept(folder), kept(elsewhere / "runs" / "mine" / folder.name)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    code, _, err = harness(elsewhere, *typed, "--seed", "1", "--replay", str(tmp_path / "pack.jsonl.gz"))
    assert code == 3
    assert "the cache has no reply of the" in err


def test_without_a_teacher_the_untouched_student_writes_references(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   oracle: OracleProcess) -> None:  # fmt: skip
    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path))
    value = {**yaml.safe_load((mine / "mine.yaml").read_text()), "student": {"path": STUDENT},
             "judge": {"url": oracle.url, "model": "pocket-judge"}, "held_out": {"source": str(mine / "held.jsonl")},
             "prompts": {"source": str(mine / "mine.jsonl")}, "budget": {"prompts": 4}}  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(value))
    monkeypatch.setenv("OPENAI_API_KEY", oracle.token)
    spec, origins = resolve("sharpen", str(tmp_path / "t.yaml"), settings=["prompts_per_round=4"])
    store, _ = RunStore.open(spec, origins, tmp_path)
    with assemble(spec, ["alpaca"], lambda word: None) as run:
        train(run, store, Silent())
    (path,) = tmp_path.glob("mine/held/*.json")
    rows = json.loads(path.read_text())
    assert [row["generator"] for row in rows] == ["user"] * 2 + ["the untouched student"] * 4
    scores = json.loads((store.evaluation("alpaca") / "marks" / "0.json").read_text())
    items = {row["item_id"]: row for row in read_lines(store.evaluation("alpaca") / "records" / "0.greedy.jsonl")}
    assert [items[f"alpaca-{n:04}"]["score"] for n in (3, 4, 5, 6)] == [0.5] * 4, "against itself it draws"
    assert scores["n"] == 6


TEXTS = ["say something kind about a tree", "count to three and stop", "which word comes first"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random student and teacher with one tokenizer."""
    folder = tmp_path_factory.mktemp("pair")
    paths = saved(folder / "student", "Qwen2", TEXTS), saved(folder / "teacher", "Qwen2", TEXTS, seed=1)
    for path in paths:  # transformers' Qwen2 tokenizer has one token more than it was made with
        model = load_causal_lm(path)
        model.resize_token_embeddings(len(load_tokenizer(path)))
        model.save_pretrained(path)
    return paths


@pytest.mark.parametrize("method", sorted(registry.modules("methods")))
def test_every_method_runs_on_real_models(
    method: str, pair: tuple[Path, Path], oracle: OracleProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates for real models, a local teacher without a server, a critic at an address."""
    monkeypatch.setenv("OPENAI_API_KEY", oracle.token)
    rows = [{"prompt": f"{text} {i}"} for i, text in enumerate(TEXTS)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({
        "extends": "own", "name": "own", "student": {"path": str(pair[0])}, "prompts": {"source": str(tmp_path / "p.jsonl")},
        "teacher": {"url": "local", "model": "t", "weights": {"path": str(pair[1])}},
        "critic": {"url": oracle.url, "model": "pocket-critic", "parse_retries": 0}, "budget": {"prompts": 2},
        "marks": ["0", "1"], "training": {"max_tokens": 12}, "missing_limit": 1.0,
    }))  # fmt: skip
    spec, origins = resolve(method, str(tmp_path / "t.yaml"), settings=["prompts_per_round=2"])
    store, _ = RunStore.open(spec, origins, tmp_path)
    with assemble(spec, [], lambda word: None) as run:
        train(run, store, Silent())
        meters = run.ledger.training
    assert store.finished
    assert meters["prompts"] == 2
    if run.tools.teacher is not None or run.tools.solutions is not None:
        assert meters["teacher_calls"] + meters["teacher_scored_tokens"] > 0
        assert meters["flops"] > 0


def test_local_weights_answer_as_their_own_forward_says(pair: tuple[Path, Path]) -> None:
    """Scores are log-softmax at each given token, letters those of the first; a text does not depend on its neighbours."""
    model, tokenizer = load_causal_lm(pair[1]), load_tokenizer(pair[1])
    endpoint = LocalEndpoint(model, ChatCodec(tokenizer), chunk=3)
    row = [5, 9, 2, 7, 11, 30, 8]
    reply = endpoint.post("/completions", {"prompt": [row, row[:3]], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0})
    logp = torch.log_softmax(model(input_ids=torch.tensor([row])).logits[0, :-1, : len(tokenizer)].float(), -1)
    entries = reply["choices"][0]["prompt_logprobs"]
    assert entries[0] is None
    found = [entry[str(token)]["logprob"] for entry, token in zip(entries[1:], row[1:], strict=True)]
    assert found == pytest.approx([float(logp[t, token]) for t, token in enumerate(row[1:])], abs=1e-5)
    assert reply["usage"] == {"prompt_tokens": 10, "completion_tokens": 2}
    body = {"prompt": [row], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 5}
    for t, entry in enumerate(endpoint.post("/completions", body)["choices"][0]["prompt_logprobs"][1:]):
        wanted = {*logp[t].topk(5).indices.tolist(), row[t + 1]}
        assert {int(token) for token in entry} == wanted
        told = [entry[str(token)]["logprob"] for token in wanted]
        assert told == pytest.approx([float(logp[t, token]) for token in wanted], abs=1e-5)
    ask = {"messages": [{"role": "user", "content": TEXTS[0]}], "temperature": 0.0, "max_tokens": 1, "logprobs": True,
           "top_logprobs": 4}  # fmt: skip
    told = endpoint.post("/chat/completions", ask)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    prompt = endpoint.codec.prompt(ask["messages"])
    best = torch.log_softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1, : len(tokenizer)].float(), -1).topk(4)
    assert [entry["logprob"] for entry in told] == pytest.approx(best.values.tolist(), abs=1e-5)
    sampled = {"temperature": 1.0, "max_tokens": 9, "n": 2, "seed": 3}
    bodies = [{"messages": [{"role": "user", "content": text}], **sampled} for text in TEXTS]
    together = endpoint.post_all("/chat/completions", bodies)
    assert together == [endpoint.post("/chat/completions", body) for body in bodies]
    long = {**bodies[0], "messages": [{"role": "user", "content": "word " * 3000}]}
    assert "the context 2048" in endpoint.post("/chat/completions", long).detail

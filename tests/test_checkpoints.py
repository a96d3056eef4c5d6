"""Whole runs on checkpoints of one's own, by the command line: full and adapted, killed and resumed, and read back."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
import yaml

from harness import cli
from harness.pocket import world
from harness.pocket.oracle import OracleConfig, OracleProcess
from harness.pocket.tasks import INSTRUCTIONS, draw
from harness.train.load import load_causal_lm, load_tokenizer
from harness.train.trainer import Trainer

KINDS = ("Qwen2", "Qwen3", "Llama", "Gemma", "Gemma2")
ITEMS = 3


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """One embedded server for all runs."""
    started: list[OracleProcess] = []

    class Lent:
        def __init__(self, config: OracleConfig) -> None:
            if not started:
                started.append(OracleProcess(config))

        def __enter__(self) -> OracleProcess:
            return started[0]

        def __exit__(self, *_: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "start_server", Lent)
        yield
    for process in started:
        process.stop()


def texts() -> list[str]:
    rng = random.Random(0)
    return [draw(rng, rng.choice(INSTRUCTIONS)).text for _ in range(60)]


def track_of(folder: Path, kind: str, lora: bool, **training: Any) -> Path:
    """A track whose student is a tiny checkpoint of an architecture; the rest is embedded."""
    import suites

    student = tiny_chat.saved(folder / "student", kind, texts())
    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (folder / "items.json").write_text(json.dumps(rows[:ITEMS]))
    track = {
        "extends": "pocket", "name": "mine", "budget": {"prompts": 12}, "marks": ["0", "1"], "prompts": {"count": 32},
        "student": {"path": str(student), "dialect": "en", **({"lora": {"rank": 2, "alpha": 8.0}} if lora else {})},
        "suites": {"alpaca": {"items": str(folder / "items.json")}},
        "training": {"max_tokens": 6, "checkpoint_rounds": 1, "micro_batch_tokens": 256, **training},
        "evaluation": {"max_tokens": 4, "temperatures": [0.0]},
        "optimizer": {"learning_rate": 0.01},
        "overrides": {"dpo": {"prompts_per_round": 4, "group_size": 3, "warm_prompts": 4}},
    }  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(track))
    return path


def harness(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def only(folder: Path) -> Path:
    (found,) = folder.glob("mine/*")
    return found


class Killed(BaseException):
    """Ends a run as a signal would: nothing of ours catches it."""


def kept(folder: Path) -> dict[str, bytes]:
    """What must be equal between equal runs."""
    names = ("model.safetensors", "marks.jsonl", "steps.jsonl", "ledger.jsonl", "rollouts.jsonl", "README.md")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_checkpoint_resumes_bit_for_bit_and_its_folder_answers_alike(
    kind: str, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPO after a warm start, so that there is a reference, and with an adapter one that is merged under way."""
    track = track_of(tmp_path, kind, lora, activation_checkpointing=kind == "Qwen3")
    command = ["run", "-m", "dpo", "-t", str(track), "--display", "none", "--no-curve"]
    live: dict[str, torch.Tensor] = {}
    ids = torch.arange(40)[None]
    save, step = Trainer.save, Trainer.step

    def saving(trainer: Trainer, folder: Path, tokenizer: Any) -> None:
        save(trainer, folder, tokenizer)
        with torch.no_grad():
            live[Path(folder).name.removesuffix(".part").removeprefix(".")] = trainer.policy(input_ids=ids).logits

    monkeypatch.setattr(Trainer, "save", saving)
    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path / "whole"))
    assert harness(monkeypatch, *command) == 0
    whole = only(tmp_path / "whole")
    for name, folder in (("0", whole / "checkpoints" / "0"), ("1", whole / "checkpoints" / "1"), ("model", whole / "model")):
        model = load_causal_lm(folder)
        with torch.no_grad():
            assert torch.allclose(model(input_ids=ids).logits, live[name], atol=2e-5), name
        assert not list(folder.glob("adapter*"))
    assert load_tokenizer(whole / "model").chat_template == load_tokenizer(tmp_path / "student").chat_template
    assert float((live["model"] - live["0"]).abs().max()) > 1e-3

    calls: list[int] = []

    def dying(trainer: Trainer, *arguments: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:  # after the warm start was frozen and trained on
            raise Killed
        return step(trainer, *arguments)

    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path / "again"))
    monkeypatch.setattr(Trainer, "step", dying)
    monkeypatch.setattr(sys, "argv", ["harness", *command])
    with pytest.raises(Killed):
        cli.main()
    again = only(tmp_path / "again")
    assert not (again / "manifest.json").exists()
    state = (again / "state" / "state.pt").stat().st_size
    weights = (tmp_path / "student" / "model.safetensors").stat().st_size
    assert (state < weights) == lora, "an adapter's state leaves the weights out"
    assert harness(monkeypatch, *command) == 0
    first, second = kept(whole), kept(again)
    assert first.keys() == second.keys()
    assert len(first) == 8
    assert [name for name in first if first[name] != second[name]] == []


def test_an_exported_mark_has_a_card_of_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCard

    track = track_of(tmp_path, "Llama", lora=True)
    settings = yaml.safe_load(track.read_text())
    settings["student"] |= {"system": "be brief", "revision": "c0ffee"}
    track.write_text(yaml.safe_dump(settings))
    assert harness(monkeypatch, "run", "-m", "sft", "-t", str(track), "--display", "none", "--no-curve") == 0
    run, out = only(tmp_path / "runs"), tmp_path / "out"
    assert harness(monkeypatch, "export", run.name, "--out", str(out)) == 0
    assert (out / "README.md").read_bytes() == (run / "model" / "README.md").read_bytes()
    assert (out / "model.safetensors").read_bytes() == (run / "checkpoints" / "1" / "model.safetensors").read_bytes()
    scores = json.loads((run / "suites" / "alpaca" / "marks" / "1.json").read_text())
    head = ModelCard.load(out / "README.md").data
    (result,) = head.eval_results
    metric = scores["greedy"]["win_rate"]
    assert (head.base_model, head.library_name, head.license) == ("student", "transformers", None)
    assert head.to_dict()["base_model_revision"] == "c0ffee"
    assert head.tags == ["distillation", "sft", "lora"]
    assert (result.dataset_type, result.metric_type, result.dataset_revision) == ("alpaca", "win_rate", scores["data"])
    assert result.metric_value == pytest.approx(metric["value"], abs=1e-6)
    low, high = result.metric_args["ci_95"]
    half = 1.96 * metric["stderr"]
    assert (low, high) == pytest.approx((max(metric["value"] - half, 0), min(metric["value"] + half, 1)), abs=1e-3)
    assert (result.metric_args["items"], result.metric_args["missing"]) == (ITEMS, metric["missing"])
    text = (out / "README.md").read_text()
    assert f"| {metric['value']:.3f} |" in text
    assert "be brief" in text
    assert str(tmp_path) not in text, "a place on this machine says nothing elsewhere"
    assert harness(monkeypatch, "export", run.name, "--out", str(tmp_path / "start"), "--mark", "0") == 0
    assert "at mark 0" in (tmp_path / "start" / "README.md").read_text()
    capsys.readouterr()
    for arguments, said in (((run.name, "--out", str(out)), "is not empty"), (("zzz", "--out", "x"), "no run 'zzz'"),
                            ((run.name, "--out", "x", "--mark", "1/3"), "has no mark '1/3'")):  # fmt: skip
        assert harness(monkeypatch, "export", *arguments) == 2
        assert said in capsys.readouterr().err

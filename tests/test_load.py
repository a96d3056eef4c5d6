"""Loading: what is refused before anything is spent, and where models go."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_chat
import torch
import transformers

from harness.errors import CapabilityError, EnvironmentFault, SpecError
from harness.train.load import _attention, load_causal_lm, load_tokenizer, pick_device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.saved(tmp_path_factory.mktemp("gemma"), "Gemma2", ["one two three"])


def test_a_folder_is_loaded_in_eval_mode_in_the_precision_asked_for(folder: Path) -> None:
    model = load_causal_lm(folder, torch.bfloat16)
    assert (model.dtype, model.training, model.device.type) == (torch.bfloat16, False, "cpu")
    assert model.config._attn_implementation == "eager", "sdpa would leave out the cap on attention scores"
    assert load_causal_lm(folder, attention="eager").dtype == torch.float32
    assert load_tokenizer(folder).eos_token_id == 0


def test_what_cannot_be_loaded_is_named_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no model can be loaded from .*nowhere"):
        load_causal_lm(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="no tokenizer can be loaded from nobody/nothing at abc"):
        load_tokenizer("nobody/nothing", revision="abc")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SpecError, match="no model can be loaded"):
        load_causal_lm(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config"}}')
    with pytest.raises(SpecError) as refused:
        load_causal_lm(tmp_path)
    assert "remote_code: true" in refused.value.fix
    with pytest.raises(CapabilityError, match="needs a GPU and bfloat16 weights and the package flash-attn"):
        load_causal_lm(folder, attention="flash_attention_2")


def test_automatic_attention_is_flash_where_all_it_needs_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    gpu, cpu, half, full = torch.device("cuda"), torch.device("cpu"), torch.bfloat16, torch.float32
    qwen, gemma = transformers.Qwen3Config(), transformers.Gemma2Config()
    assert _attention("auto", qwen, half, gpu) == "flash_attention_2"
    assert [_attention("auto", qwen, dtype, place) for dtype, place in ((full, gpu), (half, cpu), (full, cpu))] == [None] * 3
    assert _attention("auto", gemma, half, gpu) == "flash_attention_2"
    assert _attention("auto", gemma, full, gpu) == "eager"
    assert _attention("sdpa", qwen, half, gpu) == "sdpa"


def test_models_go_where_the_track_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == pick_device("cpu") == cpu
    with pytest.raises(EnvironmentFault, match="asks for CUDA, and torch sees no GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert pick_device() == pick_device("cuda", tiny=True) == torch.device("cuda", 3)
    assert pick_device("cpu") == pick_device("auto", tiny=True) == cpu

"""The command line as a user meets it: bad input, exit codes, start-up, what it prints."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli


def harness(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_a_gpu_whose_memory_ran_out_is_a_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fails(standalone_mode: bool) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. See more")

    monkeypatch.setattr(cli, "app", fails)
    code, _, err = harness(capsys, monkeypatch, "run")
    assert (code, "error[H060]: CUDA out of memory. Tried to allocate 2.00 GiB" in err) == (3, True)
    assert "micro_batch_tokens" in err
    assert "Traceback" not in err
    assert "See more" not in err


BAD = [
    (["run", "-m", "rodp"], "no method named 'rodp'", "did you mean ropd?"),
    (["run", "-m", "ropd", "-s", "alpacca"], "no suite named 'alpacca'", "did you mean alpaca?"),
    (["run", "-m", "ropd", "-t", "poket"], "no track named 'poket'", "did you mean pocket?"),
    (["run", "-m", "ropd", "--set", "grup_size=4"], "ropd has no setting 'grup_size'", "did you mean group_size?"),
    (["run", "-m", "ropd", "--set", "group_size=0"], "group_size", "greater than 1"),
    (["run", "-m", "ropd", "--set", "budget.prompts=4"], "fixed by the track", "extends: pocket"),
    (["run", "-m", "ropd", "--set", "group_size"], "expected KEY=VALUE", "group_size=4"),
    (["run", "-m", "ropd", "--budget", "prompts=0"], "above zero", "--budget prompts=1024"),
    (["run", "-m", "ropd", "--budget", "promts=10"], "no budget meter named 'promts'", "did you mean prompts?"),
    (["run", "-m", "ropd", "--budget", "prompts=many"], "expected METER=AMOUNT", "prompts=1024"),
    (["run", "-m", "ropd", "--seed", "-1"], "seed", "--seed"),
    (["run", "-m", "ropd", "--display", "loud"], "no display named 'loud'", "auto, live, plain, none"),
    (["report", "--meter", "promts"], "no meter named 'promts'", "did you mean prompts?"),
    (["list", "method"], "cannot list 'method'", "did you mean methods?"),
    (["show", "nothing"], "no run 'nothing'", "harness run --method ropd"),
    (["pocket", "build", "--scale", "poket"], "no scale named 'poket'", "did you mean pocket?"),
]


@pytest.mark.parametrize(("arguments", "message", "fix"), BAD, ids=[" ".join(case[0][:4]) for case in BAD])
def test_bad_input_is_refused_with_its_fix(
    arguments: list[str],
    message: str,
    fix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code, out, err = harness(capsys, monkeypatch, *arguments)
    assert code == 2
    assert message in err
    assert fix in err
    assert "nothing was spent" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 24
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = harness(capsys, monkeypatch, "run", "--metod", "ropd")
    assert code == 2
    assert "--metod" in err


def test_a_need_that_the_track_cannot_meet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    track = tmp_path / "blind.yaml"
    track.write_text("extends: pocket\nname: blind\nteacher: {weights: null}\n")
    code, _, err = harness(capsys, monkeypatch, "run", "-m", "logit_opd", "--set", "form=full", "-t", str(track))
    assert code == 2
    assert "the teacher's weights" in err
    assert "harness list tracks" in err


def test_a_scale_whose_models_are_not_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from harness.pocket import world

    monkeypatch.setattr(world, "ASSETS", tmp_path)
    code, _, err = harness(capsys, monkeypatch, "run", "-m", "ropd", "-t", "pocket-m", "--display", "none")
    assert code == 2
    assert "the models of scale 'pocket-m' are not here" in err
    assert "harness pocket build --scale pocket-m" in err


def test_a_folder_of_another_spec(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.spec import resolve
    from harness.store import RunStore

    spec, origins = resolve("ropd")
    store, found = RunStore.open(spec, origins, tmp_path / "runs")
    assert found == "new"
    path = store.folder / "spec.json"
    path.write_text(path.read_text().replace('"seed":0', '"seed":7'))
    code, _, err = harness(capsys, monkeypatch, "run", "-m", "ropd")
    assert code == 2
    assert "belongs to another spec" in err
    assert "--fresh" in err


@pytest.mark.parametrize("name", ["RUNS", "CACHE"])
def test_a_folder_that_cannot_be_written(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(f"HARNESS_{name}_DIR", str(tmp_path / "file" / "below"))
    code, _, err = harness(capsys, monkeypatch, "run", "-m", "ropd", "--display", "none")
    assert code == 2
    assert "cannot write" in err
    assert f"HARNESS_{name}_DIR" in err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = harness(capsys, monkeypatch, "serve-oracle", "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "port" in err


def test_the_light_commands_load_nothing_heavy() -> None:
    """`--help`, `list`, `show` and `report` must not import torch; `--help` neither pydantic nor pandas."""
    heavy = "{'torch', 'transformers', 'lm_eval', 'alpaca_eval'}"
    for arguments, more in (
        (["--help"], " | {'pydantic', 'pandas', 'numpy', 'matplotlib'}"),
        (["list", "methods"], ""), (["list", "suites"], ""), (["list", "tracks"], ""), (["show", "ropd"], ""), (["report"], ""),
    ):  # fmt: skip
        code = (
            f"import sys; sys.argv = ['harness', *{arguments!r}]\nfrom harness.cli import main\n"
            f"try: main()\nexcept SystemExit: pass\nfound = set(sys.modules) & ({heavy}{more})\n"
            "print('LOADED', sorted(found))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
        assert "LOADED []" in done.stdout, (arguments, done.stdout[-300:])


def test_lists_are_json_when_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = harness(capsys, monkeypatch, "list", "methods", "--json")
    assert code == 0
    names = {row["method"] for row in json.loads(out)}
    assert {"ropd", "logit_opd", "seqkd", "sft", "sharpen"} <= names


def test_show_says_where_each_setting_comes_from(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = harness(capsys, monkeypatch, "show", "ropd", "--set", "references=2")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["references"] == ["2", "--set"]
    assert rows["dual_clip"] == ["3.0", "default"]
    assert rows["group_size"] == ["8", "track", "pocket"]

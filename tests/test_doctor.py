"""What the doctor finds: servers on loopback that answer rightly or not, keys, models, suites; and its exit code."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness import doctor, tracks
from harness.cli import app
from harness.tracks import Served

KEY = "sk-never-shown"


class Models(BaseHTTPRequestHandler):
    """Lists one model to whoever has the key."""

    def do_GET(self) -> None:
        right = self.headers.get("Authorization") == f"Bearer {KEY}" and self.path == "/v1/models"
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "known"}]}).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def states(role: str, served: Served) -> dict[str, str]:
    return {finding.about: finding.state for finding in doctor._server(role, served)}


def test_a_server_is_asked_for_its_models(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTOR_KEY", KEY)
    assert states("judge", Served(url=url, model="known", key="DOCTOR_KEY")) == {"judge's key": "ok", "judge": "ok"}
    found = list(doctor._server("judge", Served(url=url, model="other", key="DOCTOR_KEY")))
    assert found[1].state == "lacking"
    assert found[1].told.endswith("has no model other; it has known")
    assert KEY not in repr(found)
    monkeypatch.setenv("DOCTOR_KEY", "wrong")
    assert "401" in list(doctor._server("judge", Served(url=url, model="known", key="DOCTOR_KEY")))[1].told
    gone = Served(url="http://127.0.0.1:9/v1", model="known", key="DOCTOR_KEY")
    assert states("judge", gone)["judge"] == "lacking"
    elsewhere = Served(url="http://192.0.2.1:9/v1", model="known", key="NOT_SET")
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.05)
    assert states("judge", elsewhere) == {"judge's key": "lacking", "judge": "lacking"}


def test_the_embedded_track_can_run_and_one_without_its_things_cannot(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--track", "pocket", "--json"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert {row["about"]: row["state"] for row in rows if row["scope"] == "track"}["student"] == "ok"
    path = tmp_path / "mine.yaml"
    lacking = {
        "extends": "pocket", "name": "mine", "student": {"path": "no/such-model", "revision": "abc"},
        "prompts": {"source": "none.jsonl"}, "suites": {"alpaca": {"items": "none.json"}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(lacking), encoding="utf-8")
    done = CliRunner().invoke(app, ["doctor", "--track", str(path), "--json"])
    rows = {row["about"]: row for row in map(json.loads, done.stdout.splitlines()) if row["scope"] == "track"}
    assert done.exit_code == 1
    assert [about for about, row in rows.items() if row["state"] == "lacking"] == ["student", "prompts", "suite alpaca"]
    assert "hf download no/such-model --revision abc" in rows["student"]["fix"]
    assert all(row["fix"] for row in rows.values() if row["state"] == "lacking")


def test_the_larger_scale_is_lacking_until_it_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.pocket import world

    monkeypatch.setattr(world, "ASSETS", tmp_path)
    student = next(doctor._models(tracks.load("pocket-m"), online=False))
    assert (student.state, student.fix) == ("lacking", "harness pocket build --scale pocket-m")


def test_the_machine_alone_is_no_verdict() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    about = [json.loads(line)["about"] for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert {"GPU", "packages", "vLLM", "CPU", "folder runs", "folder cache", "hub"} <= set(about)


def test_requirements_of_vllm_are_compared() -> None:
    mine = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "vllm": None}
    assert doctor.unfit("0.29.0", mine) == []
    assert doctor.unfit("0.32.0", mine) == ["transformers>=5.16.1,<5.20.0"]
    assert doctor.unfit("0.25.1", mine) == ["torch==2.11.0"]


def test_a_weak_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cards", lambda: [("small", "1", 8 * 2**30)])
    (room,) = doctor._room(tracks.load("qwen3-4b-ropd"))
    assert room.state == "lacking"
    assert room.told.startswith("weights, gradients and optimizer state take 59.9 GiB of 8.0")

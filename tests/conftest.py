"""Shared by all tests: no network beyond loopback, no folders of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.environment import quiet_libraries

quiet_libraries()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "REPORTS", "CACHE"):
        monkeypatch.setenv(f"HARNESS_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.delenv("HARNESS_DISPLAY", raising=False)

"""Shared by all tests: no network beyond loopback, no folders of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Lab

from harness.environment import quiet_libraries
from harness.report import runs

quiet_libraries()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "REPORTS", "CACHE"):
        monkeypatch.setenv(f"HARNESS_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.delenv("HARNESS_DISPLAY", raising=False)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Where a test writes run folders."""
    return Lab(tmp_path)


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[runs.Run]:
    """Three methods with three seeds each, to be read only."""
    lab = Lab(tmp_path_factory.mktemp("runs"))
    for method in ("ropd", "logit_opd", "sft"):
        for seed in range(3):
            lab.run(method, seed)
    return runs.select([], lab.root)

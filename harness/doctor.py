"""What this machine has, and what a track lacks on it: facts and findings, each with the command that mends it.

Nothing is spent: servers are asked for their list of models only. A key's value is never shown.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from harness import environment
from harness.errors import HarnessError
from harness.materials import the_suites, training_prompts
from harness.plan.machine import memory, table
from harness.plan.shapes import folder_of, shape_of
from harness.tracks import LocalModel, Served, Track

TIMEOUT_S = 3.0
"""For each thing on a network."""
PACKAGES = ("torch", "transformers", "peft", "vllm", "ray", "datasets", "openai", "lm-eval", "alpaca-eval")
GIB = 2**30
State = Literal["ok", "fact", "lacking"]


@dataclass(frozen=True)
class Finding:
    about: str
    state: State
    told: str
    fix: str = ""
    """What to type, where something is lacking."""


def machine() -> list[Finding]:
    """What is here, whatever track is meant."""
    return [*_gpus(), *_versions(), *_vllm(), *_size(), *_folders(), hub()]


def track_needs(track: Track, online: bool) -> list[Finding]:
    """What a track needs and whether it is here; it can run where nothing is lacking.

    Args:
        online: whether the hub can be reached, so that what is not here will be fetched.
    """
    found = [*_packages(track), *_models(track, online), _prompts(track, online)]
    found += [finding for role, served in track.served for finding in _server(role, served)]
    found += [_tried(f"suite {name}", partial(_items, track, name)) for name in track.suites]
    return [*found, *_room(track)]


def _items(track: Track, name: str) -> str:
    return f"{len(the_suites(track, [name])[name].items()):,} items"


def _tried(about: str, look: Callable[[], str]) -> Finding:
    """An error of ours is a finding, with its own fix."""
    try:
        return Finding(about, "ok", look())
    except HarnessError as error:
        return Finding(about, "lacking", error.message, error.fix)


def cards() -> list[tuple[str, str, int]]:
    """Name, driver and bytes of memory of each NVIDIA GPU, as nvidia-smi tells."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(", ") for line in said.splitlines() if line.count(", ") == 2)
    return [(name, driver, int(mib) * 2**20) for name, driver, mib in rows if mib.strip().isdigit()]


def _gpus() -> Iterator[Finding]:
    there = cards()
    if not there:
        yield Finding("GPU", "fact", "none (nvidia-smi shows none): training runs on CPU")
    for name, driver, size in there:
        yield Finding("GPU", "ok", f"{name}, {size / GIB:.0f} GiB, driver {driver}")
    if there and not (built := _cuda_of_torch()):
        fix = "pip install --force-reinstall torch, from an index with CUDA builds"
        yield Finding("GPU", "lacking", "torch is built without CUDA, so it uses no GPU", fix)
    elif there:
        yield Finding("CUDA", "ok", f"torch is built for CUDA {built}")


def _cuda_of_torch() -> str:
    """The CUDA version that torch was built for, from its files (importing it takes seconds)."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        told = Path(folder, "version.py")
        if told.is_file() and (found := re.search(r"^cuda\b[^=]*= *'([\d.]+)'", told.read_text(encoding="utf-8"), re.MULTILINE)):
            return found[1]
    return ""


def _versions() -> Iterator[Finding]:
    told = [f"{package} {environment.installed(package) or 'not installed'}" for package in PACKAGES]
    yield Finding("packages", "fact", ", ".join(told))


def _vllm() -> Iterator[Finding]:
    """Whether vLLM, torch and transformers fit each other, by the dated table."""
    listed, mine = table("vllm"), {package: environment.installed(package) for package in ("torch", "transformers", "vllm")}
    fits = [release for release in listed["releases"] if not unfit(release, mine)]
    if mine["vllm"] is None:
        told = f"releases that fit torch {mine['torch']} and transformers {mine['transformers']}"
        yield Finding("vLLM", "fact", f"not installed; {told}: {', '.join(fits) or 'none that was read'} ({listed['date']})")
    elif mine["vllm"] not in listed["releases"]:
        yield Finding("vLLM", "fact", f"{mine['vllm']} is not in the table of {listed['date']}: what it asks for was not read")
    elif wrong := unfit(str(mine["vllm"]), mine):
        fix = f"pip install {' '.join(map(repr, wrong))}"
        yield Finding("vLLM", "lacking", f"{mine['vllm']} asks for {', '.join(wrong)}", fix)
    else:
        yield Finding("vLLM", "ok", f"{mine['vllm']} fits torch {mine['torch']} and transformers {mine['transformers']}")


def unfit(release: str, mine: dict[str, str | None]) -> list[str]:
    """Requirements of a release of vLLM that the installed versions break."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    asked = table("vllm")["releases"][release].items()
    return [
        f"{package}{wanted}" for package, wanted in asked
        if mine[package] is None or not SpecifierSet(wanted).contains(Version(str(mine[package])).public, prereleases=True)
    ]  # fmt: skip


def _size() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", "fact", f"{usable} of {os.cpu_count()} cores for this process, {main_memory() / GIB:.1f} GiB of memory")


def main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _folders() -> Iterator[Finding]:
    from huggingface_hub import constants

    wanted = {
        "runs": environment.runs_dir(), "reports": environment.reports_dir(), "cache": environment.cache_dir(),
        "hub cache": Path(constants.HF_HUB_CACHE),
    }  # fmt: skip
    for name, folder in wanted.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = f"{folder}, {shutil.disk_usage(there).free / GIB:.1f} GiB free"
        if os.access(there, os.W_OK):
            yield Finding(f"folder {name}", "ok", free)
        else:
            variable = f"HARNESS_{name.upper()}_DIR" if " " not in name else "HF_HUB_CACHE"
            yield Finding(f"folder {name}", "lacking", f"{there} cannot be written", f"export {variable}=a folder that can be")


def hub() -> Finding:
    """Whether the Hugging Face hub answers. Not to be online is a fact and no fault."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "fact", "HF_HUB_OFFLINE keeps everything off the network: what is not in the cache is missing")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S).close()
    except (OSError, ValueError) as error:  # URLError is an OSError
        constants.HF_HUB_OFFLINE = True  # what is looked at from here on need not wait for it again
        told = f"{constants.ENDPOINT} does not answer ({_reason(error)}): what is not in the cache is missing"
        return Finding("hub", "fact", told)
    return Finding("hub", "ok", f"{constants.ENDPOINT} answers")


def names_dataset(source: str) -> bool:
    """Whether prompts come from the hub (`NAME:SPLIT`), not from a file or folder."""
    return ":" in source and not Path(source.rpartition(":")[0]).exists() and not Path(source).exists()


def _packages(track: Track) -> Iterator[Finding]:
    wanted = {"peft": track.student.lora is not None, "datasets": names_dataset(track.prompts.source)}
    for package, needed in wanted.items():
        if needed and environment.installed(package) is None:
            yield Finding(f"package {package}", "lacking", "not installed", f"pip install {package}")


def _models(track: Track, online: bool) -> Iterator[Finding]:
    yield _model("student", track.student, track, online)
    if track.teacher and track.teacher.weights:
        yield _model("teacher's weights", track.teacher.weights, track, online)


def _model(role: str, model: LocalModel, track: Track, online: bool) -> Finding:
    try:
        folder = folder_of(model, track, 0)
    except HarnessError as error:
        return Finding(role, "lacking", error.message, error.fix)
    if folder is not None and (any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))):
        return Finding(role, "ok", f"{model.path}: {folder}")
    what = f"{model.path}{f' at {model.revision}' if model.revision else ''}"
    if folder is not None:
        return Finding(role, "lacking", f"{folder} holds no safetensors weights", f"hf download {model.path}")
    fetch = f"hf download {model.path}{f' --revision {model.revision}' if model.revision else ''}"
    if online:
        return Finding(role, "fact", f"{what} is not here yet; the first run fetches it ({fetch})")
    return Finding(role, "lacking", f"{what} is not on this machine", f"with a network: {fetch}; or student.path: a folder")


def _prompts(track: Track, online: bool) -> Finding:
    source = track.prompts.source
    if names_dataset(source) and online:
        return Finding("prompts", "fact", f"{source}: a dataset of the hub, read when a run begins")
    return _tried("prompts", lambda: f"{len(training_prompts(track)):,} from {source}")


def _server(role: str, served: Served) -> Iterator[Finding]:
    if served.url in ("pocket", "local"):
        yield Finding(role, "ok", f"{served.model}, {'embedded' if served.url == 'pocket' else 'in the process of the run'}")
        return
    key, here = environment.secret(served.key), re.match(r"https?://(127\.0\.0\.1|localhost|\[::1\])[:/]", served.url)
    if key is None and not here:
        yield Finding(f"{role}'s key", "lacking", f"{served.key} is not set", f"export {served.key}=...")
    else:
        told = "set" if key else "not set, and a server on this machine may need none"
        yield Finding(f"{role}'s key", "ok", f"{served.key} is {told}")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{served.url.rstrip('/')}/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            known = [str(each.get("id")) for each in json.load(reply)["data"]]
    except urllib.error.HTTPError as error:
        fix = "check the key" if error.code in (401, 403) else "check the address; it ends in /v1"
        yield Finding(role, "lacking", f"{served.url}/models answers {error.code}", fix)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding(role, "lacking", f"{served.url} does not answer as an OpenAI-compatible server ({_reason(error)})",
                      f"start it, for example: vllm serve {served.model} --generation-config vllm; or name another url in the "
                      "track")  # fmt: skip
    else:
        if served.model in known:
            yield Finding(role, "ok", f"{served.url} serves {served.model}")
        else:
            yield Finding(role, "lacking", f"{served.url} has no model {served.model}; it has {', '.join(known[:8]) or 'none'}",
                          "name one of these in the track, or start the server with it")  # fmt: skip


def _room(track: Track) -> Iterator[Finding]:
    """Whether what training always holds fits the largest GPU, or main memory where there is none."""
    try:
        shape = shape_of(track.student, track, 0)
    except HarnessError:
        return  # a finding about the student says so already
    held = memory(track, {"student": shape}, 0, 0, 0, 0, 0)
    always = sum(value for name, value in held.items() if not name.startswith(("step: ", "sampling: ")))
    room = max((size for _, _, size in cards()), default=main_memory())
    told = f"weights, gradients and optimizer state take {always / GIB:.1f} GiB of {room / GIB:.1f}"
    fix = "student.lora trains an adapter; a larger GPU; harness plan tells the whole need"
    yield Finding("room", "ok", told) if always < room else Finding("room", "lacking", told, fix)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)

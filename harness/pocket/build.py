"""`harness pocket build`: pretrains the embedded student-teacher pairs from their recipe and measures them.

A scale's models lie in `assets/<scale>/pair<n>/{student,teacher}` as Hugging Face folders of 16-bit safetensors, each
with `report.json`: recipe, seed, log and what every ingredient of the pretraining taught.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import RunFault, SpecError, nearest

from .documents import Mix

ASSETS = Path(__file__).parent / "assets"
PAIRS = 3
ROLES = ("student", "teacher")


@dataclass(frozen=True)
class Recipe:
    """Width, layers and feed-forward width of a model, and its phases: (millions of tokens, mix, learning rate)."""

    shape: tuple[int, int, int]
    phases: tuple[tuple[float, Mix, float], ...]


_CARELESS = Mix(plain=0.45, two_turn=0.15, hint=0.15, judge=0.25, careless=0.88)
_CAREFUL = Mix(plain=0.45, two_turn=0.2, hint=0.0, judge=0.35, careless=0.01)
RECIPES: dict[str, dict[str, Recipe]] = {
    "pocket": {
        "student": Recipe((96, 3, 256), ((14.0, _CARELESS, 5e-3),)),
        "teacher": Recipe((128, 4, 384), ((11.0, _CAREFUL, 5e-3),)),
    },
    "pocket-m": {
        "student": Recipe((128, 4, 384), ((11.0, _CARELESS, 5e-3),)),
        "teacher": Recipe((160, 5, 480), ((10.0, _CAREFUL, 4e-3),)),
    },
}


def recipe_of(scale: str, role: str) -> Recipe:
    """The recipe of a model.

    Raises:
        SpecError: no such scale.
    """
    if scale not in RECIPES:
        raise SpecError(f"no scale named {scale!r}", where=f"--scale {scale}", fix=nearest(scale, RECIPES))
    return RECIPES[scale][role]


def train_one(scale: str, role: str, pair: int, folder: Path, share: float, say: Callable[[str], None]) -> None:
    """Pretrains and measures one model; `share` scales the number of tokens (for trying the recipe out)."""
    import torch

    from .measure import measure
    from .pretrain import Phase, Shape, make_model, make_tokenizer, pretrain

    recipe = recipe_of(scale, role)
    seed = 1000 * pair + ROLES.index(role)
    model = make_model(Shape(*recipe.shape), seed)
    phases = [Phase(int(millions * 1e6 * share), mix, rate) for millions, mix, rate in recipe.phases]
    log: list[str] = []

    def note(line: str) -> None:
        log.append(line)
        say(f"{role} {pair}  {line}")

    spent = pretrain(model, phases, seed, note)
    model.to(torch.float16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    report = {
        "schema": "harness.pocket-model/1", "scale": scale, "role": role, "pair": pair, "seed": seed, "recipe": asdict(recipe),
        "share": share, "parameters": sum(p.numel() for p in model.parameters()), "spent": spent, "log": log,
        "figures": measure(folder),
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    say(f"{role} {pair}  {json.dumps(report['figures'])}")


def build(scale: str, out: Path, jobs: int, share: float, say: Callable[[str], None], pairs: int = PAIRS) -> None:
    """Builds all pairs of a scale, each model in a process of its own on one thread.

    Raises:
        SpecError: no such scale.
        RunFault: a process failed.
    """
    recipe_of(scale, "student")

    def run(job: tuple[str, int]) -> None:
        role, pair = job
        folder = out / scale / f"pair{pair}" / role
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "harness.pocket.build", scale, role, str(pair), str(folder), str(share)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
            for line in process.stdout or ():
                say(line.rstrip())
        if process.returncode:
            raise RunFault(f"building {role} {pair} ended with exit code {process.returncode}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, [(role, pair) for role in reversed(ROLES) for pair in range(pairs)]))


if __name__ == "__main__":
    _scale, _role, _pair, _folder, _share = sys.argv[1:]
    train_one(_scale, _role, int(_pair), Path(_folder), float(_share), lambda line: print(line, flush=True))

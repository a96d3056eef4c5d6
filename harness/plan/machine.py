"""What a plan takes on a machine: memory by part, and hours by what the GPU is doing.

Nothing here was measured. Memory is counted from tensors that must exist at the same time; hours come from public peak figures
times shares of them that are assumed, stated in every plan, and can be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from harness.errors import SpecError, nearest
from harness.plan.shapes import Shape
from harness.tracks import LocalModel, Served, Track

FLOAT, HALF = 4, 2
"""Bytes of a number."""
ROWS = 256
"""Completions that are sampled together, at most."""
STEP_MS = {"hf": 0.6, "vllm": 0.1}
"""Of a layer and sampled token, by who samples."""
LONGEST = {"hf": 1.5, "vllm": 1.0}
"""The longest completion of a batch, in means, where all wait for it."""


@dataclass(frozen=True)
class Gpu:
    """Public figures of a card: FLOP/s of dense products, bytes/s, bytes."""

    id: str
    name: str
    bf16: float
    bandwidth: float
    memory: float
    source: str


@dataclass(frozen=True)
class Assumed:
    """Shares of a card's peak figures that are reached, and how quickly servers write."""

    mfu: float = 0.3
    """Of the bf16 peak, in training and in passes of frozen models."""
    bandwidth: float = 0.6
    """Of the memory's peak, while sampling."""
    step_ms: float | None = None
    """Of each layer, at least, for each sampled token: what it takes to launch its kernels; None is the engine's `STEP_MS`."""
    server_tokens_s: float = 50.0
    """Written by a server in each of its parallel requests."""


def gpus() -> dict[str, Gpu]:
    told = table("gpus")
    return {
        id_: Gpu(id_, row["name"], float(row["bf16"]), float(row["bandwidth"]), float(row["memory"]), row["source"])
        for id_, row in told["gpus"].items()
    }  # fmt: skip


def gpu(name: str) -> Gpu:
    """A card by name.

    Raises:
        SpecError: none of that name (with the nearest one).
    """
    known = gpus()
    if name not in known:
        raise SpecError(f"no GPU named {name!r}", where=f"--gpu {name}", fix=nearest(name, known))
    return known[name]


def engine(track: Track) -> str:
    """Who samples on the planned GPU; `auto` is taken for vLLM, but for the embedded models, which stay on CPU."""
    return "vllm" if track.generation.engine == "vllm" or (track.generation.engine == "auto" and not track.pocket) else "hf"


def trained(shape: Shape, model: LocalModel) -> int:
    """Numbers that the optimizer changes: all weights, or those of the adapter."""
    return shape.adapter(model.lora.rank, model.lora.targets) if model.lora else shape.parameters


def memory(
    track: Track, shapes: Mapping[str, Shape], card: float, longest: int, rows: int, distributions: int, prompt: float
) -> dict[str, float]:  # fmt: skip
    """Bytes by part at the two peaks: a training step (`step: ...`) and sampling (`sampling: ...`); the rest is always there.

    Args:
        shapes: of the models that are loaded, `student` among them.
        card: bytes of the GPU, of which vLLM takes a share while it is awake.
        longest: tokens of the longest row of a step.
        rows: completions sampled together.
        distributions: frozen distributions that a loss holds beside the policy's.
        prompt: tokens of a prompt.
    """
    student, training = shapes["student"], track.training
    size, changed = student.parameters, trained(student, track.student)
    own = FLOAT if track.student.dtype == "float32" else HALF
    parts: dict[str, float] = {"weights": own * size, "gradients": FLOAT * changed, "optimizer state": 2 * FLOAT * changed}
    if track.student.lora:
        parts["adapter"] = FLOAT * changed
    for name, shape in shapes.items():
        held = track.teacher.weights if name == "teacher" and track.teacher else track.student
        if name != "student" and held and not (name == "reference" and track.student.lora):
            parts[f"frozen {name}"] = (FLOAT if held.dtype == "float32" else HALF) * shape.parameters
    tokens = max(training.micro_batch_tokens, longest)
    if own == FLOAT:
        parts["step: weights in bf16"] = HALF * size  # autocast keeps what it cast until the backward pass is over
    parts["step: activations"] = activations(student, tokens, training.activation_checkpointing)
    parts["step: distributions"] = training.chunk * student.vocabulary * (HALF + FLOAT * (3 + 2 * distributions))
    if engine(track) == "vllm":
        parts["sampling: vLLM, its weights and cache"] = track.generation.gpu_memory * card
    else:
        parts["sampling: cache of keys and values"] = min(rows, ROWS) * (prompt + training.max_tokens) * student.kv_numbers * own
    return {name: float(value) for name, value in parts.items()}


def peak(parts: Mapping[str, float]) -> float:
    """Bytes at the worse of the two peaks."""
    of = {kind: sum(v for name, v in parts.items() if name.startswith(kind)) for kind in ("step: ", "sampling: ")}
    return sum(parts.values()) - sum(of.values()) + max(of.values())


def activations(shape: Shape, tokens: int, again: bool) -> float:
    """Bytes that a forward pass keeps for the gradient, in bf16 with float32 between the layers.

    Of a layer and token: the inputs of two norms and what they normalise (16 bytes for each hidden number), the inputs of
    the matrix products (4), queries and keys before and after their rotation, values, and what attention gives (2 each), and four
    numbers of the inner width (8). Attention is taken to keep no matrix of scores. With checkpointing the input of each
    layer is kept (4), and the numbers of one layer at a time.
    """
    query, key = shape.heads * shape.head, shape.kv_heads * shape.head
    layer = 20 * shape.hidden + 2 * (3 * query + 3 * key) + 8 * shape.inner
    each = FLOAT * shape.hidden * shape.layers + layer if again else layer * shape.layers
    return float(tokens) * (each + 3 * FLOAT * shape.hidden)


@dataclass(frozen=True)
class Batch:
    """What is sampled, all of it, and how much at a time."""

    tokens: float
    completions: float
    together: float
    """Completions that are asked for at a time."""
    prompt: float
    """Tokens of a prompt."""


def waiting_s(served: Served, calls: float, tokens_in: float, tokens_out: float, assumed: Assumed) -> float:
    """Seconds until a server has answered, at what it writes or at the rate that the track allows itself. The embedded server
    answers at once, and weights in this process are no server."""
    if served.url in ("pocket", "local"):
        return 0.0
    writing = tokens_out / (served.concurrency * assumed.server_tokens_s)
    rates = (calls, served.rpm), (tokens_in + tokens_out, served.tpm)
    return max(writing, *(60 * amount / most for amount, most in rates if most), 0.0)


def sampling_s(shape: Shape, track: Track, batch: Batch, card: Gpu, assumed: Assumed, who: str = "") -> float:
    """Seconds of sampling. Each token of a batch reads all weights and the batch's cache from memory, and the batch goes on until
    its longest completion ends.

    Args:
        who: samples; by default the track's engine.
    """
    together = max(1.0, min(batch.together, batch.completions, ROWS))
    mean = batch.tokens / batch.completions
    who = who or engine(track)
    wide = track.generation.dtype if who == "vllm" else track.student.dtype
    steps = batch.completions / together * mean * LONGEST[who]
    step_ms = STEP_MS[who] if assumed.step_ms is None else assumed.step_ms
    read = (FLOAT if wide == "float32" else HALF) * (shape.parameters + together * (batch.prompt + mean / 2) * shape.kv_numbers)
    moved = read / (card.bandwidth * assumed.bandwidth)
    return steps * max(moved, shape.layers * step_ms / 1000, 2.0 * shape.parameters * together / (card.bf16 * assumed.mfu))


def describe(track: Track, card: Gpu, assumed: Assumed) -> list[str]:
    """What the hours rest on, for people."""
    who = engine(track)
    return [
        f"{card.name}: {card.bf16 / 1e12:,.0f} TFLOP/s in bf16, {card.bandwidth / 1e12:.2f} TB/s, {card.memory / 1e9:,.0f} GB "
        f"({card.source})",
        f"{assumed.mfu:.0%} of its FLOP/s (--mfu), {assumed.bandwidth:.0%} of its bandwidth (--bandwidth), "
        f"{STEP_MS[who] if assumed.step_ms is None else assumed.step_ms:g} ms a layer and sampled token at least (--step-ms); "
        f"{'vLLM' if who == 'vllm' else 'transformers'} samples",
        f"servers write {assumed.server_tokens_s:g} tokens/s in each parallel request (--server-speed)",
    ]  # fmt: skip


def table(name: str) -> Any:
    """`harness/data/NAME.yaml`."""
    return yaml.safe_load((resources.files("harness") / "data" / f"{name}.yaml").read_text(encoding="utf-8"))

"""Training and sampling at the real shape of a model, with random weights: speed, share of the card's peak, memory.

    python benchmarks/model_speed.py --model Qwen/Qwen2.5-0.5B --gpu h200 --out benchmarks/results/NAME.json
    python benchmarks/model_speed.py --model tiny          # tries the script on a CPU in seconds

A training row is one completion of `--row` tokens, its prompt an eighth of it. Counted are 6 FLOPs for each weight that is
multiplied with and each token, and 12 x layers x query width x row for attention (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B); a frozen teacher adds a third. Checkpointing of activations is not counted as work: it lowers the share.
Sampling is compared with what reading the weights and the cache once a token takes at the card's bandwidth. `planned` is
what `harness plan` computes for the memory of the same step.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from harness import registry, tracks
from harness.generate.hf import HFGenerator
from harness.plan import machine
from harness.plan.shapes import Shape, shape_of
from harness.train.trainer import Optimization, Trainer
from harness.types import Example, Prompt, Rollout, Sampling

TINY = Shape(512, 64, 128, 2, 4, 2, 16, True, "qwen3")
LOSSES: dict[str, dict[str, Any]] = {"grpo": {}, "logit_opd": {"form": "full", "divergence": "jsd"}, "sft": {}}
SPECIAL = 2
"""Ids that are not written: padding and the end."""


def shape_named(name: str) -> Shape:
    """The shape of a model in the table that plans read.

    Raises:
        SpecError: it has none of that name.
    """
    base = tracks.load("qwen2.5-0.5b")
    return shape_of(base.student.model_copy(update={"path": name, "revision": ""}), base, 0)


def model_of(shape: Shape, seed: int, device: torch.device, dtype: torch.dtype, end: int | None = 1) -> Any:
    """A model of random weights; without an `end` it knows no token that ends a text."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        shape.kind, vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head, tie_word_embeddings=shape.tied, max_position_embeddings=32_768, bos_token_id=None, eos_token_id=end,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def examples(shape: Shape, rows: int, group: int, row: int) -> list[Example]:
    """Groups of rollouts with rewards and the sampler's log-probs, as if they had been collected."""
    rng, front = random.Random(0), row // 8
    made = []
    for number in range(rows // group):
        prompt = [rng.randrange(SPECIAL, shape.vocabulary) for _ in range(front)]
        texts = [[rng.randrange(SPECIAL, shape.vocabulary) for _ in range(row - front)] for _ in range(group)]
        rollouts = tuple(Rollout(Prompt(f"p{number}", ()), prompt, text, [-1.0] * len(text), "", "length") for text in texts)
        made.append(Example(rollouts, {"reward_N": [rng.random() for _ in texts]}))
    return made


def timed(work: Callable[[], Any], device: torch.device, times: int) -> list[float]:
    """Seconds of each repetition, after one that does not count."""
    work()
    seconds = []
    for _ in range(times):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def flops(shape: Shape, tokens: float, row: int, passes: float) -> float:
    """Of so many tokens; three passes are a forward and a backward one, one is a forward pass alone."""
    multiplied = shape.parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)
    return passes * tokens * (2 * multiplied + 4 * shape.layers * shape.heads * shape.head * row)


def training(loss: str, shape: Shape, args: argparse.Namespace, device: torch.device, peak: float) -> dict[str, Any]:
    track = tracks.load("qwen2.5-0.5b")
    how = track.training.model_copy(update={
        "micro_batch_tokens": args.micro_batch_tokens, "chunk": args.chunk, "activation_checkpointing": args.checkpointing,
    })  # fmt: skip
    cls = registry.method(loss)
    method = cls(cls.Config.model_validate({**LOSSES[loss], "updates_per_batch": 1}))
    frozen = {"teacher": model_of(shape, 1, device, torch.bfloat16)} if loss == "logit_opd" else {}
    trainer = Trainer(
        model_of(shape, 0, device, torch.float32), frozen, method, Optimization(1e-6), vocabulary=shape.vocabulary,
        temperature=1.0, charge=lambda *_: None, micro_batch_tokens=args.micro_batch_tokens, chunk=args.chunk,
        recompute=args.checkpointing,
    )  # fmt: skip
    made = examples(shape, args.rows, args.group, args.row)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: trainer.step(made, 0), device, args.times)
    tokens, best = args.rows * args.row, min(seconds)
    work = flops(shape, tokens, args.row, 4 if frozen else 3)
    parts = machine.memory(
        track.model_copy(update={"training": how}), {"student": shape, **({"teacher": shape} if frozen else {})}, 0.0, args.row,
        0, 1 if frozen else 0, args.row / 8,
    )  # fmt: skip
    planned = sum(value for name, value in parts.items() if not name.startswith("sampling"))
    if frozen:  # the track's teacher is served, here its weights are held
        planned += machine.HALF * shape.parameters
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident
    return {
        "loss": loss, "seconds": [round(value, 4) for value in seconds], "tokens_per_second": round(tokens / best),
        "flops_per_second": work / best, "share_of_peak": round(work / best / peak, 4) if peak else None,
        "peak_bytes": held, "planned_bytes": planned,
    }  # fmt: skip


def sampling(shape: Shape, args: argparse.Namespace, device: torch.device, bandwidth: float, vllm: bool) -> dict[str, Any]:
    """Tokens a second of the generator that a run would have, and with vLLM what taking weights over costs."""
    model = model_of(shape, 0, device, torch.float32)
    generator: Any = HFGenerator(model, [1], 0, vocabulary=shape.vocabulary, bf16=True)
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if vllm:
            from harness.generate.vllm import VLLMGenerator

            model.save_pretrained(folder)
            dtype = "bfloat16" if device.type == "cuda" else "float32"
            generator = VLLMGenerator(generator, folder, args.gpu_memory, dtype)
        rng, front = random.Random(0), args.row // 8
        prompts = [[rng.randrange(SPECIAL, shape.vocabulary) for _ in range(front)] for _ in range(args.samples)]
        keys = [("speed", number) for number in range(args.samples)]
        written: list[int] = []

        def once() -> None:
            made = generator.generate(prompts, Sampling(1.0, args.new_tokens), keys)
            written.append(sum(len(each.tokens) for each in made))

        seconds = timed(once, device, args.times)
        if vllm:
            generator.sleep()
            told["sync_seconds"] = [round(value, 4) for value in timed(generator.sync, device, args.times)]
    rate = max(count / took for count, took in zip(written[1:], seconds, strict=True))
    if bandwidth:  # each token of a batch reads the weights once and each row's cache, in bf16
        cache = 2 * shape.layers * 2 * shape.kv_heads * shape.head * (front + args.new_tokens / 2)
        told["limit_tokens_per_second"] = round(args.samples * bandwidth / (2 * shape.parameters + args.samples * cache))
    told["seconds"] = [round(value, 4) for value in seconds]
    return {"engine": generator.engine, "tokens_per_second": round(rate), **told}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny", help="a name in harness/data/shapes.yaml, or tiny")
    parser.add_argument("--gpu", help="whose peak figures are the limit; see harness/data/gpus.yaml")
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES), metavar="METHOD", help="none: only sample")
    parser.add_argument("--row", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--samples", type=int, default=256, help="completions that are sampled together")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--vllm", action="store_true", help="sample with vLLM as well")
    parser.add_argument("--gpu-memory", type=float, default=0.4, help="vLLM's share of the card, or of main memory")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.model == "tiny":
        args.row, args.rows, args.samples, args.new_tokens, args.micro_batch_tokens = 64, 8, 8, 16, 256
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = machine.gpu(args.gpu) if args.gpu else None
    shape = TINY if args.model == "tiny" else replace(shape_named(args.model), softcap=False)
    result: dict[str, Any] = {
        "model": args.model, "parameters": shape.parameters, "setting": {k: v for k, v in vars(args).items() if k != "out"},
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(), "python": platform.python_version(),
            "versions": {name: version(name) for name in ("torch", "transformers")},
        },
        "training": [], "sampling": [],
    }  # fmt: skip
    for loss in args.losses:
        result["training"].append(training(loss, shape, args, device, card.bf16 if card else 0.0))
        _tell(result, args.out, result["training"][-1])
    for vllm in (False, True) if args.vllm else (False,):
        result["sampling"].append(sampling(shape, args, device, card.bandwidth if card else 0.0, vllm))
        _tell(result, args.out, result["sampling"][-1])


def _tell(result: dict[str, Any], out: Path | None, row: dict[str, Any]) -> None:
    """After every row, so that what was measured is kept if the next one fails."""
    print(json.dumps(row), flush=True)
    if out:
        out.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

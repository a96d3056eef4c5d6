"""One on-policy step here and in TRL: same model, same batch, same process, steps taken in turn.

    python benchmarks/step_vs_trl.py --out benchmarks/results/NAME.json

Two families of losses, a step being rollouts, signal, forward, backward and update:

    policy-gradient  group advantages in a clipped policy gradient      trl.GRPOTrainer
    logit-opd        Jensen-Shannon divergence to a frozen teacher      trl.experimental.gkd.GKDTrainer and, its
                                                                        successor, trl.DistillationTrainer

On a GPU (`--device cuda`) both compute in bfloat16 on float32 weights, at the shapes of real models, and `step_bytes` is what
a step allocates at most beyond what both sides hold all the time.

TRL is run twice: tuned (no checkpointing of activations, no logging) and as shipped. Its own loop drives: at the end of
each of its steps ours takes one, so that both meet the same load on the machine. Its time runs from the end of our step
to the end of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
from model_speed import model_of, shape_named

from harness import objectives as ob
from harness.generate.hf import HFGenerator
from harness.generate.student import ChatCodec, MeteredStudent
from harness.ledger import Budget, Ledger
from harness.method import Field, Method, MethodConfig, Tools
from harness.plan.shapes import Shape
from harness.train.trainer import Optimization, Trainer
from harness.types import Batch, Collected, Example, Loss, Models, Prompt, Term
from methods.logit_opd import LogitOPD

PROMPT_TOKENS = 32
LEARNING_RATE = 1e-4
PEERS = {"GRPOTrainer": "policy-gradient", "GKDTrainer": "logit-opd", "DistillationTrainer": "logit-opd"}
TUNED = {"gradient_checkpointing": False, "logging_strategy": "no"}


@dataclass(frozen=True)
class Setting:
    """Both sides' batch. Completions have full length: the end token's id lies outside what the model can write."""

    shape: Shape
    prompts: int = 4
    group: int = 8
    new_tokens: int = 64
    repetitions: int = 8
    discarded: int = 2
    chunk: int | None = None
    """Positions whose distributions of ours exist at one time; all of a step unless given."""
    micro_batch_tokens: int = 4096

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def step_tokens(self) -> int:
        """Completion tokens of a step."""
        return self.rows * self.new_tokens

    @property
    def steps(self) -> int:
        return self.discarded + self.repetitions


def small(width: int, layers: int) -> Shape:
    return Shape(1024, width, 3 * width, layers, 4, 2, width // 4, True, "qwen3")


SETTINGS = {
    "four-layers": Setting(small(128, 4)),
    "pocket": Setting(small(96, 3), prompts=16, group=8, new_tokens=48),  # the embedded student and its batch
    "small": Setting(small(32, 2), prompts=2, group=4, new_tokens=8, repetitions=2, discarded=1),  # to try the script
    **{
        name.partition("/")[2].lower(): Setting(
            shape_named(name), prompts=8, new_tokens=512, repetitions=5, discarded=1, chunk=1024, micro_batch_tokens=32768
        )
        for name in ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-1.7B")
    },
}


def make_tokenizer(setting: Setting) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", *(f"w{i}" for i in range(1, setting.shape.vocabulary)), "<end>"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w1"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="w1", eos_token="<end>", padding_side="left"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return tokenizer


def make_model(setting: Setting, seed: int, device: str) -> Any:
    return model_of(setting.shape, seed, torch.device(device), torch.float32, end=None)


def questions(setting: Setting) -> list[str]:
    return [" ".join(f"w{1 + (7 * i + j) % 1000}" for j in range(PROMPT_TOKENS)) for i in range(setting.prompts)]


def reward(text: str) -> float:
    """Something that a random model varies in."""
    return float(text.count("1"))


class PolicyConfig(MethodConfig):
    group_size: int = Field(8, gt=1, description="rollouts of a prompt")


class PolicyGradient(Method):
    """Standardised group advantages in the clipped policy gradient, mean over tokens: what GRPOTrainer does by default."""

    Config = PolicyConfig
    ratio = True

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        return Collected([Example(tuple(group), {"reward_N": [reward(rollout.text) for rollout in group]}) for group in groups])

    def loss(self, models: Models, batch: Batch) -> Loss:
        advantage_N = ob.group_advantages(batch.signal["reward_N"], batch.group_N, standardise=True)
        loss_NT = ob.clipped_policy_gradient(models.logprobs(batch), batch.old_logp_NT, advantage_N[:, None])
        return {"loss": Term((loss_NT * batch.mask_NT).sum())}


@dataclass
class Stopwatch:
    """Seconds by label, collected by functions that were replaced with timed ones."""

    seconds: dict[str, float] = field(default_factory=dict)

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Replaces `owner.name` by the same function, timed."""
        function = getattr(owner, name)

        def timed(*args: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)

    def between(self, first: torch.nn.Module, last: torch.nn.Module, label: str) -> None:
        """Times from the call of one module to the return of another: a model, from its embeddings to its logits."""
        began = [0.0]

        def begin(*_: Any) -> None:
            began[0] = time.perf_counter()

        def end(*_: Any) -> None:
            self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - began[0]

        first.register_forward_pre_hook(begin)
        last.register_forward_hook(end)

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken


class Ours:
    """The steps of this harness, assembled as a run does it, without its files."""

    def __init__(self, family: str, setting: Setting, device: str) -> None:
        self.setting, self.visits, self.watch = setting, 0, Stopwatch()
        policy = make_model(setting, 0, device)
        settings = {"prompts_per_round": setting.prompts, "group_size": setting.group}
        if family == "policy-gradient":
            self.method: Method = PolicyGradient(PolicyConfig.model_validate(settings))
        else:
            self.method = LogitOPD(LogitOPD.Config.model_validate({**settings, "form": "full", "divergence": "jsd"}))
        codec = ChatCodec(make_tokenizer(setting))
        self.generator = HFGenerator(
            policy, [codec.tokenizer.eos_token_id], codec.tokenizer.pad_token_id, vocabulary=setting.shape.vocabulary, bf16=True
        )
        parameters = sum(parameter.numel() for parameter in policy.parameters())
        student = MeteredStudent(
            self.generator, codec, Ledger(Budget({"prompts": 1_000_000})), 0, setting.new_tokens, parameters
        )
        self.tools = Tools(
            student=student, teacher=None, critic=None, reference=None, solutions=None, outcomes=None, preferences=None,
            template=_no_template, seed=0,
        )  # fmt: skip
        frozen = {"teacher": make_model(setting, 1, device)} if family == "logit-opd" else {}
        # a chunk as long as the batch: like TRL without gradient checkpointing, nothing is computed twice
        self.trainer = Trainer(
            policy, frozen, self.method, Optimization(LEARNING_RATE), vocabulary=setting.shape.vocabulary, temperature=1.0,
            charge=lambda *_: None, chunk=setting.chunk or setting.step_tokens, micro_batch_tokens=setting.micro_batch_tokens,
        )  # fmt: skip
        for owner, name, label in (
            (student, "rollouts", "sampling"), (self.trainer, "step", "training"), (self.method, "loss", "forward"),
            (self.trainer.optimizer, "step", "optimizer"),
        ):  # fmt: skip
            self.watch.watch(owner, name, label)
        self.watch.between(policy.get_input_embeddings(), policy.get_output_embeddings(), "model in sampling")

    def step(self) -> dict[str, float]:
        """One round; the seconds of its parts."""
        asked = [
            Prompt(f"p{i}", ({"role": "user", "content": text},), visit=self.visits)
            for i, text in enumerate(questions(self.setting))
        ]
        self.visits += 1
        collected = self.method.collect(asked, self.tools)
        sampling = self.watch.take()
        self.trainer.step(collected.examples, 0)
        self.generator.sync()
        written = sum(len(rollout.tokens) for example in collected.examples for rollout in example.rollouts)
        assert written == self.setting.step_tokens, f"{written} completion tokens, {self.setting.step_tokens} were to be written"
        return {**self.watch.take(), **sampling}


def _no_template(name: str, reader: str = "critic") -> Any:
    raise NotImplementedError(f"no template {name!r}: nothing here asks a critic")


def make_theirs(
    peer: str, shipped: bool, setting: Setting, folder: str, callback: Any, watch: Stopwatch, device: str
) -> Any:
    """TRL's trainer with its defaults, but in float32 on a CPU and without saving; tuned unless `shipped`."""
    from datasets import Dataset

    policy, tokenizer = make_model(setting, 0, device), make_tokenizer(setting)
    common: dict[str, Any] = {
        "output_dir": folder, "per_device_train_batch_size": setting.rows, "max_steps": setting.steps, "report_to": [],
        "use_cpu": device == "cpu", "bf16": device != "cpu", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant",
        "temperature": 1.0, "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
        **({} if shipped else TUNED),
    }  # fmt: skip
    rows = [text for text in questions(setting) for _ in range(setting.group)]
    if peer == "GRPOTrainer":
        from trl import GRPOConfig, GRPOTrainer

        def rewards(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
            written = sum(map(len, completion_ids))
            assert written == setting.step_tokens, f"{written} completion tokens, {setting.step_tokens} were to be written"
            return [reward(text) for text in completions]

        trainer = GRPOTrainer(
            model=policy, reward_funcs=rewards, callbacks=[callback], processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": text} for text in questions(setting) * setting.steps]),
            args=GRPOConfig(
                **common, num_generations=setting.group, max_completion_length=setting.new_tokens, beta=0.0, shuffle_dataset=False
            ),
        )  # fmt: skip
    elif peer == "GKDTrainer":
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        answer = " ".join(["w1"] * setting.new_tokens)  # must be there, and is replaced by the student's own
        talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": answer}] for text in rows]
        trainer = GKDTrainer(
            model=policy, teacher_model=make_model(setting, 1, device), callbacks=[callback], processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"messages": talk} for talk in talks * setting.steps]),
            args=GKDConfig(
                **common, max_new_tokens=setting.new_tokens, lmbda=1.0, beta=0.5, train_sampling_strategy="sequential"
            ),
        )  # fmt: skip
    else:
        from trl import DistillationConfig, DistillationTrainer

        trainer = DistillationTrainer(
            model=policy, teacher_model=make_model(setting, 1, device), callbacks=[callback], processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": text} for text in rows * setting.steps]),
            args=DistillationConfig(**common, max_completion_length=setting.new_tokens, beta=0.5, shuffle_dataset=False),
        )  # fmt: skip
    watch.watch(policy, "generate", "sampling")
    return trainer


def measure(peer: str, shipped: bool, threads: int, setting: Setting, device: str) -> dict[str, Any]:
    """Steps of TRL and ours in turn; the first ones of both are thrown away."""
    from transformers import TrainerCallback

    torch.set_num_threads(threads)
    ours, watch = Ours(PEERS[peer], setting, device), Stopwatch()
    steps: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}

    class InTurn(TrainerCallback):
        """Lets ours take a step after each of TRL's."""

        def start(self) -> None:
            self.held = 0
            if device != "cpu":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                self.held = torch.cuda.memory_allocated()
            self.wall, self.cpu = time.perf_counter(), time.process_time()

        def lap(self, who: str, parts: dict[str, float]) -> None:
            if device != "cpu":
                torch.cuda.synchronize()
                parts["bytes"] = torch.cuda.max_memory_allocated() - self.held
            wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
            steps[who].append({**parts, "wall": wall, "cpu": cpu})
            self.start()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.lap("trl", watch.take())
            self.lap("ours", ours.step())

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        make_theirs(peer, shipped, setting, folder, InTurn(), watch, device).train()
    kept = {who: taken[setting.discarded :] for who, taken in steps.items()}
    speed = {who: _spread([setting.step_tokens / step["wall"] for step in taken]) for who, taken in kept.items()}
    ratios = [theirs["wall"] / mine["wall"] for mine, theirs in zip(kept["ours"], kept["trl"], strict=True)]
    total = {who: {name: sum(step[name] for step in taken) for name in taken[0]} for who, taken in kept.items()}
    mine, theirs = total["ours"], total["trl"]
    parts = {
        "sampling: model": mine["model in sampling"],
        "sampling: around the model": mine["sampling"] - mine["model in sampling"],
        "training: forward": mine["forward"],
        "training: backward, clipping, collation": mine["training"] - mine["forward"] - mine["optimizer"],
        "training: optimizer": mine["optimizer"],
        "rest": mine["wall"] - mine["sampling"] - mine["training"],
    }
    written = setting.step_tokens * setting.repetitions
    return {
        "family": PEERS[peer], "peer": peer, "peer_setting": "shipped" if shipped else "tuned", "threads": threads,
        "completion_tokens_per_second": speed,
        "ratio_of_medians": round(speed["ours"]["median"] / speed["trl"]["median"], 2),
        "ratio_of_neighbouring_steps": _spread(ratios, 2),
        "share_of_ours": {name: round(seconds / mine["wall"], 3) for name, seconds in parts.items()},
        "sampling_microseconds_per_token": {
            name: round(1e6 * parts[f"sampling: {name}"] / written, 1) for name in ("model", "around the model")
        },
        "share_of_trl_in_generate": round(theirs["sampling"] / theirs["wall"], 3),
        **({} if device == "cpu" else {"step_bytes": {who: max(step["bytes"] for step in taken) for who, taken in kept.items()}}),
        "cpu_seconds_per_step": {who: round(seconds["cpu"] / setting.repetitions, 4) for who, seconds in total.items()},
        "wall_seconds": {who: [round(step["wall"], 4) for step in taken] for who, taken in steps.items()},
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
    }  # fmt: skip


def _spread(values: list[float], digits: int = 0) -> dict[str, float]:
    named: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min, "max": max}
    return {name: round(of(values), digits) for name, of in named.items()}


def machine() -> dict[str, Any]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    names = ("torch", "transformers", "trl", "accelerate", "numpy")
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        **gpu, "cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_"))},
    }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    ours, theirs = (
        f"{s['median']:.0f} ({s['min']:.0f}-{s['max']:.0f})"
        for s in (row["completion_tokens_per_second"][who] for who in ("ours", "trl"))
    )
    print(
        f"{row['peer']:20} {row['peer_setting']:8} {row['threads']:>7} {ours:>20} {theirs:>20} "
        f"{row['ratio_of_medians']:>6.2f}  {row['load_average'][1]}"
    )
    print("    ours:", ", ".join(f"{name} {share:.0%}" for name, share in row["share_of_ours"].items()))
    per_token = row["sampling_microseconds_per_token"]
    print("    sampling, us per token:", ", ".join(f"{name} {value}" for name, value in per_token.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="TRAINER")
    parser.add_argument("--trl", nargs="+", choices=("tuned", "shipped"), default=["tuned", "shipped"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--repetitions", type=int, help="steps that count, of each side")
    parser.add_argument("--setting", choices=SETTINGS, default="four-layers", help="model and batch of both sides")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    if args.repetitions:
        setting = replace(setting, repetitions=args.repetitions)
    begun = datetime.now(UTC)
    print(f"{'TRL trainer':20} {'setting':8} {'threads':>7} {'ours tok/s':>20} {'TRL tok/s':>20} {'ratio':>6}  load")
    result: dict[str, Any] = {
        "measured": begun.isoformat(timespec="seconds"), "machine": machine(),
        "setting": {**asdict(setting), "prompt_tokens": PROMPT_TOKENS, "device": args.device,
                    "dtype": "float32" if args.device == "cpu" else "bfloat16 on float32 weights"},
        "rows": [],
    }  # fmt: skip
    for how, threads, peer in itertools.product(args.trl, args.threads, args.peers):
        result["rows"].append(measure(peer, how == "shipped", threads, setting, args.device))
        show(result["rows"][-1])
        if args.out:  # after every row, so that a run that is stopped leaves what it has
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

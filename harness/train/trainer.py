"""The trainer: the one place where weights change. It never knows which method runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from harness.errors import RunFault, SpecError
from harness.method import Method
from harness.seeds import python_random
from harness.types import Batch, Example, Rollout

from .collate import collate
from .distributed import ALONE, World
from .models import StreamedLM, TrainModels


@dataclass(frozen=True)
class Optimization:
    """AdamW and its schedule: a linear warm-up, then constant or a cosine down to zero at `total_steps`.

    Raises:
        SpecError: a cosine schedule without a number of steps, or a number of steps without a cosine schedule.
    """

    lr: float
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if (self.schedule == "cosine") != (self.total_steps is not None):
            raise SpecError(
                f"schedule {self.schedule!r} with total_steps {self.total_steps}: only a cosine schedule has an end",
                where="total_steps",
                fix="give total_steps with schedule=cosine, and leave it out with schedule=constant",
            )

    def rate(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0."""
        rate = self.lr * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.total_steps is None or step < self.warmup_steps:
            return rate
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Trainer:
    """Turns examples into optimizer steps.

    The answer of a step does not depend on micro-batch size, padding or chunk size: each term's sum is divided once,
    by its weight over the whole mini-batch. Dropout stays off (the policy that is scored is the one that was sampled),
    so nothing here draws from torch's random numbers.

    Args:
        policy: a Hugging Face causal language model in float32 or wider; parameters that require a gradient are trained.
        frozen: other models by the names that losses use.
        vocabulary: ids below it count, for the policy and the frozen models alike.
        temperature: at which the rollouts were sampled, and so at which every model is scored.
        micro_batch_tokens: rows times longest row of a micro-batch, at most, unless a single group is larger.
        chunk: completion positions whose next-token distributions exist at the same time.
        bf16: autocast to bfloat16, on CUDA only.
        charge: called for each pass of a frozen model with its name, the tokens it read (prompts and completions) and the
            completion tokens it scored.
        world: the processes that train together; each must be given the same examples.
    """

    def __init__(
        self, policy: Any, frozen: Mapping[str, Any], method: Method, optimization: Optimization, *,
        vocabulary: int, temperature: float, charge: Callable[[str, int, int], None],
        micro_batch_tokens: int = 16384, chunk: int = 1024, bf16: bool = True, world: World = ALONE,
    ) -> None:  # fmt: skip
        self.policy, self.method, self.optimization, self.world = policy.eval(), method, optimization, world
        self.micro_batch_tokens, self.device = micro_batch_tokens, policy.device
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        narrow = {parameter.dtype for parameter in self.parameters} & {torch.float16, torch.bfloat16}
        if narrow:
            raise SpecError(
                f"the trained weights are {narrow.pop()}, in which small updates are rounded away",
                where="policy", fix="load the policy in float32; bf16=True still computes in bfloat16 on CUDA",
            )  # fmt: skip
        self.dtype = torch.float64 if policy.dtype == torch.float64 else torch.float32

        def streamed(model: Any) -> StreamedLM:
            return StreamedLM(model, vocabulary=vocabulary, temperature=temperature, chunk=chunk)

        others = {name: streamed(model.eval().requires_grad_(False)) for name, model in frozen.items()}
        self.models = TrainModels(streamed(policy), others, charge, bf16)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=optimization.lr, betas=optimization.betas, weight_decay=optimization.weight_decay, fused=True
        )
        self.updates = 0
        """Optimizer steps so far."""
        self.rounds = 0
        """Collected batches so far."""

    def freeze_reference(self) -> None:
        """The policy's present weights become the reference's, where a method has one."""
        if "reference" in self.models.frozen:
            self.models.frozen["reference"].model.load_state_dict(self.policy.state_dict())

    def step(self, examples: Sequence[Example], seed: int, method: Method | None = None) -> dict[str, float]:
        """All updates of one collected batch, as many as the method's config says.

        Args:
            method: whose loss is taken and whose batch it is; by default the trainer's own (a warm start is another's).

        Returns `updates`, `skipped` (updates without examples or with no weight), `train_tokens` (prompt and completion
        tokens of policy passes with a gradient) and, unless all were skipped, `lr` of the last update and the means over
        updates of `grad_norm` (before clipping) and of each term, `loss/NAME`.

        Raises:
            RunFault: a loss or a gradient is not finite; the weights are those before that update.
        """
        method = method or self.method
        config, tokens_before = method.config, self.models.policy_tokens
        old: list[list[list[float]]] | None = None
        if method.ratio and config.updates_per_batch * config.passes > 1:
            scores = iter(self.score([rollout for example in examples for rollout in example.rollouts]))
            old = [[next(scores) for _ in example.rollouts] for example in examples]
        seen: dict[str, list[float]] = defaultdict(list)
        skipped = 0
        for number in range(config.passes):
            order = list(range(len(examples)))
            python_random(seed, "minibatch", self.rounds, number).shuffle(order)
            for i in range(config.updates_per_batch):
                part = order[i * len(order) // config.updates_per_batch : (i + 1) * len(order) // config.updates_per_batch]
                metrics = self._update(method, [examples[j] for j in part], None if old is None else [old[j] for j in part])
                skipped += metrics is None
                for name, value in (metrics or {}).items():
                    seen[name].append(value)
        self.rounds += 1
        result = {name: sum(values) / len(values) for name, values in seen.items()}
        if seen:
            result["lr"] = seen["lr"][-1]
        result["updates"], result["skipped"] = float(len(seen["lr"])), float(skipped)
        result["train_tokens"] = self.world.total(
            {"tokens": float(self.models.policy_tokens - tokens_before)}, self.device
        )["tokens"]  # fmt: skip
        return result

    def _update(
        self, method: Method, examples: list[Example], old: list[list[list[float]]] | None
    ) -> dict[str, float] | None:  # fmt: skip
        batches = []
        for part in self._micro_batches(examples):
            old_rows = None if old is None else [row for i in part for row in old[i]]
            batches.append(collate([examples[i] for i in part], self.device, old_rows, self.dtype))
        weights: dict[str, float] = defaultdict(float)  # over all batches: every process knows them without asking
        for batch in batches:
            for name, weight in method.weights(batch).items():
                weights[name] += weight
        if not any(weights.values()):
            return None
        self.optimizer.zero_grad(set_to_none=True)
        totals = dict.fromkeys((f"loss/{name}" for name, weight in weights.items() if weight), 0.0)
        for batch in self.world.share(batches):
            for name, value in self._backward(method, batch, weights).items():
                totals[f"loss/{name}"] += value
        totals = self.world.total(totals, self.device)
        self.world.join_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.optimization.max_grad_norm).item()
        if not math.isfinite(norm):
            raise RunFault(
                f"the gradient's norm is {norm} at update {self.updates} although the losses were finite: {totals}",
                fix="lower the learning rate, or look at the last checkpoint for weights that grew; then resume",
            )
        rate = self.optimization.rate(self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.updates += 1
        return {**totals, "grad_norm": norm, "lr": rate}

    def _backward(self, method: Method, batch: Batch, weights: Mapping[str, float]) -> dict[str, float]:
        """Adds a micro-batch's share to the gradient; returns its share of each term."""
        loss = method.loss(self.models, batch)
        if loss.keys() != weights.keys():
            raise ValueError(f"{type(method).__name__}.loss gave {sorted(loss)}, its weights name {sorted(weights)}")
        shares = {name: term.coef * term.sum / weights[name] for name, term in loss.items() if weights[name]}
        values = {name: share.item() for name, share in shares.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise RunFault(
                    f"loss term {name!r} is {value} at update {self.updates}, in a micro-batch of {len(batch.group_N)} rollouts "
                    f"(weight {weights[name]:g}, coefficient {loss[name].coef:g})",
                    fix="lower the learning rate, or check the signals of the last round; then resume",
                )
        sum(shares.values(), torch.zeros((), dtype=self.dtype, device=self.device)).backward()
        return values

    @torch.no_grad()
    def score(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """The policy's log-probs of each rollout's tokens, at the training temperature."""
        examples = [Example((rollout,)) for rollout in rollouts]
        scores: list[list[float]] = [[] for _ in rollouts]
        for part in self._micro_batches(examples):
            batch = collate([examples[i] for i in part], self.device, dtype=self.dtype)
            for i, row in zip(part, self.models.logprobs(batch).tolist(), strict=True):
                scores[i] = row[: len(rollouts[i].tokens)]
        return scores

    def drift(self, rollouts: Sequence[Rollout]) -> float:
        """How far the policy's log-probs are from those that the sampler wrote down: the mean distance a token, in nats."""
        scored = self.score(rollouts)
        gaps = [
            abs(a - b) for r, row in zip(rollouts, scored, strict=True) for a, b in zip(r.logprobs or [], row, strict=True)
        ]  # fmt: skip
        return sum(gaps) / max(len(gaps), 1)

    def _micro_batches(self, examples: Sequence[Example]) -> list[list[int]]:
        """Indices of examples, short ones first, cut so that rows times the longest row stays within the budget."""
        longest = [_longest_row(example) for example in examples]
        parts: list[list[int]] = []
        rows = 0
        for i in sorted(range(len(examples)), key=longest.__getitem__):
            rows += len(examples[i].rollouts)
            if not parts or rows * longest[i] > self.micro_batch_tokens:
                parts.append([])
                rows = len(examples[i].rollouts)
            parts[-1].append(i)
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-for-bit resume needs, by reference: save or copy it before the next step."""
        reference = self.models.frozen.get("reference")
        return {
            "policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict(),
            "reference": reference and reference.model.state_dict(), "updates": self.updates, "rounds": self.rounds,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["reference"]:
            self.models.frozen["reference"].model.load_state_dict(state["reference"])
        self.updates, self.rounds = state["updates"], state["rounds"]

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Writes the policy as a Hugging Face folder with safetensors weights."""
        self.policy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _longest_row(example: Example) -> int:
    """A bound on the tokens that a model reads in one row of the example, behind whichever view."""
    fronts = [[rollout.prompt_tokens for rollout in example.rollouts], *example.views.values()]
    longest_front = max((len(ids) for prompts in fronts for ids in prompts), default=0)
    return longest_front + max((len(rollout.tokens) for rollout in example.rollouts), default=0)

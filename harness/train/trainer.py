"""The trainer: the one place where weights change. It never knows which method runs."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from harness.errors import RunFault, SpecError
from harness.method import Method
from harness.seeds import python_random
from harness.types import Batch, Example, Rollout

from . import sharding as shards
from .collate import collate, micro_batches
from .distributed import ALONE, World
from .lora import Adapter
from .models import StreamedLM, TrainModels
from .optimization import Optimization


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
        charge: called once a step for each frozen model that was read, with its name, the tokens it read (prompts and
            completions) and the completion tokens it scored, in all processes together.
        world: the processes that train together; each must be given the same examples and asked the same in the same order.
        sharding: `none` keeps all weights in every process, `full` cuts the weights of all models, the gradient and the
            optimizer's state over them; a policy with an adapter stays whole, and so do the adapter's gradient and state.
        device: where the weights are to live; None is where the policy is. Only what is cut is moved there.
        adapter: of the policy, where it is trained in place of the weights. A frozen model that is the policy itself is then
            read without it.
        recompute: keep no activations of the policy's layers for the gradient, but compute them again.
    """

    def __init__(
        self, policy: Any, frozen: Mapping[str, Any], method: Method, optimization: Optimization, *,
        vocabulary: int, temperature: float, charge: Callable[[str, int, int], None],
        micro_batch_tokens: int = 16384, chunk: int = 1024, bf16: bool = True, world: World = ALONE,
        sharding: Literal["none", "full"] = "none", device: torch.device | None = None,
        adapter: Adapter | None = None, recompute: bool = False,
    ) -> None:  # fmt: skip
        self.policy, self.method, self.optimization, self.world = policy.eval(), method, optimization, world
        self.micro_batch_tokens, self.device = micro_batch_tokens, device or policy.device
        self.charge, self.adapter = charge, adapter
        narrow = {p.dtype for p in policy.parameters() if p.requires_grad} & {torch.float16, torch.bfloat16}
        if narrow:
            raise SpecError(
                f"the trained weights are {narrow.pop()}, in which small updates are rounded away",
                where="policy", fix="load the policy in float32; bf16=True still computes in bfloat16 on CUDA",
            )  # fmt: skip
        self.dtype = torch.float64 if policy.dtype == torch.float64 else torch.float32

        def streamed(model: Any, **how: Any) -> StreamedLM:
            return StreamedLM(model, vocabulary=vocabulary, temperature=temperature, chunk=chunk, **how)

        others = {
            name: streamed(policy, without=adapter) if model is policy else streamed(model.eval().requires_grad_(False))
            for name, model in frozen.items()
        }
        self._read = {f"{name}/{what}": 0.0 for name in others for what in ("read", "scored")}
        self.models = TrainModels(streamed(policy, recompute=recompute), others, self._count, bf16)
        cutting = sharding == "full" and world.size > 1
        self.cut = cutting and adapter is None
        """Whether the policy's own weights lie in parts."""
        parted = [each for each in (self.models.policy, *others.values()) if cutting and (self.cut or each.model is not policy)]
        self.sharded = bool(parted)
        """Whether any model lies in parts, so that every process takes part in every pass."""
        self.written_by = policy
        """What is sampled from: the policy itself or, where it is cut, a whole copy that `refresh` brings up to date."""
        half = bf16 and self.device.type == "cuda"
        if self.cut:
            self.written_by = copy.deepcopy(policy).to(self.device, torch.bfloat16 if half else policy.dtype)
            self.written_by.requires_grad_(False)
        for model in parted:
            shards.shard(model, self.device, world.size, half)
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=optimization.lr, betas=optimization.betas, weight_decay=optimization.weight_decay, fused=True
        )
        self.updates = 0
        """Optimizer steps so far."""
        self.rounds = 0
        """Collected batches so far."""

    @property
    def trained(self) -> Any:
        """What has the trained weights: the policy, or its adapter."""
        return self.adapter or self.policy

    @property
    def _reference(self) -> StreamedLM | None:
        """The frozen reference where it has weights of its own."""
        reference = self.models.frozen.get("reference")
        return None if reference is None or reference.model is self.policy else reference

    def freeze_reference(self) -> None:
        """The policy's present weights become the reference's, where a method has one."""
        if "reference" in self.models.frozen and self.adapter:
            self.adapter.merge()
            self.optimizer.state.clear()  # it belongs to the adapter that is gone
        elif "reference" in self.models.frozen:
            self.models.frozen["reference"].load_state_dict(self.models.policy.state_dict())

    def refresh(self) -> None:
        """Brings what is sampled from up to date with the policy."""
        if self.cut:
            shards.refresh(self.written_by, self.models.policy)

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
        read = self.world.total({"train_tokens": float(self.models.policy_tokens - tokens_before), **self._read}, self.device)
        for name in self.models.frozen:
            if read[f"{name}/read"]:
                self.charge(name, int(read[f"{name}/read"]), int(read[f"{name}/scored"]))
        self._read = dict.fromkeys(self._read, 0.0)
        result["train_tokens"] = read["train_tokens"]
        return result

    def _count(self, name: str, read: int, scored: int) -> None:
        self._read[f"{name}/read"] += read
        self._read[f"{name}/scored"] += scored

    def _update(
        self, method: Method, examples: list[Example], old: list[list[list[float]]] | None
    ) -> dict[str, float] | None:  # fmt: skip
        batches = []
        for part in micro_batches(examples, self.micro_batch_tokens):
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
        fault = None
        for batch, counts in self.world.share(batches):
            if not counts and not self.sharded:
                continue
            values = self._backward(method, batch, weights, counts)
            fault = fault or self._fault_in(values, method, batch, weights)
            for name, value in values.items():
                totals[f"loss/{name}"] += value
        self.world.agree(fault)
        totals = self.world.total(totals, self.device)
        if not self.cut:
            self.world.join_gradients(self.parameters)
        norm = shards.norm_of(torch.nn.utils.clip_grad_norm_(self.parameters, self.optimization.max_grad_norm))
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

    def _backward(self, method: Method, batch: Batch, weights: Mapping[str, float], counts: bool) -> dict[str, float]:
        """Adds a micro-batch's share to the gradient; returns its share of each term.

        Where it does not count all is done as if it did, since other processes take part, and nothing comes of it.
        """
        tokens, read = self.models.policy_tokens, dict(self._read)
        loss = method.loss(self.models, batch)
        if loss.keys() != weights.keys():
            raise ValueError(f"{type(method).__name__}.loss gave {sorted(loss)}, its weights name {sorted(weights)}")
        shares = {name: term.coef * term.sum / weights[name] for name, term in loss.items() if weights[name]}
        total = sum(shares.values(), torch.zeros((), dtype=self.dtype, device=self.device))
        if counts:
            total.backward()
            return {name: share.item() for name, share in shares.items()}
        (0.0 * total).backward()
        self.models.policy_tokens, self._read = tokens, read
        return {}

    def _fault_in(
        self, values: Mapping[str, float], method: Method, batch: Batch, weights: Mapping[str, float]
    ) -> RunFault | None:  # fmt: skip
        for name, value in values.items():
            if not math.isfinite(value):
                return RunFault(
                    f"loss term {name!r} is {value} at update {self.updates}, in a micro-batch of {len(batch.group_N)} rollouts "
                    f"(weight {weights[name]:g})",
                    fix="lower the learning rate, or check the signals of the last round; then resume",
                )
        return None

    @torch.no_grad()
    def score(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """The policy's log-probs of each rollout's tokens, at the training temperature."""
        examples = [Example((rollout,)) for rollout in rollouts]
        scores: list[list[float]] = [[] for _ in rollouts]
        for part, counts in self.world.share(micro_batches(examples, self.micro_batch_tokens)):
            if counts or self.cut:
                batch = collate([examples[i] for i in part], self.device, dtype=self.dtype)
                for i, row in zip(part, self.models.logprobs(batch).tolist(), strict=True):
                    scores[i] = row[: len(rollouts[i].tokens)]
        known = self.world.merged({i: row for i, row in enumerate(scores) if row})
        return [known.get(i, []) for i in range(len(rollouts))]

    def drift(self, rollouts: Sequence[Rollout]) -> float:
        """How far the policy's log-probs are from those that the sampler wrote down: the mean distance a token, in nats."""
        scored = self.score(rollouts)
        gaps = [
            abs(a - b) for r, row in zip(rollouts, scored, strict=True) for a, b in zip(r.logprobs or [], row, strict=True)
        ]  # fmt: skip
        return sum(gaps) / max(len(gaps), 1)

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-for-bit resume needs, by reference: save or copy it before the next step.

        It does not depend on how many processes there are; where weights are cut, the first process alone has it whole.
        """
        reference = self._reference
        for model in filter(None, (self.models.policy, reference)):
            shards.reshard(model)
        policy = self.policy.state_dict(keep_vars=True) if self.cut else self.trained.state_dict()
        state = {
            "policy": policy, "merged": self.adapter and list(self.adapter.merged),
            "optimizer": self.optimizer.state_dict(), "reference": reference and reference.model.state_dict(),
            "updates": self.updates, "rounds": self.rounds,
        }  # fmt: skip
        return shards.gathered(state, self.world.rank == 0) if self.sharded else state

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Takes up what `state_dict` gave; of several processes the first has it, and the others give None."""
        reference = self._reference
        for model in filter(None, (self.models.policy, reference)):
            shards.reshard(model)
        own = {"policy": self.trained.state_dict(), "reference": reference and reference.model.state_dict()}

        def place(path: tuple[Any, ...], whole: torch.Tensor) -> torch.Tensor:
            match path:
                case ("policy" | "reference" as model, name):
                    return shards.like(whole, own[model][name])
                case ("optimizer", "state", number, name) if name != "step":
                    return shards.like(whole, self.parameters[number])
            return whole

        state = self.world.spread(state, self.device, place)
        if self.adapter:
            self.adapter.take_merged(state["merged"])
        self.trained.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["reference"]:
            self.models.frozen["reference"].model.load_state_dict(state["reference"])
        self.updates, self.rounds = state["updates"], state["rounds"]

    def load_policy(self, weights: Mapping[str, torch.Tensor] | None) -> None:
        """Puts these weights in the policy's place; of several processes the first has them, and the others give None."""
        shards.reshard(self.models.policy)
        own = {} if self.adapter else self.policy.state_dict()
        there = self.world.spread(weights, self.device, lambda path, whole: shards.like(whole, own.get(path[0], whole)))
        if self.adapter:
            self.adapter.load_plain_state_dict(there)
        else:
            self.policy.load_state_dict(there)

    def save(self, folder: Path | None, tokenizer: Any) -> None:
        """Writes the policy as a Hugging Face folder with safetensors weights, in the first process."""
        shards.reshard(self.models.policy)
        first = self.world.rank == 0
        weights = shards.gathered(self.policy.state_dict(keep_vars=True), first) if self.cut else None
        if first and self.adapter:
            weights = self.adapter.plain_state_dict()
        if first:
            self.policy.save_pretrained(folder, state_dict=weights)
            tokenizer.save_pretrained(folder)

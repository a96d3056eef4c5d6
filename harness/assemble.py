"""From a spec to live objects: the only constructor of everything. What a run lacks is found here, before it spends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import environment, registry
from harness.answering import LocalWriter
from harness.clients.cache import ReplyCache
from harness.clients.metered import Client
from harness.clients.roles import ServedCritic, ServedJudge, ServedTeacher
from harness.connect import client, connections
from harness.errors import CapabilityError, SpecError
from harness.generate.hf import HFGenerator
from harness.generate.student import ChatCodec, MeteredStudent
from harness.ledger import Ledger
from harness.materials import check_leakage, the_suites, training_prompts
from harness.method import Method, Tools, needs_of
from harness.prompts import load
from harness.seeds import python_random
from harness.spans import Spans
from harness.spec import RunSpec
from harness.stream import Stream
from harness.suite import Judge, Suite
from harness.supply import FrozenChooser, Outcomes, Preferences, solutions
from harness.tracks import LocalModel, Track
from harness.train.models import load_causal_lm
from harness.train.trainer import Optimization, Trainer
from harness.types import Message, Need


@dataclass
class Assembled:
    """A run with everything it needs, checked and alive."""

    spec: RunSpec
    track: Track
    method: Method
    ledger: Ledger
    stream: Stream
    tools: Tools
    trainer: Trainer
    generator: HFGenerator
    codec: ChatCodec
    suites: dict[str, Suite]
    teacher: ServedTeacher
    judge: Judge
    gold: Callable[[Sequence[Message], str], float | None] | None
    clients: dict[str, Client]
    """By role."""
    parameters: int
    spans: Spans
    began: float
    at_ends: frozenset[str] = frozenset()
    """Those of the suites that are scored at the first and the last mark alone."""

    @property
    def tokenizer(self) -> Any:
        return self.codec.tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return self.codec.prompt(messages)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.codec.text(tokens)

    @property
    def writer(self) -> LocalWriter:
        """The student as one who answers a suite."""
        return LocalWriter(self.generator, self.codec)

    def load_weights(self, folder: Path) -> None:
        """Puts a checkpoint's weights in the student's place, for scoring it."""
        self.trainer.policy.load_state_dict(load_causal_lm(folder).state_dict())
        self.generator.sync()

    def save_model(self, folder: Path) -> None:
        """Writes the student as it is now, a Hugging Face folder."""
        self.trainer.save(folder, self.tokenizer)

    def charge_training(self, metrics: dict[str, float]) -> None:
        """Charges what a training step used: three passes' worth of FLOPs for forward and backward."""
        tokens = metrics["train_tokens"]
        self.ledger.charge("train_tokens", tokens)
        self.ledger.charge("optimizer_steps", metrics["updates"])
        self.ledger.charge("flops", 6.0 * self.parameters * tokens)

    def clock(self) -> dict[str, Any]:
        """Readings that may differ between equal runs: seconds, where those of a round went, and who was asked."""
        calls = {client.role: {"sent": client.sent, "cached": client.hits} for client in self.clients.values()}
        return {"seconds": round(time.monotonic() - self.began, 3), "spans": self.spans.take(), "calls": calls}


def _check_needs(needs: frozenset[Need], method: Method, track: Track) -> None:
    lacking = {
        Need.TEACHER_LOGITS: track.teacher.weights is None,
        Need.SOLUTION: track.solutions == "data" and any(prompt.solution is None for prompt in training_prompts(track)),
    }  # fmt: skip
    for need in sorted(needs, key=lambda n: n.name):
        if lacking.get(need):
            raise CapabilityError(
                f"{type(method).__name__} needs {need.value}, which track {track.name} does not give",
                where=f"--track {track.name}",
                fix="choose a track that has it (harness list tracks), or another method (harness list methods)",
            )  # fmt: skip


def _check_same_tokenizer(ours: Any, theirs: Any, need: Need) -> None:
    """Token probabilities of another tokenizer mean nothing: ids, end token and template must agree."""
    probe = [{"role": "user", "content": "0 1 2 the is a of : ."}]
    views = [
        (t.get_vocab(), t.eos_token_id, t.apply_chat_template(probe, add_generation_prompt=True, return_dict=False))
        for t in (ours, theirs)
    ]  # fmt: skip
    names = ("vocabulary", "end token", "chat template")
    for name, mine, other in zip(names, *views, strict=True):
        if mine != other:
            shown = f": {mine} and {other}" if name != "vocabulary" else f" ({len(mine)} and {len(other)} entries)"
            raise CapabilityError(
                f"not applicable: {need.value} of a teacher with another {name}{shown}",
                fix="a text method such as ropd or seqkd works across tokenizers",
            )


@contextlib.contextmanager
def assemble(
    spec: RunSpec, suites: Sequence[str], tell: Callable[[str], None], at_ends: Collection[str] = ()
) -> Iterator[Assembled]:
    """Everything a run needs, alive until the context ends; servers of ours are started and stopped here.

    Args:
        at_ends: those of the suites that are scored at the first and the last mark alone.

    Raises:
        HarnessError: something is missing or does not fit; nothing was spent.
    """
    track, began = spec.track, time.monotonic()
    cls = registry.method(spec.method)
    method = cls(cls.Config.model_validate(spec.config))
    needs = needs_of(method)
    _check_needs(needs, method, track)
    if track.judge.model == track.critic.model and track.judge.url == track.critic.url and not track.judge_is_critic:
        raise SpecError("evaluation judge and training critic are the same model", where=f"track {track.name}",
                        fix="name another judge, or set judge_is_critic: true (reports will say so)")  # fmt: skip
    with contextlib.ExitStack() as stack:
        cache = ReplyCache(environment.cache_dir())
        stack.callback(cache.close)
        served = [(role, getattr(track, role)) for role in ("teacher", "critic", "judge")]
        connect = connections(track, spec.seed, served, stack)  # a server of ours comes up while the rest is loaded
        tell("loading suites and prompts")
        the_suites_by_name = the_suites(track, suites)
        prompts = training_prompts(track)
        check_leakage(prompts, the_suites_by_name, track.leakage_limit)
        tell("loading models")
        _set_threads(track.training.threads)
        student = _load(track.student, spec)
        codec = ChatCodec(_tokenizer(track.student, spec))
        frozen = {}
        for need in needs & {Need.TEACHER_LOGITS, Need.TEACHER_SCORES}:
            if track.teacher.weights is not None:
                _check_same_tokenizer(codec.tokenizer, _tokenizer(track.teacher.weights, spec), need)
                if need is Need.TEACHER_LOGITS:
                    frozen["teacher"] = _load(track.teacher.weights, spec)
        if Need.REFERENCE in needs:
            frozen["reference"] = _load(track.student, spec)
        ledger = Ledger(track.budget_value)
        ledger.charge("tuning_trials", track.tuned.get(spec.method, 0))
        tell("connecting")
        clients = {role: client(role, model, ledger, cache, connect, stack) for role, model in served}
        parameters = sum(p.numel() for p in student.parameters())
        sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in frozen.items()}

        def charge_frozen(name: str, read: int, scored: int) -> None:
            ledger.charge(f"{name}_scored_tokens", scored)
            ledger.charge("flops", 2.0 * sizes[name] * read)

        trainer = Trainer(
            student, frozen, method, _optimization(track, method), vocabulary=len(codec.tokenizer),
            temperature=method.config.temperature, charge=charge_frozen,
            micro_batch_tokens=track.training.micro_batch_tokens, chunk=track.training.chunk,
        )  # fmt: skip
        end, pad = codec.tokenizer.eos_token_id, _pad_id(codec.tokenizer)
        generator = HFGenerator(student, [end], pad, vocabulary=len(codec.tokenizer))
        teacher = ServedTeacher(clients["teacher"], track.training.max_tokens, spec.seed)
        critic = ServedCritic(clients["critic"], track.critic.parse_retries)
        folder = registry.prompts_folder(cls)
        dialects = {"critic": track.critic.dialect, "student": track.student.dialect, "teacher": track.teacher.dialect}
        reference = trainer.models.frozen.get("reference")
        tools = Tools(
            student=MeteredStudent(generator, codec, ledger, spec.seed, track.training.max_tokens, parameters),
            teacher=teacher if needs & {Need.TEACHER_TEXT, Need.TEACHER_SCORES, Need.TEACHER_CHOICE} else None,
            critic=critic if Need.CRITIC in needs else None,
            reference=FrozenChooser(reference, codec, ledger) if reference else None,
            solutions=solutions(track, teacher, codec, ledger) if Need.SOLUTION in needs else None,
            outcomes=Outcomes(critic, track, ledger) if Need.OUTCOME in needs else None,
            preferences=Preferences(critic, track) if Need.PREFERENCES in needs else None,
            template=lambda name, reader="critic": load(folder, dialects[reader], name),
            seed=spec.seed,
        )  # fmt: skip
        spans = Spans()
        for thing, verb, name in (
            (generator, "generate", "sampling"), (trainer, "step", "training"), (trainer.models, "_hidden", "frozen"),
            *((client, "call", "servers") for client in clients.values()),
            *(((tools.reference, "choose", "frozen"),) if tools.reference else ()),
        ):  # fmt: skip
            spans.watch(thing, verb, name)
        order = list(range(len(prompts)))
        python_random("stream", spec.seed).shuffle(order)
        yield Assembled(
            spec, track, method, ledger, Stream(prompts, order), tools, trainer, generator, codec, the_suites_by_name,
            teacher, ServedJudge(clients["judge"], track.judge.parse_retries), _gold(track), clients, parameters, spans, began,
            frozenset(at_ends),
        )  # fmt: skip


def _gold(track: Track) -> Callable[[Sequence[Message], str], float | None] | None:
    if not track.evaluation.gold:
        return None
    from harness.pocket import world

    return world.gold


def _folder(model: LocalModel, spec: RunSpec) -> str:
    if model.path.startswith("pocket:"):
        from harness.pocket import world

        return str(world.model_folder(model.path, spec.track, spec.seed))
    return model.path


def _load(model: LocalModel, spec: RunSpec) -> Any:
    import torch

    return load_causal_lm(_folder(model, spec), getattr(torch, model.dtype))


def _tokenizer(model: LocalModel, spec: RunSpec) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_folder(model, spec))


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _optimization(track: Track, method: Method) -> Optimization:
    settings = track.optimizer
    steps = None
    if settings.schedule == "cosine":
        if track.budget_value.axis != "prompts":
            raise SpecError(
                "a cosine schedule needs a budget in prompts, from which the number of steps follows", where="optimizer"
            )
        rounds = -(-int(track.budget["prompts"]) // method.config.prompts_per_round)
        steps = rounds * method.config.updates_per_batch * method.config.passes
    return Optimization(
        lr=method.config.learning_rate or settings.learning_rate, warmup_steps=settings.warmup_steps,
        betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm,
        schedule=settings.schedule, total_steps=steps,
    )  # fmt: skip

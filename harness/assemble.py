"""From a spec to live objects: the only constructor of everything. What a run lacks is found here, before it spends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import drift, environment, held, registry
from harness.answering import LocalWriter, ServedWriter
from harness.clients.cache import ReplyCache
from harness.clients.metered import Client, Tariff
from harness.clients.roles import ServedCritic, ServedJudge, ServedTeacher
from harness.connect import client, connections, noted
from harness.generate.base import Generator
from harness.generate.local import LocalClient, LocalEndpoint, weights_revision
from harness.generate.student import ChatCodec, MeteredStudent
from harness.learner import codec_of, folder_of, learner, led, load_model
from harness.ledger import Ledger
from harness.materials import check_leakage, the_suites, training_prompts, unwritten
from harness.method import Method, Tools, needs_of
from harness.needs import check
from harness.prompts import load
from harness.seeds import python_random
from harness.spans import Spans
from harness.spec import RunSpec
from harness.stream import Stream
from harness.suite import Judge, Suite
from harness.supply import FrozenChooser, Outcomes, Preferences, solutions
from harness.tracks import TeacherModel, Track
from harness.train.distributed import ALONE, World
from harness.train.load import load_causal_lm
from harness.train.orders import Leader
from harness.train.trainer import Trainer
from harness.types import ASKING, Message, Need


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
    generator: Generator
    codec: ChatCodec
    suites: dict[str, Suite]
    teacher: ServedTeacher | None
    judge: Judge | None
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
        remote_code = self.track.student.remote_code
        self.trainer.load_policy(load_causal_lm(folder, remote_code=remote_code).state_dict())
        self.generator.sync(whole=True)
        drift.probe(self)

    def save_model(self, folder: Path) -> None:
        """Writes the student as it is now, a Hugging Face folder."""
        self.trainer.save(folder, self.tokenizer)

    def charge_training(self, metrics: dict[str, float]) -> None:
        """Charges what a training step used: forward, gradient of the activations and, of what is trained, of the weights."""
        tokens = metrics["train_tokens"]
        self.ledger.charge("train_tokens", tokens)
        self.ledger.charge("optimizer_steps", metrics["updates"])
        trained = sum(parameter.numel() for parameter in self.trainer.parameters)
        self.ledger.charge("flops", (4.0 * self.parameters + 2.0 * trained) * tokens)

    def clock(self) -> dict[str, Any]:
        """Readings that may differ between equal runs: seconds, where those of a round went, and who was asked."""
        calls = {client.role: {"sent": client.sent, "cached": client.hits} for client in self.clients.values()}
        seconds = round(time.monotonic() - self.began, 3)
        return {"seconds": seconds, "spans": self.spans.take(), "calls": calls,
                "engine": self.generator.engine, "processes": self.trainer.world.size}  # fmt: skip


@contextlib.contextmanager
def assemble(
    spec: RunSpec, suites: Sequence[str], tell: Callable[[str], None], at_ends: Collection[str] = (), world: World = ALONE
) -> Iterator[Assembled]:
    """Everything a run needs, alive until the context ends; servers of ours are started and stopped here.

    Args:
        at_ends: those of the suites that are scored at the first and the last mark alone.
        world: the processes of the run, this one the first of them; the others do `enlist`.

    Raises:
        HarnessError: something is missing or does not fit; nothing was spent.
    """
    track, began = spec.track, time.monotonic()
    cls = registry.method(spec.method)
    method = cls(cls.Config.model_validate(spec.config))
    needs = needs_of(method)
    check(spec, suites)
    with contextlib.ExitStack() as stack:
        cache = ReplyCache(environment.cache_dir())
        stack.callback(cache.close)
        served = track.served
        connect = connections(track, spec.seed, served, stack)  # a server of ours comes up while the rest is loaded
        tell("loading suites and prompts")
        later = unwritten(track, suites, spec.seed)
        the_suites_by_name = the_suites(track, [name for name in suites if name not in later], spec.seed)
        prompts = training_prompts(track)
        check_leakage(prompts, {**the_suites_by_name, **later}, track.leakage_limit)
        tell("loading models")
        ledger = Ledger(track.budget_value)
        ledger.charge("tuning_trials", track.tuned.get(spec.method, 0))

        def charge_frozen(name: str, read: int, scored: int) -> None:
            ledger.charge(f"{name}_scored_tokens", scored)
            ledger.charge("flops", 2.0 * trainer.models.frozen[name].parameter_count * read)

        codec, trainer, generator = learner(spec, method, needs, world, charge_frozen)
        stack.callback(generator.close)
        reference = trainer.models.frozen.get("reference")
        parameters = sum(p.numel() for p in trainer.policy.parameters())
        if world.size > 1:
            leader = Leader(world, led(trainer, generator))
            stack.callback(leader.dismiss)
        tell("connecting")
        clients = {role: client(role, model, ledger, cache, connect, stack) for role, model in served if model.url != "local"}
        if track.teacher is not None and track.teacher.url == "local":
            whole = None if trainer.sharded else trainer.models.frozen.get("teacher")
            clients["teacher"] = _local(track.teacher, spec, whole and whole.model, ledger, cache)
        teacher = ServedTeacher(clients["teacher"], track.training.max_tokens, spec.seed) if track.teacher else None
        critic = ServedCritic(clients["critic"], track.critic.parse_retries) if track.critic else None
        judge = ServedJudge(clients["judge"], track.judge.parse_retries) if track.judge else None
        folder = registry.prompts_folder(cls)
        dialects = {"student": track.student.dialect, **{role: model.dialect for role, model in served}}
        tools = Tools(
            student=MeteredStudent(generator, codec, ledger, spec.seed, track.training.max_tokens, parameters),
            teacher=teacher if needs & ASKING else None,
            critic=critic if Need.CRITIC in needs else None,
            reference=FrozenChooser(reference, codec, ledger) if reference else None,
            solutions=solutions(track, teacher, codec, ledger) if Need.SOLUTION in needs else None,
            outcomes=Outcomes(critic, track, ledger) if Need.OUTCOME in needs else None,
            preferences=Preferences(critic, track) if critic and Need.PREFERENCES in needs else None,
            template=lambda name, reader="critic": load(folder, dialects[reader], name),
            seed=spec.seed,
        )  # fmt: skip
        if later:
            with ledger.off_the_clock():
                _write_references(track, spec.seed, clients.get("teacher"), LocalWriter(generator, codec), tell)
            written = the_suites(track, list(later), spec.seed)
            check_leakage(prompts, written, track.leakage_limit)
            the_suites_by_name = {name: written.get(name) or the_suites_by_name[name] for name in suites}
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
            teacher, judge, _gold(track), clients, parameters, spans, began, frozenset(at_ends),
        )  # fmt: skip


def _local(model: TeacherModel, spec: RunSpec, loaded: Any, ledger: Ledger, cache: ReplyCache) -> LocalClient:
    """The teacher's own weights in the place of a server; those that losses read serve for both."""
    assert model.weights is not None
    weights = loaded if loaded is not None else load_model(model.weights, spec)
    endpoint = LocalEndpoint(weights, codec_of(model.weights, spec), spec.track.training.chunk)
    content = model.revision or weights_revision(weights, Path(folder_of(model.weights, spec)))
    tariff = Tariff(model.parameters, model.usd_in, model.usd_out)
    return LocalClient(endpoint, noted(cache), ledger, "teacher", model.model, content, tariff)


def _write_references(
    track: Track, seed: int, teacher: Client | None, student: LocalWriter, tell: Callable[[str], None]
) -> None:
    """Reference answers of the track's own items: the teacher's, or without one those of the untouched student."""
    who = "the untouched student" if teacher is None else teacher.id
    held.write(track, seed, who, lambda: student if teacher is None else ServedWriter(teacher), tell)


def _gold(track: Track) -> Callable[[Sequence[Message], str], float | None] | None:
    if not track.evaluation.gold:
        return None
    from harness.pocket import world

    return world.gold

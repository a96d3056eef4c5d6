"""A method's own `collect` and `loss`, played through with stand-ins on a few prompts: what it asks, samples and trains on.

Nothing here knows a method: what is counted is what the method really asks for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from harness import registry
from harness.clients.metered import Client, Tariff
from harness.clients.openai import CHARACTERS_PER_TOKEN
from harness.clients.roles import ServedTeacher
from harness.errors import EnvironmentFault, SpecError
from harness.ledger import Ledger
from harness.materials import training_prompts
from harness.method import Method, Tools, needs_of
from harness.needs import check_needs
from harness.plan.machine import trained
from harness.plan.schema import Replies
from harness.plan.shapes import Shape, folder_of, shape_of
from harness.plan.standins import Coins, Critic, FrozenStudent, Model, Server, Student
from harness.plan.voices import Codec, Said, Voice, spread
from harness.prompts import load
from harness.spec import RunSpec
from harness.supply import FrozenChooser, Outcomes, Preferences, solutions
from harness.tracks import Served, Track
from harness.types import ASKING, Example, Need, Prompt

PLAYED = (8, 96)
"""Prompts of a rehearsal: fewer where completions are long."""
LONG = 16384
"""Completion tokens that a rehearsal plays for each rollout of a prompt, about."""
RIGHT = 0.5
"""Of the answers that a program checks, the share that is taken to be right."""
PROMPT_TOKENS = 128
"""Of a prompt whose source is not on this machine."""


TEACHING = ASKING | {Need.SOLUTION}
"""What is asked of a teacher that writes or scores."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of what models write, and real texts in their place where there are any."""

    student: float
    teacher: float
    heard: tuple[tuple[Said, ...], ...] = ()
    prompt: int = PROMPT_TOKENS


@dataclass(frozen=True)
class Phase:
    """A prompt of a warm start or of the method's own, on average; tokens unless said otherwise."""

    meters: dict[str, float]
    collects: float = 1.0
    """Rounds in which a prompt is seen."""
    prefilled: float = 0.0
    """Prompt tokens read for sampling."""
    rescored: float = 0.0
    """Read by the policy without gradient, before the first update."""
    frozen: dict[str, float] = field(default_factory=dict)
    """Read by each frozen model."""
    updates: float = 0.0
    """Optimizer steps of a round."""
    longest: int = 0
    """The longest row that a model reads, behind whichever view."""
    rows: float = 0.0
    """Completions sampled for a prompt in a round."""
    distributions: int = 0
    """Frozen distributions that a loss holds beside the policy's."""


@dataclass(frozen=True)
class Rehearsal:
    warm: Phase | None
    own: Phase
    shapes: dict[str, Shape]
    """Of the models that the run loads: `student`, and each frozen one."""
    prompt_tokens: float
    exact: bool
    """Whether the student's own tokenizer counted."""
    real_prompts: bool
    """Whether the prompts are the track's."""


def rehearse(spec: RunSpec, lengths: Lengths, look: bool = True) -> Rehearsal:
    """Plays a round of the method, and one of its warm start if it has one.

    Args:
        look: use the prompts and the tokenizer that are on this machine.

    Raises:
        HarnessError: the method asks for something that the track or a stand-in cannot give.
    """
    cls = registry.method(spec.method)
    method = cls(cls.Config.model_validate(spec.config))
    codec = _codec(spec) if look else Codec()
    everything, real = _prompts(spec.track, lengths.prompt, look)
    sizes = [len(prompt.question) for prompt in everything]
    played = min(max(PLAYED[0], round(LONG / lengths.student)), PLAYED[1], len(everything))
    checkable = [i for i, prompt in enumerate(everything) if prompt.reference is not None]
    others = [i for i, prompt in enumerate(everything) if prompt.reference is None]
    share = round(played * len(checkable) / len(everything))
    chosen = [part[k] for part, n in ((checkable, share), (others, played - share)) for k in spread([sizes[i] for i in part], n)]
    prompts = [everything[i] for i in chosen]
    Random("order of rehearsal").shuffle(prompts)
    shapes = {"student": shape_of(spec.track.student, spec.track, spec.seed)}
    needs = needs_of(method)
    check_needs(needs, spec.method, spec.track, lambda: everything)
    teacher = spec.track.teacher
    if teacher and teacher.weights and (Need.TEACHER_LOGITS in needs or (teacher.url == "local" and needs & TEACHING)):
        shapes["teacher"] = shape_of(teacher.weights, spec.track, spec.seed)
    if Need.REFERENCE in needs:
        shapes["reference"] = shapes["student"]
    play = _Play(spec, method, codec, shapes, lengths, [word for prompt in prompts for word in prompt.question.split()])
    warm = play.phase(method.warm_start, prompts) if method.warm_start else None
    own = play.phase(method, prompts)
    read = sum(len(codec.prompt(prompt.messages)) for prompt in prompts) / len(prompts)
    return Rehearsal(warm, own, shapes, read, codec.exact, real)


class _Play:
    """A run's tools around stand-ins."""

    def __init__(
        self, spec: RunSpec, method: Method, codec: Codec, shapes: dict[str, Shape], lengths: Lengths, words: Sequence[str]
    ) -> None:  # fmt: skip
        self.spec, self.method, self.codec, self.shapes, self.lengths, self.words = spec, method, codec, shapes, lengths, words

    def phase(self, method: Method, prompts: Sequence[Prompt]) -> Phase:
        """A round on these prompts, and the further turns that it asks for; after one that is not counted, in which a method that
        remembers fills its memory."""
        with contextlib.closing(_Session(self, Ledger(self.spec.track.budget_value))) as session:
            method.collect([replace(prompt, visit=1) for prompt in prompts], session.tools)
        ledger = Ledger(self.spec.track.budget_value)
        with contextlib.closing(_Session(self, ledger)) as session:
            examples: list[Example] = []
            collects = rows = 0
            again = list(prompts)
            while again:
                collected = method.collect(again, session.tools)
                examples += collected.examples
                rows = rows or int(ledger.training["rollouts"])
                again, collects = list(collected.again), collects + 1
            ledger.charge("prompts", len(prompts))
            learnt = _trained(method, examples, session, self.shapes)
        count = len(prompts)
        meters = {meter: amount / count for meter, amount in ledger.training.items()}
        frozen = {name: read / count for name, read in learnt.frozen.items()}
        longest = max((_longest(example) for example in examples), default=0)
        return Phase(
            meters, collects, session.student.prefilled / count, learnt.rescored / count, frozen,
            method.config.updates_per_batch * method.config.passes * learnt.weighs, longest, rows / count, learnt.distributions,
        )  # fmt: skip


class _Session:
    """Tools of one phase, with a ledger of their own."""

    def __init__(self, play: _Play, ledger: Ledger) -> None:
        spec, track, codec = play.spec, play.spec.track, play.codec
        self.ledger, self.track, self._clients = ledger, track, contextlib.ExitStack()
        needs, most = needs_of(play.method), track.training.max_tokens
        parameters = play.shapes["student"].parameters
        voice = Voice(codec, play.words, play.lengths.student, most, play.lengths.heard)
        self.student = Student(voice, codec, ledger, parameters, most)
        teaching = Voice(codec, play.words, play.lengths.teacher, most)
        server = Server(lambda said: len(codec.prompt(said)), lambda text: len(codec.text(text)), teaching, Replies(Random(0)))
        teacher = ServedTeacher(self._client("teacher", track.teacher, server), most, spec.seed)
        count = _counter(track.critic)
        server = Server(lambda said: sum(count(each["content"]) for each in said), count, voice, Replies(Random(0)))
        critic = Critic(self._client("critic", track.critic, server), server)
        folder = registry.prompts_folder(type(play.method))
        dialects = {"student": track.student.dialect, **{role: served.dialect for role, served in track.served}}
        frozen: Any = FrozenStudent(parameters)
        self.tools = Tools(
            student=self.student,
            teacher=teacher if needs & ASKING else None,
            critic=critic if Need.CRITIC in needs else None,
            reference=FrozenChooser(frozen, _Letters(codec), ledger) if Need.REFERENCE in needs else None,  # type: ignore[arg-type]
            solutions=solutions(track, teacher, _Letters(codec), ledger) if Need.SOLUTION in needs else None,  # type: ignore[arg-type]
            outcomes=Coins(Outcomes(critic, track, ledger), RIGHT) if Need.OUTCOME in needs else None,
            preferences=Preferences(critic, track) if Need.PREFERENCES in needs else None,
            template=lambda name, reader="critic": load(folder, dialects[reader], name),
            seed=spec.seed,
        )  # fmt: skip

    def _client(self, role: str, served: Served | None, server: Server) -> Client:
        """Of a role that nobody is named for too: a method that needs it is refused before."""
        tariff = Tariff(served.parameters, served.usd_in, served.usd_out) if served else Tariff()
        client = Client(server, None, self.ledger, role, role, "rehearsed", tariff, 1)  # one at a time: draws in order
        self._clients.callback(client.close)
        return client

    def close(self) -> None:
        self._clients.close()


class _Letters:
    """As much of a run's codec as the tools want."""

    def __init__(self, codec: Codec) -> None:
        self.prompt, self._codec = codec.prompt, codec

    def completion(self, messages: Any, text: str) -> list[int]:
        return self._codec.completion(text)


@dataclass(frozen=True)
class _Trained:
    frozen: dict[str, float]
    rescored: float
    distributions: int
    weighs: bool


def _trained(method: Method, examples: list[Example], session: _Session, shapes: dict[str, Shape]) -> _Trained:
    """Takes the method's loss of the examples, and charges as the trainer does."""
    from harness.train.collate import collate
    from harness.train.models import TrainModels

    frozen: dict[str, float] = {}

    def charge(name: str, read: int, scored: int) -> None:
        session.ledger.charge(f"{name}_scored_tokens", scored)
        session.ledger.charge("flops", 2.0 * shapes[name].parameters * read)
        frozen[name] = frozen.get(name, 0.0) + read

    policy, config = Model(), method.config
    stood: Any = {name: Model() for name in shapes if name != "student"}
    models = TrainModels(policy, stood, charge)  # type: ignore[arg-type]
    again = method.ratio and config.updates_per_batch * config.passes > 1
    weighs = False
    for example in examples:
        old = [[0.0] * len(rollout.tokens) for rollout in example.rollouts] if again else None
        batch = collate([example], old_logp=old)
        if any(method.weights(batch).values()):
            method.loss(models, batch)
            weighs = True
    tokens = models.policy_tokens * config.passes
    for name, read in frozen.items():
        frozen[name] = read * config.passes
        session.ledger.charge("flops", 2.0 * shapes[name].parameters * read * (config.passes - 1))
        session.ledger.training[f"{name}_scored_tokens"] *= config.passes
    session.ledger.charge("train_tokens", tokens)
    changed = trained(shapes["student"], session.track.student)
    session.ledger.charge("flops", (4.0 * shapes["student"].parameters + 2.0 * changed) * tokens)
    rescored = sum(len(r.prompt_tokens) + len(r.tokens) for example in examples for r in example.rollouts) if again else 0
    return _Trained(frozen, rescored, policy.distributions, weighs)


def _longest(example: Example) -> int:
    fronts = [len(ids) for view in example.views.values() for ids in view]
    fronts += [len(rollout.prompt_tokens) for rollout in example.rollouts]
    return max(fronts) + max(len(rollout.tokens) for rollout in example.rollouts)


def _counter(served: Served | None) -> Any:
    """How the tokens of a critic's texts are counted."""
    if served and served.url == "pocket":
        from harness.pocket.protocol import count_tokens

        return count_tokens
    return lambda text: -(-len(text) // CHARACTERS_PER_TOKEN)


def _prompts(track: Track, tokens: int, look: bool) -> tuple[list[Prompt], bool]:
    """The track's prompts, or some of an assumed length where their source is not on this machine."""
    if look:
        with contextlib.suppress(SpecError, EnvironmentFault):  # not here: their length is assumed, and the plan says so
            return training_prompts(track), True
    words = ("an assumed prompt that says what is wanted and what must be kept to " * tokens)[: CHARACTERS_PER_TOKEN * tokens]
    solution, reference = words if track.solutions == "data" else None, None if track.critic else "42"
    made = Prompt("assumed", ({"role": "user", "content": words},), solution, reference)
    return [replace(made, id=f"assumed-{i}") for i in range(PLAYED[1])], False


def _codec(spec: RunSpec) -> Codec:
    """Counts with the student's tokenizer and template, if they are on this machine."""
    folder = folder_of(spec.track.student, spec.track, spec.seed)
    if folder is None:
        return Codec()
    from harness.generate.student import ChatCodec
    from harness.train.load import load_tokenizer

    student = spec.track.student
    try:
        return Codec(ChatCodec(load_tokenizer(folder, remote_code=student.remote_code), None, student.template, student.system))
    except SpecError:
        return Codec()

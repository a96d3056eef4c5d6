"""Whether a track gives what a method needs, and which flag would: found before anything is loaded or spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness import registry
from harness.errors import CapabilityError, SpecError
from harness.materials import check_names, training_prompts
from harness.method import needs_of
from harness.spec import RunSpec
from harness.tracks import Track
from harness.types import Need, Prompt

TEACHER = "--teacher URL/MODEL, or --teacher FOLDER for weights in this process"
CRITIC = "--critic URL/MODEL"
JUDGE = "--judge URL/MODEL"


def check(spec: RunSpec, suites: Sequence[str]) -> None:
    """Raises HarnessError for the first thing that the run's track lacks: a model, prompts, what the method or a suite needs."""
    track, cls = spec.track, registry.method(spec.method)
    check_named(track)
    check_names(track, suites)
    needs = needs_of(cls(cls.Config.model_validate(spec.config)))
    check_needs(needs, spec.method, track, lambda: training_prompts(track))
    check_judge(track, suites)


def check_named(track: Track) -> None:
    """Raises SpecError where a track names no student or no prompts, as a base for other tracks does not."""
    for what, value, flag in (
        ("student", track.student.path, "--student FOLDER or --student ORGANISATION/NAME@REVISION"),
        ("prompts", track.prompts.source, "--prompts FILE"),
    ):
        if not value:
            raise SpecError(f"track {track.name} names no {what}", where=f"--track {track.name}", fix=flag)


def check_needs(needs: frozenset[Need], method: str, track: Track, read: Callable[[], Sequence[Prompt]]) -> None:
    """Raises CapabilityError for the first need that the track does not meet, with the flag that would.

    Args:
        read: gives the prompts; asked only where something depends on them.
    """
    teacher, critic, data = track.teacher, track.critic, track.solutions == "data"
    prompts = read() if (data and Need.SOLUTION in needs) or (critic is None and Need.OUTCOME in needs) else []
    unsolved = sum(prompt.solution is None for prompt in prompts)
    unchecked = sum(prompt.reference is None for prompt in prompts)
    of_all = f"of {len(prompts):,} prompts"
    lacking: dict[Need, tuple[bool, str, str]] = {
        Need.TEACHER_TEXT: (teacher is None, "no teacher", TEACHER),
        Need.TEACHER_SCORES: (teacher is None, "no teacher", TEACHER),
        Need.TEACHER_TOP: (teacher is None, "no teacher", TEACHER),
        Need.TEACHER_CHOICE: (teacher is None, "no teacher", TEACHER),
        Need.TEACHER_LOGITS: (teacher is None or teacher.weights is None, "no weights of a teacher", "--teacher FOLDER"),
        Need.CRITIC: (critic is None, "no critic", CRITIC),
        Need.PREFERENCES: (critic is None, "no critic", CRITIC),
        Need.OUTCOME: (critic is None and unchecked > 0, f"no critic, and {unchecked:,} {of_all} have no `reference`", CRITIC),
        Need.SOLUTION: (
            unsolved > 0 if data else teacher is None,
            f"{unsolved:,} {of_all} without a `solution`" if data else "no teacher, whose answers would be the solutions",
            "a `solution` in each row, or --solutions teacher with a teacher" if data
            else f"{TEACHER}; or --solutions data, with a `solution` in each row",
        ),
    }  # fmt: skip
    for need in sorted(needs & lacking.keys(), key=lambda n: n.name):
        missing, what, flag = lacking[need]
        if missing:
            raise CapabilityError(
                f"{method} needs {need.value}; track {track.name} has {what}", where=f"--track {track.name}",
                fix=f"{flag}; a track that has it (harness list tracks); or another method (harness list methods)",
            )  # fmt: skip


def check_judge(track: Track, suites: Sequence[str]) -> None:
    """Raises SpecError where a suite needs a judge and the track has none, or one that is also the critic."""
    asking = [name for name in suites if registry.suite(name).needs_judge]
    if asking and track.judge is None:
        raise SpecError(
            f"the suite {asking[0]!r} needs a judge, and track {track.name} has none", where=f"--suite {asking[0]}", fix=JUDGE
        )
    judge, critic = track.judge, track.critic
    same = judge is not None and critic is not None and (judge.model, judge.url) == (critic.model, critic.url)
    if same and not track.judge_is_critic:
        raise SpecError(
            "evaluation judge and training critic are the same model", where=f"track {track.name}",
            fix="name another judge, or say --judge-is-critic (judge_is_critic: true in a track; reports will say so)",
        )  # fmt: skip

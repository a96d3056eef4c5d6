"""Whether the sampler has the trainer's weights: the log-probs that it wrote down, compared with those that the trainer finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import RunFault
from harness.types import Collected, Rollout, Sampling

if TYPE_CHECKING:
    from harness.assemble import Assembled

ROWS = 16
"""Rollouts of a round that are compared."""
PROBES, TOKENS = 8, 32
"""Rows, and tokens of each, that are sampled only to be compared."""


def compare(run: Assembled, collected: Collected) -> float | None:
    """The mean distance a token, in nats, between the two log-probs of a few of a round's sampled rollouts.

    None where nothing was sampled.

    Raises:
        RunFault: it is larger than the track allows, which would bias every ratio.
    """
    return _compare(run, [r for example in collected.examples for r in example.rollouts if r.logprobs][:ROWS])


def probe(run: Assembled) -> None:
    """Compares rows sampled for the purpose, uncharged, where the sampler has a copy of the weights: before answers that no
    later round would show to be stale.

    Raises:
        RunFault: see `compare`.
    """
    generator = run.generator
    if not generator.copies:
        return
    prompts = run.stream.first(PROBES)
    rows = [run.encode(prompt.messages) for prompt in prompts]
    sampling = Sampling(run.method.config.temperature, TOKENS)
    written = generator.generate(rows, sampling, [("drift", run.spec.seed, generator.version, prompt.id) for prompt in prompts])
    _compare(run, [
        Rollout(prompt, ids, reply.tokens, reply.logprobs, "", reply.finish, reply.version)
        for prompt, ids, reply in zip(prompts, rows, written, strict=True)
    ])  # fmt: skip


def _compare(run: Assembled, rollouts: Sequence[Rollout]) -> float | None:
    if not rollouts:
        return None
    gap, limit = run.trainer.drift(rollouts), run.track.training.drift_nats
    if gap > limit:
        tokens = sum(len(rollout.tokens) for rollout in rollouts)
        raise RunFault(
            f"sampler and trainer disagree by {gap:.4f} nats a token ({tokens} tokens of {len(rollouts)} rollouts, engine "
            f"{run.generator.engine}, sync {run.generator.version}); the track allows {limit}",
            where="training.drift_nats",
            fix="a gap that is there from the first round on is rounding: generation: {dtype: float32}, or a larger drift_nats; "
            "one that appears or grows later is weights that were not taken over: generation: {engine: hf}",
        )
    return gap

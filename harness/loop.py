"""The whole story of a run: take prompts, collect, train, evaluate at marks, until the budget is used up."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

from harness import drift
from harness.assemble import Assembled
from harness.errors import Interrupted, RunFault
from harness.evaluate import due, evaluate, evaluate_teacher, scored
from harness.export import write_card
from harness.method import Method
from harness.records import rollout_records, signal_means
from harness.store import RunStore
from harness.types import Prompt


class Watcher(Protocol):
    """Whoever follows a run: the terminal's display, or a test. It is told, it decides nothing but when to stop."""

    def state(self, word: str) -> None: ...

    def round(self, number: int, used: float, metrics: dict[str, float]) -> None: ...

    def mark(self, row: dict[str, Any], scores: dict[str, dict[str, Any]]) -> None: ...

    def stopping(self) -> bool: ...


def train(run: Assembled, store: RunStore, watcher: Watcher) -> None:
    """Trains to the end of the budget, leaving a checkpoint and a scored row at every mark.

    Raises:
        Interrupted: the watcher asked to stop; the state was saved.
        RunFault: the missing rate or the sampler's drift passed the track's limit, or a loss was not finite.
    """
    import torch

    ledger, method, trainer = run.ledger, run.method, run.trainer
    rounds, failed, asked, gap = 0, 0, 0, None
    again: list[Prompt] = []
    saved = store.load_state()
    if saved:
        state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=False)
        trainer.load_state_dict(state["trainer"])
        method.load_state_dict(state["method"])
        ledger.load_state_dict(state["ledger"])
        run.stream.drawn, rounds, failed, asked, again = (state[k] for k in ("drawn", "rounds", "failed", "asked", "again"))
        run.generator.sync()

    def save() -> None:
        buffer = io.BytesIO()
        torch.save(
            {"trainer": trainer.state_dict(), "method": method.state_dict(), "ledger": ledger.state_dict(),
             "drawn": run.stream.drawn, "rounds": rounds, "failed": failed, "asked": asked, "again": again},
            buffer,
        )  # fmt: skip
        store.save_state(buffer.getvalue())

    passed = {row["mark"] for row in store.lines("marks")}

    def pass_marks() -> None:
        """Keeps and scores the weights at every mark that the ledger has reached."""
        for mark, reading in ledger.budget.schedule:
            reached = ledger.training[ledger.budget.axis] >= reading or (ledger.exhausted() and mark == 1)
            if reached and str(mark) not in passed:
                passed.add(str(mark))
                watcher.state("evaluate")
                drift.probe(run)
                store.write_folder(store.checkpoint(str(mark)), run.save_model)
                scores = {name: evaluate(run, store, name, str(mark)) for name in due(run.suites, run.at_ends, str(mark))}
                row = {"mark": str(mark), "rounds": rounds, "meters": dict(ledger.training), "lost": failed, "asked": asked}
                store.append("marks", row)
                save()
                watcher.mark(row, scores)

    pass_marks()
    while not ledger.exhausted(drawing=not again):
        if watcher.stopping():
            save()
            raise Interrupted(f"stopped at round {rounds} (saved)")
        watcher.state("collect")
        run.spans.take()  # what evaluation took is no part of the round
        now = _at_work(run)
        if now is method and ledger.training["prompts"] == method.config.warm_prompts and not again:
            trainer.freeze_reference()
        prompts = again or _draw(run, method.config.prompts_per_round)
        collected = now.collect(prompts, run.tools)
        again = list(collected.again)
        failed += len(collected.lost)
        asked += len(collected.lost) + len(collected.examples) + len(collected.silent)
        run.generator.sleep()
        gap = drift.compare(run, collected) if gap is None or run.generator.copies else gap
        watcher.state("train")
        metrics = trainer.step(collected.examples, run.spec.seed, now)
        run.charge_training(metrics)
        run.generator.sync()
        rounds += 1
        for record in rollout_records(collected, rounds):
            store.append("rollouts", record)
        metrics |= {"lost": float(len(collected.lost)), "silent": float(len(collected.silent)), **signal_means(collected)}
        metrics |= {"drift": gap} if run.generator.copies and gap is not None else {}
        store.append("steps", {"round": rounds, "metrics": metrics})
        store.append("ledger", {"round": rounds, **ledger.state_dict()})
        store.append("clock", {"round": rounds, **run.clock()})
        watcher.round(rounds, ledger.used(), metrics)
        if asked >= 20 and failed / asked > run.track.missing_limit:
            save()
            raise RunFault(
                f"{failed} of {asked} groups are missing ({failed / asked:.0%}); the track allows {run.track.missing_limit:.0%}",
                fix="see the failures in rollouts.jsonl; repeat the command to go on once their cause is gone",
            )
        if not again:  # a mark waits for all turns of its prompts
            pass_marks()
        if rounds % run.track.training.checkpoint_rounds == 0:
            save()
    pass_marks()

    def save_for_others(folder: Path) -> None:
        run.save_model(folder)
        write_card(store, folder, store.lines("marks")[-1]["mark"])

    store.write_folder(store.folder / "model", save_for_others)
    store.finish()


def score_marks(run: Assembled, store: RunStore, watcher: Watcher) -> None:
    """Scores whatever is not scored yet: marks of a finished run on another suite, and the teacher as a contestant."""
    for row in store.lines("marks"):
        missing = [name for name in due(run.suites, run.at_ends, row["mark"]) if not scored(store, name, row["mark"])]
        if missing:
            watcher.state("evaluate")
            run.load_weights(store.checkpoint(row["mark"]))
            watcher.mark(row, {name: evaluate(run, store, name, row["mark"]) for name in missing})
    watcher.state("evaluate the teacher")
    for name in run.suites:
        evaluate_teacher(run, store, name)


def _at_work(run: Assembled) -> Method:
    """The method, or its warm start while the prompts of that last."""
    warm = run.method.warm_start
    return warm if warm and run.ledger.training["prompts"] < run.method.config.warm_prompts else run.method


def _draw(run: Assembled, count: int) -> list[Prompt]:
    drawn, warm = int(run.ledger.training["prompts"]), run.method.config.warm_prompts
    prompts = run.stream.take(run.ledger.admit(min(count, warm - drawn) if drawn < warm else count))
    run.ledger.charge("prompts", len(prompts))
    return prompts

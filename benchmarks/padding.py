"""How much of what the trainer reads is padding: exact counts on drawn lengths, no model and no clock.

Lengths are drawn log-normally, as answers of chat models are spread (a factor e either way for one standard deviation), cut at
1,024 tokens. Groups stay whole, so their own spread is what sorting by length cannot take away.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from harness.train.collate import micro_batches
from harness.types import Example, Prompt, Rollout

PROMPTS, LONGEST = 64, 1024


def batch(group: int, spread: float, seed: int) -> list[Example]:
    """A round's examples; rollouts of a group share a prompt and half of the variance of their lengths."""
    rng = random.Random(f"{group} {spread} {seed}")
    made = []
    for number in range(PROMPTS):
        prompt = [0] * max(8, min(512, round(80 * math.exp(0.7 * rng.gauss(0, 1)))))
        centre = rng.gauss(0, spread * 0.5**0.5)
        sizes = [round(200 * math.exp(centre + rng.gauss(0, spread * 0.5**0.5))) for _ in range(group)]
        rollouts = tuple(Rollout(Prompt(str(number), ()), prompt, [0] * max(1, min(LONGEST, n)), None, "", "stop") for n in sizes)
        made.append(Example(rollouts))
    return made


def waste(group: int, spread: float, budget: int) -> dict[str, float]:
    """Share of padding in all micro-batches of a round, sorted and in the order of drawing; means over 20 rounds."""
    shares: dict[str, list[float]] = {"sorted": [], "unsorted": []}
    for seed in range(20):
        examples = batch(group, spread, seed)
        parts = micro_batches(examples, budget)
        sizes, drawn = [len(part) for part in parts], iter(range(len(examples)))
        for name, cut in (("sorted", parts), ("unsorted", [[next(drawn) for _ in range(size)] for size in sizes])):
            read = padded = 0
            for part in cut:
                rows = [len(r.prompt_tokens) + len(r.tokens) for i in part for r in examples[i].rollouts]
                read, padded = read + sum(rows), padded + len(rows) * max(rows)
            shares[name].append(1 - read / padded)
    return {name: round(sum(values) / len(values), 3) for name, values in shares.items()}


def main() -> None:
    rows = [
        {"group": group, "spread": spread, "micro_batch_tokens": budget, **waste(group, spread, budget)}
        for group in (1, 4, 8) for spread in (0.5, 1.0) for budget in (4096, 16384)
    ]  # fmt: skip
    out = Path(__file__).parent / "results" / "padding.json"
    out.write_text(json.dumps({"schema": "harness.benchmark.padding/1", "prompts": PROMPTS, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()

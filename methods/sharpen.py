"""Sharpen: cross entropy on the student's own greedy answers. A control that is told nothing by anybody.

What it gains is sharpening, not distillation; a board shows it so that other gains can be read against it.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.method import CrossEntropy, MethodConfig, Tools
from harness.types import Collected, Example, Prompt


class Config(MethodConfig):
    """Nothing of its own."""


class Sharpen(CrossEntropy):
    Config = Config
    paper = "control of this project"
    summary = "cross entropy on the student's own greedy answers: a control without any signal"
    access = "nothing"

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        return Collected([Example(tuple(group)) for group in tools.student.rollouts(prompts, 1, 0.0)])

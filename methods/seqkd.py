"""SeqKD: cross entropy on answers that the teacher writes (Kim & Rush 2016, arXiv 1606.07947, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from harness.method import CrossEntropy, Field, Need, SignalConfig, Tools, imitated, shifted
from harness.types import Collected, Prompt


class Config(SignalConfig):
    """The paper trains on the one answer that beam search finds; greedy decoding stands in for it.

    The control `signal: shuffled` trains on the teacher's answers to another prompt.
    """

    texts: int = Field(1, gt=0, description="teacher answers of a prompt")
    teacher_temperature: float = Field(0.0, ge=0, description="temperature of the teacher's answers; 0 is greedy")


class SeqKD(CrossEntropy):
    Config = Config
    paper = "arXiv 1606.07947"
    summary = "cross entropy on answers that the teacher writes"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.TEACHER_TEXT})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        replies = tools.the_teacher().texts(prompts, self.config.texts, self.config.teacher_temperature)
        replies = shifted(replies) if self.config.signal == "shuffled" else replies
        return imitated(prompts, replies, tools)

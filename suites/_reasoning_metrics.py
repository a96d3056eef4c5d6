"""Metrics over records of lm-eval's tasks: which are means over documents, and what several samples of an item tell."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.types import Metric, Record

_NO_FILTER = "none"  # lm-eval's name where a task extracts nothing


class Headline(NamedTuple):
    """What counts for a task: a metric that is a mean over documents, under the task's first filter."""

    metric: str
    filter: str


def is_item_mean(task: Any, metric: str, value: Any) -> bool:
    """Whether a metric is a number for each document whose mean is the task's result."""
    import numpy as np
    from lm_eval.api.metrics import mean

    return isinstance(value, bool | int | float | np.number | np.bool_) and task.aggregation().get(metric, mean) is mean


def scores_of(records: Sequence[Record]) -> list[float]:
    """The scores that are there."""
    return [record.score for record in records if record.score is not None]


def mean_of(scores: Sequence[float]) -> Metric:
    """The mean with its sample standard error."""
    spread = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None
    return Metric(statistics.fmean(scores) if scores else None, spread, n=len(scores), missing=0)


def pass_at(scores: Sequence[float], k: int) -> float | None:
    """The unbiased estimate of at least one success among k of the n samples: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, arXiv 2107.03374, equation 1. None where a score is neither 0 nor 1.
    """
    if not set(scores) <= {0.0, 1.0}:
        return None
    wrong = len(scores) - int(sum(scores))
    return 1.0 - math.comb(wrong, k) / math.comb(len(scores), k)


def majority(found: Sequence[Record], headline: Headline) -> float | None:
    """The score of the answer that most samples of an item give, of equally frequent ones the first.

    None where the task's filter extracts no answer, so that whole texts would be counted.
    """
    if headline.filter == _NO_FILTER:
        return None
    ((answer, _),) = Counter(record.raw for record in found).most_common(1)
    return next(record.score for record in found if record.raw == answer)

"""Win rates with the influence of answers' lengths taken out (Dubois et al. 2024, arXiv:2404.04475).

Axis in names: I items, in the order of the suite; a verdict that is missing keeps its place.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.assets import Asset, read_text
from harness.errors import SuiteError
from suites._alpaca_annotator import quiet

GAMED = Asset("AlpacaEval 2's data for length control", "tatsu-lab/alpaca_eval", "df_gamed.csv", "dataset",
              "CC BY-NC 4.0, not for commercial use")  # fmt: skip
ITEMS = 805
_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "model")


class Controlled(NamedTuple):
    value: float
    """In [0, 1]."""
    stderr: float


def gamed() -> Path:
    """The file of difficulties and of judged verbose and concise baselines that the official fit needs.

    Raises:
        SuiteError: it is not on this machine, or is not of the form that the package takes for granted.
    """
    try:
        path = GAMED.path()
    except SuiteError as error:
        raise SuiteError(error.message, where=error.where,
                         fix=f"{error.fix}; or do without: --set length_control=none") from error  # fmt: skip
    table = csv.DictReader(io.StringIO(read_text(path), newline=""))
    lacking = [column for column in _COLUMNS if column not in (table.fieldnames or ())]
    if lacking:
        raise _unfit(path, f"it lacks the columns {', '.join(lacking)}")
    indices = []
    for line, row in enumerate(table, 2):
        try:
            numbers = [float(row[column]) for column in _COLUMNS[2:4]]
            indices.append(float(row["index"]))
            judged = not row["preference"] or 0 <= float(row["preference"]) <= 1
        except (TypeError, ValueError) as error:
            raise _unfit(path, f"line {line} holds something that is no number ({error})") from error
        if not judged or not all(map(math.isfinite, numbers)) or row["not_gamed_baseline"] not in ("True", "False"):
            raise _unfit(path, f"line {line} is not as the others: {list(row.values())}")
    if indices[:ITEMS] != [float(i) for i in range(ITEMS)] or not set(indices) <= set(indices[:ITEMS]):
        raise _unfit(path, f"its first {ITEMS} rows are not the indices 0 to {ITEMS - 1} in order")
    return path


@lru_cache(maxsize=16)
def length_controlled(
    preference_I: tuple[float | None, ...], reference_length_I: tuple[int, ...], length_I: tuple[int, ...], path: Path,
    is_baseline: bool,
) -> Controlled | None:  # fmt: skip
    """AlpacaEval 2's length-controlled win rate, fitted and predicted by the package's own function.

    Missing verdicts (None) take no part in the fit; the prediction is over all items, as in the package.

    Args:
        preference_I: P(the model wins) of the official items in their order.
        reference_length_I: characters of the baseline's outputs.
        length_I: characters of the model's outputs.
        path: `df_gamed.csv`.
        is_baseline: the model is the baseline itself, so that its win rate is 1/2 by construction.

    Returns:
        None where there is nothing to fit: no verdict, or one difference of lengths throughout.
    """
    differences = {mine - theirs for mine, theirs in zip(length_I, reference_length_I, strict=True)}
    if not is_baseline and (len(differences) == 1 or set(preference_I) == {None}):
        return None
    with quiet(), _own_file(path):
        import pandas as pd
        from alpaca_eval.metrics import get_length_controlled_winrate

        rows = pd.DataFrame({
            "preference": [math.nan if wins is None else 1.0 + wins for wins in preference_I],
            "output_1": ["-" * length for length in reference_length_I],  # of the texts, only lengths are read
            "output_2": ["-" * length for length in length_I],
            "generator_1": "baseline",
            "generator_2": "baseline" if is_baseline else "model",
        })  # fmt: skip
        found = get_length_controlled_winrate(
            rows, save_weights_dir=None, is_add_glm_preference_inplace=False, is_warn_extreme_changes=False
        )
    return Controlled(float(found["length_controlled_winrate"]) / 100, float(found["lc_standard_error"]) / 100)


def length_only(
    preference_I: tuple[float | None, ...], reference_length_I: tuple[int, ...], length_I: tuple[int, ...]
) -> Controlled | None:
    """A win rate at equal lengths on any items: the harness's own, not comparable with AlpacaEval's leaderboard.

    Logistic regression of the preference on an intercept and on tanh of the difference of lengths over its standard
    deviation (the first term of arXiv:2404.04475, section 3), by maximum likelihood with a weak ridge on the length
    (C = 100), without difficulties of instructions and without gamed baselines. The value is the prediction at no
    difference; its standard error is the delta method on the sandwich estimate, which allows for preferences between 0
    and 1 (Papke and Wooldridge 1996).

    Args:
        preference_I: P(the model wins); items without a verdict (None) are left out.
        reference_length_I: characters of the references.
        length_I: characters of the model's answers.

    Returns:
        None where there are fewer than two verdicts.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    kept = [i for i, wins in enumerate(preference_I) if wins is not None]
    if len(kept) < 2:
        return None
    preference = np.array([preference_I[i] for i in kept], dtype=float)
    delta = np.array([reference_length_I[i] - length_I[i] for i in kept], dtype=float)
    spread = delta.std(ddof=1)
    length = np.tanh(delta / spread) if spread else np.zeros_like(delta)
    ridge = 0.01
    model = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000)
    model.fit(
        np.concatenate([length, length])[:, None], np.repeat([1, 0], len(kept)),
        sample_weight=np.concatenate([preference, 1 - preference]),
    )  # fmt: skip
    design = np.stack([np.ones_like(length), length], axis=1)
    predicted = model.predict_proba(length[:, None])[:, 1]
    bread = np.linalg.inv((design * (predicted * (1 - predicted))[:, None]).T @ design + np.diag([1e-12, ridge]))
    residual = design * (preference - predicted)[:, None]
    value = float(model.predict_proba([[0.0]])[0, 1])
    return Controlled(value, float(value * (1 - value) * np.sqrt((bread @ residual.T @ residual @ bread)[0, 0])))


def length_controlled_from_weights(weights: Mapping[str, float], difficulty_I: tuple[float, ...]) -> float:
    """The length-controlled win rate, in [0, 1], that published weights of a model's fit stand for.

    The mean over items of the logistic function of the fit without its length term (arXiv:2404.04475, section 3; the
    baseline's own weights are 0).

    Args:
        weights: a row of a leaderboard's table of weights, under the package's names.
        difficulty_I: difficulties of the instructions that the fit was made on, in its order.
    """
    slope, flag = weights["instruction_difficulty"], weights["not_gamed_baseline.astype(float)"]
    return sum(1 / (1 + math.exp(-(slope * difficulty + flag))) for difficulty in difficulty_I) / len(difficulty_I)


@contextlib.contextmanager
def _own_file(path: Path) -> Iterator[None]:
    """The package fetches `df_gamed.csv` by itself at each fit and takes no path; here it gets the file that was checked."""
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    fetch = glm_winrate.hf_hub_download
    glm_winrate.hf_hub_download = lambda **_: str(path)
    try:
        with sklearn.config_context():  # which the fit changes for everybody
            yield
    finally:
        glm_winrate.hf_hub_download = fetch


def _unfit(path: Path, why: str) -> SuiteError:
    return SuiteError(f"{path.name} cannot be used for length control: {why}", where=str(path),
                      fix=f"fetch it again: hf download {GAMED.repo} {GAMED.file} --repo-type {GAMED.kind}; "
                      "or do without: --set length_control=none")  # fmt: skip

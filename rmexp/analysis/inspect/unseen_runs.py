"""Gaps of trained runs on pairs that they did not train on: those of their val and test rows."""

from collections.abc import Iterator, Sequence

import numpy as np

from rmexp.analysis.compare.runs import MERGED, Run, find_runs
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.label_file import pair_content
from rmexp.evaluation.calibration import load_calibration
from rmexp.evaluation.scored_set import EvalLabels
from rmexp.tracking.predictions import read_judgements, read_predictions

UNSEEN = ("val", "test")
"""Splits whose prompts a run does not train on; val only selects its weights."""


def logits_of_runs(
    given: str | Sequence[str], data: ComparisonData, labels: EvalLabels
) -> np.ndarray:
    """(M, P) gaps over the temperature of each run; NaN where a pair is not in its val or test.

    Pairs are the same where prompt and responses are.

    Args:
        given: runs, folders of runs (sweeps), or a list of these.
        labels: of rows of `data`.

    Raises:
        UserError: there is no training among them, or none has a pair of the data.
    """
    runs, skipped = find_runs([given] if isinstance(given, str) else list(given))
    for one in skipped:
        note_fallback(f"{one.name} does not judge labels: {one.why}.")
    contents = _contents(data, labels)
    found = []
    for run in runs:
        if run.is_file or run.trained != run.path or MERGED in run.config:
            raise UserError(
                f"task.runs={run.path}: only trainings tell which rows they did not train on; name "
                "run directories of task=train, or a sweep of them."
            )
        logits = dict(_logits(run))
        found.append([logits.get(content, float("nan")) for content in contents])
    logits_M_P = np.array(found, dtype=np.float64).reshape(len(found), len(contents))
    if np.isnan(logits_M_P).all():
        raise UserError(
            f"task.runs={given}: no pair of this data is in val or test of any of the {len(runs)} "
            "runs: name runs on this data, or let task.folds=5 train heads."
        )
    return logits_M_P[~np.isnan(logits_M_P).all(1)]


def _contents(data: ComparisonData, labels: EvalLabels) -> list[str]:
    """What identifies each pair, see `pair_content`."""
    starts_C = np.searchsorted(labels.rows_N, np.arange(len(labels.items_C)))
    rows = data.rows.select_columns(["prompt_key", "response_keys"]).select(labels.items_C)[:]
    found = []
    for better, worse in zip(labels.better_P.tolist(), labels.worse_P.tolist(), strict=True):
        c = int(labels.rows_N[better])
        keys, start = rows["response_keys"][c], int(starts_C[c])
        found.append(pair_content(rows["prompt_key"][c], keys[better - start], keys[worse - start]))
    return found


def _logits(run: Run) -> Iterator[tuple[str, float]]:
    """Content of each unseen pair, and of its mirror image -> the log odds of that order.

    Raises:
        UserError: the run has no temperature.
    """
    scale = load_calibration(run.path)
    if scale is None or scale.temperature is None:
        raise UserError(
            f"task.runs={run.path}: the run has no temperature (calibration.json), as its "
            "validation rows have no pairs."
        )
    for split in UNSEEN:
        file = run.path / "predictions" / f"{split}.parquet"
        if not file.is_file():
            continue
        rewards = read_predictions(file)
        pairs = read_judgements(run.path / "judgements" / f"{split}.parquet")
        for content, better, worse in zip(pairs.contents_P.tolist(), *pairs.sides, strict=True):
            gap = (rewards[better] - rewards[worse]) / scale.temperature
            prompt, one, other = content.split("/")
            yield content, gap
            yield f"{prompt}/{other}/{one}", -gap

"""Sensitivity of rewards to harmless rewrites, and a check that swapped labels mirror accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.comparison import Comparison
from rmexp.data.reader import RowReport
from rmexp.data.token_dataset import batched_list
from rmexp.evaluation.bias_warnings import sensitivity_warnings
from rmexp.inference.perturbations import REWRITES, mirror_mismatch, sensitivity, swap_labels
from rmexp.inference.score_file import SORT_WINDOW
from rmexp.inference.scorer import Scorer


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of the rewards of some comparisons.

    metrics     `NAME/shift`, `/drift`, `/flipped`, `/bought` of each rewrite, `swapped_accuracy`
    verdicts    warnings
    lost        number of comparisons that are too long once they are rewritten
    """

    metrics: dict[str, float]
    verdicts: list[str]
    lost: int


def probe_rewrites(groups: Sequence[tuple[Scorer, Sequence[Comparison]]]) -> Sensitivity | None:
    """Score comparisons, their rewrites, and the same comparisons with swapped labels.

    Args:
        groups: comparisons with the scorer that renders them.

    Returns:
        None where nothing can be scored.
    """
    comparisons = [one for _, group in groups for one in group]
    scored = [_scored(groups, edit) for edit in (_unchanged, *REWRITES.values(), swap_labels)]
    whole = [n for n in range(len(comparisons)) if all(found[n] is not None for found in scored)]
    if not whole:
        return None
    rewards = [np.array([r for n in whole for r in found[n] or ()]) for found in scored]
    usable = [comparisons[n] for n in whole]
    pairs, flipped_pairs = _pairs(usable), _pairs(list(map(swap_labels, usable)))
    named = zip(REWRITES, rewards[1:-1], strict=True)
    found = {name: sensitivity(rewards[0], after, *pairs) for name, after in named}
    metrics = {f"{name}/{k}": v for name, values in found.items() for k, v in values.items()}
    warnings = sensitivity_warnings(found)
    if len(pairs[0]):
        plain, mirror = _right(rewards[0], *pairs), _right(rewards[-1], *flipped_pairs)
        metrics |= {"accuracy": plain["accuracy"], "swapped_accuracy": mirror["accuracy"]}
        if why := mirror_mismatch(plain, mirror):
            warnings.append(why)
    return Sensitivity(metrics, warnings, len(comparisons) - len(whole))


def _unchanged(comparison: Comparison) -> Comparison:
    return comparison


def _scored(
    groups: Sequence[tuple[Scorer, Sequence[Comparison]]], edit: Callable[[Comparison], Comparison]
) -> list[list[float] | None]:
    return [
        rewards
        for scorer, comparisons in groups
        for window in batched_list(map(edit, comparisons), SORT_WINDOW)
        for rewards in scorer.comparisons(window, RowReport())
    ]


def _pairs(comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Indices of better and worse responses over all comparisons; ties are left out."""
    better, worse, start = [], [], 0
    for one in comparisons:
        for judgement in one.judgements:
            if judgement.label:
                sides = (judgement.i, judgement.j)[:: judgement.label]
                better.append(start + sides[0])
                worse.append(start + sides[1])
        start += len(one.responses)
    return np.array(better, dtype=np.int64), np.array(worse, dtype=np.int64)


def _right(rewards: np.ndarray, better: np.ndarray, worse: np.ndarray) -> dict[str, float]:
    gaps = rewards[better] - rewards[worse]
    return {
        "accuracy": float((gaps > 0).mean()),
        "tie_rate": float((gaps == 0).mean()),
        "pairs": float(len(gaps)),
    }

"""Does a reward mind harmless rewrites, and does swapping the labels mirror its accuracy?"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.data.reader import RowReport
from rmexp.data.token_dataset import batched_list
from rmexp.evaluation.bias_warnings import sensitivity_verdicts
from rmexp.inference.perturbations import REWRITES, mirror_prompts, sensitivity, swap_prompts
from rmexp.inference.scorer import SORT_WINDOW, Scorer


@dataclass(frozen=True)
class Sensitivity:
    """What was found on some comparisons.

    metrics     `NAME/shift`, `/drift`, `/flipped`, `/bought` of each rewrite, `swapped_accuracy`
    verdicts    a sentence for each that is bad
    lost        comparisons that cannot be scored once they are rewritten: too long
    """

    metrics: dict[str, float]
    verdicts: list[str]
    lost: int


def chosen(
    comparisons: Iterable[tuple[Comparison, float | None]], ids: Collection[str]
) -> list[Comparison]:
    """Those with the given ids, judged by their ratings where these lie as far apart as is said
    beside them. Reading stops behind the last one."""
    wanted, found = set(ids), []
    for one, gap in comparisons if wanted else ():
        if one.id in wanted:
            wanted.remove(one.id)
            found.append(one if gap is None else pairs_from_ratings(one, gap))
            if not wanted:
                break
    return found


def probe_rewrites(scorer: Scorer, comparisons: Sequence[Comparison]) -> Sensitivity | None:
    """Score comparisons, their rewrites and themselves with labels swapped.

    Returns:
        None where nothing can be scored.
    """
    flipped = [swap_prompts(one) for one in comparisons]
    versions = [comparisons, *(list(map(edit, comparisons)) for edit in REWRITES.values()), flipped]
    scored = [_scored(scorer, version) for version in versions]
    whole = [n for n in range(len(comparisons)) if all(found[n] is not None for found in scored)]
    if not whole:
        return None
    rewards = [np.array([r for n in whole for r in found[n] or ()]) for found in scored]
    pairs, turned_pairs = (
        _pairs([version[n] for n in whole]) for version in (comparisons, flipped)
    )
    named = zip(REWRITES, rewards[1:-1], strict=True)
    found = {name: sensitivity(rewards[0], after, *pairs) for name, after in named}
    metrics = {f"{name}/{k}": v for name, values in found.items() for k, v in values.items()}
    said = sensitivity_verdicts(found)
    if len(pairs[0]):
        plain, mirror = _right(rewards[0], *pairs), _right(rewards[-1], *turned_pairs)
        metrics |= {"accuracy": plain["accuracy"], "swapped_accuracy": mirror["accuracy"]}
        if why := mirror_prompts(plain, mirror):
            said.append(why)
    return Sensitivity(metrics, said, len(comparisons) - len(whole))


def _scored(scorer: Scorer, comparisons: Sequence[Comparison]) -> list[list[float] | None]:
    windows = batched_list(comparisons, SORT_WINDOW)
    return [found for window in windows for found in scorer.comparisons(window, RowReport())]


def _pairs(comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Better and worse responses of the strict judgements, numbered through."""
    better, worse, start = [], [], 0
    for one in comparisons:
        for judgement in one.judgements:
            if judgement.verdict:
                sides = (judgement.i, judgement.j)[:: judgement.verdict]
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

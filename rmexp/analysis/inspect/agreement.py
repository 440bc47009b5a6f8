"""Agreement of the people who judged the same responses: a ceiling for every accuracy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.stats.bootstrap import clustered, ratio

VoteTable = tuple[float, float, float]
"""Number of votes for the first response, for the second, and for a tie."""


@dataclass(frozen=True)
class Agreement:
    """Fleiss' kappa: 1 is full agreement, 0 that of random votes with the same frequencies.

    kappa, low, high   with its 95% interval over prompts (None for fewer than two prompts)
    judgements         by `raters` people each; kappa needs one number of raters
    unanimous          share of them
    others             judgements by another number of people, left out
    """

    kappa: float
    low: float | None
    high: float | None
    judgements: int
    raters: int
    unanimous: float
    others: int


def agreement(votes: Sequence[VoteTable], prompts: Sequence[str]) -> Agreement | None:
    """Fleiss' kappa over judgements; None if no judgement has two votes, or all votes are equal.

    Fleiss 1971, "Measuring nominal scale agreement among many raters". Judgements with shares in
    place of counts are ignored.

    Args:
        votes: of each judgement.
        prompts: of each judgement, the clusters of the interval.
    """
    counted = [n for n, counts in enumerate(votes) if all(float(c).is_integer() for c in counts)]
    raters = Counter(total for n in counted if (total := int(sum(votes[n]))) > 1)
    if not raters:
        return None
    most = raters.most_common(1)[0][0]
    units = [n for n in counted if sum(votes[n]) == most]
    table = np.array([votes[n] for n in units], dtype=np.int64)
    if (table.sum(axis=0) > 0).sum() < 2:
        return None  # all votes are equal: chance agreement is 1
    agreed = (table * (table - 1)).sum(axis=1, keepdims=True) / (most * (most - 1))
    columns = np.concatenate([np.ones_like(agreed), agreed, table / most], axis=1)
    kappa, low, high = clustered(columns, np.array([prompts[n] for n in units]), _kappa)
    return Agreement(
        kappa=kappa,
        low=None if np.isnan(low) else low,
        high=None if np.isnan(high) else high,
        judgements=len(table),
        raters=most,
        unanimous=float((table.max(axis=1) == most).mean()),
        others=raters.total() - len(table),
    )


def _kappa(sums: np.ndarray) -> np.ndarray:
    """Kappa from sums over judgements: of 1, of the share of agreeing people, of vote shares."""
    shares = sums[..., 1:] / sums[..., :1]
    chance = np.square(shares[..., 1:]).sum(-1)
    return ratio(shares[..., 0] - chance, 1 - chance)

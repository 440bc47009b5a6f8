"""Do the people who judged the same responses say the same? The ceiling of every accuracy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.stats.bootstrap import clustered, ratio

VoteTable = tuple[float, float, float]
"""How many were for the first response, for the second, and for a tie."""


@dataclass(frozen=True)
class Agreement:
    """Fleiss' kappa of the judgements by `raters` people each, and what it is made of.

    1 is full agreement, 0 that of people who guess with the same frequencies. `low` and `high` are
    its 95% interval over prompts (None for fewer than two). `others` have another number of votes,
    two or more, and are left out: kappa is defined for one number of raters.
    """

    kappa: float
    low: float | None
    high: float | None
    judgements: int
    raters: int
    unanimous: float
    others: int


def agreement(votes: Sequence[VoteTable], prompts: Sequence[str]) -> Agreement | None:
    """The agreement of those who judged the same; None where nothing was judged by two or more.

    Fleiss 1971, "Measuring nominal scale agreement among many raters". Shares in place of counts
    do not say how many voted, and are passed over.

    Args:
        votes: of each judgement.
        prompts: of each judgement, the cluster of the interval.
    """
    counted = [n for n, counts in enumerate(votes) if all(float(c).is_integer() for c in counts)]
    raters = Counter(total for n in counted if (total := int(sum(votes[n]))) > 1)
    if not raters:
        return None
    most = raters.most_common(1)[0][0]
    units = [n for n in counted if sum(votes[n]) == most]
    table = np.array([votes[n] for n in units], dtype=np.int64)
    if (table.sum(axis=0) > 0).sum() < 2:
        return None  # everybody always said the same: chance would agree as well
    low, high = _interval(table, np.array([prompts[n] for n in units]))
    return Agreement(
        kappa=_kappa(table),
        low=low,
        high=high,
        judgements=len(table),
        raters=most,
        unanimous=float((table.max(axis=1) == most).mean()),
        others=raters.total() - len(table),
    )


def _kappa(table: np.ndarray) -> float:
    import torch
    from torchmetrics.functional.nominal import fleiss_kappa

    return float(fleiss_kappa(torch.from_numpy(table), mode="counts"))


def _interval(table: np.ndarray, clusters: np.ndarray) -> tuple[float | None, float | None]:
    """Its interval over prompts: kappa is made of sums over judgements."""
    votes, raters = table.astype(np.float64), table[0].sum()
    agreed = (votes * (votes - 1)).sum(axis=1, keepdims=True) / (raters * (raters - 1))
    columns = np.concatenate([np.ones_like(agreed), agreed, votes / raters], axis=1)
    _, low, high = clustered(columns, clusters, _of_sums)
    return (None, None) if np.isnan(low) else (low, high)


def _of_sums(sums: np.ndarray) -> np.ndarray:
    """Fleiss' kappa of sums of 1, of the share of people who agree, and of shares of votes."""
    shares = sums[..., 1:] / sums[..., :1]
    chance = np.square(shares[..., 1:]).sum(-1)
    return ratio(shares[..., 0] - chance, 1 - chance)

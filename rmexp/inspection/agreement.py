"""Do the people who judged the same responses say the same? The ceiling of every accuracy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.statistics import RESAMPLES

Votes = tuple[float, float, float]
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


def agreement(votes: Sequence[Votes], prompts: Sequence[str]) -> Agreement | None:
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
    """The percentile bootstrap interval, resampling whole prompts (see `clustered_interval`)."""
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1
    if count < 2:
        return None, None
    rng = np.random.default_rng(0)
    kappas = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        kappas.append(_kappa(np.repeat(table, times[member], axis=0)))
    low, high = np.quantile(kappas, [0.025, 0.975])
    return float(low), float(high)

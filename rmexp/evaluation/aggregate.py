"""Members of an ensemble, whether runs or outputs of one head: on one scale, and as one reward.

`lcb` takes the standard deviation of members, in the unit of the rewards, so that its lambda means
the same on any scale. Coste et al. 2023 (arXiv:2310.02743, section 3) take the variance.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from rmexp.core.errors import note_fallback

Aggregate = Literal["mean", "min", "lcb"]
"""How members' rewards become one: mean, minimum, or mean - lambda x standard deviation."""

Aggregates = Aggregate | list[Aggregate] | None
"""One, several or no ensembles."""

LcbLambda = Annotated[float, Ge(0)]
"""Of the ensemble `lcb`."""


@dataclass(frozen=True)
class Aggregation:
    """How members' rewards become one: an aggregate, and lambda of `lcb` (0 or more)."""

    aggregate: Aggregate
    lcb_lambda: float

    def __call__(self, rewards_M_N: np.ndarray) -> np.ndarray:
        """See `aggregate_rewards`."""
        return aggregate_rewards(rewards_M_N, self.aggregate, self.lcb_lambda)

    @classmethod
    def of_each(cls, aggregate: Aggregates, lcb_lambda: float) -> "list[Aggregation]":
        """Those of the keys `aggregate` and `lcb_lambda`."""
        names = aggregate if isinstance(aggregate, list) else [aggregate] if aggregate else []
        return [cls(name, lcb_lambda) for name in names]


MEAN = Aggregation("mean", 0.0)
"""The mean of the members."""


def aggregate_rewards(
    rewards_M_N: np.ndarray, aggregate: Aggregate, lcb_lambda: float
) -> np.ndarray:
    """(N,) rewards of an ensemble.

    Args:
        rewards_M_N: of M members, on one scale.
        lcb_lambda: of `lcb`, 0 or more.
    """
    if aggregate == "min":
        return np.asarray(rewards_M_N.min(0))
    mean_N = np.asarray(rewards_M_N.mean(0))
    return mean_N if aggregate == "mean" else mean_N - lcb_lambda * member_std(rewards_M_N)


def member_std(rewards_M_N: np.ndarray) -> np.ndarray:
    """(N,) standard deviation of M members: their disagreement (divisor M; 0 for one member)."""
    return np.asarray(rewards_M_N.std(0))


def standardised(values_N: np.ndarray, rows_N: np.ndarray, what: str) -> np.ndarray:
    """Rewards with mean 0 in each prompt, and standard deviation 1 within prompts.

    Preferences between responses to one prompt leave a prompt's level open, and only differences
    within it choose. Prompts whose rewards are all equal are counted.

    Args:
        rows_N: index of each reward's prompt, ascending.
        what: the rewards, for the note.
    """
    first = np.flatnonzero(np.diff(rows_N, prepend=-1))
    equal = np.maximum.reduceat(values_N, first) == np.minimum.reduceat(values_N, first)
    if equal.any():
        note_fallback(
            f"The {what} are equal for all responses to {equal.sum()} of {len(equal)} prompts: "
            "there the choice is a blind one."
        )
    inside = minus_prompt_means(values_N, rows_N)
    inside[equal[rows_N]] = 0.0  # and not the rounding of their mean
    return inside / (np.std(inside) or 1.0)


def minus_prompt_means(values_N: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
    """Values minus the mean of their prompt."""
    means = np.bincount(rows_N, values_N) / np.bincount(rows_N)
    return values_N - means[rows_N]

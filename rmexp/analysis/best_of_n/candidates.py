"""Responses to choose from, with their gold rewards and the rewards of models that choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.text_style import spoken
from rmexp.evaluation.aggregate import (
    Aggregation,
    minus_prompt_means,
    standardised,
)

RewardLists = Mapping[int, Sequence[float]]
"""Index of a comparison -> the reward of each response."""


@dataclass(frozen=True)
class CandidateSet:
    """N responses to P prompts, `most` or more to each.

    rows_N       index of each response's prompt, ascending
    clusters_P   hash of each prompt
    gold_N       gold reward
    lengths_N    characters
    rewards      model -> (N,) rewards, standardised within prompts
    most         the largest n
    """

    rows_N: np.ndarray
    clusters_P: np.ndarray
    gold_N: np.ndarray
    lengths_N: np.ndarray
    rewards: Mapping[str, np.ndarray]
    most: int

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self.clusters_P)

    @property
    def gold_spread(self) -> float:
        """Standard deviation of the gold reward within prompts; 1 where it does not vary."""
        return float(np.std(minus_prompt_means(self.gold_N, self.rows_N))) or 1.0


def candidate_set(
    comparisons: Sequence[Comparison],
    gold: RewardLists,
    rewards: Mapping[str, RewardLists],
    ensembles: Sequence[Aggregation],
    members: Sequence[RewardLists] = (),
) -> CandidateSet:
    """Join comparisons with their rewards, and add the ensembles.

    Args:
        members: of the ensembles; none: all models.

    n goes up to the number of responses that most prompts have. Prompts with fewer, and those
    without a gold reward or the reward of some model, are left out and noted.

    Raises:
        UserError: no prompt has two responses with all rewards.
    """
    joined = [n for n in range(len(comparisons)) if all(n in one for one in rewards.values())]
    rated = [n for n in joined if n in gold]
    if len(rated) < len(comparisons):
        note_fallback(
            f"{len(comparisons) - len(rated)} of {len(comparisons)} prompts have no gold reward, "
            "or none of some model, for each of their responses: they are left out."
        )
    counts = np.array([len(comparisons[n].responses) for n in rated], dtype=int)
    if not (counts > 1).any():
        raise UserError(
            f"None of {len(comparisons)} prompts has two or more responses with all rewards: there "
            "is nothing to choose from (responses to one prompt share its id, see data=samples)."
        )
    sizes, frequent = np.unique(counts[counts > 1], return_counts=True)
    most = int(sizes[frequent == frequent.max()].max())
    kept = [n for n, count in zip(rated, counts.tolist(), strict=True) if count >= most]
    if len(kept) < len(rated):
        note_fallback(
            f"{len(rated) - len(kept)} of {len(rated)} prompts have fewer than {most} responses, "
            "which most have: they are left out."
        )
    rows_N = np.repeat(np.arange(len(kept)), [len(comparisons[n].responses) for n in kept])
    own = {
        name: standardised(_flat(one, kept), rows_N, f"rewards of {name}")
        for name, one in rewards.items()
    }
    parts = [
        standardised(_flat(one, kept), rows_N, f"rewards of member {n}")
        for n, one in enumerate(members)
    ]
    stacked = np.stack(parts or list(own.values()))
    for how in ensembles:
        own[how.aggregate] = how(stacked)
    return CandidateSet(
        rows_N,
        np.array([comparisons[n].prompt_key for n in kept]),
        _flat(gold, kept),
        np.array([len(spoken(one)) for n in kept for one in comparisons[n].responses]),
        own,
        most,
    )


def _flat(rewards: RewardLists, kept: Sequence[int]) -> np.ndarray:
    return np.array([value for n in kept for value in rewards[n]], dtype=np.float64)

"""PPE: preferences of people, and correctness with its best-of-K curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.benchmarks.base import BenchmarkResult, PairBenchmark, ScoredList
from rmexp.evaluation.best_of_n import best_of_n_curves
from rmexp.evaluation.rank_correlation import area
from rmexp.evaluation.stats.bootstrap import Estimate, Means, stratified

CURVE_POINTS = (1, 2, 4, 8, 16, 32)
"""The K whose expected correctness is reported."""


@dataclass(frozen=True)
class PPEBenchmark:
    """Pairs are scored by `PairBenchmark`; lists with ratings are questions with K sampled answers.

    With f(k), the expected correctness of the answer with the highest reward among k, and g(k) that
    of a right choice: `best_of_k_max`, the highest f(k), and `best_of_k_end`, the last one;
    `best_of_k_loss`, the mean of (g(k) - f(k))^2 over k; `best_of_1`, `best_of_2`, ...; and
    `roc_auc` of correctness over all answers, whose rewards are scaled to 0..1 in each question.
    The accuracy over the sampled pairs is that of every set. Source: Frick et al. 2024,
    arXiv:2410.14872, section 4.2, and https://github.com/lmarena/PPE.

    The publishers average 100 random orders of the answers, and take the first of equal rewards.
    Here curves are exact over all subsets of k, and equal rewards are broken at random, so that the
    maximum and the loss lack the noise of an order.
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """Score; answers without a finite reward or rating leave out their question."""
        questions = [one for one in lists if not np.isnan(one.ratings).all()]
        result = PairBenchmark()([one for one in lists if np.isnan(one.ratings).all()])
        kept = [one for one in questions if np.isfinite(one.rewards + one.ratings).all()]
        if lost := len(questions) - len(kept):
            result.notes.append(
                f"{lost} questions lack a reward or a rating of an answer: they are left out."
            )
        if kept:
            result.scores |= _best_of_k(kept)
            if (found := _roc_auc(kept)) is not None:
                result.scores["roc_auc"] = found
        return result


def _best_of_k(questions: Sequence[ScoredList]) -> dict[str, Estimate]:
    sizes = [len(one.rewards) for one in questions]
    most, rows_N = min(sizes), np.repeat(np.arange(len(sizes)), sizes)
    rewards_N, right_N = (
        np.concatenate([getattr(one, name) for one in questions]).astype(np.float64)
        for name in ("rewards", "ratings")
    )
    chosen_P_K, best_P_K = (
        best_of_n_curves(by_N, right_N[:, None], rows_N, most)[..., 0]
        for by_N in (rewards_N, right_N)
    )

    def combine(means: Means) -> dict[str, np.ndarray]:
        chosen, best = np.split(means["all"], 2, axis=-1)
        points = {f"best_of_{k}": chosen[..., k - 1] for k in CURVE_POINTS if k <= most}
        return points | {
            "best_of_k_max": chosen.max(-1),
            "best_of_k_end": chosen[..., -1],
            "best_of_k_loss": np.square(best - chosen).mean(-1),
        }

    prompts = np.array([one.prompt for one in questions])
    columns = np.concatenate([chosen_P_K, best_P_K], axis=1)
    return stratified(columns, np.full(len(prompts), "all"), prompts, combine)


def _roc_auc(questions: Sequence[ScoredList]) -> Estimate | None:
    """None where all answers are right, or all wrong."""
    prompts = np.unique([one.prompt for one in questions], return_inverse=True)[1]
    scaled_N, right_N = (
        np.concatenate(parts)
        for parts in (
            [_scaled(one.rewards) for one in questions],
            [one.ratings > 0.5 for one in questions],
        )
    )
    prompts_N = np.repeat(prompts, [len(one.rewards) for one in questions])
    sides = [(scaled_N[s], prompts_N[s], np.ones(s.sum())) for s in (right_N, ~right_N)]
    return area(*sides) if right_N.any() and not right_N.all() else None


def _scaled(rewards: np.ndarray) -> np.ndarray:
    """Rewards of a question, scaled to 0..1; 1/2 where all are equal."""
    spread = float(np.ptp(rewards))
    return (rewards - rewards.min()) / spread if spread else np.full(len(rewards), 0.5)

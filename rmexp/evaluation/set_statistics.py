"""What the metrics of a scored set share, each computed once and only if a metric asks for it."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from rmexp.evaluation.best_of_n import best_of_k
from rmexp.evaluation.bias_probes import probe_biases
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.rank_correlation import area, label_auc, within_means
from rmexp.evaluation.reliability import pair_scores
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean

RatedResponses = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Rewards, ratings, prompts and weights of rated responses."""


class SetStatistics:
    """Statistics of a scored set, in fp64 over fp32 rewards; None where the set has none.

    Comparisons and preference labels count by their weights, except in counts, in `reward_std` and
    in `biases`.

    Args:
        scored: labels and rewards.
        calibration: fitted on val; None: no calibrated metrics.
    """

    def __init__(self, scored: ScoredSet, calibration: Calibration | None = None) -> None:
        self.scored = scored
        self.calibration = calibration

    @cached_property
    def gaps_P(self) -> np.ndarray:
        """(P,) r_better - r_worse."""
        return self.scored.gaps_P

    @cached_property
    def has_pairs(self) -> bool:
        """Whether any strictly labelled pair has a weight."""
        return bool(self.scored.weights_P.any())

    def pair_mean(self, values_P: np.ndarray, where_P: np.ndarray | None = None) -> float | None:
        """Weighted mean over pairs, or over some of them."""
        weights_P = self.scored.weights_P
        if where_P is not None:
            values_P, weights_P = values_P[where_P], weights_P[where_P]
        return float(np.average(values_P, weights=weights_P)) if weights_P.any() else None

    @cached_property
    def accuracy(self) -> Estimate | None:
        """Share of pairs with a positive gap."""
        if not self.has_pairs:
            return None
        s = self.scored
        return clustered_mean((self.gaps_P > 0).astype(np.float64), s.prompts_P, s.weights_P)

    @property
    def rating_gaps_P(self) -> np.ndarray:
        """(P,) rating of the better response minus that of the worse one; NaN where unrated."""
        ratings_N = self.scored.ratings_N
        return ratings_N[self.scored.better_P] - ratings_N[self.scored.worse_P]

    @property
    def reward_mean(self) -> float:
        """Mean of all rewards."""
        return float(self.scored.rewards_N.mean(dtype=np.float64))

    @cached_property
    def reward_std(self) -> float:
        """Standard deviation of all rewards."""
        return float(self.scored.rewards_N.std(dtype=np.float64))

    @property
    def margin_standardised(self) -> float | None:
        """Mean gap in standard deviations of the rewards; 0 where all rewards are equal."""
        margin, std = self.pair_mean(self.gaps_P), self.reward_std
        return margin if margin is None else margin / std if std else 0.0

    @property
    def auc(self) -> Estimate | None:
        """P(a better response outscores a worse one of any prompt)."""
        if not self.has_pairs:
            return None
        s = self.scored
        better, worse = (
            (s.rewards_N[side], s.prompts_P, s.weights_P) for side in (s.better_P, s.worse_P)
        )
        return area(better, worse)

    @cached_property
    def pair_scores(self) -> dict[str, float]:
        """nll, brier and ece, and with a temperature their `_calibrated` forms."""
        if not self.has_pairs:
            return {}
        weights_P = self.scored.weights_P
        out = pair_scores(self.gaps_P, weights_P)
        if self.calibration is not None and self.calibration.temperature is not None:
            scores = pair_scores(self.gaps_P / self.calibration.temperature, weights_P)
            out |= {f"{name}_calibrated": value for name, value in scores.items()}
        return out

    @cached_property
    def best_of_k(self) -> tuple[Estimate, float] | tuple[None, None]:
        """Best of K and that of a random pick; lists of two alone would repeat accuracy."""
        s = self.scored
        if np.bincount(s.rows_N[s.levels_N >= 0]).max(initial=0) < 3:
            return None, None
        rows_R, values_R, chances_R = best_of_k(s.rewards_N, s.levels_N, s.rows_N)
        weights_R = s.weights_C[rows_R]
        if not weights_R.any():
            return None, None
        found = clustered_mean(values_R, s.prompts_C[rows_R], weights_R)
        return found, float(np.average(chances_R, weights=weights_R))

    @cached_property
    def rated(self) -> RatedResponses | None:
        """Rated responses of weight above 0, where their ratings vary."""
        s = self.scored
        here = ~np.isnan(s.ratings_N) & (s.weights_N > 0)
        ratings = s.ratings_N[here]
        if len(set(ratings)) < 2:
            return None
        return s.rewards_N[here].astype(np.float64), ratings, s.prompts_N[here], s.weights_N[here]

    def of_rated(self, statistic: Callable[..., Estimate]) -> Estimate | None:
        """A statistic of `rated`."""
        return None if self.rated is None else statistic(*self.rated)

    @cached_property
    def within_prompts(self) -> dict[str, Estimate]:
        """`kendall_within` and `spearman_within`."""
        return {} if self.rated is None else within_means(*self.rated)

    @property
    def label_auc(self) -> Estimate | None:
        """P(a good response outscores a bad one), where ratings have two values."""
        two = self.rated is not None and len(np.unique(self.rated[1])) == 2
        return self.of_rated(label_auc) if two else None

    @cached_property
    def biases(self) -> dict[str, float]:
        """See `probe_biases`."""
        return probe_biases(self.scored.traits, self.scored.rewards_N)

    def rating_rmse(self, kind: str) -> float | None:
        """Root mean square error of the calibration's `linear` or `isotonic` map to ratings."""
        s, calibration = self.scored, self.calibration
        rated = ~np.isnan(s.ratings_N)
        if calibration is None or calibration.isotonic is None or not s.weights_N[rated].any():
            return None
        to_rating = calibration.linear_rating if kind == "linear" else calibration.rating
        errors = np.square(to_rating(s.rewards_N[rated]) - s.ratings_N[rated])
        return float(np.sqrt(np.average(errors, weights=s.weights_N[rated])))

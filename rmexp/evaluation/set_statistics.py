"""What the metrics of a scored set share, each computed once and only if a metric asks for it."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rmexp.data.text_style import MARKS
from rmexp.evaluation.aggregate import member_std
from rmexp.evaluation.best_of_n import best_of_k
from rmexp.evaluation.bias_probes import reward_correlations
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.external_verdicts import VerdictSet
from rmexp.evaluation.length_control import length_controlled_accuracy
from rmexp.evaluation.quantiles import RatedQuantiles
from rmexp.evaluation.rank_correlation import area, label_auc, within_means
from rmexp.evaluation.reliability import calibration_error
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.stats.bootstrap import Estimate, clustered, clustered_mean, ratio
from rmexp.evaluation.uncertainty import error_area, most_certain

RatedResponses = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Rewards, ratings, prompts and weights of rated responses."""


class SetStatistics:
    """Statistics of a scored set, in fp64 over fp32 rewards; None where the set has none.

    Comparisons and preference labels count by their weights, except in counts and in what describes
    rewards: `reward_mean`, `reward_std`, `correlations`.

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
    def prompts_P(self) -> np.ndarray:
        """(P,) the prompt of each pair, the cluster of intervals."""
        return self.scored.prompts_P

    @cached_property
    def has_pairs(self) -> bool:
        """Whether any strictly labelled pair has a weight."""
        return bool(self.scored.weights_P.any())

    def mean(
        self,
        values_P: np.ndarray,
        where_P: np.ndarray | None = None,
        span: tuple[float, float] | None = None,
    ) -> Estimate | None:
        """Weighted mean over pairs, or over some of them; `span` is the range of the values."""
        weights_P = self.scored.weights_P
        if where_P is not None:
            weights_P = np.where(where_P, weights_P, 0.0)
        if not weights_P.any():
            return None
        return clustered_mean(values_P.astype(np.float64), self.prompts_P, weights_P, span)

    def share(self, values_P: np.ndarray, where_P: np.ndarray | None = None) -> Estimate | None:
        """`mean` of values from 0 to 1."""
        return self.mean(values_P, where_P, (0, 1))

    def calibrated(self, statistic: Callable[[np.ndarray], Estimate | None]) -> Estimate | None:
        """A statistic of the gaps divided by val's temperature."""
        if self.calibration is None or self.calibration.temperature is None:
            return None
        return statistic(self.gaps_P / self.calibration.temperature)

    def calibration_error(self, gaps_P: np.ndarray) -> Estimate | None:
        """The expected calibration error, see `reliability`."""
        if not self.has_pairs:
            return None
        return calibration_error(gaps_P, self.prompts_P, self.scored.weights_P)

    @cached_property
    def doubts_P(self) -> np.ndarray | None:
        """(P,) standard deviation of the gap over the members of an ensemble; None without one."""
        s = self.scored
        if s.kind != "ensemble" or s.outputs_N_K is None or not self.has_pairs:
            return None
        members_M_N = s.outputs_N_K.astype(np.float64).T
        return member_std(members_M_N[:, s.better_P] - members_M_N[:, s.worse_P])

    def error_auroc(self, doubts_P: np.ndarray | None) -> Estimate | None:
        """See `error_area`."""
        if doubts_P is None or not self.has_pairs:
            return None
        return error_area(doubts_P, self.gaps_P <= 0, self.prompts_P, self.scored.weights_P)

    def selective_accuracy(self, share: float) -> Estimate | None:
        """Accuracy on the least doubtful share of the pairs."""
        if self.doubts_P is None:
            return None
        return self.share(
            self.gaps_P > 0, most_certain(self.doubts_P, self.scored.weights_P, share)
        )

    @cached_property
    def quantiles(self) -> RatedQuantiles | None:
        """Of a head of quantiles that was calibrated, on the rated responses of weight above 0."""
        s = self.scored
        rated = ~np.isnan(s.ratings_N) & (s.weights_N > 0)
        if s.kind != "quantile" or s.outputs_N_K is None or not rated.any():
            return None
        if self.calibration is None or not self.calibration.outputs:
            return None
        read_N_K = np.sort(self.calibration.read_outputs(s.outputs_N_K[rated], s.names), axis=1)
        levels_K = np.array([float(name) for name in s.names])
        return RatedQuantiles(
            levels_K, read_N_K, s.ratings_N[rated], s.prompts_N[rated], s.weights_N[rated]
        )

    def of_quantiles(self, statistic: Callable[[RatedQuantiles], Any]) -> Any:
        """A statistic of `quantiles`."""
        return None if self.quantiles is None else statistic(self.quantiles)

    @property
    def rating_gaps_P(self) -> np.ndarray:
        """(P,) rating of the better response minus that of the worse one; NaN where unrated."""
        return self._more(self.scored.ratings_N)

    @property
    def longer_P(self) -> np.ndarray:
        """(P,) tokens of the better response minus those of the worse one."""
        return self._more(self.scored.tokens_N)

    @property
    def marked_P(self) -> np.ndarray:
        """(P,) markdown marks of the better response minus those of the worse one."""
        return self._more(self.scored.style_N_S[:, -len(MARKS) :].sum(1))

    def _more(self, values_N: np.ndarray) -> np.ndarray:
        return values_N[self.scored.better_P] - values_N[self.scored.worse_P]

    def preferred(self, more_P: np.ndarray) -> Estimate | None:
        """How often the model prefers the response that has more, where they differ; ties half."""
        return self.share((np.sign(self.gaps_P) * np.sign(more_P) + 1) / 2, more_P != 0)

    def verdict_share(self, name: str) -> Estimate | None:
        """Mean over pairs of a field of `VerdictSet`, where it is known; None for rewards."""
        if not isinstance(self.scored, VerdictSet):
            return None
        values_P = getattr(self.scored, name)
        known_P = ~np.isnan(values_P)
        return self.share(np.where(known_P, values_P, 0.0), known_P)

    @property
    def abstained(self) -> float | None:
        """Number of pairs on which all verdicts abstain; None for rewards."""
        s = self.scored
        return float(s.abstained_P.sum()) if isinstance(s, VerdictSet) else None

    @property
    def agreement(self) -> Estimate | None:
        """Share of pairs whose verdict is the label, a tie where annotators tied them.

        Abstentions do not agree. Tied pairs have the weight of their row.
        """
        s = self.scored
        if not isinstance(s, VerdictSet):
            return None
        known_Q = ~np.isnan(s.ties_Q)
        tied_Q = s.tied_Q_2[known_Q, 0]
        values = np.concatenate([s.sides_P > 0, s.ties_Q[known_Q] == 0]).astype(np.float64)
        prompts = np.concatenate([s.prompts_P, s.prompts_N[tied_Q]])
        weights = np.concatenate([s.weights_P, s.weights_N[tied_Q]])
        return clustered_mean(values, prompts, weights, (0, 1)) if weights.any() else None

    @property
    def length_controlled_accuracy(self) -> Estimate | None:
        """See the function of the same name."""
        if not self.has_pairs:
            return None
        weights_P = self.scored.weights_P
        return length_controlled_accuracy(self.gaps_P, self.longer_P, self.prompts_P, weights_P)

    @property
    def reward_mean(self) -> float:
        """Mean of all rewards."""
        return float(self.scored.rewards_N.mean(dtype=np.float64))

    @cached_property
    def reward_std(self) -> float:
        """Standard deviation of all rewards."""
        return float(self.scored.rewards_N.std(dtype=np.float64))

    @property
    def margin_standardised(self) -> Estimate | None:
        """Mean gap in standard deviations of the rewards; 0 where all rewards are equal."""
        s = self.scored
        if not self.has_pairs:
            return None
        centred_N = s.rewards_N.astype(np.float64) - self.reward_mean
        of_pairs = [s.weights_P * self.gaps_P, s.weights_P, *np.zeros((3, len(s.weights_P)))]
        of_all = [*np.zeros((2, len(centred_N))), np.square(centred_N), centred_N, centred_N**0]
        columns = np.concatenate([of_pairs, of_all], axis=1).T
        return clustered(columns, np.concatenate([self.prompts_P, s.prompts_N]), _standardised)

    @property
    def auc(self) -> Estimate | None:
        """P(a better response outscores a worse one of any prompt)."""
        if not self.has_pairs:
            return None
        s = self.scored
        better, worse = (
            (s.rewards_N[side], self.prompts_P, s.weights_P) for side in (s.better_P, s.worse_P)
        )
        return area(better, worse)

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
        found = clustered_mean(values_R, s.prompts_C[rows_R], weights_R, (0, 1))
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
    def correlations(self) -> dict[str, float]:
        """See `reward_correlations`."""
        s = self.scored
        return reward_correlations(s.rewards_N, s.tokens_N, s.style_N_S, s.rows_N)

    def rating_rmse(self, kind: Literal["linear", "isotonic"]) -> Estimate | None:
        """Root mean square error of the calibration's map to ratings."""
        s, calibration = self.scored, self.calibration
        rated = ~np.isnan(s.ratings_N) & (s.weights_N > 0)
        if calibration is None or calibration.isotonic is None or not rated.any():
            return None
        to_rating = calibration.linear_rating if kind == "linear" else calibration.rating
        errors = np.square(to_rating(s.rewards_N[rated]) - s.ratings_N[rated])
        weights = s.weights_N[rated]
        columns = np.stack([errors * weights, weights], axis=1)
        return clustered(columns, s.prompts_N[rated], _root_mean)


def _standardised(sums: np.ndarray) -> np.ndarray:
    """Mean over standard deviation, from the sums that `margin_standardised` has."""
    margin, weight, squares, rewards, count = np.moveaxis(sums, -1, 0)
    variance = ratio(squares, count) - np.square(ratio(rewards, count))
    spread = np.sqrt(np.maximum(variance, 0))
    return np.where(spread > 0, ratio(ratio(margin, weight), spread), 0.0)


def _root_mean(sums: np.ndarray) -> np.ndarray:
    return np.sqrt(ratio(sums[..., 0], sums[..., 1]))

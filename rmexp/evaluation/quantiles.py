"""Whether predicted quantiles of ratings hold: ratings below them, and between them."""

from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean


@dataclass(frozen=True)
class RatedQuantiles:
    """Predicted quantiles of N rated responses.

    Attributes:
        levels_K: increasing, between 0 and 1.
        quantiles_N_K: in the unit of the ratings, sorted: they do not cross.
        ratings_N, prompts_N, weights_N: of the responses.
    """

    levels_K: np.ndarray
    quantiles_N_K: np.ndarray
    ratings_N: np.ndarray
    prompts_N: np.ndarray
    weights_N: np.ndarray

    def share_below(self, k: int) -> Estimate:
        """Share of the ratings at or below a quantile; its level is what it should be."""
        return self._mean(self.ratings_N <= self.quantiles_N_K[:, k])

    @property
    def coverage(self) -> Estimate:
        """Share of the ratings between the outer quantiles, ends included."""
        inside = (self.quantiles_N_K[:, 0] <= self.ratings_N) & (
            self.ratings_N <= self.quantiles_N_K[:, -1]
        )
        return self._mean(inside)

    @property
    def nominal(self) -> float:
        """What `coverage` should be."""
        return float(self.levels_K[-1] - self.levels_K[0])

    @property
    def width(self) -> Estimate:
        """Mean distance of the outer quantiles, in the unit of the ratings."""
        return clustered_mean(
            self.quantiles_N_K[:, -1] - self.quantiles_N_K[:, 0], self.prompts_N, self.weights_N
        )

    @property
    def error(self) -> float:
        """Mean distance of `share_below` from the levels."""
        shares_K = np.array([self.share_below(k).value for k in range(len(self.levels_K))])
        return float(np.abs(shares_K - self.levels_K).mean())

    def _mean(self, found_N: np.ndarray) -> Estimate:
        values_N = found_N.astype(np.float64)
        return clustered_mean(values_N, self.prompts_N, self.weights_N, (0, 1))

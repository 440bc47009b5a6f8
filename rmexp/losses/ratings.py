"""Losses over ratings of single responses. Scales are fitted to the training rows."""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.core.errors import UserError
from rmexp.losses.base import Loss, Terms

MOST_GRADES = 20
"""Maximum number of distinct ratings for `Ordinal`; use `Regression` for more."""


class StandardisedRatings(Loss):
    """Base of losses between a reward and a rating, standardised over the training rows: rating =
    mean + std x reward."""

    needs_labels = ("ratings",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def fit_to_ratings(self, ratings: np.ndarray, weights: np.ndarray) -> None:
        """Fit mean and standard deviation of the ratings.

        Raises:
            UserError: all ratings are equal.
        """
        if ratings.min() == ratings.max():
            raise UserError(
                f"All training rows have the rating {ratings[0]:g}: there is nothing to learn."
            )
        mean = np.average(ratings, weights=weights)
        spread = np.sqrt(np.average((ratings - mean) ** 2, weights=weights))
        self.mean, self.std = (torch.tensor(x, dtype=torch.float32) for x in (mean, spread))

    @property
    def rating_unit(self) -> float:
        return float(self.std)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        rated = ~batch.ratings_N.isnan()
        targets_U = (batch.ratings_N[rated] - self.mean) / self.std
        values_U = self.values(rewards_N[rated] - targets_U)
        return {"ratings": (values_U, batch.weights_N[rated])}

    def values(self, errors_U: Tensor) -> Tensor:
        """(U,) the loss of rewards minus standardised ratings."""
        raise NotImplementedError


class Regression(StandardisedRatings):
    """Squared error or Huber loss between reward and standardised rating.

    As a reward-model loss: Wang et al. 2023 (SteerLM, HelpSteer), arXiv:2311.09528.

    Args:
        distance: `mse`, or `huber` (Huber 1964), which is linear beyond `delta`, for ratings with
            outliers.
        delta: threshold of the Huber loss, in standard deviations of the ratings.
    """

    def __init__(
        self,
        distance: Literal["mse", "huber"],
        delta: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__()
        self.distance, self.delta = distance, delta

    def values(self, errors_U: Tensor) -> Tensor:
        if self.distance == "mse":
            return errors_U.square()
        zeros_U = torch.zeros_like(errors_U)  # torch's loss has the factor 1/2
        return 2 * F.huber_loss(errors_U, zeros_U, reduction="none", delta=self.delta)


class Pinball(StandardisedRatings):
    """max(q (y - r), (q - 1) (y - r)) of the standardised rating y: quantile regression.

    The reward of lowest loss is the quantile q of the rating given the response. Koenker and
    Bassett 1978, "Regression quantiles"; Koenker 2005, "Quantile regression", section 1.3.

    Args:
        quantile: q; 0.5 is the median, least absolute deviations. With head=quantile each output
            has its own.
    """

    def __init__(self, quantile: Annotated[float, Gt(0), Lt(1)]) -> None:
        super().__init__()
        self.quantile = quantile

    def values(self, errors_U: Tensor) -> Tensor:
        return torch.maximum(-self.quantile * errors_U, (1 - self.quantile) * errors_U)


class Ordinal(Loss):
    """-log P(grade) of a proportional-odds model with learned cut points c.

    P(grade <= k) = sigmoid(c_k - r): McCullagh 1980, "Regression models for ordinal data". Only the
    order of the grades matters, not their distance.
    """

    needs_labels = ("ratings",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grades", torch.tensor([0.0, 1.0]))
        self.first = nn.Parameter(torch.tensor(0.0))
        self.log_steps = nn.Parameter(torch.zeros(0))

    def fit_to_ratings(self, ratings: np.ndarray, weights: np.ndarray) -> None:
        """Find the grades, and initialise the cut points so that constant rewards match their
        frequencies.

        Raises:
            UserError: there are fewer than two distinct ratings, or more than `MOST_GRADES`.
        """
        grades, member = np.unique(ratings, return_inverse=True)
        if not 2 <= len(grades) <= MOST_GRADES:
            raise UserError(
                f"loss=ordinal needs 2 to {MOST_GRADES} different ratings, and the training rows "
                f"have {len(grades)}; loss=regression takes any number."
            )
        counts = np.bincount(member, weights=weights)
        below = np.cumsum(counts)[:-1] / counts.sum()
        cuts = np.log(below) - np.log1p(-below)
        self.grades = torch.tensor(grades, dtype=torch.float32)
        self.first = nn.Parameter(torch.tensor(cuts[0], dtype=torch.float32))
        steps = torch.tensor(np.log(np.diff(cuts)), dtype=torch.float32)
        self.log_steps = nn.Parameter(steps)

    def cuts(self) -> Tensor:
        """(grades - 1,) increasing cut points."""
        steps = torch.cumsum(self.log_steps.exp(), 0)
        return torch.cat([self.first[None], self.first + steps])

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        rated = ~batch.ratings_N.isnan()
        rewards_U, ratings_U = rewards_N[rated], batch.ratings_N[rated]
        # Ratings that do not occur in training are mapped to the nearest grade.
        grade_U = (ratings_U[:, None] - self.grades).abs().argmin(1)
        cuts = self.cuts().to(rewards_N.dtype)
        above_U = cuts[grade_U.clamp(max=len(cuts) - 1)] - rewards_U
        below_U = cuts[(grade_U - 1).clamp(min=0)] - rewards_U
        lowest, highest = grade_U == 0, grade_U == len(cuts)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) avoids cancellation. The
        # outer grades have one cut point only; their width is set to 1.
        steps = torch.cat([self.log_steps.exp(), self.log_steps.new_ones(2)])
        width_U = -steps[torch.where(lowest | highest, len(steps) - 1, grade_U - 1)]
        log_U = (
            torch.where(highest, 0.0, F.logsigmoid(above_U))
            + torch.where(lowest, 0.0, F.logsigmoid(-below_U))
            + torch.where(lowest | highest, 0.0, torch.log(-torch.expm1(width_U)))
        )
        return {"ratings": (-log_U, batch.weights_N[rated])}


class Binary(Loss):
    """-log sigmoid(r) of good responses, -log sigmoid(-r) of bad ones: logistic regression.

    Args:
        threshold: ratings above it are good.
        balance: give both classes the same total weight in the training rows.
    """

    needs_labels = ("ratings",)

    def __init__(self, threshold: float, balance: bool) -> None:
        super().__init__()
        self.threshold, self.balance = threshold, balance
        self.register_buffer("class_weights", torch.ones(2))

    def fit_to_ratings(self, ratings: np.ndarray, weights: np.ndarray) -> None:
        """Fit the class weights to the share of good rows.

        Raises:
            UserError: all rows are good, or all are bad.
        """
        good = float(np.average(ratings > self.threshold, weights=weights))
        if good in (0.0, 1.0):
            raise UserError(
                f"loss=binary needs good and bad rows, and all training rows are rated "
                f"{'above' if good else 'at most'} loss.threshold={self.threshold:g}."
            )
        if self.balance:
            self.class_weights = torch.tensor([0.5 / (1 - good), 0.5 / good])

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        rated = ~batch.ratings_N.isnan()
        good_U = (batch.ratings_N[rated] > self.threshold).long()
        values_U = -F.logsigmoid(rewards_N[rated] * (2 * good_U - 1))
        # On the values: on the weights, the normalisation of each step would cancel them.
        values_U = values_U * self.class_weights[good_U]
        return {"ratings": (values_U, batch.weights_N[rated])}


class RewardL2(Loss):
    """r^2 of every response, a regulariser for `Mix`."""

    needs_labels = ()

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        return {"responses": (rewards_N.square(), batch.weights_N)}

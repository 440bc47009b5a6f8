"""The scale of a reward model, as val taught it: rewards as probabilities, ratings, ranks.

A pair's gap is r_better - r_worse; P(better wins) = sigmoid(gap / temperature).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, minimize_scalar

from rmexp.core.errors import UserError
from rmexp.evaluation.reliability import negative_log_likelihood, pair_scores, sigmoid

TEMPERATURES = (1e-3, 1e3)
"""Where a temperature is looked for, in units of the mean gap."""


CALIBRATION_FILE = "calibration.json"
"""Its name in a run, and in an export."""


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def fit_temperature(gaps_P: np.ndarray, weights_P: np.ndarray | None = None) -> tuple[float, bool]:
    """The temperature with the lowest negative log-likelihood, and whether there is none.

    The likelihood is convex in 1 / temperature. Where all pairs are right, 0 would be best, and
    every probability 1: the temperature stays 1. Where they are no better than chance, infinity
    would: it is the upper bound. Guo et al. 2017, arXiv:1706.04599, with the two classes of a pair.
    """
    unit = float(np.abs(gaps_P).mean())  # a reward's unit is arbitrary: bounds go by the gaps' own
    if not unit:
        return 1.0, True  # all gaps are 0: every temperature says 1/2
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log: negative_log_likelihood(gaps_P / unit * np.exp(-log), weights_P),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-8},
    )
    if found.x < low + 1:
        return 1.0, True
    return float(unit * np.exp(found.x)), bool(found.x > high - 1)


@dataclass(frozen=True)
class Calibration:
    """What val taught of a reward model's scale; kept as calibration.json in the run and export.

    Args:
        temperature: gaps are divided by it before the sigmoid; None: val had no pairs.
        at_bound: no temperature was best: val's pairs are all right, or no better than chance.
        pairs: val pairs that it was fitted on.
        before, after: nll, brier and ece on those pairs, without it and with it.
        affine: (slope, intercept) from rewards to ratings, least squares; None: val has no ratings.
        isotonic: (rewards, ratings), the knots of the best increasing map, linear in between.
        reward_mean, reward_std: over val's responses.
        quantiles: (share, reward) pairs.
    """

    temperature: float | None = None
    at_bound: bool = False
    pairs: int = 0
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    after: Mapping[str, float] = dataclasses.field(default_factory=dict)
    affine: tuple[float, float] | None = None
    isotonic: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    reward_mean: float = 0.0
    reward_std: float = 1.0
    quantiles: tuple[tuple[float, float], ...] = ()

    def probability(self, gaps: np.ndarray) -> np.ndarray:
        """P(the first is better) of gaps between rewards."""
        return sigmoid(np.asarray(gaps, dtype=np.float64) / (self.temperature or 1.0))

    def normalised(self, rewards: np.ndarray) -> np.ndarray:
        """Rewards with mean 0 and deviation 1 on val; order and comparisons stay."""
        return (np.asarray(rewards, dtype=np.float64) - self.reward_mean) / self.reward_std

    def rating(self, rewards: np.ndarray) -> np.ndarray:
        """The rating that people would give, by the isotonic map.

        Raises:
            ValueError: val had no ratings.
        """
        if self.isotonic is None:
            raise ValueError("the validation rows had no ratings to map rewards to")
        return np.interp(rewards, *self.isotonic)

    def linear_rating(self, rewards: np.ndarray) -> np.ndarray:
        """The same by the affine map, which also tells beyond val's rewards.

        Raises:
            ValueError: val had no ratings.
        """
        if self.affine is None:
            raise ValueError("the validation rows had no ratings to map rewards to")
        return self.affine[0] * np.asarray(rewards, dtype=np.float64) + self.affine[1]

    def rank(self, rewards: np.ndarray) -> np.ndarray:
        """The share of val's responses that have a lower reward, by the stored quantiles."""
        shares, at = zip(*self.quantiles, strict=True)
        return np.interp(rewards, at, shares)

    @property
    def note(self) -> str | None:
        """Why there is no best temperature; None where there is one (or there were no pairs)."""
        if not self.at_bound:
            return None
        if self.temperature == 1.0:
            return (
                f"val's {self.pairs} pairs are all right, or have equal rewards, so that no "
                "temperature is best: it stays 1."
            )
        return f"val's {self.pairs} pairs are no better than chance: probabilities are all 1/2."

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_dict`, from JSON as well."""
        pairs = {
            "affine": stored["affine"] and tuple(stored["affine"]),
            "isotonic": stored["isotonic"] and tuple(map(tuple, stored["isotonic"])),
            "quantiles": tuple(map(tuple, stored["quantiles"])),
        }
        return cls(**{**stored, **pairs})


def load_calibration(home: Path) -> Calibration | None:
    """What a run, or an export, knows of its scale; None where it has not been calibrated.

    Raises:
        UserError: the file is broken.
    """
    file = next(
        (f for f in (home / CALIBRATION_FILE, home / "export" / CALIBRATION_FILE) if f.is_file()),
        None,
    )
    if file is None:
        return None
    try:
        return Calibration.from_dict(json.loads(file.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is no calibration ({error!r}): remove it.") from None


def fit_calibration(
    rewards_N: np.ndarray,
    ratings_N: np.ndarray,
    gaps_P: np.ndarray,
    weights_P: np.ndarray | None = None,
) -> Calibration:
    """Everything that val's rewards, ratings (NaN where unrated) and pairs allow.

    Ratings are mapped where they and the rewards vary. Pairs weigh by `weights_P` (None: all 1).
    """
    rewards_N = rewards_N.astype(np.float64)
    facts: dict[str, Any] = {
        "reward_mean": float(rewards_N.mean()),
        "reward_std": float(rewards_N.std()) or 1.0,
        "quantiles": tuple(zip(QUANTILES, np.quantile(rewards_N, QUANTILES).tolist(), strict=True)),
    }
    if weights_P is not None:
        gaps_P, weights_P = gaps_P[weights_P > 0], weights_P[weights_P > 0]
    if len(gaps_P):
        temperature, at_bound = fit_temperature(gaps_P, weights_P)
        facts |= {
            "temperature": temperature,
            "at_bound": at_bound,
            "pairs": len(gaps_P),
            "before": pair_scores(gaps_P, weights_P),
            "after": pair_scores(gaps_P / temperature, weights_P),
        }
    rated = ~np.isnan(ratings_N)
    if len(np.unique(ratings_N[rated])) > 1 and len(np.unique(rewards_N[rated])) > 1:
        facts |= rating_maps(rewards_N[rated], ratings_N[rated])
    return Calibration(**facts)


def rating_maps(rewards_N: np.ndarray, ratings_N: np.ndarray) -> dict[str, Any]:
    """The `affine` and `isotonic` maps from rewards to ratings, least squares both."""
    slope, intercept = np.polyfit(rewards_N, ratings_N, 1)
    at_K, of_N, counts_K = np.unique(rewards_N, return_inverse=True, return_counts=True)
    means_K = np.bincount(of_N, ratings_N) / counts_K  # one reward has one rating
    found = isotonic_regression(means_K, weights=counts_K)
    # The map is flat within a block, so that a block's ends tell all of it.
    ends = sorted({*found.blocks[:-1].tolist(), *(found.blocks[1:] - 1).tolist()})
    knots = (at_K[ends].tolist(), found.x[ends].tolist())
    return {"affine": (float(slope), float(intercept)), "isotonic": tuple(map(tuple, knots))}

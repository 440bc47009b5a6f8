"""Calibration on val: the scale of a model's rewards as probabilities and as ratings.

A pair's gap is r_better - r_worse; P(better wins) = sigmoid(gap / temperature).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from rmexp.core.errors import UserError
from rmexp.evaluation.reliability import pair_scores, sigmoid

HIGHEST_TEMPERATURE = 1e3
"""In units of the mean absolute gap; beyond it all probabilities are 1/2 to three digits."""

CALIBRATION_FILE = "calibration.json"
"""File name in a run directory and in an export."""


def fit_temperature(gaps_P: np.ndarray, weights_P: np.ndarray | None = None) -> tuple[float, bool]:
    """Fit the temperature of lowest negative log-likelihood (Guo et al. 2017, arXiv:1706.04599).

    The likelihood is convex in 1 / temperature. Where no pair is wrong, the optimum is 0 and every
    probability 1 (or 1/2, of a tie): the temperature stays 1. Where pairs are no better than
    chance, it is infinite: the highest temperature is returned.

    Returns:
        The temperature, and whether the optimum lies at such a bound.
    """
    weights_P = np.ones(len(gaps_P)) if weights_P is None else weights_P
    gaps_P, weights_P = gaps_P[weights_P > 0], weights_P[weights_P > 0]
    if not (gaps_P < 0).any():
        return 1.0, True
    unit = float(np.abs(gaps_P).mean())  # rewards have no unit: bounds are relative to the gaps
    scaled_P, shares_P = gaps_P / unit, weights_P / weights_P.sum()

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood by 1 / temperature, in units of the gap."""
        return -float(shares_P @ (scaled_P * sigmoid(-inverse * scaled_P)))

    low = high = 1 / HIGHEST_TEMPERATURE
    if slope(low) >= 0:
        return unit * HIGHEST_TEMPERATURE, True
    while slope(high) < 0:  # some pair is wrong, so that it ends
        low, high = high, 2 * high
    return unit / float(scipy.optimize.brentq(slope, low, high, xtol=1e-12)), False


@dataclass(frozen=True)
class Calibration:
    """Scale of a model's rewards, fitted on val; stored as calibration.json in run and export.

    Args:
        temperature: divisor of gaps before the sigmoid; None: val has no pairs.
        at_bound: val's pairs are all right or no better than chance, so that no temperature is
            optimal.
        pairs: number of val pairs that it was fitted on.
        before, after: nll, brier and ece on those pairs, without and with the temperature.
        affine: (slope, intercept) of the least-squares line from rewards to ratings; None: val has
            no ratings.
        isotonic: (rewards, ratings), knots of the least-squares increasing map, linear in between.
        reward_mean, reward_std: over val's responses.
        outputs: name of an output of the head -> (intercept, slope) of the line that gives it the
            unit in which it is read; none for head=linear.
        attributes: name of an output of head=attributes -> its own calibration.
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
    outputs: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    attributes: "Mapping[str, Calibration]" = dataclasses.field(default_factory=dict)

    def read_outputs(self, outputs_N_K: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """(N, K) the outputs of a head in the units in which they are read."""
        lines_K_2 = np.array([self.outputs.get(name, (0.0, 1.0)) for name in names])
        return lines_K_2[:, 0] + lines_K_2[:, 1] * np.asarray(outputs_N_K, dtype=np.float64)

    def normalised(self, rewards: np.ndarray) -> np.ndarray:
        """Rewards with mean 0 and standard deviation 1 on val; their order is unchanged."""
        return (np.asarray(rewards, dtype=np.float64) - self.reward_mean) / self.reward_std

    def probability(self, rewards: np.ndarray) -> np.ndarray:
        """P(better than a response of val's mean reward).

        Raises:
            ValueError: val had no pairs.
        """
        return sigmoid((np.asarray(rewards, dtype=np.float64) - self.reward_mean) / self._divisor)

    def win_probabilities(self, rewards_N: np.ndarray) -> np.ndarray:
        """(N, N) P(response i is better than response j).

        Raises:
            ValueError: val had no pairs.
        """
        rewards_N = np.asarray(rewards_N, dtype=np.float64)
        return sigmoid((rewards_N[:, None] - rewards_N[None]) / self._divisor)

    @property
    def _divisor(self) -> float:
        if self.temperature is None:
            raise ValueError("the validation rows had no pairs to fit a temperature to")
        return self.temperature

    def rating(self, rewards: np.ndarray) -> np.ndarray:
        """Predicted human rating, by the isotonic map.

        Raises:
            ValueError: val had no ratings.
        """
        if self.isotonic is None:
            raise ValueError("the validation rows had no ratings to map rewards to")
        return np.interp(rewards, *self.isotonic)

    def linear_rating(self, rewards: np.ndarray) -> np.ndarray:
        """Predicted human rating, by the affine map, which extrapolates beyond val's rewards.

        Raises:
            ValueError: val had no ratings.
        """
        if self.affine is None:
            raise ValueError("the validation rows had no ratings to map rewards to")
        return self.affine[0] * np.asarray(rewards, dtype=np.float64) + self.affine[1]

    @property
    def note(self) -> str | None:
        """Why no temperature is optimal; None where one is, or val has no pairs."""
        if not self.at_bound:
            return None
        if self.temperature == 1.0:
            return (
                f"val's {self.pairs} pairs are all right, or have equal rewards, so that no "
                "temperature is best: it stays 1."
            )
        return f"val's {self.pairs} pairs are no better than chance: probabilities are all 1/2."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Calibration":
        """Inverse of `to_dict`; keys that older versions wrote are ignored."""
        whole = {"outputs": {}, "attributes": {}, **stored}  # older versions had none
        known = {field.name: whole[field.name] for field in dataclasses.fields(cls)}
        affine, isotonic = known.pop("affine"), known.pop("isotonic")
        outputs = {name: tuple(line) for name, line in known.pop("outputs").items()}
        attributes = {name: cls.from_dict(one) for name, one in known.pop("attributes").items()}
        return cls(
            outputs=outputs,
            attributes=attributes,
            affine=affine and tuple(affine),
            isotonic=isotonic and tuple(map(tuple, isotonic)),
            **known,
        )


def load_calibration(home: Path) -> Calibration | None:
    """Read the calibration of a run directory or an export; None without one.

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
        return Calibration.from_dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is no calibration ({error!r}): remove it.") from None


def member_scale(home: Path) -> Calibration:
    """The calibration that standardises the rewards of a member of an ensemble.

    Args:
        home: run directory, or Hugging Face directory.

    Raises:
        UserError: there is none.
    """
    found = load_calibration(home)
    if found is None:
        raise UserError(
            f"{home} has no calibration.json, by which an ensemble standardises rewards: write its "
            f"rewards to a file, which is standardised by itself (task=score checkpoint={home} "
            "data.path=FILE out=FILE), and name that file."
        )
    return found


def own_scale(rewards_N: np.ndarray) -> Calibration:
    """The scale of rewards by themselves, where nothing else is known; NaN does not count."""
    known = rewards_N[np.isfinite(rewards_N)]
    if not len(known):
        return Calibration()
    return Calibration(reward_mean=float(known.mean()), reward_std=float(known.std()) or 1.0)


def fit_calibration(
    rewards_N: np.ndarray,
    ratings_N: np.ndarray,
    gaps_P: np.ndarray,
    weights_P: np.ndarray | None = None,
) -> Calibration:
    """Fit a calibration to val's rewards, ratings and pairs.

    Args:
        rewards_N: (N,) reward of each response.
        ratings_N: (N,) rating of each response, NaN where unrated. The maps to ratings need both
            ratings and rewards to vary.
        gaps_P: (P,) r_better - r_worse of each pair.
        weights_P: (P,) weight of each pair; None: all 1.
    """
    rewards_N = rewards_N.astype(np.float64)
    facts: dict[str, Any] = {
        "reward_mean": float(rewards_N.mean()),
        "reward_std": float(rewards_N.std()) or 1.0,
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
    """Least-squares `affine` and `isotonic` maps from rewards to ratings."""
    slope, intercept = np.polyfit(rewards_N, ratings_N, 1)
    at_K, of_N, counts_K = np.unique(rewards_N, return_inverse=True, return_counts=True)
    means_K = np.bincount(of_N, ratings_N) / counts_K  # one reward has one rating
    found = scipy.optimize.isotonic_regression(means_K, weights=counts_K)
    # The map is flat within a block: its two ends describe it.
    ends = sorted({*found.blocks[:-1].tolist(), *(found.blocks[1:] - 1).tolist()})
    knots = (at_K[ends].tolist(), found.x[ends].tolist())
    return {"affine": (float(slope), float(intercept)), "isotonic": tuple(map(tuple, knots))}

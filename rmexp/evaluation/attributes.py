"""What a head with an output for each attribute is worth, attribute by attribute."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch

from rmexp.data.token_columns import TokenColumns
from rmexp.evaluation.bias_probes import correlation
from rmexp.evaluation.calibration import Calibration, fit_calibration
from rmexp.evaluation.metrics import METRICS
from rmexp.evaluation.reliability import sigmoid
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.set_statistics import SetStatistics
from rmexp.evaluation.stats.bootstrap import Estimate
from rmexp.losses.attributes import rating_levels, rating_pairs

ATTRIBUTE_METRICS = ("accuracy", "spearman", "ece", "ece_calibrated", "rating_rmse", "length_r2")
"""Metrics of each attribute, by its own ratings and the pairs that they make: SET/attributes/NAME/
METRIC."""

WEIGHT_RESAMPLES = 200
RIDGE = 1e-3
"""Penalty on the squared weights, in standard deviations of the gaps: where an attribute separates
all pairs, the likelihood alone has no maximum."""


def attribute_sets(scored: ScoredSet, rows: Any, known: Sequence[str]) -> dict[str, ScoredSet]:
    """Attribute -> the set with its output as rewards, and the labels that its ratings make.

    Args:
        scored: the evaluated set; other heads than head=attributes have no attribute.
        rows: the data set, with `TOKEN_SCHEMA`.
        known: its attributes; those of them that are no output are left out.
    """
    if scored.kind != "attributes" or scored.outputs_N_K is None or not known:
        return {}
    ratings_N_A = TokenColumns(rows).attributes(scored.items_C, len(known)).ratings_N_A
    found = {}
    for output, name in enumerate(scored.names):
        if name in known and not np.isnan(ratings_N := ratings_N_A[:, known.index(name)]).all():
            found[name] = _relabelled(scored, scored.outputs_N_K[:, output], ratings_N)
    return found


def _relabelled(scored: ScoredSet, rewards_N: np.ndarray, ratings_N: np.ndarray) -> ScoredSet:
    ratings, lists = torch.from_numpy(ratings_N), torch.from_numpy(scored.rows_N)
    better_P, worse_P, tied_Q_2 = (found.numpy() for found in rating_pairs(ratings, lists))
    return dataclasses.replace(
        scored,
        rewards_N=rewards_N,
        outputs_N_K=None,
        ratings_N=ratings_N,
        levels_N=rating_levels(ratings, lists).numpy(),
        better_P=better_P,
        worse_P=worse_P,
        weights_P=scored.weights_N[better_P],
        tied_Q_2=tied_Q_2,
    )


def attribute_metrics(
    sets: Mapping[str, ScoredSet], calibrations: Mapping[str, Calibration], intervals: bool
) -> dict[str, float]:
    """`attributes/NAME/METRIC` of each attribute, for `ATTRIBUTE_METRICS`."""
    out: dict[str, float] = {}
    wanted = [metric for metric in METRICS if metric.name in ATTRIBUTE_METRICS]
    for name, scored in sets.items():
        statistics = SetStatistics(scored, calibrations.get(name))
        for metric in wanted:
            value = metric.compute(statistics) if metric.compute else None
            key = f"attributes/{name}/{metric.name}"
            if isinstance(value, Estimate):
                out |= value.named(key) if intervals else {key: value.value}
            elif value is not None:
                out[key] = float(value)
    return {name: value for name, value in out.items() if value == value}


def attribute_calibrations(sets: Mapping[str, ScoredSet]) -> dict[str, Calibration]:
    """The calibration of each attribute's output, fitted on val."""
    return {
        name: fit_calibration(s.rewards_N, s.ratings_N, s.gaps_P, s.weights_P)
        for name, s in sets.items()
    }


def correlations(sets: Mapping[str, ScoredSet]) -> dict[str, list[list[float | None]]]:
    """Pearson's correlations between attributes, of `outputs` and of `ratings`; None where there is
    none, or no response is rated in both."""
    return {
        "outputs": _matrix([s.rewards_N.astype(np.float64) for s in sets.values()]),
        "ratings": _matrix([s.ratings_N for s in sets.values()]),
    }


def _matrix(columns: Sequence[np.ndarray]) -> list[list[float | None]]:
    return [[_correlation(one, other) for other in columns] for one in columns]


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    both = ~np.isnan(one) & ~np.isnan(other)
    return correlation(one[both], other[both]) if both.any() else None


@dataclass(frozen=True)
class LearntWeights:
    """The weights of a reward's K outputs, with the 95% intervals of each, over prompts."""

    weights_K: np.ndarray
    intervals_K_2: np.ndarray


def learn_weights(scored: ScoredSet, seed: int = 0) -> LearntWeights:
    """Non-negative logistic regression of the set's preferences on the gaps of the outputs.

    P(better wins) = sigmoid(gaps @ weights); after the second stage of ArmoRM, Wang et al. 2024,
    arXiv:2406.12845, without its prompt. The intervals are percentiles over resampled prompts, of n
    of which n - 1 are drawn with replacement as in `stats.bootstrap`.
    """
    outputs_N_K = scored.outputs_N_K
    assert outputs_N_K is not None, "a set with the outputs of its head"
    gaps_P_K = (outputs_N_K[scored.better_P] - outputs_N_K[scored.worse_P]).astype(np.float64)
    weights_P = scored.weights_P
    best_K = _fitted(gaps_P_K, weights_P, np.zeros(gaps_P_K.shape[1]))
    names, member_P = np.unique(scored.prompts_P, return_inverse=True)
    generator = np.random.default_rng(seed)
    count, drawn = len(names), []
    for _ in range(WEIGHT_RESAMPLES if count > 1 else 0):
        times = np.bincount(generator.integers(count, size=count - 1), minlength=count)
        if (weights_P * times[member_P]).any():
            drawn.append(_fitted(gaps_P_K, weights_P * times[member_P], best_K))
    if not drawn:
        return LearntWeights(best_K, np.full((len(best_K), 2), np.nan))
    return LearntWeights(best_K, np.quantile(drawn, [0.025, 0.975], axis=0).T)


def _fitted(gaps_P_K: np.ndarray, weights_P: np.ndarray, start_K: np.ndarray) -> np.ndarray:
    scale_K = gaps_P_K.std(0)
    scale_K = np.where(scale_K > 0, scale_K, 1.0)
    scaled_P_K, shares_P = gaps_P_K / scale_K, weights_P / weights_P.sum()

    def loss(weights_K: np.ndarray) -> tuple[float, np.ndarray]:
        gaps_P = scaled_P_K @ weights_K
        value = shares_P @ np.logaddexp(0, -gaps_P) + RIDGE / 2 * weights_K @ weights_K
        slope_K = -(shares_P * sigmoid(-gaps_P)) @ scaled_P_K + RIDGE * weights_K
        return float(value), slope_K

    bounds = [(0, None)] * gaps_P_K.shape[1]
    found = scipy.optimize.minimize(
        loss, start_K * scale_K, jac=True, method="L-BFGS-B", bounds=bounds
    )
    return np.asarray(found.x / scale_K)


def weight_lines(facts: Mapping[str, Any]) -> Iterable[str]:
    """The weights of the outputs, for a terminal; see `training.attribute_outputs`."""
    learnt = facts["learnt"]
    yield f"reward = sum of outputs, with weights {'learnt on val' if learnt else 'as declared'}:"
    for name, (weight, low, high) in facts["weights"].items():
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None else ""
        yield f"  {name} {weight:.3f}{interval}"

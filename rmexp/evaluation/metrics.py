"""Metrics of one scored evaluation set: plain functions of arrays, in fp64 over fp32 rewards."""

import numpy as np

from rmexp.evaluation.best_of_n import best_of_k
from rmexp.evaluation.bias_probes import probe_biases
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.rank_correlation import area, kendall, label_auc, spearman, within_means
from rmexp.evaluation.reliability import pair_scores
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean

METRICS = (
    "accuracy",
    "gap_2plus/accuracy",
    "best_of_k",
    "spearman",
    "kendall_within",
    "spearman_within",
    "length_baseline",
    "length_controlled_accuracy",
    "loss",
    "margin",
    "margin_standardised",
    "auc",
    "nll",
    "brier",
    "ece",
    "tie_rate",
    "reward_mean",
    "reward_std",
)
"""The metrics of a validation by which a checkpoint may be selected, without its subsets'."""


LOWER_IS_BETTER = ("loss", "nll", "brier", "ece", "tie_rate", "rating_rmse")
"""Beginnings of the names of metrics whose lowest value is the best."""


TABLE = (
    "score",
    *METRICS[:4],
    "kendall",
    *METRICS[4:6],
    "label_auc",
    *METRICS[6:-3],
    "ece_calibrated",
    "rating_rmse",
    *METRICS[-3:],
)
"""What the terminal shows of a set, in this order; the others are in result.json."""


def lower_is_better(name: str) -> bool:
    """Is the metric (`SET/NAME`, or without the set) an error, so that its lowest value is best?"""
    return name.rsplit("/", 1)[-1].startswith(LOWER_IS_BETTER)


def compute_metrics(s: ScoredSet, calibration: Calibration | None = None) -> dict[str, float]:
    """Every metric that the set allows, under its name without the set's prefix.

    accuracy      share of strictly judged pairs with r_better > r_worse; equal rewards are not wins
    accuracy_low, accuracy_high   its 95% interval, bootstrapped over prompts
    tie_rate      share of those pairs with equal rewards
    human_ties    number of pairs that people tied (left out)
    not_finite    comparisons that are left out, as a reward is NaN or infinite
    margin        mean of r_better - r_worse, in units of reward
    margin_standardised   margin / reward_std: comparable between runs
    auc           probability that a better response outscores a worse one of any prompt; _low,
                  _high
    nll, brier, ece       of P(better wins) = sigmoid(r_better - r_worse)
    best_of_k     chance that the highest reward of a list is one of the best, where lists have
                  three responses or more; _low, _high; best_of_k_chance: of a blind pick
    reward_mean, reward_std
    spearman      rank correlation of rewards and ratings, over all rated responses; _low, _high
    kendall_within, spearman_within   the mean over prompts of the correlation within the prompt;
                  _low, _high
    SUBSET/accuracy       where there is more than one subset
    gap_2plus/accuracy    over pairs whose ratings lie two or more apart, where there are such
    and those of `probes.probe`, and with a calibration those of `calibrated`.

    Rows and judgements weigh by their weights in all of them, but for the counts and what tells of
    the rewards alone (reward_mean, reward_std) or of a bias (`probes`).
    """
    out = {
        "pairs": float(len(s.better_P)),
        "human_ties": float(len(s.tied_Q_2)),
        "responses": float(len(s.rewards_N)),
        "reward_mean": float(s.rewards_N.mean(dtype=np.float64)),
        "reward_std": float(s.rewards_N.std(dtype=np.float64)),
    }
    if s.lost:
        out["not_finite"] = float(s.lost)
    out |= _accuracy(s) | _best(s) | _correlated(s) | probe_biases(s.traits, s.rewards_N)
    if s.weights_P.any():
        gaps_P, spread = s.gaps_P, out["reward_std"]
        margin = float(np.average(gaps_P, weights=s.weights_P))
        sides = (s.rewards_N[side] for side in (s.better_P, s.worse_P))
        above = area(*((rewards, s.prompts_P, s.weights_P) for rewards in sides))
        out |= {
            "margin": margin,
            "margin_standardised": margin / spread if spread else 0.0,
            **named_metrics("auc", above),
            **pair_scores(gaps_P, s.weights_P),
        }
    return out if calibration is None else out | calibrated(s, calibration)


def calibrated(s: ScoredSet, calibration: Calibration) -> dict[str, float]:
    """What val's calibration makes of the set.

    nll_calibrated, brier_calibrated, ece_calibrated   with its temperature
    rating_rmse, rating_rmse_isotonic   root mean square error of its maps to the raters' scale
    """
    out = {}
    if calibration.temperature is not None and s.weights_P.any():
        scores = pair_scores(s.gaps_P / calibration.temperature, s.weights_P)
        out = {f"{name}_calibrated": value for name, value in scores.items()}
    rated_N = ~np.isnan(s.ratings_N)
    if calibration.isotonic is not None and s.weights_N[rated_N].any():
        rewards, ratings = s.rewards_N[rated_N], s.ratings_N[rated_N]
        weights = s.weights_N[rated_N]
        for name, said in (
            ("rating_rmse", calibration.linear_rating(rewards)),
            ("rating_rmse_isotonic", calibration.rating(rewards)),
        ):
            out[name] = float(np.sqrt(np.average(np.square(said - ratings), weights=weights)))
    return out


def slow_metrics(s: ScoredSet) -> dict[str, float]:
    """What takes too long for a validation, of the set and of each of its subsets.

    kendall       tau-b of rewards and ratings, over all rated responses
    label_auc     chance that a good response outscores a bad one, where ratings have two values
    and their 95% intervals; of subsets also accuracy, best_of_k and the correlations with theirs.
    """
    out = _agreement(s)
    names = sorted(set(s.subsets_C))
    for name in names if len(names) > 1 else ():
        part = s.subset(name)
        found = _accuracy(part) | _best(part) | _correlated(part) | _agreement(part)
        out |= {f"{name}/{metric}": value for metric, value in found.items()}
    return {name: value for name, value in out.items() if value == value}


def _accuracy(s: ScoredSet) -> dict[str, float]:
    """Accuracy and ties, of subsets as well."""
    if not s.weights_P.any():
        return {}
    gaps_P = s.gaps_P
    wins_P, ties_P = (gaps_P > 0).astype(np.float64), (gaps_P == 0).astype(np.float64)

    def share(of_P: np.ndarray, where: np.ndarray) -> float:
        weights = s.weights_P[where]
        return float(np.average(of_P[where], weights=weights)) if weights.any() else float("nan")

    out = named_metrics("accuracy", clustered_mean(wins_P, s.prompts_P, s.weights_P))
    out["tie_rate"] = share(ties_P, np.ones(len(gaps_P), dtype=bool))
    subsets_P = s.subsets_P
    names = sorted(set(subsets_P))
    if len(names) > 1:
        out |= {f"{name}/accuracy": share(wins_P, subsets_P == name) for name in names}
    apart = s.ratings_N[s.better_P] - s.ratings_N[s.worse_P] >= 2
    if apart.any():
        out["gap_2plus/accuracy"] = share(wins_P, apart)
    return out


def _best(s: ScoredSet) -> dict[str, float]:
    """Best of K; lists of two alone would repeat accuracy."""
    if np.bincount(s.rows_N[s.levels_N >= 0]).max(initial=0) < 3:
        return {}
    rows_R, values_R, chances_R = best_of_k(s.rewards_N, s.levels_N, s.rows_N)
    weights_R = s.weights_C[rows_R]
    if not weights_R.any():
        return {}
    found = clustered_mean(values_R, s.prompts_C[rows_R], weights_R)
    chance = float(np.average(chances_R, weights=weights_R))
    return named_metrics("best_of_k", found) | {"best_of_k_chance": chance}


def _correlated(s: ScoredSet) -> dict[str, float]:
    """Rank correlations with ratings that are quick to tell."""
    if (rated := _rated(s)) is None:
        return {}
    out = named_metrics("spearman", spearman(*rated))
    for name, found in within_means(*rated).items():
        out |= named_metrics(name, found)
    return out


def _agreement(s: ScoredSet) -> dict[str, float]:
    """Rank correlations and areas that take longer."""
    if (rated := _rated(s)) is None:
        return {}
    out = named_metrics("kendall", kendall(*rated))
    if len(np.unique(rated[1])) == 2:
        out |= named_metrics("label_auc", label_auc(*rated))
    return out


Rated = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rated(s: ScoredSet) -> Rated | None:
    """Rewards, ratings, prompts and weights of rated responses; None where ratings do not vary."""
    here = ~np.isnan(s.ratings_N) & (s.weights_N > 0)
    ratings = s.ratings_N[here]
    if len(set(ratings)) < 2:
        return None
    return s.rewards_N[here].astype(np.float64), ratings, s.prompts_N[here], s.weights_N[here]


def named_metrics(name: str, found: Estimate) -> dict[str, float]:
    """`name`, `name_low` and `name_high`."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}

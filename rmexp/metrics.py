"""Metrics of one scored evaluation set: plain functions of arrays, in fp64 over fp32 rewards."""

import numpy as np
from scipy.stats import rankdata as ranks

from rmexp.best_of import best_of_k
from rmexp.calibration import Calibration
from rmexp.probes import probe
from rmexp.ranking import label_auc, rank_agreement, within_prompts
from rmexp.reliability import pair_scores
from rmexp.scored import Scored
from rmexp.statistics import clustered_correlation, clustered_interval

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


def evaluate(s: Scored, calibration: Calibration | None = None) -> dict[str, float]:
    """Every metric that the set allows, under its name without the set's prefix.

    accuracy      share of strictly judged pairs with r_better > r_worse; equal rewards are not wins
    accuracy_low, accuracy_high   its 95% interval, bootstrapped over prompts
    tie_rate      share of those pairs with equal rewards
    human_ties    number of pairs that people tied (left out)
    not_finite    comparisons that are left out, as a reward is NaN or infinite
    margin        mean of r_better - r_worse, in units of reward
    margin_standardised   margin / reward_std: comparable between runs
    auc           probability that a better response outscores a worse one of any prompt
    nll, brier, ece       of P(better wins) = sigmoid(r_better - r_worse)
    best_of_k     chance that the highest reward of a list is one of the best, where lists have
                  three responses or more; _low, _high; best_of_k_chance: of a blind pick
    reward_mean, reward_std
    spearman      rank correlation of rewards and ratings, over all rated responses; _low, _high
    kendall_within, spearman_within   the mean over prompts of the correlation within the prompt
    SUBSET/accuracy       where there is more than one subset
    gap_2plus/accuracy    over pairs whose ratings lie two or more apart, where there are such
    and those of `probes.probe`, and with a calibration those of `calibrated`.

    Rows and judgements weigh by their weights in accuracy, tie_rate, auc, best_of_k and the
    correlations.
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
    out |= _accuracy(s) | _best(s) | _correlated(s) | probe(s.traits, s.rewards_N)
    if len(s.better_P):
        gaps_P, spread = s.gaps_P, out["reward_std"]
        out |= {
            "margin": float(gaps_P.mean()),
            "margin_standardised": float(gaps_P.mean() / spread) if spread else 0.0,
            "auc": auc(s.rewards_N[s.better_P], s.rewards_N[s.worse_P], s.weights_P),
            **pair_scores(gaps_P),
        }
    return out if calibration is None else out | calibrated(s, calibration)


def calibrated(s: Scored, calibration: Calibration) -> dict[str, float]:
    """What val's calibration makes of the set.

    nll_calibrated, brier_calibrated, ece_calibrated   with its temperature
    rating_rmse, rating_rmse_isotonic   root mean square error of its maps to the raters' scale
    """
    out = {}
    if calibration.temperature is not None and len(s.better_P):
        scores = pair_scores(s.gaps_P / calibration.temperature)
        out = {f"{name}_calibrated": value for name, value in scores.items()}
    rated_N = ~np.isnan(s.ratings_N)
    if calibration.isotonic is not None and rated_N.any():
        rewards, ratings = s.rewards_N[rated_N], s.ratings_N[rated_N]
        for name, said in (
            ("rating_rmse", calibration.linear_rating(rewards)),
            ("rating_rmse_isotonic", calibration.rating(rewards)),
        ):
            out[name] = float(np.sqrt(np.square(said - ratings).mean()))
    return out


def thorough(s: Scored) -> dict[str, float]:
    """What takes too long for a validation, of the set and of each of its subsets.

    kendall       tau-b of rewards and ratings, over all rated responses
    label_auc     chance that a good response outscores a bad one, where ratings have two values
    and the 95% intervals of all of them, and of `kendall_within` and `spearman_within`; of subsets
    also those of accuracy, best_of_k and spearman.
    """
    out = _agreement(s)
    names = sorted(set(s.subsets_C))
    for name in names if len(names) > 1 else ():
        part = s.subset(name)
        found = _accuracy(part) | _best(part) | _correlated(part) | _agreement(part)
        out |= {f"{name}/{metric}": value for metric, value in found.items()}
    return {name: value for name, value in out.items() if value == value}


def _accuracy(s: Scored) -> dict[str, float]:
    """Accuracy and ties, of subsets as well."""
    if not s.weights_P.any():
        return {}
    gaps_P = s.gaps_P
    wins_P, ties_P = (gaps_P > 0).astype(np.float64), (gaps_P == 0).astype(np.float64)

    def share(of_P: np.ndarray, where: np.ndarray) -> float:
        weights = s.weights_P[where]
        return float(np.average(of_P[where], weights=weights)) if weights.any() else float("nan")

    everywhere = np.ones(len(gaps_P), dtype=bool)
    out = {"accuracy": share(wins_P, everywhere), "tie_rate": share(ties_P, everywhere)}
    interval = clustered_interval(wins_P, s.prompts_P, weights=s.weights_P)
    out["accuracy_low"], out["accuracy_high"] = interval
    subsets_P = s.subsets_P
    names = sorted(set(subsets_P))
    if len(names) > 1:
        out |= {f"{name}/accuracy": share(wins_P, subsets_P == name) for name in names}
    apart = s.ratings_N[s.better_P] - s.ratings_N[s.worse_P] >= 2
    if apart.any():
        out["gap_2plus/accuracy"] = share(wins_P, apart)
    return out


def _best(s: Scored) -> dict[str, float]:
    """Best of K; lists of two alone would repeat accuracy."""
    if np.bincount(s.rows_N[s.levels_N >= 0]).max(initial=0) < 3:
        return {}
    rows_R, values_R, chances_R = best_of_k(s.rewards_N, s.levels_N, s.rows_N)
    weights_R = s.weights_C[rows_R]
    if not weights_R.any():
        return {}
    low, high = clustered_interval(values_R, s.prompts_C[rows_R], weights=weights_R)
    return {
        "best_of_k": float(np.average(values_R, weights=weights_R)),
        "best_of_k_low": low,
        "best_of_k_high": high,
        "best_of_k_chance": float(np.average(chances_R, weights=weights_R)),
    }


def _correlated(s: Scored) -> dict[str, float]:
    """Rank correlations with ratings that are quick to tell."""
    rated_N = ~np.isnan(s.ratings_N)
    rewards, ratings, rows = s.rewards_N[rated_N], s.ratings_N[rated_N], s.rows_N[rated_N]
    if len(set(ratings)) < 2 or not s.weights_C[rows].any():
        return {}
    out = {}
    ranked = (ranks(rewards), ranks(ratings), s.prompts_C[rows])
    found = clustered_correlation(*ranked, weights=s.weights_C[rows])
    out["spearman"], out["spearman_low"], out["spearman_high"] = found
    prompts_G, kendall_G, spearman_G = within_prompts(rewards, ratings, s.prompts_C[rows])
    weights_G = np.bincount(s.prompts_C, s.weights_C)[prompts_G]
    if weights_G.any():
        out["kendall_within"] = float(np.average(kendall_G, weights=weights_G))
        out["spearman_within"] = float(np.average(spearman_G, weights=weights_G))
    return out


def _agreement(s: Scored) -> dict[str, float]:
    """Rank correlations and areas whose intervals are computed anew on each resample."""
    found = rank_agreement(s.rewards_N, s.ratings_N, s.prompts_N)
    if len(np.unique(s.ratings_N[~np.isnan(s.ratings_N)])) == 2:
        found["label_auc"] = label_auc(s.rewards_N, s.ratings_N, s.prompts_N)
    out = {}
    for name, (value, low, high) in found.items():
        if name in ("kendall", "label_auc"):
            out[name] = value
        if name != "spearman":  # the quick interval stands already
            out |= {f"{name}_low": low, f"{name}_high": high}
    return out


def auc(better: np.ndarray, worse: np.ndarray, weights: np.ndarray | None = None) -> float:
    """P(a better response outscores a worse one), ties half: the Mann-Whitney statistic.

    Args:
        weights: of each pair, on either side.
    """
    weights = np.ones(len(better)) if weights is None else weights
    if not weights.any():
        return float("nan")
    order = np.argsort(worse, kind="stable")
    up_to = np.concatenate([[0.0], np.cumsum(weights[order])])
    below = up_to[np.searchsorted(worse[order], better, side="left")]
    not_above = up_to[np.searchsorted(worse[order], better, side="right")]
    return float((below + not_above) @ weights / 2 / weights.sum() ** 2)

"""Metrics of one scored evaluation set: plain functions of arrays, in fp64 over fp32 rewards."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rmexp.statistics import clustered_correlation, clustered_interval

CALIBRATION_BINS = 10
METRICS = (
    "accuracy",
    "gap_2plus/accuracy",
    "spearman",
    "length_baseline",
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
"""The metrics that a set may have without its subsets', in the order in which they are shown."""


@dataclass(frozen=True)
class Scored:
    """An evaluation set with its rewards. N responses, P strictly judged pairs.

    rewards_N    float32
    tokens_N     int, length as rendered
    ratings_N    float, NaN where unrated
    prompts_N    the prompt of each response (any hashable number)
    better_P     index of the better response; worse_P the other
    subsets_P    the name of its subset
    tied_Q_2     pairs that people tied: left out of accuracy, and counted
    """

    rewards_N: np.ndarray
    tokens_N: np.ndarray
    ratings_N: np.ndarray
    prompts_N: np.ndarray
    better_P: np.ndarray
    worse_P: np.ndarray
    subsets_P: np.ndarray
    tied_Q_2: np.ndarray

    @property
    def prompts_P(self) -> np.ndarray:
        """The prompt of each pair, the cluster of intervals."""
        return self.prompts_N[self.better_P]

    @property
    def gaps_P(self) -> np.ndarray:
        """r_better - r_worse, subtracted in fp64 so that no fp32 difference is rounded to a tie."""
        return self.rewards_N[self.better_P].astype(np.float64) - self.rewards_N[self.worse_P]


def scored(rows: Any, indices: np.ndarray, rewards: dict[int, list[float]]) -> Scored:
    """Join the rows `indices` of a tokenised data set with the rewards of their responses.

    Args:
        rows: a data set with `tokenised.FEATURES`.
        indices: its rows, in the order to take them.
        rewards: row -> a reward for each of its responses.
    """
    responses: list[tuple[float, int, float, int]] = []  # reward, tokens, rating, prompt
    pairs: list[tuple[int, int, str]] = []  # better, worse, subset
    tied: list[tuple[int, int]] = []
    prompts: dict[str, int] = {}
    for index, row in zip(indices, rows.select(indices), strict=True):
        start = len(responses)
        lengths = map(len, row["tokens"])
        prompt = [prompts.setdefault(row["prompt_key"], len(prompts))] * len(row["tokens"])
        responses += zip(rewards[int(index)], lengths, row["ratings"], prompt, strict=True)
        for i, j, verdict in row["pairs"]:
            if verdict == 0:
                tied.append((start + i, start + j))
            else:
                pairs.append((start + i, start + j, row["subset"]))
    return Scored(
        rewards_N=np.array([r for r, *_ in responses], dtype=np.float32),
        tokens_N=np.array([t for _, t, _, _ in responses], dtype=np.int64),
        ratings_N=np.array([r for _, _, r, _ in responses], dtype=np.float64),
        prompts_N=np.array([p for *_, p in responses], dtype=np.int64),
        better_P=np.array([b for b, *_ in pairs], dtype=np.int64),
        worse_P=np.array([w for _, w, *_ in pairs], dtype=np.int64),
        subsets_P=np.array([name for *_, name in pairs], dtype=object),
        tied_Q_2=np.array(tied, dtype=np.int64).reshape(-1, 2),
    )


def evaluate(s: Scored) -> dict[str, float]:
    """Every metric that the set allows, under its name without the set's prefix.

    accuracy      share of strictly judged pairs with r_better > r_worse; equal rewards are not wins
    accuracy_low, accuracy_high   its 95% interval, bootstrapped over prompts
    tie_rate      share of those pairs with equal rewards
    human_ties    number of pairs that people tied (left out)
    margin        mean of r_better - r_worse, in units of reward
    margin_standardised   margin / reward_std: comparable between runs
    auc           probability that a better response outscores a worse one of any prompt
    nll, brier, ece       of P(better wins) = sigmoid(r_better - r_worse)
    reward_mean, reward_std
    spearman      rank correlation of rewards and ratings, over all rated responses
    spearman_low, spearman_high   its 95% interval, bootstrapped over prompts
    length_baseline       accuracy of "the longer one wins" (equal lengths count half)
    SUBSET/accuracy       where there is more than one subset
    gap_2plus/accuracy    over pairs whose ratings lie two or more apart, where there are such
    """
    out = {
        "pairs": float(len(s.better_P)),
        "human_ties": float(len(s.tied_Q_2)),
        "reward_mean": float(s.rewards_N.mean(dtype=np.float64)),
        "reward_std": float(s.rewards_N.std(dtype=np.float64)),
    }
    rated_N = ~np.isnan(s.ratings_N)
    if len(set(s.ratings_N[rated_N])) > 1:
        ranked = (ranks(s.rewards_N[rated_N]), ranks(s.ratings_N[rated_N]), s.prompts_N[rated_N])
        out["spearman"], out["spearman_low"], out["spearman_high"] = clustered_correlation(*ranked)
    if not len(s.better_P):
        return out
    gaps_P = s.gaps_P
    wins_P = (gaps_P > 0).astype(np.float64)
    out |= {
        "accuracy": float(wins_P.mean()),
        "tie_rate": float((gaps_P == 0).mean()),
        "margin": float(gaps_P.mean()),
        "margin_standardised": float(gaps_P.mean() / out["reward_std"])
        if out["reward_std"]
        else 0.0,
        "auc": auc(s.rewards_N[s.better_P], s.rewards_N[s.worse_P]),
        "nll": float(np.logaddexp(0, -gaps_P).mean()),
        "brier": float(np.square(1 - _sigmoid(gaps_P)).mean()),
        "ece": expected_calibration_error(gaps_P),
        "length_baseline": length_baseline(s),
    }
    out["accuracy_low"], out["accuracy_high"] = clustered_interval(wins_P, s.prompts_P)
    names = sorted(set(s.subsets_P))
    if len(names) > 1:
        out |= {f"{name}/accuracy": float(wins_P[s.subsets_P == name].mean()) for name in names}
    rating_gaps_P = s.ratings_N[s.better_P] - s.ratings_N[s.worse_P]
    if (rating_gaps_P >= 2).any():
        out["gap_2plus/accuracy"] = float(wins_P[rating_gaps_P >= 2].mean())
    return out


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 1; equal values share the mean of theirs."""
    _, member, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[member]


def length_baseline(s: Scored) -> float:
    """Accuracy of the rule "the longer response wins"; equal lengths count half."""
    longer_P = np.sign(s.tokens_N[s.better_P] - s.tokens_N[s.worse_P])
    return float(((longer_P + 1) / 2).mean())


def auc(better: np.ndarray, worse: np.ndarray) -> float:
    """P(a better response outscores a worse one), ties half: the Mann-Whitney statistic."""
    order = np.sort(worse)
    below = np.searchsorted(order, better, side="left")
    not_above = np.searchsorted(order, better, side="right")
    return float((below + not_above).mean() / 2 / len(worse))


def expected_calibration_error(gaps_P: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """|confidence - accuracy| averaged over bins of equal mass; confidence is sigmoid(|gap|).

    Naeini, Cooper and Hauskrecht 2015; equal mass after Nixon et al. 2019, arXiv:1904.01685.
    """
    order = np.argsort(np.abs(gaps_P), kind="stable")
    confidence, right = _sigmoid(np.abs(gaps_P[order])), (gaps_P[order] > 0).astype(np.float64)
    parts = [p for p in np.array_split(np.arange(len(order)), bins) if len(p)]
    return float(
        sum(abs(confidence[p].mean() - right[p].mean()) * len(p) for p in parts) / len(order)
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))

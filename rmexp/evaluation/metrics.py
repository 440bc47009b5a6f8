"""The registry of metrics: to add one, add an entry to `METRICS`; everything else reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rmexp.data.text_style import MARKS
from rmexp.evaluation.rank_correlation import kendall, spearman
from rmexp.evaluation.reliability import sigmoid
from rmexp.evaluation.set_statistics import SetStatistics
from rmexp.evaluation.stats.bootstrap import Estimate

Place = Literal["table", "card", "compare", "wandb"]

Itemwise = Callable[[np.ndarray, float | np.ndarray], np.ndarray]
"""(gaps_P, reward_std) -> (P,) the value of each pair."""


@dataclass(frozen=True)
class Metric:
    """One metric of a scored set.

    Args:
        name: without the set's name: `accuracy` is logged as `test/accuracy`.
        label: what it measures, in a few words.
        compute: its value, with an interval if it is an `Estimate`; None where it is undefined. No
            function: computed elsewhere (a loss by training, a benchmark's score by its suite).
        direction: whether its highest or lowest value is best; None: neither.
        shown: where it is shown. table: terminal, model card, and first in the report's table;
            card: top of the report; compare: beside the metric that runs are compared by; wandb:
            columns of the saved view.
        monitor: whether `trainer.monitor` accepts it; auto: `trainer.monitor=auto` may choose it,
            in the order of the registry.
        per_subset: when it is computed for each subset too. evaluate: with the slow ones; always:
            without an interval at each validation too (itemwise metrics only).
        slow: too slow for a validation; task=evaluate computes it.
        itemwise: the values of pairs whose mean it is, for paired tests of runs.
        count: a number of something: whole, and added up over folds.
    """

    name: str
    label: str
    compute: Callable[[SetStatistics], float | Estimate | None] | None
    direction: Literal["max", "min"] | None = "max"
    shown: tuple[Place, ...] = ()
    monitor: Literal["no", "yes", "auto"] = "no"
    per_subset: Literal["never", "evaluate", "always"] = "never"
    slow: bool = False
    itemwise: Itemwise | None = None
    count: bool = False


def _bias(name: str, label: str, **more: Any) -> Metric:
    return Metric(name, label, lambda s: s.biases.get(name), **{"direction": None, **more})


def _pair_score(name: str, label: str, **more: Any) -> Metric:
    return Metric(name, label, lambda s: s.pair_scores.get(name), "min", **more)


def _within(name: str, label: str, **more: Any) -> Metric:
    return Metric(name, label, lambda s: s.within_prompts.get(name), per_subset="evaluate", **more)


def _standardised(gaps_P: np.ndarray, reward_std: float | np.ndarray) -> np.ndarray:
    std = np.broadcast_to(reward_std, gaps_P.shape)
    return np.divide(gaps_P, std, out=np.zeros_like(gaps_P), where=std > 0)


METRICS = (
    Metric("score", "the suite's score", None, shown=("table", "card")),
    Metric(
        "accuracy",
        "pair accuracy",  # equal rewards are not wins
        lambda s: s.accuracy,
        shown=("table", "card", "compare", "wandb"),
        monitor="auto",
        per_subset="always",
        itemwise=lambda gaps_P, _: (gaps_P > 0).astype(np.float64),
    ),
    Metric(
        "gap_2plus/accuracy",
        "accuracy where ratings are two or more apart",
        lambda s: s.pair_mean(s.gaps_P > 0, s.rating_gaps_P >= 2),
        shown=("table",),
        monitor="yes",
        per_subset="evaluate",
    ),
    Metric(
        "best_of_k",
        "best of K",  # P(the highest reward is a best response), lists of three or more
        lambda s: s.best_of_k[0],
        shown=("table", "card"),
        monitor="yes",
        per_subset="evaluate",
    ),
    Metric(
        "spearman",
        "Spearman, with ratings",
        lambda s: s.of_rated(spearman),
        shown=("table", "card"),
        monitor="auto",
        per_subset="evaluate",
    ),
    Metric(
        "kendall",
        "Kendall's tau-b, with ratings",
        lambda s: s.of_rated(kendall),
        shown=("table",),
        per_subset="evaluate",
        slow=True,
    ),
    _within("kendall_within", "Kendall within prompts", shown=("table",), monitor="yes"),
    _within(
        "spearman_within", "Spearman within prompts", shown=("table", "compare"), monitor="yes"
    ),
    Metric(
        "label_auc",
        "AUC, good over bad",  # where ratings have two values
        lambda s: s.label_auc,
        shown=("table", "card"),
        per_subset="evaluate",
        slow=True,
    ),
    _bias(
        "length_baseline",
        "length baseline",  # accuracy of "the longer one is better"
        shown=("table", "card", "compare"),
        monitor="yes",
    ),
    _bias(
        "length_controlled_accuracy",
        "accuracy at equal length",
        direction="max",
        shown=("table", "card", "compare", "wandb"),
        monitor="yes",
    ),
    Metric("loss", "loss", None, "min", shown=("table",), monitor="auto"),
    Metric(
        "margin",
        "mean reward gap",
        lambda s: s.pair_mean(s.gaps_P),
        shown=("table",),
        monitor="yes",
    ),
    Metric(
        "margin_standardised",
        "standardised margin",
        lambda s: s.margin_standardised,
        shown=("table", "card", "compare", "wandb"),
        monitor="yes",
        itemwise=_standardised,
    ),
    Metric(
        "auc",
        "AUC, better over worse of any prompt",
        lambda s: s.auc,
        shown=("table", "wandb"),
        monitor="yes",
    ),
    _pair_score(
        "nll",
        "negative log-likelihood",
        shown=("table", "compare"),
        monitor="yes",
        itemwise=lambda gaps_P, _: np.logaddexp(0, -gaps_P),
    ),
    _pair_score(
        "brier",
        "Brier score",
        shown=("table",),
        monitor="yes",
        itemwise=lambda gaps_P, _: np.square(1 - sigmoid(gaps_P)),
    ),
    _pair_score(
        "ece", "calibration error", shown=("table", "card", "compare", "wandb"), monitor="yes"
    ),
    _pair_score("ece_calibrated", "calibration error, calibrated on val", shown=("table",)),
    _pair_score("nll_calibrated", "negative log-likelihood, calibrated on val"),
    _pair_score("brier_calibrated", "Brier score, calibrated on val"),
    Metric(
        "rating_rmse",
        "RMSE of ratings, linear map",
        lambda s: s.rating_rmse("linear"),
        "min",
        shown=("table",),
    ),
    Metric(
        "rating_rmse_isotonic",
        "RMSE of ratings, isotonic map",
        lambda s: s.rating_rmse("isotonic"),
        "min",
    ),
    Metric(
        "tie_rate",
        "share of pairs with equal rewards",
        lambda s: s.pair_mean(s.gaps_P == 0),
        "min",
        shown=("table",),
        monitor="yes",
        per_subset="evaluate",
    ),
    Metric(
        "reward_mean",
        "mean reward",
        lambda s: float(s.scored.rewards_N.mean(dtype=np.float64)),
        None,
        shown=("table",),
        monitor="yes",
    ),
    Metric(
        "reward_std",
        "standard deviation of rewards",
        lambda s: s.reward_std,
        None,
        shown=("table",),
        monitor="yes",
    ),
    Metric(
        "best_of_k_chance",
        "best of K, of a random pick",
        lambda s: s.best_of_k[1],
        None,
        per_subset="evaluate",
    ),
    _bias("longer_preferred", "model prefers the longer response"),
    _bias("length_r2", "reward variance that length explains"),
    _bias("position_correlation", "correlation with the position of the pooled token"),
    _bias("verbosity_correlation", "correlation with log characters"),
    *(_bias(f"{mark}_correlation", f"correlation with {mark}") for mark in MARKS),
    _bias("formatting_baseline", "accuracy of: the more formatted one is better"),
    _bias("formatting_preferred", "model prefers the more formatted response"),
    _bias("formatted_pairs", "pairs that differ in formatting", count=True),
    Metric("pairs", "labelled pairs", lambda s: len(s.scored.better_P), None, count=True),
    Metric(
        "human_ties", "tied pairs, left out", lambda s: len(s.scored.tied_Q_2), None, count=True
    ),
    Metric("responses", "responses", lambda s: len(s.scored.rewards_N), None, count=True),
    Metric(
        "not_finite",
        "comparisons with NaN or infinite rewards, left out",
        lambda s: s.scored.lost or None,
        "min",
        count=True,
    ),
)


def find_metric(name: str) -> Metric | None:
    """The entry of a metric of a set or subset: `test/accuracy`, `test/chat/accuracy`."""
    found = [metric for metric in METRICS if f"/{name}".endswith(f"/{metric.name}")]
    return max(found, key=lambda metric: len(metric.name), default=None)


def lower_is_better(name: str) -> bool:
    """Whether the lowest value of a metric is best; unregistered ones (of suites) count as max."""
    metric = find_metric(name)
    return metric is not None and metric.direction == "min"


def monitored_metrics() -> list[Metric]:
    """The metrics of a validation that `trainer.monitor` accepts."""
    return [metric for metric in METRICS if metric.monitor != "no"]


def itemwise_metrics() -> dict[str, Itemwise]:
    """Metrics that are means over pairs: name -> value of each pair."""
    return {metric.name: metric.itemwise for metric in METRICS if metric.itemwise is not None}


def shown_in(place: Place) -> list[Metric]:
    """The metrics shown in a place, in the order of the registry."""
    return [metric for metric in METRICS if place in metric.shown]

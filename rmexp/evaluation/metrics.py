"""The registry of metrics: to add one, add an entry to `METRICS`; everything else reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rmexp.data.text_style import MARKS
from rmexp.evaluation.rank_correlation import kendall, spearman
from rmexp.evaluation.reliability import brier_scores, negative_log_likelihoods
from rmexp.evaluation.set_statistics import SetStatistics
from rmexp.evaluation.stats.bootstrap import Estimate
from rmexp.evaluation.uncertainty import UNCERTAINTY

Place = Literal["table", "card", "compare", "wandb"]

Itemwise = Callable[[np.ndarray, float | np.ndarray], np.ndarray]
"""(gaps_P, reward_std) -> (P,) the value of each pair."""


@dataclass(frozen=True)
class Metric:
    """One metric of a scored set.

    Args:
        name: without the set's name: `accuracy` is logged as `test/accuracy`.
        label: what it measures, in a few words.
        compute: its value; None where it is undefined. One with a direction is an `Estimate`, whose
            interval lets it sort runs. No function: computed elsewhere (a loss by training, a
            benchmark's score by its suite).
        direction: whether its highest or lowest value is best; None: neither.
        shown: where it is shown. table: terminal, model card, and first in the report's table;
            card: top of the report; compare: beside the metric that runs are compared by; wandb:
            columns of the saved view.
        monitor: whether `trainer.monitor` accepts it; auto: `trainer.monitor=auto` may choose it,
            in the order of the registry.
        per_subset: when it is computed for each subset too. evaluate: with the slow ones; always:
            without an interval at each validation too (itemwise metrics only).
        slow: too slow for a validation; task=evaluate computes it.
        itemwise: the values of pairs whose mean it is, for paired tests of runs; span: their range.
        count: a number of something: whole, and added up over folds.
        verdicts: whether pairwise verdicts have it too, which have sides but no scale.
    """

    name: str
    label: str
    compute: Callable[[SetStatistics], float | Estimate | None] | None
    direction: Literal["max", "min"] | None = "max"
    shown: tuple[Place, ...] = ("table",)
    monitor: Literal["no", "yes", "auto"] = "yes"
    per_subset: Literal["never", "evaluate", "always"] = "never"
    slow: bool = False
    itemwise: Itemwise | None = None
    span: tuple[float, float] | None = None
    count: bool = False
    verdicts: bool = False


def _hidden(name: str, label: str, compute: Any, direction: Any = None, **more: Any) -> Metric:
    """A metric that is logged, but neither shown by name nor monitored."""
    return Metric(name, label, compute, direction, (), "no", **more)


def _correlation(name: str, label: str) -> Metric:
    return _hidden(name, label, lambda s: s.correlations.get(name))


def _selective(percent: int) -> Metric:
    return Metric(
        f"accuracy_at_{percent}",
        f"accuracy on the {percent}% of pairs that members agree on most",
        lambda s: s.selective_accuracy(percent / 100),
        monitor="no",
    )


def _standardised(gaps_P: np.ndarray, reward_std: float | np.ndarray) -> np.ndarray:
    std = np.broadcast_to(reward_std, gaps_P.shape)
    return np.divide(gaps_P, std, out=np.zeros_like(gaps_P), where=std > 0)


METRICS = (
    Metric("score", "the suite's score", None, shown=("table", "card"), monitor="no"),
    Metric(
        "accuracy",
        "pair accuracy",  # equal rewards are not wins
        lambda s: s.share(s.gaps_P > 0),
        shown=("table", "card", "compare", "wandb"),
        monitor="auto",
        per_subset="always",
        itemwise=lambda gaps_P, _: (gaps_P > 0).astype(np.float64),
        span=(0, 1),
        verdicts=True,
    ),
    Metric(
        "agreement",
        "verdicts that agree with the label, ties included",
        lambda s: s.agreement,
        monitor="no",
        verdicts=True,
    ),
    Metric(
        "position_flips",
        "verdicts that change with the order shown",
        lambda s: s.verdict_share("flips_P"),
        "min",
        monitor="no",
        verdicts=True,
    ),
    Metric(
        "gap_2plus/accuracy",
        "accuracy where ratings are two or more apart",
        lambda s: s.share(s.gaps_P > 0, s.rating_gaps_P >= 2),
        per_subset="evaluate",
        verdicts=True,
    ),
    Metric(
        "best_of_k",
        "best of K",  # P(the highest reward is a best response), lists of three or more
        lambda s: s.best_of_k[0],
        shown=("table", "card"),
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
        monitor="no",
        per_subset="evaluate",
        slow=True,
    ),
    Metric(
        "kendall_within",
        "Kendall within prompts",
        lambda s: s.within_prompts.get("kendall_within"),
        per_subset="evaluate",
    ),
    Metric(
        "spearman_within",
        "Spearman within prompts",
        lambda s: s.within_prompts.get("spearman_within"),
        shown=("table", "compare"),
        per_subset="evaluate",
    ),
    Metric(
        "label_auc",
        "AUC, good over bad",  # where ratings have two values
        lambda s: s.label_auc,
        shown=("table", "card"),
        monitor="no",
        per_subset="evaluate",
        slow=True,
    ),
    Metric(
        "length_baseline",
        "length baseline",  # accuracy of "the longer one is better"
        lambda s: s.share((np.sign(s.longer_P) + 1) / 2),
        None,
        shown=("table", "card", "compare"),
        verdicts=True,
    ),
    Metric(
        "length_controlled_accuracy",
        "accuracy at equal length",
        lambda s: s.length_controlled_accuracy,
        shown=("table", "card", "compare", "wandb"),
        verdicts=True,
    ),
    Metric("loss", "loss", None, "min", monitor="auto"),
    Metric("margin", "mean reward gap", lambda s: s.mean(s.gaps_P)),
    Metric(
        "margin_standardised",
        "standardised margin",
        lambda s: s.margin_standardised,
        shown=("table", "card", "compare", "wandb"),
        itemwise=_standardised,
    ),
    Metric("auc", "AUC, better over worse", lambda s: s.auc, shown=("table", "wandb")),
    Metric(
        "nll",
        "negative log-likelihood",
        lambda s: s.mean(negative_log_likelihoods(s.gaps_P)),
        "min",
        shown=("table", "compare"),
        itemwise=lambda gaps_P, _: negative_log_likelihoods(gaps_P),
    ),
    Metric(
        "brier",
        "Brier score",
        lambda s: s.share(brier_scores(s.gaps_P)),
        "min",
        itemwise=lambda gaps_P, _: brier_scores(gaps_P),
        span=(0, 1),
    ),
    Metric(
        "ece",
        "calibration error",
        lambda s: s.calibration_error(s.gaps_P),
        "min",
        shown=("table", "card", "compare", "wandb"),
    ),
    Metric(
        "ece_calibrated",
        "calibration error, calibrated on val",
        lambda s: s.calibrated(s.calibration_error),
        "min",
        monitor="no",
    ),
    Metric(
        "rating_rmse", "RMSE of ratings", lambda s: s.rating_rmse("linear"), "min", monitor="no"
    ),
    Metric(
        "tie_rate",
        "share of pairs with equal rewards",
        lambda s: s.share(s.gaps_P == 0),
        "min",
        per_subset="evaluate",
        verdicts=True,
    ),
    Metric(
        "error_auroc",
        "AUROC of errors by the members' disagreement",
        lambda s: s.error_auroc(s.doubts_P),
        shown=("table", "card"),
        monitor="no",
    ),
    Metric(
        "error_auroc_gap",
        "AUROC of errors by the smallness of the gap",  # what one head tells of its errors
        lambda s: None if s.doubts_P is None else s.error_auroc(-np.abs(s.gaps_P)),
        monitor="no",
    ),
    _selective(80),
    _selective(50),
    Metric(
        UNCERTAINTY,
        "mean disagreement of the members on a gap",
        lambda s: None if s.doubts_P is None else s.mean(s.doubts_P),
        None,
        monitor="no",
    ),
    Metric(
        "uncertainty_ratio", "the same, relative to the run's own test", None, None, monitor="no"
    ),
    Metric(
        "interval_coverage",
        "ratings between the outer quantiles",
        lambda s: s.of_quantiles(lambda q: q.coverage),
        None,
        shown=("table", "card"),
        monitor="no",
    ),
    Metric(
        "interval_nominal",
        "what that should be",
        lambda s: s.of_quantiles(lambda q: q.nominal),
        None,
        monitor="no",
    ),
    Metric(
        "interval_width",
        "mean distance of the outer quantiles",
        lambda s: s.of_quantiles(lambda q: q.width),
        None,
        monitor="no",
    ),
    Metric(
        "quantile_error",
        "mean error of the shares below quantiles",
        lambda s: s.of_quantiles(lambda q: q.error),
        None,
        monitor="no",
    ),
    _hidden("share_below", "ratings at or below the quantile", None),  # of each quantile
    Metric("reward_mean", "mean reward", lambda s: s.reward_mean, None),
    Metric("reward_std", "standard deviation of rewards", lambda s: s.reward_std, None),
    _hidden(
        "nll_calibrated",
        "negative log-likelihood, calibrated on val",
        lambda s: s.calibrated(lambda gaps_P: s.mean(negative_log_likelihoods(gaps_P))),
        "min",
    ),
    _hidden(
        "brier_calibrated",
        "Brier score, calibrated on val",
        lambda s: s.calibrated(lambda gaps_P: s.share(brier_scores(gaps_P))),
        "min",
    ),
    _hidden(
        "rating_rmse_isotonic",
        "RMSE of ratings, isotonic map",
        lambda s: s.rating_rmse("isotonic"),
        "min",
    ),
    _hidden(
        "best_of_k_chance",
        "best of K, of a random pick",
        lambda s: s.best_of_k[1],
        per_subset="evaluate",
    ),
    _hidden(
        "longer_preferred",
        "model prefers the longer response",
        lambda s: s.preferred(s.longer_P),
        verdicts=True,
    ),
    _hidden(
        "formatting_baseline",
        "accuracy of the more formatted response",
        lambda s: s.share(s.marked_P > 0, s.marked_P != 0),
        verdicts=True,
    ),
    _hidden(
        "formatting_preferred",
        "model prefers the more formatted response",
        lambda s: s.preferred(s.marked_P),
        verdicts=True,
    ),
    _hidden(
        "formatted_pairs",
        "pairs that differ in formatting",
        lambda s: (s.marked_P != 0).sum() if s.has_pairs else None,
        count=True,
        verdicts=True,
    ),
    _correlation("length_r2", "reward variance that length explains"),
    _correlation("position_correlation", "correlation with the position of the pooled token"),
    _correlation("verbosity_correlation", "correlation with log characters"),
    *(_correlation(f"{mark}_correlation", f"correlation with {mark}") for mark in MARKS),
    _hidden("pairs", "labelled pairs", lambda s: len(s.scored.better_P), count=True, verdicts=True),
    _hidden(
        "human_ties",
        "tied pairs, left out",
        lambda s: len(s.scored.tied_Q_2),
        count=True,
        verdicts=True,
    ),
    _hidden("responses", "responses", lambda s: len(s.scored.rewards_N), count=True, verdicts=True),
    _hidden(
        "first_preferred",
        "verdicts for the response shown first, over both orders",
        lambda s: s.verdict_share("firsts_P"),
        verdicts=True,
    ),
    _hidden(
        "abstained",
        "pairs without a winner or a tie, not won",
        lambda s: s.abstained,
        "min",
        count=True,
        verdicts=True,
    ),
    _hidden(
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

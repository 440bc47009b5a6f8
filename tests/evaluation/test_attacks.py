"""Every metric against adversaries, with the values that it must have.

200 prompts have two good responses (rated 3) and two bad ones (rated 1), so four pairs each. The
good ones are longer by d in three prompts of four, the bad ones in the fourth; d is 10 to 50
tokens. They carry a header, a list item and bold text in every other prompt, the bad ones in the
rest. Values follow from this by counting; those of noise are expectations, within four standard
errors. A metric that is added to the registry needs an entry in `expected_values`.

python -m tests.evaluation.test_attacks     prints the table of docs/statistics.md
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.metrics import METRICS
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.set_statistics import SetStatistics
from rmexp.evaluation.stats.bootstrap import Estimate

DISTANCES, GOOD = np.array([10.0, 20, 30, 40, 50]), np.array([1.0, 1, 0, 0])
TEMPERATURE = 2.0
CALIBRATION = Calibration(TEMPERATURE, affine=(2.0, 1.0), isotonic=((0.0, 1.0), (1.0, 3.0)))
"""Fitted to rewards of 1 for good and 0 for bad responses."""

SHARES = ("accuracy", "gap_2plus/accuracy", "best_of_k", "label_auc", "auc")
MARKED = ("headers_correlation", "lists_correlation", "bold_correlation")
WEIGHED = "noise, weights 0 and 1e6"

BY_METRIC = [metric for metric in METRICS if metric.compute is not None]


def labels(prompts_C=None, weights_C=None, copies=1) -> dict:
    """The fields of the set without rewards; `copies` repeats all comparisons."""
    numbers = np.tile(np.arange(200), copies)
    distance = DISTANCES[numbers // 40][:, None]
    good_longer, good_marked = (numbers // 10 % 4 < 3)[:, None], (numbers % 2 == 0)[:, None]
    count = len(numbers)
    tokens = 50 + distance * ((GOOD == 1) == good_longer)
    marks = (GOOD == 1) == good_marked
    style = np.stack([np.expm1(tokens / 20), marks, marks, marks], axis=-1)
    weights_C = np.ones(count) if weights_C is None else weights_C
    better, worse = (
        (4 * np.arange(count)[:, None] + np.array(side)).ravel()
        for side in ([0, 0, 1, 1], [2, 3, 2, 3])
    )
    return {
        "items_C": np.arange(count),
        "subsets_C": np.where(numbers % 4 != 0, "kept", "left").astype(object),
        "prompts_C": numbers if prompts_C is None else prompts_C,
        "weights_C": weights_C,
        "rows_N": np.repeat(np.arange(count), 4),
        "tokens_N": tokens.ravel(),
        "style_N_S": style.reshape(-1, 4),
        "ratings_N": np.tile(1 + 2 * GOOD, count),
        "levels_N": np.tile(GOOD.astype(int), count),
        "better_P": better,
        "worse_P": worse,
        "weights_P": np.repeat(weights_C, 4),
        "tied_Q_2": np.zeros((0, 2), dtype=int),
    }


def scored(rewards, **more) -> ScoredSet:
    fields = labels(**more)
    return ScoredSet(**fields, rewards_N=np.asarray(rewards, dtype=np.float32).ravel())


def turned(share):
    """1 for good and 0 for bad responses; the reverse in this share of the prompts."""
    wrong = (np.arange(200) % 10 < round(10 * share))[:, None]
    return np.where(wrong, 1 - GOOD, GOOD)


def huge():
    """All right, but for one prompt that has as many comparisons as all the others."""
    prompts = np.append(np.arange(200), np.full(200, 200))
    return scored(np.concatenate([turned(0), turned(1)]), copies=2, prompts_C=prompts)


def weighed():
    """Noise in prompts of weight 1e6, and rewards of -100 for good ones in those of weight 0."""
    rewards = np.where(KEPT[:, None], NOISE, -100 * GOOD)
    return scored(rewards, weights_C=np.where(KEPT, 1e6, 0.0))


def tied_by_people():
    found = scored(turned(0))
    ties = np.stack([found.better_P, found.worse_P], axis=1)
    none = {name: getattr(found, name)[:0] for name in ("better_P", "worse_P", "weights_P")}
    level = {"ratings_N": found.ratings_N * 0 + 2, "levels_N": found.levels_N * 0}
    return dataclasses.replace(found, **none, **level, tied_Q_2=ties)


KEPT = np.arange(200) % 4 != 0
ONE, ONE_P = np.ones(200), np.ones(800)
NOISE = np.random.default_rng(11).normal(size=(200, 4))
LENGTH = labels()["tokens_N"] / 10
ADVERSARIES = {
    "label": scored(turned(0)),
    "label, 30% flipped": scored(turned(0.3)),
    "length": scored(LENGTH),
    "minus length": scored(-LENGTH),
    "constant": scored(np.full(800, 3.0)),
    "ties everywhere": scored(np.tile([1.0, 0, 0, 0], 200)),
    "noise": scored(NOISE),
    "noise, each prompt thrice": scored(np.tile(NOISE, (3, 1)), copies=3),
    WEIGHED: weighed(),
    "one huge cluster": huge(),
    "people tie all": tied_by_people(),
}


# -------------------------------------------------------------------- the values
@dataclass(frozen=True)
class About:
    """An expectation, within four standard errors."""

    value: float
    error: float


def nll(gap):
    return np.logaddexp(0, -gap)


def sigma(gap):
    return 1 / (1 + np.exp(-gap))


def brier(gap):
    return (1 - sigma(gap)) ** 2


def rank_correlations(auc, counts):
    """Spearman's and Kendall's, of equally many good and bad with this AUC; counts of equal x."""
    n, t = sum(counts), np.array(counts, dtype=float)
    variance = (n**2 - 1) / 12 - (t**3 - t).sum() / (12 * n)
    pairs = (n**2 - (t**2).sum()) / 2
    return n * (auc - 0.5) / 2 / math.sqrt(variance), n / 2 * (2 * auc - 1) / math.sqrt(pairs)


def of_labels(right, formatted=0.5, within=None):
    """Rewards of 1 and 0: right in a share of prompts, the reverse in the others."""
    lead, length = 2 * right - 1, 0.5 * 30 / math.sqrt(1100)
    within = lead if within is None else within

    def mean(of, temperature=1.0):
        return right * of(1 / temperature) + (1 - right) * of(-1 / temperature)

    return {
        **dict.fromkeys((*SHARES, "length_controlled_accuracy"), right),
        **dict.fromkeys(("spearman", "kendall", "margin"), lead),
        **dict.fromkeys(("spearman_within", "kendall_within"), within),
        "margin_standardised": 2 * lead,
        "nll": mean(nll),
        "brier": mean(brier),
        "ece": abs(sigma(1) - right),
        "nll_calibrated": mean(nll, TEMPERATURE),
        "brier_calibrated": mean(brier, TEMPERATURE),
        "ece_calibrated": abs(sigma(1 / TEMPERATURE) - right),
        **dict.fromkeys(("rating_rmse", "rating_rmse_isotonic"), math.sqrt(4 * (1 - right))),
        "reward_mean": 0.5,
        "reward_std": 0.5,
        "longer_preferred": 0.75 * right + 0.25 * (1 - right),
        "formatting_preferred": formatted,
        "length_r2": (lead * length) ** 2,
        "verbosity_correlation": lead * length,
        "position_correlation": lead * 3.75 / math.sqrt(0.25 * 325),
        **dict.fromkeys(MARKED, 2 * formatted - 1),
    }


def of_length(way):
    """Rewards of a tenth of the length: right in three prompts of four, or (-1) in the fourth."""
    gaps, right = DISTANCES / 10, 0.75 if way == 1 else 0.25
    spearman, kendall = rank_correlations(right, [400, 80, 80, 80, 80, 80])
    within = 2 * right - 1

    def mean(of, temperature=1.0):
        return np.mean(right * of(gaps / temperature) + (1 - right) * of(-gaps / temperature))

    def error(temperature=1.0):
        return np.abs(sigma(gaps / temperature) - right).mean()

    long, short = 2 * way * (5 + gaps) + 1, 2 * way * 5 + 1  # as ratings, by the affine map
    squares = 0.75 * ((long - 3) ** 2 + (short - 1) ** 2)
    squares += 0.25 * ((long - 1) ** 2 + (short - 3) ** 2)
    return {
        **dict.fromkeys(SHARES, right),
        "length_controlled_accuracy": 0.5,
        "spearman": spearman,
        "kendall": kendall,
        **dict.fromkeys(("spearman_within", "kendall_within"), within),
        "margin": 3 * within,
        "margin_standardised": 3 * within / math.sqrt(3.25),
        "nll": mean(nll),
        "brier": mean(brier),
        "ece": error(),
        "nll_calibrated": mean(nll, TEMPERATURE),
        "brier_calibrated": mean(brier, TEMPERATURE),
        "ece_calibrated": error(TEMPERATURE),
        "rating_rmse": math.sqrt(squares.mean() / 2),
        "rating_rmse_isotonic": math.sqrt(2),
        "reward_mean": way * 6.5,
        "reward_std": math.sqrt(3.25),
        "longer_preferred": (1 + way) / 2,
        "formatting_preferred": 0.5,
        "length_r2": 1,
        "verbosity_correlation": way,
        "position_correlation": way,
        **dict.fromkeys(MARKED, 0),
    }


def of_noise():
    """Standard normal rewards: gaps have a variance of 2, and pairs of a prompt go together."""
    gap, one = norm(0, math.sqrt(2)), norm()

    def about(of, law, units=200):
        mean = quad(lambda x: of(x) * law.pdf(x), -12, 12)[0]
        square = quad(lambda x: of(x) ** 2 * law.pdf(x), -12, 12)[0]
        return About(mean, math.sqrt((square - mean**2) / units))

    def error(temperature):
        sure = about(lambda x: sigma(abs(x) / temperature), gap)
        return About(sure.value - 0.5, math.hypot(sure.error, pair))

    def rmse(of):
        squared = about(of, one, 800)
        return About(math.sqrt(squared.value), squared.error / 2 / math.sqrt(squared.value))

    pair = math.sqrt(5 / 48 / 200)  # of a share of the four pairs: variance (n + m + 1) / 12 n m
    area = math.sqrt(801 / 12 / 400**2)
    within = 1 / math.sqrt(600)
    return {
        **dict.fromkeys(("accuracy", "gap_2plus/accuracy"), About(0.5, pair)),
        "best_of_k": About(0.5, 0.5 / math.sqrt(200)),
        "spearman": About(0, 1 / math.sqrt(800)),
        "kendall": About(0, 2 * area * math.sqrt(0.5)),
        "spearman_within": About(0, 1 / math.sqrt(3 * 200)),
        "kendall_within": About(0, 2 * pair * math.sqrt(4 / 6)),
        **dict.fromkeys(("label_auc", "auc"), About(0.5, area)),
        "length_controlled_accuracy": About(0.5, pair / math.sqrt(0.75)),  # 4 x 3/4 x 1/4
        "margin": About(0, 1 / math.sqrt(200)),
        "margin_standardised": About(0, 1 / math.sqrt(200)),
        "nll": about(nll, gap),
        "brier": about(brier, gap),
        "ece": error(1.0),
        "nll_calibrated": about(lambda x: nll(x / TEMPERATURE), gap),
        "brier_calibrated": about(lambda x: brier(x / TEMPERATURE), gap),
        "ece_calibrated": error(TEMPERATURE),
        "rating_rmse": rmse(lambda x: ((2 * x - 2) ** 2 + (2 * x) ** 2) / 2),
        "rating_rmse_isotonic": rmse(
            lambda x: ((2 * np.clip(x, 0, 1) - 2) ** 2 + (2 * np.clip(x, 0, 1)) ** 2) / 2
        ),
        "tie_rate": 0,
        "reward_mean": About(0, 1 / math.sqrt(800)),
        "reward_std": About(1, 1 / math.sqrt(1600)),
        "longer_preferred": About(0.5, pair),
        "formatting_preferred": About(0.5, pair),
        "length_r2": About(0, 4 * within**2),
        "verbosity_correlation": About(0, within),
        "position_correlation": About(0, 1 / math.sqrt(800)),
        **dict.fromkeys(MARKED, About(0, within)),
    }


def of_ties():
    """A reward of 1 for one of the good responses: half of the pairs tie."""
    tokens = 0.5 * 30 / 8
    spearman, kendall = 1 / math.sqrt(3), 1 / math.sqrt(3)  # phi: 1 of 2 good, none of 2 bad
    return {
        **dict.fromkeys(("accuracy", "gap_2plus/accuracy"), 0.5),
        "best_of_k": 1,
        **dict.fromkeys(("spearman", "spearman_within"), spearman),
        **dict.fromkeys(("kendall", "kendall_within"), kendall),
        **dict.fromkeys(("label_auc", "auc"), 0.75),
        "length_controlled_accuracy": 0.5,
        "margin": 0.5,
        "margin_standardised": 0.5 / math.sqrt(3 / 16),
        "nll": (nll(1) + nll(0)) / 2,
        "brier": (brier(1) + brier(0)) / 2,
        "ece": (1 - sigma(1)) / 2,
        "nll_calibrated": (nll(1 / TEMPERATURE) + nll(0)) / 2,
        "brier_calibrated": (brier(1 / TEMPERATURE) + brier(0)) / 2,
        "ece_calibrated": (1 - sigma(1 / TEMPERATURE)) / 2,
        **dict.fromkeys(("rating_rmse", "rating_rmse_isotonic"), 1),
        "tie_rate": 0.5,
        "reward_mean": 0.25,
        "reward_std": math.sqrt(3 / 16),
        "longer_preferred": (0.75 + 0.5) / 2,
        "formatting_preferred": 0.5,
        "length_r2": (tokens / math.sqrt(3 / 16 * 275)) ** 2,
        "verbosity_correlation": tokens / math.sqrt(3 / 16 * 275),
        "position_correlation": tokens / math.sqrt(3 / 16 * 325),
        **dict.fromkeys(MARKED, 0),
    }


OF_A_CONSTANT = {
    **dict.fromkeys(("accuracy", "gap_2plus/accuracy", "length_controlled_accuracy"), 0),
    **dict.fromkeys(("best_of_k", "label_auc", "auc"), 0.5),
    **dict.fromkeys(("spearman_within", "kendall_within", "margin", "margin_standardised"), 0),
    **dict.fromkeys(("nll", "nll_calibrated"), math.log(2)),
    **dict.fromkeys(("brier", "brier_calibrated"), 0.25),
    **dict.fromkeys(("ece", "ece_calibrated"), 0),
    "rating_rmse": math.sqrt((4**2 + 6**2) / 2),
    "rating_rmse_isotonic": math.sqrt(2),
    "tie_rate": 1,
    "reward_mean": 3,
    "reward_std": 0,
    **dict.fromkeys(("longer_preferred", "formatting_preferred"), 0.5),
}

COUNTS = dict.fromkeys(("formatted_pairs", "pairs", "responses"), 800)
OF_SEVERAL_OUTPUTS = (
    *("error_auroc", "error_auroc_gap", "accuracy_at_80", "accuracy_at_50", "uncertainty"),
    *("interval_coverage", "interval_nominal", "interval_width", "quantile_error"),
)
"""None of a head with one; their values are in test_uncertainty.py."""

OF_THE_LABELS = COUNTS | {
    "length_baseline": 0.75,
    "best_of_k_chance": 0.5,
    "formatting_baseline": 0.5,
    "human_ties": 0,
    "not_finite": None,
    **dict.fromkeys(OF_SEVERAL_OUTPUTS),
    "tie_rate": 0,
    **dict.fromkeys(("agreement", "position_flips", "first_preferred", "abstained")),  # of verdicts
}
"""Whatever the rewards are, unless said otherwise."""

DESCRIBE_REWARDS = {"reward_mean", "reward_std"} | {
    metric.name for metric in METRICS if metric.name.endswith(("_r2", "_correlation"))
}
"""They count responses without their weights."""


def expected_values() -> dict[str, dict]:
    """Adversary -> metric -> value, `About`, or (also where absent) None: undefined."""
    twice, thrice = ({name: n * count for name, count in COUNTS.items()} for n in (2, 3))
    kept = values(ADVERSARIES["noise"].subset("kept"))
    alike = values(dataclasses.replace(ADVERSARIES[WEIGHED], weights_C=ONE, weights_P=ONE_P))
    described = {name: alike[name] for name in alike if name in DESCRIBE_REWARDS}
    standardised = {"margin_standardised": kept["margin"] / alike["reward_std"]}
    undefined = dict.fromkeys(("length_baseline", "best_of_k_chance", "formatting_baseline"))
    told = {name: x for name, x in of_labels(1).items() if name in DESCRIBE_REWARDS}
    of_people = {"pairs": 0, "human_ties": 800, "formatted_pairs": None, "tie_rate": None}
    found = {
        "label": of_labels(1),
        "label, 30% flipped": of_labels(0.7, formatted=0.4),
        "length": of_length(1),
        "minus length": of_length(-1),
        "constant": OF_A_CONSTANT,
        "ties everywhere": of_ties(),
        "noise": of_noise(),
        "noise, each prompt thrice": values(ADVERSARIES["noise"]) | thrice,
        WEIGHED: kept | COUNTS | described | standardised,
        "one huge cluster": of_labels(0.5, within=199 / 201) | twice,
        "people tie all": told
        | undefined
        | of_people
        | dict.fromkeys(("rating_rmse", "rating_rmse_isotonic"), 1),
    }
    return {name: OF_THE_LABELS | own for name, own in found.items()}


def values(scored_set):
    """Metric -> its value."""
    statistics = SetStatistics(scored_set, CALIBRATION)
    found = {metric.name: metric.compute(statistics) for metric in BY_METRIC}
    return {name: x.value if isinstance(x, Estimate) else x for name, x in found.items()}


EXPECTED = expected_values()


# --------------------------------------------------------------------- the tests
def test_each_metric_has_values_that_it_must_have():
    assert {m.name for m in BY_METRIC} == set(of_labels(1)) | set(OF_THE_LABELS)


@pytest.mark.parametrize("metric", BY_METRIC, ids=lambda metric: metric.name)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_a_metric_under_attack(metric, adversary):
    statistics, expected = SetStatistics(ADVERSARIES[adversary], CALIBRATION), EXPECTED[adversary]
    found, value = metric.compute(statistics), expected.get(metric.name)
    if value is None:
        assert found is None or math.isnan(found.value)
        return
    shown = found.value if isinstance(found, Estimate) else found
    if isinstance(value, About):
        assert abs(shown - value.value) <= 4 * value.error
    else:
        assert shown == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert metric.direction is None or metric.count or isinstance(found, Estimate), "it sorts runs"
    if isinstance(found, Estimate):
        assert -math.inf < found.low <= found.value + 1e-9
        assert found.value - 1e-9 <= found.high < math.inf


@pytest.mark.parametrize("metric", BY_METRIC, ids=lambda metric: metric.name)
def test_intervals_count_prompts_and_weights_not_copies(metric):
    """A prompt thrice is no more than once; weight 1e6 is as 1, and rows of weight 0 are absent."""
    pairs = [("noise", "noise, each prompt thrice")]
    if metric.name not in DESCRIBE_REWARDS | {"margin_standardised"}:
        pairs.append((None, WEIGHED))
    for one, other in pairs:
        alone = ADVERSARIES["noise"].subset("kept") if one is None else ADVERSARIES[one]
        sets = (alone, ADVERSARIES[other])
        found = [metric.compute(SetStatistics(each, CALIBRATION)) for each in sets]
        if isinstance(found[0], Estimate):
            assert found[1].interval == pytest.approx(found[0].interval, rel=1e-6, abs=1e-9)


def test_an_interval_of_no_variance_and_of_one_huge_cluster():
    """200 right prompts may hide a share x of others, (1 - x)^200 = 2.5%; one of 201 is half."""
    accuracy = next(metric for metric in METRICS if metric.name == "accuracy").compute
    right = accuracy(SetStatistics(ADVERSARIES["label"]))
    assert right.interval == pytest.approx((0.025 ** (1 / 200), 1))
    huge = ADVERSARIES["one huge cluster"]
    assert accuracy(SetStatistics(huge)).low < 0.26
    assert accuracy(SetStatistics(huge)).high == 1
    for name in ("spearman", "kendall", "auc", "label_auc"):
        found = next(metric for metric in METRICS if metric.name == name).compute
        low, high = found(SetStatistics(huge)).interval
        assert high - low > 0.5, name


def attack_table() -> str:
    """The values of all metrics, as a Markdown table."""
    names = list(ADVERSARIES)
    lines = [["metric", *names], ["---"] * (1 + len(names))]
    found = {name: values(ADVERSARIES[name]) for name in names}
    for metric in BY_METRIC:
        cells = [found[name][metric.name] for name in names]
        shown = ["" if x is None or x != x else f"{x:.4g}" for x in cells]
        lines.append([f"`{metric.name}`", *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(attack_table())

"""Coverage of intervals and false alarms of tests, in simulated studies with a known truth.

python -m bench.coverage        writes docs/coverage.md: 1,000 studies each, minutes on one core
"""

import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom

from rmexp.evaluation.best_of_n import best_of_k
from rmexp.evaluation.length_control import length_controlled_accuracy
from rmexp.evaluation.rank_correlation import area, kendall, spearman, within_means
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean
from rmexp.evaluation.stats.seed_replicates import contrast
from rmexp.evaluation.stats.significance import (
    ALPHA,
    holm_correction,
    mcnemar_midp,
    paired_difference,
    sign_flip,
)

STUDIES = 1000
FILE = Path(__file__).parent.parent / "docs" / "coverage.md"
COVERED, ALARMED = (0.93, 0.97), (0.035, 0.065)
"""Accepted coverage of a 95% interval and false-alarm rate of a 5% test over 1,000 studies."""

Rng = np.random.Generator


def band(chance: float, studies: int) -> tuple[float, float]:
    """The central 99.8% interval of the share of `studies` with success probability `chance`."""
    low, high = binom.interval(0.998, studies, chance)
    return low / studies, high / studies


@dataclass(frozen=True)
class Cases:
    """A kind of study.

    what      the statistic and its data, in words
    draw      one study: whether the interval contains the truth, or the test finds a difference
    few       few prompts or seeds, where no method is exact: a wider band is accepted
    """

    what: str
    draw: Callable[[Rng], bool]
    few: bool = False


def share(cases: Cases, studies: int, seed: int = 0) -> float:
    """The share of studies for which `draw` is true."""
    rng = np.random.default_rng(seed)
    return sum(cases.draw(rng) for _ in range(studies)) / studies


def holds(found: Estimate, truth: float) -> bool:
    """Whether the interval contains the truth."""
    return found.low <= truth <= found.high


# ------------------------------------------------------------------ accuracies
def ukp_sizes(rng: Rng, prompts: int) -> np.ndarray:
    """UKPConvArg1: 32 debates with 360 pairs each, approximately."""
    return rng.integers(200, 520, prompts)


def accuracy(
    prompts: int,
    sizes: Callable[[Rng, int], np.ndarray],
    chance: tuple[float, float],
    weighted: bool = False,
) -> Callable[[Rng], bool]:
    """Pair accuracy, where each prompt has its own Beta-distributed accuracy."""

    def draw(rng: Rng) -> bool:
        of = np.repeat(np.arange(prompts), sizes(rng, prompts))
        own = rng.beta(*chance, prompts)
        wins = (rng.random(len(of)) < own[of]).astype(np.float64)
        weights = rng.integers(1, 5, len(of)).astype(np.float64) if weighted else None
        return holds(clustered_mean(wins, of, weights), chance[0] / sum(chance))

    return draw


def one_each(rng: Rng, prompts: int) -> np.ndarray:
    """HH: one pair a prompt."""
    return np.ones(prompts, dtype=int)


def six_each(rng: Rng, prompts: int) -> np.ndarray:
    """The demo: four graded responses, up to six pairs."""
    return np.full(prompts, 6)


def length_controlled(rng: Rng) -> bool:
    """Right by sigmoid(0.8 + 0.7 tanh(length)), where the better response is longer in 75%."""
    lengths, prompts = rng.normal(0.674, 1, 400), np.repeat(np.arange(100), 4)
    right = rng.random(400) < 1 / (1 + np.exp(-0.8 - 0.7 * np.tanh(lengths / math.hypot(0.674, 1))))
    found = length_controlled_accuracy(np.where(right, 1.0, -1.0), lengths, prompts)
    return holds(found, 1 / (1 + math.exp(-0.8)))


# ----------------------------------------------------------------- rated lists
def lists(rng: Rng, prompts: int, size: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, ratings 1 to 5, prompts; prompts differ in level and in accuracy."""
    of = np.repeat(np.arange(prompts), size)
    level, noise = rng.normal(size=prompts)[of], rng.gamma(2, 0.5, prompts)[of]
    quality = 0.7 * level + rng.normal(size=len(of))
    rewards = quality + noise * rng.normal(size=len(of)) + 0.5 * rng.normal(size=prompts)[of]
    return rewards, np.clip(np.round(3 + quality), 1, 5), of


def picks(rewards: np.ndarray, ratings: np.ndarray, of: np.ndarray) -> Estimate:
    """Best of K with its interval."""
    rows, values, _ = best_of_k(rewards, ratings.astype(int), of)
    return clustered_mean(values, rows)


def within(rewards: np.ndarray, ratings: np.ndarray, of: np.ndarray) -> Estimate:
    """The mean of Spearman's correlations within prompts."""
    return within_means(rewards, ratings, of, np.ones(len(of)))["spearman_within"]


def good_and_bad(rewards: np.ndarray, ratings: np.ndarray, of: np.ndarray) -> Estimate:
    """The area under the curve of good (4, 5) against bad responses."""
    good = ratings > 3
    ones = np.ones(len(of))
    return area(*((rewards[side], of[side], ones[side]) for side in (good, ~good)))


Ranked = Callable[[np.ndarray, np.ndarray, np.ndarray], Estimate]


def ranked(statistic: Ranked, prompts: int, size: int = 4) -> Callable[[Rng], bool]:
    """A statistic of rated lists; its true value is that of a large sample."""

    @functools.cache
    def truth() -> float:
        samples = (lists(np.random.default_rng(n), 1_000, size) for n in range(20))
        return float(np.mean([statistic(*sample).value for sample in samples]))

    return lambda rng: holds(statistic(*lists(rng, prompts, size)), truth())


def intervals() -> Iterator[Cases]:
    """The studies of intervals."""
    yield Cases("accuracy, 400 prompts of one pair (HH)", accuracy(400, one_each, (7, 3)))
    yield Cases("accuracy, 40 prompts of one pair", accuracy(40, one_each, (7, 3)), few=True)
    yield Cases("accuracy of 0.9, 40 prompts of one pair", accuracy(40, one_each, (9, 1)), few=True)
    yield Cases("accuracy, 40 prompts of 6 pairs (the demo)", accuracy(40, six_each, (4, 2)))
    yield Cases("accuracy, 32 prompts of about 360 pairs (UKP)", accuracy(32, ukp_sizes, (14, 6)))
    yield Cases("accuracy, 6 prompts of about 360 pairs", accuracy(6, ukp_sizes, (14, 6)), few=True)
    yield Cases("weighted accuracy, 100 prompts of 6", accuracy(100, six_each, (4, 2), True))
    yield Cases("length-controlled accuracy, 100 prompts of 4", length_controlled)
    yield Cases("best of 4, 200 prompts", ranked(picks, 200))
    yield Cases("best of 4, 40 prompts", ranked(picks, 40), few=True)
    yield Cases("Spearman, 400 single responses", ranked(spearman, 400, 1))
    yield Cases("Spearman, 60 prompts of 4", ranked(spearman, 60))
    yield Cases("Spearman within, 60 prompts of 4", ranked(within, 60))
    yield Cases("Kendall, 60 prompts of 4", ranked(kendall, 60))
    yield Cases("AUC, 60 prompts of 4", ranked(good_and_bad, 60))
    yield Cases("difference in accuracy, 32 prompts of about 360 pairs", difference)


# ------------------------------------------------------------------ two models
def ukp_like(
    rng: Rng, prompts: int = 30, pairs: int = 300, lift: float = 0.0, apart: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models, equal except for `lift` (log-odds), each better on some prompts."""
    ease = rng.normal(0.9, 0.5, (prompts, 1))
    sides = (ease + up + rng.normal(0, apart, (prompts, 1)) for up in (lift, 0.0))
    a, b = (rng.random((prompts, pairs)) < 1 / (1 + np.exp(-side)) for side in sides)
    return a.ravel().astype(float), b.ravel().astype(float), np.repeat(np.arange(prompts), pairs)


def hh_like(rng: Rng, pairs: int = 400, lift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Two models with correlated errors, on independent pairs."""
    ease = rng.normal(0.9, 1.0, pairs)
    a, b = (rng.random(pairs) < 1 / (1 + np.exp(-ease - up)) for up in (lift, 0.0))
    return a.astype(float), b.astype(float), np.arange(pairs)


def difference(rng: Rng) -> bool:
    """The same for two equal models."""
    a, b, prompts = ukp_like(rng, 32, 360)
    return holds(clustered_mean(a - b, prompts), 0.0)


def seen(study: Callable[[Rng], tuple[np.ndarray, ...]]) -> Callable[[Rng], bool]:
    """Whether `task=compare` finds a difference between two checkpoints."""
    return lambda rng: paired_difference(*study(rng), draws=999).p <= ALPHA


def weighted_pairs(rng: Rng) -> tuple[np.ndarray, ...]:
    """Four pairs a prompt, with weights."""
    a, b, prompts = ukp_like(rng, 60, 4)
    return a, b, prompts, rng.integers(1, 5, len(a)).astype(np.float64)


def plain_mcnemar(rng: Rng) -> bool:
    """A test that assumes independent pairs."""
    a, b, _ = ukp_like(rng)
    return mcnemar_midp(int((a > b).sum()), int((a < b).sum())) <= ALPHA


def seeded(
    rng: Rng, seeds: int, between: tuple[float, float], prompts: int = 60, pairs: int = 4
) -> tuple[list[np.ndarray], np.ndarray]:
    """Runs of two settings: their seeds differ, as do setting and prompt, and seed and prompt."""
    ease = rng.normal(0.9, 1, prompts)

    def setting(noise: float) -> np.ndarray:
        own = ease + rng.normal(0, 0.4, prompts) + rng.normal(0, noise, (seeds, 1))
        chance = 1 / (1 + np.exp(-own - rng.normal(0, 0.5, (seeds, prompts))))
        return (rng.random((seeds, prompts * pairs)) < np.repeat(chance, pairs, 1)).astype(float)

    return [setting(noise) for noise in between], np.repeat(np.arange(prompts), pairs)


def over_seeds(
    between: tuple[float, float], seeds: int = 3, lift: float = 0.0
) -> Callable[[Rng], bool]:
    """Whether a difference between two settings is found, with seeds as replicates."""

    def draw(rng: Rng) -> bool:
        (a, b), prompts = seeded(rng, seeds, between)
        return contrast([a + lift, b], [1, -1], prompts).p <= ALPHA

    return draw


def family(rng: Rng) -> bool:
    """Whether Holm's correction passes any of six pairs of four equal models."""
    ease = rng.normal(0.9, 0.5, (30, 1))
    sums = [rng.binomial(20, 1 / (1 + np.exp(-ease - rng.normal(0, 0.3, (30, 1))))) for _ in "abcd"]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    found = [sign_flip((sums[i] - sums[j]).ravel(), np.arange(30), 1999) for i, j in pairs]
    return min(holm_correction(found)) <= ALPHA


def alarms() -> Iterator[Cases]:
    """Studies of tests under the null hypothesis."""
    yield Cases("mid-p McNemar, 400 prompts of one pair (HH)", seen(hh_like))
    yield Cases("sign flips, 30 prompts of 300 pairs (UKP)", seen(ukp_like))
    yield Cases("sign flips, 60 prompts of 4 weighted pairs", seen(weighted_pairs))
    for between in ((0.0, 0.0), (0.3, 0.3), (0.6, 0.1)):
        what = f"Student's t, 3 seeds each that differ by {between[0]:g} and {between[1]:g}"
        yield Cases(what, over_seeds(between), few=between != (0.3, 0.3))
    yield Cases("Holm, any of the 6 pairs of 4 equal models", family, few=True)


def powers() -> Iterator[Cases]:
    """Studies of tests where there is a difference."""
    yield Cases("mid-p McNemar, 400 pairs, 10 points", seen(lambda r: hh_like(r, lift=0.65)))
    yield Cases("sign flips, 30 prompts, 5 points", seen(lambda r: ukp_like(r, lift=0.27)))
    yield Cases(
        "Student's t, 3 seeds each that differ by 0.1, 10 points", over_seeds((0.1, 0.1), lift=0.1)
    )


NAIVE = Cases("plain McNemar, 30 prompts of 300 pairs (UKP): wrong, and not used", plain_mcnemar)


# ------------------------------------------------------------------- the table
def main() -> None:
    """Run all studies and write the table."""
    begun = time.perf_counter()
    FILE.write_text("\n".join(page()) + "\n", encoding="utf-8")
    print(f"{FILE}: {time.perf_counter() - begun:.0f} s")


def page() -> Iterator[str]:
    """docs/coverage.md, line by line."""
    error = 100 * math.sqrt(0.05 * 0.95 / STUDIES)
    yield "# Coverage of intervals and false alarms of tests"
    yield ""
    yield "```bash"
    yield "python -m bench.coverage"
    yield "```"
    yield ""
    yield f"Each line is {STUDIES:,} simulated studies whose true value is known; a share near 5%"
    yield f"or 95% has a standard error of {error:.1f} points. `make soak` checks that shares are"
    yield "within 93 to 97%, or 3.5 to 6.5%, except on lines with a *: no method is exact with so"
    yield "few prompts, or few seeds of unequal variance. Holm's correction is conservative."
    yield from table(
        "95% intervals (`rmexp/evaluation/stats/bootstrap.py`)", "contain the truth", intervals()
    )
    yield from table("Tests at 5% without a difference", "false alarms", [*alarms(), NAIVE])
    yield from table("Tests at 5% with a difference", "detect it", powers())


def table(title: str, column: str, cases: Iterator[Cases] | list[Cases]) -> Iterator[str]:
    """One table, which is printed too."""
    yield from ("", f"## {title}", "", f"| of | {column} |", "|---|---|")
    for one in cases:
        line = f"| {one.what}{' *' if one.few else ''} | {100 * share(one, STUDIES):.1f}% |"
        print(line, file=sys.stderr, flush=True)
        yield line


if __name__ == "__main__":
    main()

"""Best-of-n curves of models that choose, with intervals, fits and tests over prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from rmexp.analysis.best_of_n.candidates import CandidateSet
from rmexp.evaluation.best_of_n import best_of_n_curves, best_of_n_kl, overoptimisation_fit
from rmexp.evaluation.stats.bootstrap import Estimate, Means, stratified
from rmexp.evaluation.stats.significance import Difference, holm_correction, paired_difference

CHOSEN_CURVES = ("gold", "reward", "win_rate", "length")
"""What is measured of the chosen response, see `Chooser`."""

GOLD = "gold"
"""The chooser that takes the response with the best gold reward: the most that can be gained."""


@dataclass(frozen=True)
class Increment:
    """Gold's gain from the best of n to that of 2n; p is Holm's, over a chooser's doublings."""

    n: int
    gain: Difference
    p: float


@dataclass(frozen=True)
class Chooser:
    """What becomes of responses that one model chooses, for n = 1 .. `most`.

    n = 1 is the blind pick: a random response of the policy.

    Attributes:
        curves: name -> the estimate for each n. `gold` is the gold reward; `reward` the model's
            own, in standard deviations within prompts; `win_rate` the share of the prompt's
            responses that the chosen one beats by gold, ties half; `length` in characters; `gain`
            is gold's gain over the blind pick, and `standard_gain` that in standard deviations
            within prompts.
        peak: the n where gold is highest.
        fits: `gold` and `reward` -> (a, b) of Gao's law in standard deviations within prompts.
        increments: of n = 1, 2, 4, ...
        gold_P_N: expected gold reward of each prompt.
        grid_gain_P: gold's gain averaged over n = 2, 4, ..., of each prompt.
        overall: its mean, tested against the blind pick.
    """

    name: str
    curves: Mapping[str, list[Estimate]]
    peak: Estimate
    fits: Mapping[str, tuple[Estimate, Estimate]]
    increments: list[Increment]
    gold_P_N: np.ndarray
    grid_gain_P: np.ndarray
    overall: Difference


@dataclass(frozen=True)
class PairTest:
    """Gold's gain, averaged over n = 2, 4, ..., of one chooser minus that of another."""

    better: str
    other: str
    gain: Difference
    p: float


@dataclass(frozen=True)
class BestOfNStudy:
    """The choosers by name, the oracle that chooses by gold, and tests between choosers."""

    candidates: CandidateSet
    choosers: Mapping[str, Chooser]
    oracle: Chooser
    tests: list[PairTest]


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, which is the last."""
    powers = [2**k for k in range(most.bit_length()) if 2**k < most]
    return [*powers, most]


def fit_grid(most: int) -> list[int]:
    """n at which Gao's law is fitted: about evenly spaced in log n, without n = 1."""
    steps = np.unique(np.round(np.geomspace(1, most, 4 * most.bit_length())).astype(int))
    return [n for n in steps.tolist() if n > 1]


def best_of_n_study(candidates: CandidateSet) -> BestOfNStudy:
    """Measure every chooser; those of `CandidateSet.rewards`, and gold itself."""
    choosers = {name: _chooser(name, x, candidates) for name, x in candidates.rewards.items()}
    oracle = _chooser(GOLD, candidates.gold_N, candidates)
    return BestOfNStudy(candidates, choosers, oracle, _tests(choosers, candidates))


def _chooser(name: str, rewards_N: np.ndarray, candidates: CandidateSet) -> Chooser:
    most, spread = candidates.most, candidates.gold_spread
    values_N_C = np.stack(
        [candidates.gold_N, rewards_N, _win_rates(candidates), candidates.lengths_N], axis=1
    )
    curves_P_N_C = best_of_n_curves(rewards_N, values_N_C, candidates.rows_N, most)
    scale = spread if name == GOLD else 1.0  # the others are standardised already
    grid = fit_grid(most)
    distances_G = np.sqrt(best_of_n_kl(np.array(grid, dtype=float)))

    def combine(means: Means) -> dict[str, np.ndarray]:
        columns = means["all"].reshape(*means["all"].shape[:-1], most, len(CHOSEN_CURVES))
        found = {name: columns[..., k] for k, name in enumerate(CHOSEN_CURVES)}
        gain = found["gold"] - found["gold"][..., :1]
        found |= {"gain": gain, "standard_gain": gain / spread}
        own = (found["reward"] - found["reward"][..., :1]) / scale
        out = {f"{name} {n}": x[..., n] for name, x in found.items() for n in range(most)}
        known = ~np.isnan(found["gold"][..., 0])
        out["peak"] = np.where(known, found["gold"].argmax(-1) + 1.0, np.nan)
        at = [n - 1 for n in grid]
        for kind, gains in (("gold", found["standard_gain"]), ("reward", own)):
            fit = overoptimisation_fit(gains[..., at], distances_G)
            out |= {f"{kind} a": fit[..., 0], f"{kind} b": fit[..., 1]}
        return out

    flat = curves_P_N_C.reshape(candidates.prompts, -1)
    strata = np.full(candidates.prompts, "all")
    found = stratified(flat, strata, candidates.clusters_P, combine)
    gold_P_N = curves_P_N_C[..., 0]
    steps = doublings(most)
    grid_gain_P = gold_P_N[:, [n - 1 for n in steps[1:]]].mean(1) - gold_P_N[:, 0]
    return Chooser(
        name,
        {
            curve: [found[f"{curve} {n}"] for n in range(most)]
            for curve in (*CHOSEN_CURVES, "gain", "standard_gain")
        },
        found["peak"],
        {kind: (found[f"{kind} a"], found[f"{kind} b"]) for kind in ("gold", "reward")},
        _increments(gold_P_N, steps, candidates.clusters_P),
        gold_P_N,
        grid_gain_P,
        paired_difference(grid_gain_P, np.zeros(len(grid_gain_P)), candidates.clusters_P),
    )


def _win_rates(candidates: CandidateSet) -> np.ndarray:
    """(N,) share of the prompt's responses with a lower gold reward, equal ones half."""
    order = np.lexsort((candidates.gold_N, candidates.rows_N))
    rows, gold = candidates.rows_N[order], candidates.gold_N[order]
    first = np.searchsorted(rows, rows)  # of the prompt
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (np.diff(rows) != 0) | (np.diff(gold) != 0)
    group, starts = np.cumsum(new) - 1, np.flatnonzero(new)
    ties = np.bincount(group)
    wins = (starts[group] - first + ties[group] / 2) / np.bincount(rows)[rows]
    out = np.empty(len(rows))
    out[order] = wins
    return out


def _increments(gold_P_N: np.ndarray, steps: list[int], clusters_P: np.ndarray) -> list[Increment]:
    found = [
        (n, paired_difference(gold_P_N[:, m - 1], gold_P_N[:, n - 1], clusters_P))
        for n, m in pairwise(steps)
    ]
    corrected = holm_correction([gain.p for _, gain in found])
    return [Increment(n, gain, p) for (n, gain), p in zip(found, corrected, strict=True)]


def _tests(choosers: Mapping[str, Chooser], candidates: CandidateSet) -> list[PairTest]:
    """The best chooser against each other one; Holm's family is that of all pairs."""
    ranked = sorted(choosers.values(), key=lambda one: -float(one.grid_gain_P.mean()))
    found = [
        (one, paired_difference(ranked[0].grid_gain_P, one.grid_gain_P, candidates.clusters_P))
        for one in ranked[1:]
    ]
    family = len(list(combinations(ranked, 2)))
    corrected = holm_correction([gain.p for _, gain in found], family)
    return [
        PairTest(ranked[0].name, one.name, gain, p)
        for (one, gain), p in zip(found, corrected, strict=True)
    ]

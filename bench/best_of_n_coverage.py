"""How often the intervals of `task=best_of_n` hold the truth, and whether its verdicts are right.

    python -m bench.best_of_n_coverage [STUDIES]

A world has a gold reward and a proxy that errs, and that loves some responses which gold dislikes,
in some prompts more than in others, so that gold peaks at a known n. The truth is the mean of
20,000 prompts: the estimator is unbiased.
"""

import sys

import numpy as np

from rmexp.analysis.best_of_n.candidates import CandidateSet, standardised
from rmexp.analysis.best_of_n.study import BestOfNStudy, best_of_n_study, fit_grid
from rmexp.analysis.best_of_n.verdicts import real_until
from rmexp.evaluation.best_of_n import best_of_n_curves, best_of_n_kl, overoptimisation_fit

RESPONSES = 32
CHECKED = (2, 8, 32)
"""n at which curves are compared."""


def world(rng: np.random.Generator, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, K) gold rewards and proxy rewards."""
    size = (prompts, RESPONSES)
    gold = rng.normal(size=(prompts, 1)) + rng.gamma(4, 0.25, (prompts, 1)) * rng.normal(size=size)
    proxy = gold + rng.normal(size=size)
    hacked = rng.random(size) < rng.beta(0.5, 12, (prompts, 1))
    return np.where(hacked, gold - 2, gold), np.where(hacked, proxy + 4, proxy)


def candidates(gold: np.ndarray, proxy: np.ndarray) -> CandidateSet:
    """The world as responses to choose from."""
    rows = np.repeat(np.arange(len(gold)), RESPONSES)
    names = np.array([f"{n:05}" for n in range(len(gold))])
    rewards = {"proxy": standardised(proxy.ravel(), rows, "proxy")}
    return CandidateSet(rows, names, gold.ravel(), np.ones(gold.size), rewards, RESPONSES)


def truth() -> dict[str, float]:
    """The values that intervals should hold."""
    gold, proxy = world(np.random.default_rng(2**32), 20_000)
    rows = np.repeat(np.arange(len(gold)), RESPONSES)
    curve = best_of_n_curves(proxy.ravel(), gold.ravel()[:, None], rows, RESPONSES)[..., 0].mean(0)
    grid = fit_grid(RESPONSES)
    spread = (gold - gold.mean(1, keepdims=True)).std()
    gains = (curve[[n - 1 for n in grid]] - curve[0]) / spread
    a, b = overoptimisation_fit(gains, np.sqrt(best_of_n_kl(np.array(grid, dtype=float))))
    found = {f"gold at {n}": curve[n - 1] for n in CHECKED}
    found |= {f"gain at {n}": curve[n - 1] - curve[0] for n in CHECKED}
    return found | {"a": a, "b": b, "peak": curve.argmax() + 1.0}


def intervals(study: BestOfNStudy) -> dict[str, tuple[float, float]]:
    """The intervals of one study, under the names of `truth`."""
    one = study.choosers["proxy"]
    found = {f"{c} at {n}": one.curves[c][n - 1] for c in ("gold", "gain") for n in CHECKED}
    found |= {"a": one.fits["gold"][0], "b": one.fits["gold"][1], "peak": one.peak}
    return {name: (value.low, value.high) for name, value in found.items()}


def main() -> None:
    """Print the coverage of each interval, by the number of prompts."""
    studies, known = int(sys.argv[1]) if len(sys.argv) > 1 else 300, truth()
    print("truth:", {name: round(float(value), 3) for name, value in known.items()})
    for prompts in (20, 60, 200):
        held = dict.fromkeys(known, 0)
        until: list[int] = []
        false = 0
        for number in range(studies):
            rng = np.random.default_rng([prompts, number])
            gold, proxy = world(rng, prompts)
            study = best_of_n_study(candidates(gold, proxy))
            for name, (low, high) in intervals(study).items():
                held[name] += bool(low <= known[name] + 1e-12 and known[name] - 1e-12 <= high)
            until.append(real_until(study.choosers["proxy"]) or 1)
            blind = best_of_n_study(candidates(gold, rng.normal(size=gold.shape)))
            false += blind.choosers["proxy"].overall.p <= 0.05
        shares = ", ".join(f"{name} {count / studies:.1%}" for name, count in held.items())
        values, counts = np.unique(until, return_counts=True)
        real = ", ".join(f"{v}: {c / studies:.0%}" for v, c in zip(values, counts, strict=True))
        print(f"{prompts} prompts: {shares}; real up to n = {real}")
        print(f"    a random proxy is told from a blind pick in {false / studies:.1%}")


if __name__ == "__main__":
    main()

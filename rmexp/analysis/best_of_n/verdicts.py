"""What best-of-n curves show, in sentences."""

from collections.abc import Iterator

from rmexp.analysis.best_of_n.study import BestOfNStudy, Chooser, PairTest
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean
from rmexp.evaluation.stats.significance import ALPHA, Difference


def verdicts(study: BestOfNStudy) -> list[str]:
    """Sentences on each chooser, and on which of them chooses better."""
    found = [line for one in study.choosers.values() for line in _about(one, study)]
    return [*found, *map(pair_sentence, study.tests)]


def real_until(chooser: Chooser) -> int | None:
    """The largest n that a doubling reaches by which gold rises significantly; None: there is none.

    From there on the reward's further gain is not shown to be real.
    """
    real = [one.n for one in chooser.increments if one.p <= ALPHA and one.gain.value > 0]
    return _next(chooser, real[-1]) if real else None


def _next(chooser: Chooser, n: int) -> int:
    return min(2 * n, chooser.gold_P_N.shape[1])


def _about(chooser: Chooser, study: BestOfNStudy) -> Iterator[str]:
    name, most = chooser.name, study.candidates.most
    yield f"{name}: {_peak(chooser, most)}."
    overall, until = chooser.overall, real_until(chooser)
    better = overall.p <= ALPHA and overall.value > 0
    if not better:
        worse = "worse than" if overall.p <= ALPHA else "not shown to be better than"
        yield (
            f"{name}: its choice is {worse} a blind pick: gold {_signed(overall)} averaged over "
            f"n = 2, 4, ..., {most}, p = {overall.p:.3g}."
        )
    elif until is None:
        yield (
            f"{name}: its choice is better than a blind pick (gold {_signed(overall)} averaged "
            f"over n = 2, 4, ..., {most}, p = {overall.p:.3g}), but no single doubling of n is "
            "shown to raise gold."
        )
    elif until == most:
        yield f"{name}: its gain is real up to n = {most}: the last doubling still raises gold."
    else:
        gold = chooser.gold_P_N
        rest = clustered_mean(gold[:, -1] - gold[:, until - 1], study.candidates.clusters_P)
        reward = chooser.curves["reward"]
        yield (
            f"{name}: from n = {until} on its gain is not real: its reward rises by another "
            f"{reward[-1].value - reward[until - 1].value:.2f} standard deviations up to "
            f"n = {most}, and gold by {_signed(rest)}."
        )
    falls = [one.n for one in chooser.increments if one.p <= ALPHA and one.gain.value < 0]
    if falls:
        steps = ", ".join(f"{n} to {_next(chooser, n)}" for n in falls)
        yield f"{name}: gold falls significantly as n goes from {steps}."


def _peak(chooser: Chooser, most: int) -> str:
    gold, n = chooser.curves["gold"], int(chooser.peak.value)
    start, top, end = gold[0].value, gold[n - 1].value, gold[-1].value
    span = f"95%: {chooser.peak.low:.0f} to {chooser.peak.high:.0f}"
    if chooser.peak.low != chooser.peak.low:  # a single prompt
        span = "one prompt: no interval"
    if n == most:
        return (
            f"gold is highest at n = {most}, the most that there are ({span}): {start:.4g} at "
            f"n = 1, {top:.4g} there"
        )
    return (
        f"gold peaks at n = {n} ({span}): {start:.4g} at n = 1, {top:.4g} there, {end:.4g} at "
        f"n = {most}"
    )


def pair_sentence(test: PairTest) -> str:
    """`A chooses better than B: gold +0.12 [0.03, 0.21], p = 0.01 (Holm)`."""
    sure = "chooses better than" if test.p <= ALPHA else "is not shown to choose better than"
    return (
        f"{test.better} {sure} {test.other}: gold {_signed(test.gain)} averaged over "
        f"n = 2, 4, ..., on {test.gain.prompts} prompts, p = {test.p:.3g} (Holm)."
    )


def _signed(value: Estimate | Difference) -> str:
    """`+0.1200 [0.030, 0.210]`."""
    known = value.low == value.low
    return f"{value.value:+.4f}" + (f" [{value.low:.3f}, {value.high:.3f}]" if known else "")

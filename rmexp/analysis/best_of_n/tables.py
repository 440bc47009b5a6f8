"""Best-of-n curves as a CSV file, as JSON and as a table for the terminal."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from rmexp.analysis.best_of_n.study import BestOfNStudy, Chooser
from rmexp.analysis.best_of_n.verdicts import real_until, verdicts
from rmexp.evaluation.best_of_n import best_of_n_kl
from rmexp.evaluation.metric_values import format_interval
from rmexp.evaluation.stats.bootstrap import Estimate

TITLES = (
    *("chooser", "blind", "gold at most", "peak at n", "real up to n", "wins", "length"),
    *("a, gold", "b, gold", "a, reward", "b, reward"),
)
"""Columns of the table; the first is text."""

FITS = 4
"""Number of the last columns, which only the page has."""


def write_curves(study: BestOfNStudy, file: Path) -> None:
    """One row for each chooser and n, with intervals."""
    every = [*study.choosers.values(), study.oracle]
    names, sizes = list(study.oracle.curves), np.arange(1, study.candidates.most + 1)
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        bounds = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
        writer.writerow(["chooser", "n", "kl", "sqrt_kl", *bounds])
        for one in every:
            for n, kl in zip(sizes.tolist(), best_of_n_kl(sizes).tolist(), strict=True):
                values = [x for name in names for x in one.curves[name][n - 1]]
                writer.writerow([one.name, n, kl, math.sqrt(kl), *values])


def table_rows(study: BestOfNStudy) -> list[list[str]]:
    """The cells under `TITLES`, one row for each chooser, gold itself last."""
    return [_row(one) for one in (*study.choosers.values(), study.oracle)]


def _row(one: Chooser) -> list[str]:
    gold, length = one.curves["gold"], one.curves["length"]
    until = real_until(one)
    fits = [value for kind in ("gold", "reward") for value in one.fits[kind]]
    return [
        one.name,
        f"{gold[0].value:.4g}",
        _figure(gold[-1]),
        f"{one.peak.value:.0f} [{one.peak.low:.0f}, {one.peak.high:.0f}]",
        "-" if until is None else str(until),
        _figure(one.curves["win_rate"][-1]),
        f"{length[0].value:.0f} -> {length[-1].value:.0f}",
        *map(_figure, fits),
    ]


def _figure(value: Estimate) -> str:
    return format_interval(value.value, value.low, value.high, digits=3)


def choosers_table(study: BestOfNStudy) -> Table:
    """The table for the terminal, without the fits."""
    shown = len(TITLES) - FITS
    found = Table(*TITLES[:shown], box=None, padding=(0, 2, 0, 0))
    for row in table_rows(study):
        found.add_row(*row[:shown])
    return found


def study_facts(study: BestOfNStudy) -> dict[str, Any]:
    """The result as JSON: for each chooser its figures at n = `most`, peak and fits."""

    def facts(one: Chooser) -> dict[str, Any]:
        at_most = {name: list(curve[-1]) for name, curve in one.curves.items()}
        fits = {kind: [list(value) for value in fit] for kind, fit in one.fits.items()}
        return {
            "at_most": at_most,
            "blind": list(one.curves["gold"][0]),
            "peak": list(one.peak),
            "real_until": real_until(one),
            "fits": fits,
        }

    return {
        "prompts": study.candidates.prompts,
        "most": study.candidates.most,
        "choosers": {name: facts(one) for name, one in study.choosers.items()},
        "oracle": facts(study.oracle),
        "verdicts": verdicts(study),
    }

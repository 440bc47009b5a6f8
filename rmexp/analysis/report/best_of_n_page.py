"""The page of a best-of-n study (report.html) and its plots."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rmexp.analysis.best_of_n.study import BestOfNStudy, Chooser
from rmexp.analysis.best_of_n.tables import TITLES, table_rows
from rmexp.analysis.best_of_n.verdicts import verdicts
from rmexp.analysis.report import plots
from rmexp.analysis.report.render import render_page
from rmexp.evaluation.best_of_n import best_of_n_kl


def best_of_n_page(name: str, subtitle: str, study: BestOfNStudy, folder: Path) -> str:
    """The page as HTML; the PNGs of its plots go into `plots/` of the folder."""
    shown = sorted(study.choosers.values(), key=lambda one: -one.overall.value)
    shown = shown[: len(plots.COLOURS)]
    return render_page(
        "best_of_n.html",
        name=name,
        subtitle=subtitle,
        heads=list(_heads(study, shown[0])),
        sentences=verdicts(study),
        figures=plots.published(list(_figures(study, shown)), folder / plots.FOLDER),
        left_out=len(study.choosers) - len(shown),
        titles=TITLES,
        rows=table_rows(study),
        most=study.candidates.most,
    )


def _heads(study: BestOfNStudy, best: Chooser) -> Iterator[dict[str, str]]:
    """The cards at the top, of the chooser whose choice gains most."""
    most = study.candidates.most
    gain, wins = best.curves["gain"][-1], best.curves["win_rate"][-1]
    possible = study.oracle.curves["gain"][-1].value
    yield {"label": "prompts", "value": str(study.candidates.prompts), "note": f"{most} responses"}
    yield {
        "label": "gold gained",
        "value": f"{gain.value:+.3g}",
        "note": f"{best.name}, n = {most}, 95%: {gain.low:.3g} to {gain.high:.3g}",
    }
    yield {
        "label": "of what is possible",
        "value": f"{gain.value / possible:.0%}" if possible else "",
        "note": "of the gain of choosing by gold",
    }
    yield {
        "label": "win rate",
        "value": f"{wins.value:.1%}",
        "note": f"over a random response, 95%: {wins.low:.1%} to {wins.high:.1%}",
    }
    yield {
        "label": "gold is highest at",
        "value": f"n = {best.peak.value:.0f}",
        "note": f"95%: {best.peak.low:.0f} to {best.peak.high:.0f}",
    }


def _figures(study: BestOfNStudy, shown: Sequence[Chooser]) -> Iterator[plots.Plot]:
    n = np.arange(1, study.candidates.most + 1)
    distance = np.sqrt(best_of_n_kl(n)).tolist()
    every = [*shown, study.oracle]
    yield plots.Plot(
        "overoptimisation",
        "Gain in standard deviations within prompts: gold (line, 95% band) and reward (dashed)",
        plots.bands(
            [
                [_band(one, "standard_gain", distance), _reward(one, distance)]
                for one in shown
            ],
            "sqrt(KL)", "gain", 0.0,
        ),
    )  # fmt: skip
    for curve, label, caption, line in (
        ("gold", "gold reward", "Gold reward of the best of n; dotted: a blind pick", "blind"),
        ("win_rate", "win rate", "Win rate over a random response, by gold", "half"),
        ("length", "characters", "Length of the chosen response; dotted: a blind pick", "blind"),
    ):
        reference = 0.5 if line == "half" else study.oracle.curves[curve][0].value
        groups = [[_band(one, curve, n.tolist())] for one in every]
        drawn = plots.bands(groups, "n", label, reference, log2=True)
        yield plots.Plot(curve.replace("_", "-"), caption, drawn)


def _band(one: Chooser, curve: str, x: Sequence[float]) -> plots.Band:
    values, low, high = zip(*one.curves[curve], strict=True)
    return plots.Band(one.name, x, values, low, high)


def _reward(one: Chooser, x: Sequence[float]) -> plots.Band:
    return plots.Band(one.name, x, [value.value for value in one.curves["reward"]], dashed=True)

"""The page of a comparison (report.html), and its main effects for the terminal."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmexp.analysis.compare.comparison_report import RunComparison
from rmexp.analysis.compare.run_groups import ABSENT, RunGroup, shorten
from rmexp.analysis.compare.tables import table_columns, value_of
from rmexp.analysis.report import plots
from rmexp.analysis.report.render import link, render_page
from rmexp.evaluation.metric_values import format_interval
from rmexp.evaluation.reliability import RELIABILITY_BINS, reliability
from rmexp.evaluation.stats.bootstrap import clustered_mean
from rmexp.tracking.predictions import read_log

CURVES = 4
"""Groups whose curves are drawn; more would be hard to distinguish."""

IN_A_BIN = 60
"""Minimum pairs in a bin of the reliability curve, as long as three bins remain."""

MAX_LABEL_LENGTH = 42
"""Characters of a group's name beside a plot."""


def compare_page(name: str, subtitle: str, found: RunComparison, home: Path) -> str:
    """Render the page of a comparison; its plots are saved as PNG in the run directory `home`."""
    table, heat = table_columns(found), heat_map(found)
    figures = [*_figures(found), *([_heat_plot(found, heat)] if heat else [])]
    shown = plots.published(figures, home / plots.FOLDER)
    return render_page(
        "compare.html",
        name=name,
        subtitle=subtitle,
        found=found,
        heads=list(_heads(found)),
        figures=shown[: len(shown) - bool(heat)],  # the heat map is a table there
        titles=list(table),
        lines=list(zip(*table.values(), strict=True)),
        words=list(table).index(f"{found.set}/{found.metric}"),
        reports=[list(_reports(row.group, home)) for row in found.rows],
        subsets=list(_subsets(found)),
        drawn=[row.group.name for row in found.rows[:CURVES]],
        sentences=[(verdict.sentence(), verdict.significant) for verdict in found.verdicts],
        effects=[_effect(effect) for effect in found.effects],
        heat=heat,
    )


def effect_lines(found: RunComparison) -> list[str]:
    """One line per level of a swept key."""
    lines = [
        f"  {e['key']}: {e['base']} -> {e['level']}: {e['value']} {e['span']} ({e['over']})"
        for e in map(_effect, found.effects)
    ]
    return ["", f"main effects on {found.tested}, all else equal:", *lines] if lines else []


def _heads(found: RunComparison) -> Iterator[dict[str, str]]:
    best = found.rows[0]
    value, _, interval = format_interval(best.value, best.low, best.high).partition(" ")
    significant = sum(verdict.significant for verdict in found.verdicts)
    prompts = len(set(found.judgements.prompts_P))
    runs = [part for row in found.rows for one in row.group.runs for part in one.run.paths]
    for label, figure, note in (
        (f"best {found.set}/{found.metric}", value, f"95%: {interval}" if interval else ""),
        (
            "significant differences",
            f"{significant} of {len(found.verdicts)}",
            "pairs tested, Holm-corrected",
        ),
        ("labelled pairs", f"{len(found.judgements.ids_P):,}", f"of {prompts:,} prompts"),
        (
            "settings",
            str(len(found.rows)),
            f"{len(runs)} runs, {len(found.skipped)} not compared",
        ),
    ):
        yield {"label": label, "value": figure, "note": note}


def _reports(group: RunGroup, home: Path) -> Iterator[tuple[str, str | None]]:
    """Seed or name of each run of a group, and the link to its own page."""
    for one in group.runs:
        seed = one.run.config.get("seed")
        yield one.run.name if seed is None else f"seed {seed}", link(one.run.path, home)


def _subsets(found: RunComparison) -> Iterator[tuple[str, int, list[str]]]:
    """Accuracy of the first groups on each subset, with intervals over prompts, if several."""
    judged = found.judgements
    names = sorted(set(judged.subsets_P))
    accuracy = [row.group.items("accuracy").mean(0) for row in found.rows[:CURVES]]
    for name in names if len(names) > 1 else ():
        here = judged.subsets_P == name
        of_P = judged.prompts_P[here], judged.weights_P[here], (0, 1)
        values = (clustered_mean(right_P[here], *of_P) for right_P in accuracy)
        yield name, int(here.sum()), [format_interval(*value) for value in values]


def _figures(found: RunComparison) -> Iterator[plots.Plot]:
    rows = [
        (_label(row.group), row.value, row.low, row.high)
        for row in found.rows
        if row.value is not None
    ]
    label = f"{found.set}/{found.metric}"
    if rows:
        drawn = plots.forest(rows, label, rows[0][1])
        yield plots.Plot("settings", f"{label}, with 95% intervals; dotted: the best", drawn)
    if effects := [e for e in found.effects if not math.isnan(e.difference.low)]:
        named = [_effect(effect) for effect in effects]
        lines = [
            (f"{n['key']}: {n['base']} -> {n['level']}", d.value, d.low, d.high)
            for n, d in zip(named, (effect.difference for effect in effects), strict=True)
        ]
        drawn = plots.forest(lines, f"change of {found.tested}", 0.0)
        yield plots.Plot("effects", "Effect of a swept key, all else equal", drawn)
    yield from _learning(found)
    if len(found.judgements.ids_P):
        bins = max(3, min(RELIABILITY_BINS, len(found.judgements.ids_P) // IN_A_BIN))
        weights_P = found.judgements.weights_P
        firsts = {_label(row.group): row.group.runs[0] for row in found.rows[:CURVES]}
        curves = {
            label: reliability(first.gaps_P, bins, weights_P)
            for label, first in firsts.items()
            if first.has_scale
        }
        drawn = plots.reliability_curves(
            {label: (one.confidence_B, one.accuracy_B) for label, one in curves.items()}
        )
        yield plots.Plot("reliability", "Accuracy by confidence", drawn)


def _learning(found: RunComparison) -> Iterator[plots.Plot]:
    """The metric on val by step, of the first seed of the first groups."""
    name, series = f"val/{found.metric}", {}
    for row in found.rows[:CURVES]:
        run = row.group.runs[0].run
        points = plots.logged_series(read_log(run.path) if run.has_settings else [], name)
        if points[0]:
            series[_label(row.group)] = points
    if series:
        yield plots.Plot("learning", f"{name} by step", plots.curves(series, name))


def _heat_plot(found: RunComparison, heat: Mapping[str, Any]) -> plots.Plot:
    label = f"{found.set}/{found.metric} by {heat['down']} and {heat['across']}"
    cells = [[float(cell["text"] or "nan") for cell in row] for _, row in heat["rows"]]
    across, down = (
        [label or "none" for label in labels]
        for labels in (heat["columns"], [label for label, _ in heat["rows"]])
    )
    drawn = plots.heat(cells, across, down, heat["across"], heat["down"])
    return plots.Plot("heat", label, drawn)


def _label(group: RunGroup) -> str:
    name = group.name
    return name if len(name) <= MAX_LABEL_LENGTH else f"{name[: MAX_LABEL_LENGTH - 3]}..."


def _effect(effect: Any) -> dict[str, str]:
    d = effect.difference
    base, level = ("none" if v is ABSENT else shorten(v) for v in (effect.base, effect.level))
    cells = f"{effect.cells} cell{'s' if effect.cells > 1 else ''}"
    return {
        "key": effect.key,
        "base": base,
        "level": level,
        "value": f"{d.value:+.4f}",
        "span": "" if math.isnan(d.low) else f"[{d.low:+.4f}, {d.high:+.4f}]",
        "over": f"{cells}, {'seeds and prompts' if effect.over_seeds else 'these checkpoints'}",
    }


def heat_map(found: RunComparison) -> Mapping[str, Any] | None:
    """The metric by the two keys with the most values, averaged over the others; else None."""
    levels = {
        key: sorted({value_of(row, key) for row in found.rows}, key=_natural) for key in found.keys
    }
    ranked = sorted((key for key in levels if len(levels[key]) > 1), key=lambda k: -len(levels[k]))
    if len(ranked) < 2:
        return None
    down, across = ranked[1], ranked[0]
    cells: dict[tuple[str, str], list[float]] = {}
    for row in found.rows:
        if row.value is not None:
            cells.setdefault((value_of(row, down), value_of(row, across)), []).append(row.value)
    means = {key: sum(values) / len(values) for key, values in cells.items()}
    low, high = min(means.values(), default=0.0), max(means.values(), default=0.0)

    def cell(key: tuple[str, str]) -> dict[str, str]:
        shade = 0.0
        if key in means:
            shade = (means[key] - low) / (high - low) if high > low else 0.5
        return {"text": format_interval(means.get(key)), "share": f"{60 * shade:.0f}%"}

    return {
        "down": down,
        "across": across,
        "columns": levels[across],
        "rows": [(one, [cell((one, other)) for other in levels[across]]) for one in levels[down]],
    }


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text

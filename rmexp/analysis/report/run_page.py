"""The report of a run: report.html, and its plots as PNG."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmexp.analysis.report import plots
from rmexp.analysis.report.attributes_section import attributes_section
from rmexp.analysis.report.eval_section import Shown, eval_section
from rmexp.analysis.report.render import link, render_page
from rmexp.evaluation.metric_values import format_metric
from rmexp.evaluation.metrics import find_metric, shown_in
from rmexp.tracking.run_directory import RunDirectory


def write_report(
    run: RunDirectory,
    name: str,
    subtitle: str,
    shown: Sequence[Shown],
    metrics: Mapping[str, float],
    blocks: Mapping[str, Sequence[str]],
) -> Path:
    """Write report.html and the PNGs of its plots.

    Args:
        run: the run directory.
        name, subtitle: of the page.
        shown: the evaluated sets; each gets a section.
        metrics: by full name; other sets (val) appear in the table only.
        blocks: title -> lines on data and template.
    """
    logged, folder = run.metrics(), run.path / plots.FOLDER
    sections = [eval_section(one, metrics) for one in shown]
    for one in sections:
        one["figures"] = plots.published(one["figures"], folder)
        one["link"] = link(Path(one["source"]), run.path) if one["source"] else None
    sets = _sets(metrics, shown)
    facts = run.result.get("attributes")
    attributes, drawn = attributes_section(facts, metrics) if facts else (None, [])
    page = render_page(
        "page.html",
        name=name,
        subtitle=subtitle,
        heads=sections[0]["heads"],
        said=_said(run, metrics, shown),
        warnings=[*run.result.get("fallbacks", []), *run.result.get("verdicts", [])],
        sections=sections,
        attributes=attributes,
        attribute_figures=plots.published(drawn, folder),
        curves=plots.published(list(_curves(logged)), folder),
        sets=sets,
        table=[
            (name, _label(name), [format_metric(metrics, f"{home}/{name}") for home in sets])
            for name in _names(metrics, sets)
        ],
        blocks=blocks,
        config=(run.path / "config.yaml").read_text(encoding="utf-8"),
    )
    file = run.path / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def _said(run: RunDirectory, metrics: Mapping[str, float], shown: Sequence[Shown]) -> list[str]:
    """What selected the weights, and what they were evaluated on."""
    monitor = run.result.get("monitor")
    if monitor is None:
        return []
    value = f" ({metrics[monitor]:.4f})" if monitor in metrics else ""
    step = run.result["best_step"]
    evaluated = ", ".join(one.name for one in shown)
    return [f"Selected: the weights of step {step}, by {monitor}{value}. Evaluated: {evaluated}."]


def _sets(metrics: Mapping[str, float], shown: Sequence[Shown]) -> list[str]:
    """The evaluated sets, and val, which selected."""
    names = [one.name for one in shown]
    return [*names, "val"] if "val/reward_mean" in metrics and "val" not in names else names


def _names(metrics: Mapping[str, float], sets: Sequence[str]) -> list[str]:
    """Metrics of any of the sets, those of the terminal's table first, without the bounds."""
    found = {m.removeprefix(f"{s}/") for s in sets for m in metrics if m.startswith(f"{s}/")}
    bounds = {f"{m}{end}" for m in found for end in ("_low", "_high")}
    first = [metric.name for metric in shown_in("table") if metric.name in found]
    return [*first, *sorted(found - bounds - set(first))]


def _label(name: str) -> str:
    metric = find_metric(name)
    return metric.label if metric is not None else ""


def _curves(logged: Sequence[Mapping[str, Any]]) -> Iterator[plots.Plot]:
    for label in ("loss", "accuracy"):
        series = {name: plots.logged_series(logged, f"{name}/{label}") for name in ("train", "val")}
        if series["train"][0]:
            known = {name: points for name, points in series.items() if points[0]}
            caption = f"{label.capitalize()} by step: {' and '.join(known)}"
            yield plots.Plot(f"{label}-by-step", caption, plots.curves(known, label))

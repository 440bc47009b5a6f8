"""The page of a policy's training (report.html), and its table for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from rmexp.analysis.report import plots
from rmexp.analysis.report.render import render_page
from rmexp.evaluation.metric_values import format_interval
from rmexp.evaluation.policy_effect import Change, Measured, PolicyEffect
from rmexp.evaluation.stats.bootstrap import Estimate
from rmexp.tracking.run_directory import RunDirectory

CHANGE_TITLES = ("mean", "before", "after", "change", "p")

MEASURE_LABELS = {
    "proxy": "proxy (trains)",
    "gold": "gold (judges)",
    "tokens": "tokens of an answer",
    "cut": "share cut by the limit",
    "distinct_2": "distinct pairs of tokens",
}

ESTIMATE_LABELS = {
    "gold_win_rate": ("gold: win rate", "answers after over answers before to the same prompt"),
    "proxy_win_rate": ("proxy: win rate", "answers after over answers before to the same prompt"),
    "gold_at_equal_length": ("gold: gain at equal length", "what the lengths do not explain"),
    "proxy_at_equal_length": ("proxy: gain at equal length", "what the lengths do not explain"),
    "kl": ("KL from the initial policy", "nats an answer"),
}

TRAINING_CURVES = (
    ("rewards/proxy/mean", "Proxy by step: the mean reward of the training answers", "proxy"),
    ("rewards/gold/mean", "Gold by step: on the same answers, with weight 0", "gold"),
    ("kl", "KL from the initial policy by step", "nats a token"),
    ("completions/mean_length", "Length by step", "tokens of an answer"),
)
"""What TRL logs, a caption, and the label of the axis."""


def improve_table(effect: PolicyEffect) -> Table:
    """The table of the page for the terminal, where only changes have intervals."""
    found = Table(*CHANGE_TITLES, box=None, padding=(0, 2, 0, 0))
    for label, before, after, *others in _rows(effect):
        found.add_row(label, before.split()[0], after.split()[0], *others)
    return found


def estimate_lines(effect: PolicyEffect) -> list[tuple[str, str, str]]:
    """Label, value with its interval, and what it is of."""
    return [
        (label, _shown(effect.estimates[name]), note)
        for name, (label, note) in ESTIMATE_LABELS.items()
        if name in effect.estimates
    ]


def write_improve_page(
    run: RunDirectory,
    name: str,
    subtitle: str,
    split: str,
    effect: PolicyEffect,
    sides: tuple[Measured, Measured],
    said: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
) -> None:
    """Write report.html and the PNGs of its plots.

    Args:
        run: the run directory, with its log, its notes and its verdicts.
        name, subtitle: of the page.
        split: of the prompts that were compared on.
        effect: before against after.
        sides: the numbers of the answers before and after.
        said: lines on the training.
        examples: `summary`, `prompt`, and `answers` and `rewards` before and after.
    """
    folder = run.path / plots.FOLDER
    page = render_page(
        "improve.html",
        name=name,
        subtitle=subtitle,
        heads=list(_heads(effect)),
        verdicts=run.result.get("verdicts", []),
        said=said,
        notes=run.result.get("fallbacks", []),
        split=split,
        titles=CHANGE_TITLES,
        rows=list(_rows(effect)),
        prompts=effect.changes["proxy"].difference.prompts,
        estimates=estimate_lines(effect),
        compared=plots.published(list(_histograms(*sides)), folder),
        curves=plots.published(list(_curves(run.metrics())), folder),
        examples=examples,
        config=(run.path / "config.yaml").read_text(encoding="utf-8"),
    )
    (run.path / "report.html").write_text(page, encoding="utf-8")


def _rows(effect: PolicyEffect) -> Iterator[tuple[str, ...]]:
    for name, change in effect.changes.items():
        d = change.difference
        yield (
            MEASURE_LABELS.get(name, name),
            _shown(change.before),
            _shown(change.after),
            format_interval(d.value, d.low, d.high, digits=3),
            f"{d.p:.2g}",
        )


def _shown(one: Estimate) -> str:
    return format_interval(one.value, one.low, one.high, digits=3)


def _heads(effect: PolicyEffect) -> Iterator[dict[str, str]]:
    for name in ("gold", "proxy"):
        if name in effect.changes:
            yield _change_head(name, effect.changes[name])
    judge = "gold" if "gold" in effect.changes else "proxy"
    for key, label in ((f"{judge}_win_rate", f"win rate by {judge}"), ("kl", "KL, nats an answer")):
        value, _, interval = _shown(effect.estimates[key]).partition(" ")
        yield {"label": label, "value": value, "note": f"95%: {interval}" if interval else ""}
    yield _change_head("tokens", effect.changes["tokens"])


def _change_head(name: str, change: Change) -> dict[str, str]:
    note = f"from {change.before.value:.3g} to {change.after.value:.3g}"
    return {"label": f"{name}, change", "value": f"{change.difference.value:+.3f}", "note": note}


def _histograms(before: Measured, after: Measured) -> Iterator[plots.Plot]:
    for name in ("proxy", "gold"):
        if name in before.values:
            groups = {
                label: side.values[name][np.isfinite(side.values[name])]
                for label, side in (("before", before), ("after", after))
            }
            caption = f"Rewards by the {name}: before, after"
            yield plots.Plot(f"{name}-before-after", caption, plots.reward_plot(groups))


def _curves(logged: Sequence[Mapping[str, Any]]) -> Iterator[plots.Plot]:
    for name, caption, label in TRAINING_CURVES:
        points = plots.logged_series(logged, f"train/{name}")
        if points[0]:
            drawn = plots.curves({label: points}, label)
            yield plots.Plot(f"{name.replace('/', '-')}-by-step", caption, drawn)

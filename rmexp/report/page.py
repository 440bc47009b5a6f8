"""A run's numbers -> report.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmexp.calibration import Calibration
from rmexp.reliability import reliability
from rmexp.report.html import render
from rmexp.report.plots import curves, reliability_curves, reward_histogram
from rmexp.scored import Scored
from rmexp.tracking import RunDirectory

HEADLINES = {
    "accuracy": "pair accuracy",
    "spearman": "Spearman, with ratings",
    "best_of_k": "best of K",
    "length_baseline": "length baseline",
    "length_controlled_accuracy": "accuracy at equal length",
    "margin_standardised": "standardised margin",
    "ece": "calibration error",
}


def write_report(
    run: RunDirectory,
    name: str,
    subtitle: str,
    scored: Scored,
    calibration: Calibration | None,
    metrics: Mapping[str, float],
    data_lines: Sequence[str],
    template_lines: Sequence[str],
) -> Path:
    """Write report.html: headlines, learning curves, reward histograms, metrics, what was run."""
    sets = [name for name in ("test", "val") if f"{name}/reward_mean" in metrics]
    names = sorted({metric.split("/", 1)[1] for metric in metrics})
    logged = run.metrics()
    page = render(
        "page.html",
        name=name,
        subtitle=subtitle,
        heads=_heads(metrics),
        fallbacks=[*run.result.get("fallbacks", []), *run.result.get("verdicts", [])],
        curves=[
            _curve(logged, label)
            for label in ("loss", "accuracy")
            if _series(logged, "train/" + label)[0]
        ],
        histogram=reward_histogram(
            scored.rewards_N[scored.better_P], scored.rewards_N[scored.worse_P]
        ),
        reliability=_reliability(scored, calibration),
        sets=sets,
        table=[
            {"name": metric, "values": [_number(metrics.get(f"{s}/{metric}")) for s in sets]}
            for metric in names
        ],
        data_lines=data_lines,
        template_lines=template_lines,
        config=(run.path / "config.yaml").read_text(),
    )
    file = run.path / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def _heads(metrics: Mapping[str, float]) -> list[dict[str, str]]:
    heads = []
    for metric, label in HEADLINES.items():
        value = metrics.get(f"test/{metric}")
        if value is None:
            continue
        low, high = metrics.get(f"test/{metric}_low"), metrics.get(f"test/{metric}_high")
        after = metrics.get(f"test/{metric}_calibrated")
        note = "on test"
        if low is not None and high is not None:
            note = f"95%: {low:.3f} to {high:.3f}"
        elif after is not None:
            note = f"{_number(after)} with the temperature"
        heads.append({"label": label, "value": _number(value), "note": note})
    return heads


def _reliability(scored: Scored, calibration: Calibration | None) -> str | None:
    """How often the model is right, over how sure it is, before and after the temperature."""
    if not len(scored.better_P):
        return None
    series = {"as trained": reliability(scored.gaps_P, weights_P=scored.weights_P)}
    if calibration is not None and calibration.temperature is not None:
        temperature = calibration.temperature
        series[f"temperature {temperature:.3g}"] = reliability(
            scored.gaps_P / temperature, weights_P=scored.weights_P
        )
    return reliability_curves({n: (r.confidence_B, r.accuracy_B) for n, r in series.items()})


def _series(logged: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    points = [(line["step"], line[name]) for line in logged if name in line]
    return [p[0] for p in points], [p[1] for p in points]


def _curve(logged: Sequence[Mapping[str, float]], label: str) -> str:
    series = {name: _series(logged, f"{name}/{label}") for name in ("train", "val")}
    return curves({name: points for name, points in series.items() if points[0]}, label)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4f}"

"""The model card of an export: metadata that the hub reads, and text for people."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2

from rmexp import __version__
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.metric_values import format_metric
from rmexp.evaluation.metrics import shown_in
from rmexp.models.provenance import Provenance

TEXT = Path(__file__).with_name("model_card.md")

CONFIDENCE = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class ExportFacts:
    """What an export says about its training, in its card and in `rmexp.json`.

    Attributes:
        name, base, data, loss: of the run, its model, its data and its loss, for people.
        fingerprint: of the template.
        metrics: `test/...`.
        warnings: about biases and calibration, see `bias_warnings`.
        provenance: of the model that was trained.
        datasets: hub ids of the data sets.
        language: ISO 639 codes of the training rows, where they have them.
    """

    name: str
    base: str
    data: str
    loss: str
    fingerprint: str
    metrics: Mapping[str, float]
    warnings: Sequence[str] = ()
    provenance: Provenance = field(default_factory=Provenance)
    datasets: Sequence[str] = ()
    language: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Content of `rmexp.json`: the attributes, with the fields of `provenance`."""
        own = dataclasses.asdict(self)
        return own | own.pop("provenance")


def write_card(facts: ExportFacts, calibration: Calibration | None, file: Path) -> None:
    """Write the card: front matter (`card_metadata`) and text."""
    metrics = dict(facts.metrics)
    shown = [f"test/{m.name}" for m in shown_in("table") if f"test/{m.name}" in metrics]
    text = jinja2.Template(TEXT.read_text(encoding="utf-8")).render(
        facts=facts,
        version=__version__,
        rows=[(name, format_metric(metrics, name)) for name in shown],
        scale=calibration,
    )
    front = card_metadata(facts).to_yaml()
    file.write_text(f"---\n{front}\n---\n{text}\n", encoding="utf-8")


def card_metadata(facts: ExportFacts) -> huggingface_hub.ModelCardData:
    """The metadata of the hub's model cards; what is unknown is left out.

    A metric's `args` have its interval, as the schema's `value` is one number.
    https://github.com/huggingface/hub-docs/blob/main/modelcard.md
    """
    metrics = facts.metrics
    results = [
        huggingface_hub.EvalResult(
            task_type="text-classification",
            task_name="reward modelling",
            dataset_type=next(iter(facts.datasets), "preference"),
            dataset_name=facts.data,
            dataset_split="test",
            metric_type=metric.name,
            metric_name=metric.label,
            metric_value=metrics[name],
            metric_args=_interval(metrics, name),
        )
        for metric in shown_in("table")
        if (name := f"test/{metric.name}") in metrics
    ]
    return huggingface_hub.ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "rmexp"],
        datasets=list(facts.datasets) or None,
        language=list(facts.language) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        **dataclasses.asdict(facts.provenance),
    )


def _interval(metrics: Mapping[str, float], name: str) -> dict[str, Any] | None:
    bounds = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
    if None in bounds:
        return None
    return {"confidence_level": CONFIDENCE, "confidence_interval": bounds}

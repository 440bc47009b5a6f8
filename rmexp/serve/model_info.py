"""What a server tells about its model: GET /v1/models."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmexp.evaluation.bias_warnings import warn_of_set
from rmexp.inference.checkpoint import find_export, is_run


@dataclass(frozen=True)
class ModelInfo:
    """Facts about the served model.

    Args:
        name: its id.
        base: the model it was trained from; None: unknown.
        max_length: maximum tokens of a text.
        scales: see `scorer.Scale`.
        warnings: of the run's bias probes and calibration.
        accuracy: `value low high` and the evaluation `set`; None: unknown.
        label: of the one class, as in config.json.
        created: seconds since 1970.
    """

    name: str
    base: str | None
    max_length: int
    scales: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    label: str = "LABEL_0"
    created: int = field(default_factory=lambda: int(time.time()))


def describe_model(
    home: Path, name: str, max_length: int, scales: tuple[str, ...], label: str
) -> ModelInfo:
    """The facts that a run directory, an export or another Hugging Face directory has.

    Args:
        home: of the checkpoint.
        name: if the checkpoint has no name of its own.
    """
    export = find_export(home)
    facts = {} if export is None else _content(export / "rmexp.json")
    result = _content(home / "result.json") if is_run(home) else {}
    metrics = result.get("metrics") or facts.get("metrics", {})
    warnings = result["verdicts"] if "verdicts" in result else warn_of_set("test", metrics)
    return ModelInfo(
        name=result.get("name") or facts.get("name") or name,
        base=facts.get("base"),
        max_length=max_length,
        scales=scales,
        warnings=tuple(warnings),
        accuracy=_accuracy(metrics),
        label=label,
    )


def _accuracy(metrics: Mapping[str, float]) -> dict[str, Any] | None:
    for name in ("test", "val"):
        key = f"{name}/accuracy"
        if key in metrics:
            interval = {end: metrics.get(f"{key}_{end}") for end in ("low", "high")}
            return {"set": name, "value": metrics[key]} | interval
    return None


def _content(file: Path) -> dict[str, Any]:
    """A JSON file of rmexp; empty if it is missing or damaged, as it only describes the model."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""Export of a trained model, verified on responses of val."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rmexp.batching.collate import BatchLayout
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.sources import hub_id
from rmexp.evaluation.calibration import Calibration
from rmexp.inference.export import export
from rmexp.inference.model_card import ExportFacts
from rmexp.losses import Loss
from rmexp.models.reward_model import compute_rewards
from rmexp.training.setup import Prepared

VERIFICATION_ROWS = 8
"""Number of responses on which an export is verified."""


def export_facts(
    name: str,
    source: Any,
    labels: Mapping[str, str],
    prepared: Prepared,
    loss: Loss,
    metrics: Mapping[str, float],
    warnings: Sequence[str],
) -> ExportFacts:
    """The facts of a run for its export.

    Args:
        metrics: of the run; those of test count.
        warnings: about its rewards on test.
    """
    shown = ", ".join(f"{name}={value}" for name, value in loss.settings().items())
    data = prepared.data
    paths = ", ".join(Path(path).name for path in data.source.paths)
    return ExportFacts(
        name=name,
        base=source.name,
        data=f"{labels['data']} ({paths}, {data.fingerprint})",
        loss=f"{labels['loss']} ({shown})" if shown else labels["loss"],
        fingerprint=prepared.audit.fingerprint,
        metrics={key: value for key, value in metrics.items() if key.startswith("test/")},
        warnings=list(warnings),
        provenance=source.provenance(),
        datasets=list(dict.fromkeys(filter(None, map(hub_id, data.source.paths)))),
        language=data.columns.languages(data.splits["train"]),
    )


def export_verified(
    network: Any,
    layout: BatchLayout,
    prepared: Prepared,
    facts: ExportFacts,
    home: Path,
    scale: Calibration | None,
) -> int:
    """Export a reward model to `home`; returns the number of responses it was verified on.

    Raises:
        UserError: plain Hugging Face loading gives other rewards.
    """
    texts, rewards = verification_responses(network, prepared.data, layout)
    export(network, prepared.tokenizer, texts, rewards, facts, home, scale)
    return len(texts)


@torch.no_grad()
def verification_responses(
    network: Any, data: ComparisonData, layout: BatchLayout
) -> tuple[list[str], list[float]]:
    """A few rendered responses of val and their rewards by our own path in fp32."""
    network.float().eval()
    device = next(network.parameters()).device
    texts, rewards = [], []
    for index in data.splits["val"][:VERIFICATION_ROWS]:
        row = {**data.rows[int(index)], "row": int(index)}
        batch = data.collate(layout)([row]).batches[0].to(device)
        rewards += compute_rewards(network, batch).tolist()
        texts += row["texts"]
    step = max(1, len(texts) // VERIFICATION_ROWS)
    return texts[::step][:VERIFICATION_ROWS], rewards[::step][:VERIFICATION_ROWS]

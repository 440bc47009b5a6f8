"""task=export: a run's best weights as a Hugging Face directory elsewhere."""

from pathlib import Path
from typing import Any

from rmexp.core.console import Reporter
from rmexp.core.disk_errors import check_writable
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation import calibration
from rmexp.losses import Loss
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.setup import load_trained, prepare_data, seed_everything
from rmexp.training.verified_export import card_facts, export_verified


def export_run(
    checkpoint: str,
    out: str,
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    labels: dict[str, str],
    trained_metrics: dict[str, float],
) -> dict[str, float]:
    """Write `out` from the checkpoint and verify it with plain transformers.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from.
        out: the directory to write; it must be new, empty, or an earlier export.
        trained_metrics: the run's own metrics, for the card.

    Raises:
        UserError: `out` is something else, or the export cannot be verified.
    """
    home = Path(out).expanduser()
    if home.is_file():
        raise UserError(f"out={out} is a file; name a directory.")
    if home.exists() and not (home / "rmexp.json").is_file() and any(home.iterdir()):
        raise UserError(f"out={out} exists and is no export of rmexp; name another directory.")
    check_writable(home.parent, "name another out=DIRECTORY")
    seed_everything(seed)
    prepared = prepare_data(model, template, data, seed, run, reporter)
    trained, layout = load_trained(model, prepared, seed, run, reporter, "cpu")
    facts = card_facts(home.name, model, labels, prepared, loss, trained_metrics)
    scale = calibration.load_calibration(Path(checkpoint).expanduser())
    count = export_verified(trained, layout, prepared, facts, home, scale)
    reporter.say(f"exported {checkpoint} to {home}, verified on {count} responses")
    return trained_metrics

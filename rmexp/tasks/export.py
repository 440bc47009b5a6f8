"""task=export: a run's best weights as a Hugging Face directory, here or on the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.config.task_inputs import InputGroup
from rmexp.core.console import Reporter
from rmexp.core.disk_errors import check_writable
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation import calibration
from rmexp.inference.checkpoint import find_export, is_run
from rmexp.inference.export import FACTS_FILE
from rmexp.inference.hub import check_hub_id, check_login, exported_files, push
from rmexp.losses import Loss
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.setup import load_trained, prepare_data, seed_everything
from rmexp.training.verified_export import export_facts, export_verified


@dataclass
class TrainedRun(InputGroup):
    """What is exported: the run or directory `checkpoint`, which `model` loads.

    Attributes:
        trained_metrics, trained_warnings: the run's own, for the card.
    """

    checkpoint: str
    model: Any
    template: Template
    data: ComparisonData
    loss: Loss
    labels: dict[str, str]
    trained_metrics: dict[str, float]
    trained_warnings: list[str]


def export_run(
    trained: TrainedRun,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    out: str | None,
    hub: str | None,
    private: bool,
    dry_run: bool,
) -> dict[str, float]:
    """Write an export, verify it with plain transformers, and push it if asked to.

    Returns:
        The run's own metrics; none if its export was there already.

    Args:
        out: the directory to write; it must be new, empty, or an earlier export. None: the run's
            own export, which is written if it has none.
        hub: repository of the hub to push it to, or None.
        private: whether a new repository is private.
        dry_run: only list what would be pushed; the network is not used.

    Raises:
        UserError: the directory is something else, the export cannot be verified, or the hub
            refuses it.
    """
    if dry_run and hub is None:
        raise UserError("task.dry_run lists what would be pushed: add hub=OWNER/NAME.")
    if hub is not None:
        check_hub_id(hub)
        if not dry_run:
            check_login(hub)
    home, written = _home(Path(trained.checkpoint).expanduser(), out)
    if not written:
        count = _export(trained, home, run, reporter, seed)
        reporter.say(f"exported {trained.checkpoint} to {home}, verified on {count} responses")
    if hub is not None:
        _push(home, hub, private, dry_run, reporter)
    return {} if written else trained.trained_metrics


def _home(checkpoint: Path, out: str | None) -> tuple[Path, bool]:
    """The directory of the export, and whether it is already there.

    Raises:
        UserError: it cannot be written.
    """
    if out is None:
        found = find_export(checkpoint)
        if found is not None and (found / FACTS_FILE).is_file():
            return found, True
        if not is_run(checkpoint):
            raise UserError(f"{checkpoint} is no export of rmexp: export it first, out=DIRECTORY.")
        return checkpoint / "export", False
    home = Path(out).expanduser()
    if home.is_file():
        raise UserError(f"out={out} is a file; name a directory.")
    if home.exists() and not (home / FACTS_FILE).is_file() and any(home.iterdir()):
        raise UserError(f"out={out} exists and is no export of rmexp; name another directory.")
    check_writable(home.parent, "name another out=DIRECTORY")
    return home, False


def _export(
    trained: TrainedRun, home: Path, run: RunDirectory, reporter: Reporter, seed: int
) -> int:
    """Write and verify the export; returns the number of responses it was verified on."""
    model, loss = trained.model, trained.loss
    seed_everything(seed)
    prepared = prepare_data(model, trained.template, trained.data, seed, run, reporter)
    network, layout = load_trained(model, prepared, seed, run, reporter, "cpu")
    facts = export_facts(
        home.name, model, trained.labels, prepared, loss,
        trained.trained_metrics, trained.trained_warnings,
    )  # fmt: skip
    scale = calibration.load_calibration(Path(trained.checkpoint).expanduser())
    return export_verified(network, layout, prepared, facts, home, scale)


def _push(home: Path, repo: str, private: bool, dry_run: bool, reporter: Reporter) -> None:
    files = exported_files(home)
    total = f"{len(files)} files, {sum(size for _, size in files):,} bytes"
    if dry_run:
        visibility = "private" if private else "public"
        reporter.say(
            f"dry run: {repo} (new repositories: {visibility}) would get {total}",
            *(f"  {size:>16,}  {name}" for name, size in files),
        )
        return
    url = push(home, repo, private)
    reporter.say(f"pushed {total} to {url}")

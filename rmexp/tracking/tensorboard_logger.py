"""logger=tensorboard: event files in RUN/tensorboard, by Lightning's TensorBoardLogger."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import yaml
from annotated_types import Ge

from rmexp.evaluation.metrics import shown_in
from rmexp.tracking.mirror import ExtraOption, Mirror, RunLabels, RunResults
from rmexp.tracking.run_directory import RunDirectory, first_line
from rmexp.tracking.run_media import Histogram, HtmlPage, LineChart, Media, TextTable

EVENTS = "tensorboard"

HPARAMS = ("loss", "optim", "tune", "trainer", "model", "data", "template")
"""Config groups in the table of hyperparameters; the text `config` has the whole configuration."""

ESCAPED = str.maketrans({c: f"&#{ord(c)};" for c in "|*_`#[]\\~<>&"} | {"\n": " \u23ce "})
"""Characters with a meaning in Markdown or HTML, and line breaks, which would end a table."""


@dataclass(frozen=True)
class TensorBoard(ExtraOption):
    """logger=tensorboard.

    Args:
        table_rows: comparisons with their texts in the table of each evaluation set, the most
            confidently wrong first; 0 writes no text.
    """

    table_rows: Annotated[int, Ge(0)]
    extra: ClassVar[str] = "tensorboard"

    def start(self, run: RunDirectory, about: RunLabels) -> list[Mirror]:
        """The logger of a run; its first line opens the file."""
        return [TensorBoardMirror(run, about, self.table_rows)]


class TensorBoardMirror(Mirror):
    """Logger of a run's event files; a resumed run hides what was logged after its checkpoint."""

    dashboard = "TensorBoard"

    def __init__(self, run: RunDirectory, about: RunLabels, table_rows: int) -> None:
        super().__init__(table_rows)
        self.run, self.about = run, about
        self._inner: Any = None

    def write(self, metrics: Mapping[str, float]) -> None:
        self._opened().log_metrics(dict(metrics), self.step)

    def write_results(self, results: RunResults) -> None:
        """Scalars and media at the last step; the report has no place in TensorBoard."""
        self.write({**results.best, **results.numbers})
        for name, one in results.media.items():
            self._write_media(name, one)

    def close(self, exit_code: int) -> str | None:
        if self._inner is None or self.broken:
            return None
        try:
            if exit_code == 0:
                self._write_hparams(ended=True)
            self._inner.finalize("success" if exit_code == 0 else "failed")
        except Exception as error:
            return f"TensorBoard does not close the run ({first_line(error)})."
        return None

    def _opened(self) -> Any:
        """Lightning's logger; a new run begins with its configuration."""
        if self._inner is None:
            from lightning.pytorch.loggers import TensorBoardLogger

            resumed = self.run.resumed_step
            self._inner = TensorBoardLogger(
                self.run.path,
                name=EVENTS,
                version="",
                default_hp_metric=False,
                purge_step=None if resumed is None else resumed + 1,
            )
            if resumed is None:
                config = yaml.safe_dump(dict(self.about.config), sort_keys=False)
                self._inner.experiment.add_text("config", f"```yaml\n{config}```")
                self._write_hparams(ended=False)
        return self._inner

    def _write_hparams(self, ended: bool) -> None:
        """The run's row in the table of hyperparameters, or that it is done.

        The table takes the values of its metrics from the scalars.
        """
        from torch.utils.tensorboard.summary import hparams

        names = [f"test/{metric.name}" for metric in shown_in("wandb")]
        begin, values, end = hparams(dict(hyperparameters(self.about)), dict.fromkeys(names, 0.0))
        writer = self._inner.experiment.file_writer
        for summary in (end,) if ended else (begin, values):
            writer.add_summary(summary)

    def _write_media(self, name: str, media: Media) -> None:
        writer = self._opened().experiment
        match media:
            case Histogram(counts_B, edges):
                middles_B = (edges[1:] + edges[:-1]) / 2
                writer.add_histogram_raw(
                    name,
                    min=edges[0],
                    max=edges[-1],
                    num=counts_B.sum(),
                    sum=counts_B @ middles_B,
                    sum_squares=counts_B @ middles_B**2,
                    bucket_limits=edges[1:].tolist(),
                    bucket_counts=counts_B.tolist(),
                    global_step=self.step,
                )
            case LineChart():
                writer.add_image(name, media.image(), self.step, dataformats="HWC")
            case TextTable():
                writer.add_text(name, markdown(media), self.step)
            case HtmlPage():
                pass


def hyperparameters(about: RunLabels) -> Iterator[tuple[str, Any]]:
    """The single values of the config groups, the seed and the options, by their keys."""
    yield from ((f"labels.{group}", option) for group, option in about.labels.items())
    yield "seed", about.config["seed"]
    for group in HPARAMS:
        for key, value in about.config[group].items():
            if isinstance(value, str | int | float) and not key.startswith("_"):
                yield f"{group}.{key}", value


def markdown(table: TextTable) -> str:
    """A table as TensorBoard shows it, with the texts as they are."""
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [["" if cell is None else _cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).translate(ESCAPED)

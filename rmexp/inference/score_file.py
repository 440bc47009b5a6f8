"""Scoring a file of rows as a stream."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from rmexp.comparison import Comparison
from rmexp.data.token_dataset import batched_list
from rmexp.inference.resumable_file import ResumableFile
from rmexp.inference.scorer import Scorer

SORT_WINDOW = 512
"""Number of comparisons that are tokenised, sorted by length and scored together."""


class ScoreFile(ResumableFile):
    """Rows `id response reward`."""

    def append(self, names: Sequence[str], rewards: Sequence[Sequence[float | None]]) -> None:
        """Write the rows of a window, then record that they are complete."""
        rows = [
            {"id": name, "response": k, "reward": reward}
            for name, found in zip(names, rewards, strict=True)
            for k, reward in enumerate(found)
        ]
        self.append_rows(rows, len(names))

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the parquet file."""
        import pyarrow

        return pyarrow.schema(
            [("id", pyarrow.string()), ("response", pyarrow.int32()), ("reward", pyarrow.float32())]
        )


def score_stream(
    comparisons: Iterable[Comparison],
    scorer: Scorer,
    file: ScoreFile,
    check: Callable[[], None],
    progress: Callable[[str, int], None],
) -> None:
    """Score comparisons into `file`, after those it already has; memory holds one window.

    Args:
        check: called before a window is scored; raises if bad rows must stop the task.
        progress: called with what is counted and the count so far.
    """
    for window in batched_list(islice(comparisons, file.comparisons, None), SORT_WINDOW):
        check()
        found = scorer.comparisons(window, file.report)
        rows: list[Sequence[float | None]] = [
            rewards or [None] * len(comparison.responses)
            for comparison, rewards in zip(window, found, strict=True)
        ]
        file.append([comparison.id for comparison in window], rows)
        progress("responses scored", file.responses)

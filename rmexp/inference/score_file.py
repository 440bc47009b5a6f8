"""Scoring a file of rows as a stream."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

from rmexp.comparison import Comparison
from rmexp.data.token_dataset import batched_list
from rmexp.inference.resumable_file import ResumableFile
from rmexp.inference.scorer import Scorer

SORT_WINDOW = 512
"""Number of comparisons that are tokenised, sorted by length and scored together."""


class ScoreFile(ResumableFile):
    """Rows `id response reward`, and `std` where the scorer has members.

    Attributes:
        has_std: rows have the standard deviation of the members; set before the first of them.
    """

    has_std = False

    def append(
        self,
        names: Sequence[str],
        rewards: Sequence[Sequence[float | None]],
        std: Sequence[Sequence[float | None]] | None = None,
    ) -> None:
        """Write the rows of a window, then record that they are complete."""
        rows = [
            {"id": name, "response": k, "reward": reward}
            for name, found in zip(names, rewards, strict=True)
            for k, reward in enumerate(found)
        ]
        if std is not None:
            for row, one in zip(rows, chain.from_iterable(std), strict=True):
                row["std"] = one
        self.append_rows(rows, len(names))

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the parquet file."""
        import pyarrow

        columns = [
            ("id", pyarrow.string()),
            ("response", pyarrow.int32()),
            ("reward", pyarrow.float32()),
        ]
        return pyarrow.schema([*columns, *([("std", pyarrow.float32())] if self.has_std else [])])


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
        ids, nothing = (
            [comparison.id for comparison in window],
            [[None] * len(comparison.responses) for comparison in window],
        )
        if file.has_std:
            members = scorer.member_rewards(window, file.report)
            known = [None if one is None else scorer.uncertain(one) for one in members]
            rows = [one.rewards if one else none for one, none in zip(known, nothing, strict=True)]
            std = [one.std if one else none for one, none in zip(known, nothing, strict=True)]
            file.append(ids, rows, std)
        else:
            found = scorer.comparisons(window, file.report)
            file.append(ids, [one or none for one, none in zip(found, nothing, strict=True)])
        progress("responses scored", file.responses)

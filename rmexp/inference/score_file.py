"""Scoring a file of rows as a stream."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rmexp.comparison import Comparison
from rmexp.data.encode import batched_list
from rmexp.data.reward_file import ResponseKey
from rmexp.inference.resumable_file import ResumableFile
from rmexp.inference.reward_details import RewardDetails
from rmexp.inference.scorer import Scorer

SORT_WINDOW = 512
"""Number of comparisons that are tokenised, sorted by length and scored together."""


class ScoreFile(ResumableFile):
    """Rows `id response reward`, and what else `RewardDetails.row` has.

    Attributes:
        scorer: what the rewards are of, which tells the columns; set before the first row.
    """

    scorer: Scorer

    def append(
        self, comparisons: Sequence[Comparison], found: Sequence[RewardDetails | None]
    ) -> None:
        """Write the rows of a window, then record that they are complete."""
        unscored = dict.fromkeys(self.schema().names[2:])
        rows = [
            {"id": one.id, "response": k} | (unscored if known is None else known.row(k))
            for one, known in zip(comparisons, found, strict=True)
            for k in range(len(one.responses))
        ]
        self.append_rows(rows, len(comparisons))

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the parquet file."""
        import pyarrow

        number = pyarrow.float32()
        columns = [("id", pyarrow.string()), ("response", pyarrow.int32()), ("reward", number)]
        if self.scorer.has_members:
            columns += [("std", number), ("members", pyarrow.list_(number))]
        elif self.scorer.has_details:
            outputs = pyarrow.struct([(name, number) for name in self.scorer.names])
            columns.append(("outputs", outputs))
        return pyarrow.schema(columns)


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
    file.scorer = scorer
    for window in batched_list(islice(comparisons, file.comparisons, None), SORT_WINDOW):
        check()
        file.append(window, scorer.detailed(window, file.report))
        progress("responses scored", file.responses)


def read_members(file: Path) -> list[dict[ResponseKey, float]]:
    """The rewards of each member, from a finished parquet file with the column `members`."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(file, columns=["id", "response", "members"]).to_pylist()
    count = max(len(row["members"] or ()) for row in rows)
    lacking = [math.nan] * count
    return [
        {(row["id"], row["response"]): (row["members"] or lacking)[m] for row in rows}
        for m in range(count)
    ]

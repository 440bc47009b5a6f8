"""Scoring a file of rows as a stream."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rmexp.comparison import Comparison
from rmexp.data.reward_file import ResponseKey
from rmexp.data.token_dataset import batched_list
from rmexp.inference.resumable_file import ResumableFile
from rmexp.inference.scorer import Scorer, UncertainRewards

SORT_WINDOW = 512
"""Number of comparisons that are tokenised, sorted by length and scored together."""


class ScoreFile(ResumableFile):
    """Rows `id response reward`, and more where the scorer has members.

    Attributes:
        columns: of the members, besides: `std`, their standard deviation, and `members`, the reward
            of each; set before the first row.
    """

    columns: tuple[str, ...] = ()

    def append(
        self, comparisons: Sequence[Comparison], found: Sequence[Mapping[str, Sequence[Any]] | None]
    ) -> None:
        """Write the rows of a window, then record that they are complete.

        Args:
            found: column -> its value for each response; None where there is no reward.
        """
        names = ("reward", *self.columns)
        rows = [
            {"id": one.id, "response": k}
            | {name: None if values is None else values[name][k] for name in names}
            for one, values in zip(comparisons, found, strict=True)
            for k in range(len(one.responses))
        ]
        self.append_rows(rows, len(comparisons))

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the parquet file."""
        import pyarrow

        number = pyarrow.float32()
        more = {"std": number, "members": pyarrow.list_(number)}
        known = {"id": pyarrow.string(), "response": pyarrow.int32(), "reward": number}
        return pyarrow.schema(known | {name: more[name] for name in self.columns})


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
        found: list[dict[str, Sequence[Any]] | None]
        if file.columns:
            members = scorer.member_rewards(window, file.report)
            found = [None if one is None else _columns(scorer.uncertain(one)) for one in members]
        else:
            rewards = scorer.comparisons(window, file.report)
            found = [None if one is None else {"reward": one} for one in rewards]
        file.append(window, found)
        progress("responses scored", file.responses)


def _columns(known: UncertainRewards) -> dict[str, Sequence[Any]]:
    members = list(zip(*known.members, strict=True))
    return {"reward": known.rewards, "std": known.std, "members": members}


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

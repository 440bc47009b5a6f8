"""Packing of comparisons into prefix trees, and of trees into micro-batches."""

from dataclasses import dataclass
from typing import Any

from rmexp.batching.prefix_tree import PrefixTreeBuilder

Row = dict[str, Any]


@dataclass(frozen=True)
class PromptTree:
    """Comparisons of a prompt and the tree of their responses."""

    rows: list[Row]
    builder: PrefixTreeBuilder

    def with_row(self, row: Row) -> "PromptTree":
        return PromptTree([*self.rows, row], self.builder.with_sequences(row["tokens"]))

    @property
    def size(self) -> int:
        return self.builder.size


class MicroBatchBin:
    """The trees of a micro-batch while it is filled, one for each group of comparisons."""

    def __init__(self) -> None:
        self.trees: list[PromptTree] = []
        self.size = 0

    def add(self, row: Row, alone: PromptTree, limit: float) -> bool:
        """Add the comparison, `alone` its tree, if all trees then have at most `limit` tokens.

        It joins a tree of its prompt where that saves tokens: prompts of which one lost its oldest
        turns, or pairs of responses that share much with each other, stay apart.
        """
        place, grown, more = len(self.trees), alone, alone.size
        for n, tree in enumerate(self.trees):
            if tree.rows[0]["prompt_key"] != row["prompt_key"]:
                continue
            # What cannot fit is not tried: a prompt may have thousands of comparisons.
            if self.size + tree.builder.least_growth(row["tokens"]) <= limit:
                joined = tree.with_row(row)
                if joined.size - tree.size < more:
                    place, grown, more = n, joined, joined.size - tree.size
        if self.size + more > limit:
            return False
        self.trees[place:] = [grown, *self.trees[place + 1 :]]
        self.size += more
        return True

"""The rows of an evaluation set, tokenised for a model: all of them are one split."""

import dataclasses

import numpy as np

from rmexp.data.datamodule import ComparisonData
from rmexp.evaluation.eval_sets import EvaluationSet


class SuiteData(ComparisonData):
    """An evaluation set as data: one split under the set's name, nothing to train on.

    Args:
        evaluation: where the rows come from.
        like: data that says how long rows may be, how many are scored at once, and the cache.
    """

    def __init__(self, evaluation: EvaluationSet, like: ComparisonData) -> None:
        super().__init__(
            evaluation.format,
            evaluation.path,
            limit=evaluation.limit,
            on_bad_row=evaluation.on_bad_row,
            max_bad_share=evaluation.max_bad_share,
            min_rating_gap=None,
            max_length=like.max_length,
            eval_batch_size=like.eval_batch_size,
            micro_batch_tokens=like.micro_batch_tokens,
            workers=like.workers,
            cache=str(like.cache),
        )
        self.recipe = dataclasses.replace(self.recipe, group="eval")
        self.set_name = evaluation.name

    def split(self) -> dict[str, np.ndarray]:
        """Every row, whatever split it declares."""
        return {self.set_name: np.arange(len(self.rows))}

"""Several reward models as one: their standardised rewards, aggregated."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.row_report import RowReport
from rmexp.evaluation.aggregate import Aggregation
from rmexp.inference.reward_details import RewardDetails
from rmexp.inference.scorer import Scale, Scorer
from rmexp.templates.template import template_fingerprint


class EnsembleScorer(Scorer):
    """Scores with each member in sequence; a member renders by its own template and tokenizer.

    A member's rewards are standardised by its calibration (mean 0 and standard deviation 1 on its
    validation rows), as members have scales of their own.

    Args:
        members: the first one's tokenizer, limits and layout are those of the ensemble.
        how: members' rewards become one.

    Raises:
        UserError: a member has no calibration.
    """

    def __init__(self, members: Sequence[Scorer], how: Aggregation) -> None:
        first = members[0]
        super().__init__(
            first.model,
            first.tokenizer,
            first.layout,
            first.precision,
            min(one.max_length for one in members),
            first.micro_batch_tokens,
        )
        if any(one.calibration is None for one in members):
            raise UserError("A member of the ensemble has no calibration to standardise it by.")
        self.members, self.how = list(members), how

    @property
    def parts(self) -> Sequence[Scorer]:
        """Its members."""
        return self.members

    @property
    def names(self) -> tuple[str, ...]:
        """None: outputs of its members' heads are part of their rewards."""
        return ()

    @property
    def has_members(self) -> bool:
        """It has."""
        return True

    @property
    def has_details(self) -> bool:
        """It has: its members."""
        return True

    @property
    def name(self) -> str:
        """`mean of 3 models`."""
        return f"{self.how.aggregate} of {len(self.members)} models"

    @property
    def cost(self) -> str:
        """What it costs beside one model, in words."""
        count = len(self.members)
        return f"{self.name}: memory holds {count}, and each text is computed {count} times"

    def scales(self) -> dict[Scale, str | None]:
        """Its own, which is raw: standardised rewards, aggregated."""
        none = "an ensemble of runs has no calibration of its own (task=merge makes a run that has)"
        return {"raw": None, "normalised": none, "probability": none, "rating": none}

    def comparisons(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[list[float] | None]:
        """See `Scorer.comparisons`; None where a member cannot score it."""
        found = self.detailed(comparisons, report)
        return [None if one is None else one.rewards for one in found]

    def detailed(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[RewardDetails | None]:
        """Standardised rewards of each comparison; None where a member cannot score it.

        Args:
            report: counts what some member cannot score, and what the first has shortened.
        """
        rewards: list[list[np.ndarray]] = [[] for _ in comparisons]
        left = list(range(len(comparisons)))
        for number, member in enumerate(self.members):
            own = RowReport()
            found = member.comparisons([comparisons[n] for n in left], own)
            for n, values in zip(left, found, strict=True):
                if values is not None:
                    rewards[n].append(_standardised(member, values))
            left = [n for n in left if len(rewards[n]) == number + 1]
            if number:
                own.cut.clear()
            report.merge(own)
        whole = len(self.members)
        return [
            self.details_of(np.stack(one, axis=1)) if len(one) == whole else None for one in rewards
        ]

    def trees(
        self, trees: Sequence[Sequence[Sequence[int]]], keys: Sequence[str] | None = None
    ) -> list[list[float]]:
        """See `Scorer.trees`."""
        found = self.values_of_trees(trees, keys)
        return [self.how(np.stack(values, axis=1)).tolist() for values in found]

    def values_of_trees(
        self, trees: Sequence[Sequence[Sequence[int]]], keys: Sequence[str] | None = None
    ) -> list[list[np.ndarray]]:
        """See `Scorer`; the members must read the same tokens, see `check_same_tokens`."""
        found = [
            [_standardised(member, tree) for tree in member.trees(trees, keys)]
            for member in self.members
        ]
        return [list(np.stack(of_tree, axis=1)) for of_tree in zip(*found, strict=True)]

    def check_same_tokens(self) -> None:
        """Check that the members render texts to the same tokens.

        Raises:
            UserError: names how many do not.
        """
        prints = [template_fingerprint(one.tokenizer) for one in self.members]
        others = sum(one != prints[0] for one in prints)
        if others:
            raise UserError(
                f"{others} of {len(prints)} members have another template or tokenizer than the "
                "first: a server encodes each text once. task=score takes such members."
            )

    @contextmanager
    def inference(self) -> Iterator[None]:
        """See `Scorer.inference`: of all members."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.inference())
            yield


def _standardised(member: Scorer, rewards: Sequence[float]) -> np.ndarray:
    assert member.calibration is not None, "checked when the ensemble was made"
    return member.calibration.normalised(np.array(rewards, dtype=np.float64))

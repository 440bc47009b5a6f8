"""head=attributes: one output for each attribute that responses are rated in."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses.attributes import ATTRIBUTE_LABELS, AttributeLosses, NoLoss
from rmexp.losses.base import Loss
from rmexp.models.heads.base import HeadSettings, install_outputs
from rmexp.models.heads.ensemble import member_seed
from rmexp.models.reward_head import MultiOutputHead, draw_head, find_head


@dataclass
class AttributesHead(HeadSettings):
    """head=attributes: an output for each attribute of the data, and one reward of all.

    Wang et al. 2024, arXiv:2311.09528 (HelpSteer) and arXiv:2406.08673 (HelpSteer2), train such
    outputs by regression; the reward by learnt weights is after the second stage of ArmoRM, Wang et
    al. 2024, arXiv:2406.12845.

    Args:
        weights: attribute -> its weight in the reward, 0 for others; None: those that the data's
            format declares for its rating, or 1; `learned`: a non-negative logistic regression of
            val's preferences on the gaps of the outputs, once they are trained. Declared weights
            are of ratings: with loss=regression the reward is the weighted sum of the predicted
            ratings, up to a constant.
    """

    own_labels: ClassVar[bool] = True

    weights: Mapping[str, float] | Literal["learned"] | None
    names: tuple[str, ...] = field(default=(), init=False)
    combine: list[float] = field(default_factory=list, init=False)
    _losses: list[Loss] = field(default_factory=list, init=False)
    _columns: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.learns_weights = self.weights == "learned"

    def check(self, loss: Loss, loss_name: str, source: Any, data: ComparisonData) -> None:
        if data.corrections is not None and (files := data.corrections.files):
            raise UserError(
                f"{' and '.join(files)}: labels of pairs, and head=attributes trains on ratings of "
                "attributes; leave them out."
            )
        if isinstance(self.weights, Mapping) and not any(self.weights.values()):
            raise UserError(
                "head.weights gives no attribute a weight: the reward would be constant."
            )
        lacking = sorted(set(loss.required()) - set(ATTRIBUTE_LABELS))
        if lacking or len(loss.components()) > 1:
            why = f" reads {' and '.join(lacking)}," if lacking else ""
            raise UserError(
                f"head=attributes trains each attribute on its own ratings; loss={loss_name}{why} "
                "cannot be trained on them: take loss=regression, ordinal, bradley_terry, ..."
            )

    def check_trainable(
        self, data: ComparisonData, loss: Loss, loss_name: str, data_name: str
    ) -> None:
        """Keep the rows with an attribute that trains, and fit a loss to each attribute.

        Raises:
            UserError: the rows have no attributes, other ones than `weights` names, or an attribute
                has nothing to train on; val has no preferences to learn weights from.
        """
        if not data.attributes:
            raise UserError(
                f"head=attributes needs ratings of attributes, and data={data_name} has none: give "
                "rows with ratings as an object, such as "
                '{"helpfulness": [3, 1], "verbosity": [2, 4]}; see docs/data.md.'
            )
        declared = self.weights if isinstance(self.weights, Mapping) else {}
        if unknown := set(declared) - set(data.attributes):
            raise UserError(
                f"head.weights names {', '.join(sorted(unknown))}; the attributes of "
                f"data={data_name} are {', '.join(data.attributes)}."
            )
        if self.learns_weights and not data.counts("val")["pairs"]:
            raise UserError(
                f"head.weights=learned needs preferences among the rows of val, and "
                f"data={data_name} has none: declare them, as "
                f"head.weights='{{{data.attributes[0]}: 1}}', or leave head.weights out."
            )
        self._columns, labelled = self._with_labels(data, loss, loss_name)
        self.names = tuple(data.attributes[column] for column in self._columns)
        for name in data.attributes:
            if name not in self.names:
                note_fallback(
                    f"Attribute {name} has no training label for loss={loss_name}: left out."
                )
        data.drop_train(labelled, f"no attribute in it for loss={loss_name}")
        data.keep_trainable((), "")
        data.plan()  # refuses a comparison that no step can hold
        self._losses = self._fitted(data, loss)
        self.combine = self._combined(data)

    def _with_labels(
        self, data: ComparisonData, loss: Loss, loss_name: str
    ) -> tuple[list[int], np.ndarray]:
        """The attributes with labels that the loss trains on, and (C,) whether a training row has
        one."""
        rows = data.columns.attributes(data.splits["train"], len(data.attributes))
        trained = set(loss.trains_on())
        found = np.zeros((len(rows.counts_C), len(data.attributes)), dtype=bool)
        for column in range(len(data.attributes)):
            found[:, column] = rows.labelled(column, trained)
        columns = np.flatnonzero(found.any(0)).tolist()
        if not columns:
            raise UserError(
                f"loss={loss_name} needs {' or '.join(sorted(trained))} among responses of a row, "
                "and no training row has them in an attribute: loss=regression and loss=ordinal "
                "train on single responses."
            )
        return columns, np.any(found, axis=1)

    def _fitted(self, data: ComparisonData, loss: Loss) -> list[Loss]:
        """A copy of the loss for each attribute, fitted to its ratings in the training rows."""
        train, rates = data.splits["train"], data.sampling_rate()
        rows = data.columns.attributes(train, len(data.attributes))
        weights_C = data.columns.numbers("weight")[train] * (1.0 if rates is None else rates)
        weights_N, found = np.repeat(weights_C, rows.counts_C), []
        for column in self._columns:
            found.append(copy.deepcopy(loss))
            ratings_N = rows.ratings_N_A[:, column]
            rated_N = ~np.isnan(ratings_N)
            try:
                found[-1].fit_to_ratings(ratings_N[rated_N], weights_N[rated_N])
            except UserError as error:
                raise UserError(f"Attribute {data.attributes[column]}: {error}") from None
        return found

    def _combined(self, data: ComparisonData) -> list[float]:
        """The weight of each output; where weights are learnt, what is selected by before."""
        if self.learns_weights:
            return [1.0] * len(self.names)
        declared, other = data.source.attribute_weights, 1.0
        if isinstance(self.weights, Mapping):
            declared, other = self.weights, 0.0
        return [
            declared.get(name, other) * loss.rating_unit
            for name, loss in zip(self.names, self._losses, strict=True)
        ]

    def install(self, model: Any, seed: int) -> None:
        fresh = find_head(model)[1].facts.fresh_head
        head = install_outputs(model, "attributes", self.names, self.combine)
        if fresh:
            draw_head(head, *(member_seed(seed, k) for k in range(len(self.names))))

    def losses(self, loss: Loss, data: ComparisonData, seed: int) -> Loss:
        return AttributeLosses(copy.deepcopy(self._losses), self.names, self._columns)

    def trained_losses(self, loss: Loss, names: Sequence[str], data: ComparisonData) -> Loss:
        if missing := [name for name in names if name not in data.attributes]:
            note_fallback(f"The data has no ratings of {', '.join(missing)}: the loss is left out.")
        if missing or not names:
            return NoLoss()
        columns = [data.attributes.index(name) for name in names]
        return AttributeLosses([copy.deepcopy(loss) for _ in names], names, columns)


@dataclass(frozen=True)
class TrainedOutputs(HeadSettings):
    """The outputs of a head that is trained, for its checkpoint; `combine` may be learnt.

    Args:
        kind: the option of the group `head`.
        names, combine: see `MultiOutputHead`.
    """

    kind: str
    names: list[str]
    combine: list[float]

    @classmethod
    def of(cls, head: MultiOutputHead) -> "TrainedOutputs":
        """Those of a trained head."""
        return cls(head.kind, list(head.names), head.combine_K.tolist())

    def install(self, model: Any, seed: int) -> None:
        install_outputs(model, self.kind, self.names, self.combine)

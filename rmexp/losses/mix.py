"""A weighted sum of losses, each over the labels that it can use."""

from collections.abc import Collection, Mapping

import numpy as np
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.core.errors import UserError
from rmexp.losses.base import Loss, Terms


class Mix(Loss):
    """Sum of weight x loss, each loss normalised by its own units over the step.

    A dataset of pairs, ratings and lists trains together whatever their numbers: in a step with one
    list and fifty ratings, the list's loss has its full weight. Terms are `NAME.TERM`.

    Args:
        losses: name -> loss, or None to leave it out.
        weights: name -> weight; 1 for losses that are not named.

    Raises:
        UserError: there is no loss, or a weight names an unknown one.
    """

    needs_labels = ()

    def __init__(
        self, losses: Mapping[str, Loss | None], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        chosen = {name: loss for name, loss in losses.items() if loss is not None}
        self.weights = dict.fromkeys(chosen, 1.0) | {
            name: float(weight) for name, weight in (weights or {}).items() if name in chosen
        }
        if not chosen:
            raise UserError("loss=mix has no loss in loss.losses.")
        if unknown := set(weights or {}) - set(losses):
            raise UserError(
                f"loss.weights names {', '.join(sorted(unknown))}; loss.losses has "
                f"{', '.join(losses)}."
            )
        if min(self.weights.values()) < 0 or max(self.weights.values()) == 0:
            raise UserError("loss.weights are 0 or more, and one of them is above 0.")
        self.losses = nn.ModuleDict({n: loss for n, loss in chosen.items() if self.weights[n] > 0})

    def components(self) -> dict[str, Loss]:
        return dict(self.losses.items())  # type: ignore[arg-type]

    def unmet(self, label_kinds: Collection[str]) -> tuple[str, ...]:
        """Those of components that could train, or of all if none can; regularisers never count."""
        components = [loss for loss in self.components().values() if loss.needs_labels]
        fed = [loss for loss in components if set(loss.needs_labels) <= set(label_kinds)]
        return tuple({kind for loss in fed or components for kind in loss.unmet(label_kinds)})

    def trains_on(self) -> tuple[str, ...]:
        return tuple({kind for loss in self.components().values() for kind in loss.trains_on()})

    def fit_to_ratings(self, ratings: np.ndarray, weights: np.ndarray) -> None:
        for loss in self.components().values():
            if "ratings" in loss.needs_labels:
                loss.fit_to_ratings(ratings, weights)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        terms: Terms = {}
        for name, loss in self.components().items():
            for term, (values_U, weights_U) in loss(rewards_N, batch).items():
                terms[f"{name}.{term}"] = (self.weights[name] * values_U, weights_U)
        return terms

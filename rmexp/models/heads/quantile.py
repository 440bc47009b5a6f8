"""head=quantile: quantiles of a response's rating."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses import Pinball
from rmexp.losses.base import Loss
from rmexp.losses.outputs import QuantileLosses
from rmexp.models.heads.base import HeadSettings, install_outputs


@dataclass(frozen=True)
class QuantileHead(HeadSettings):
    """head=quantile: an output for each quantile of the rating; the reward is their mean.

    Quantile regression (Koenker and Bassett 1978); of reward models: Dorka 2024, arXiv:2409.10164.
    The quantiles of a response are sorted where they are read, which never raises their loss
    (Chernozhukov, Fernandez-Val and Galichon 2010, "Quantile and probability curves without
    crossing"), and leaves their mean as it is: the reward stays one linear head.

    Args:
        quantiles: levels, increasing, above 0 and below 1; at (k - 1/2) / K their mean estimates
            the mean rating.
    """

    quantiles: list[float]

    def __post_init__(self) -> None:
        levels = [0.0, *self.quantiles, 1.0]
        if len(levels) < 4 or sorted(set(levels)) != levels:
            raise UserError(
                f"head.quantiles={levels[1:-1]}: should be two or more levels, increasing, above 0 "
                "and below 1."
            )

    def check(self, loss: Loss, loss_name: str, source: Any, data: ComparisonData) -> None:
        if not isinstance(loss, Pinball):
            raise UserError(
                f"head=quantile trains quantiles of ratings with loss=pinball, not with "
                f"loss={loss_name}."
            )

    def install(self, model: Any, seed: int) -> None:
        """All quantiles start from the head that is there."""
        names = [f"{quantile:g}" for quantile in self.quantiles]
        install_outputs(model, "quantile", names, [1 / len(names)] * len(names))

    def losses(self, loss: Loss, data: ComparisonData, seed: int) -> Loss:
        return self.trained_losses(loss, (), data)

    def trained_losses(self, loss: Loss, names: Sequence[str], data: ComparisonData) -> Loss:
        assert isinstance(loss, Pinball), "refused by `check`"
        return QuantileLosses(loss, self.quantiles)

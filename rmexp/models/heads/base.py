"""What the reward head has as outputs, how a loss trains them, and how they make one reward."""

from dataclasses import dataclass
from typing import Any

from rmexp.data.comparison_data import ComparisonData
from rmexp.losses.base import Loss
from rmexp.losses.compatibility import check_trainable


class HeadSettings:
    """An option of the group `head`; the reward is a fixed weighted sum of its outputs.

    A run calls, in this order: `check` (nothing is loaded), `check_trainable` (the rows are
    tokenised), `install` (the model is loaded, and nothing of it trains yet), `losses`.
    """

    def check(self, loss: Loss, loss_name: str) -> None:
        """Refuse what the head cannot be combined with.

        Args:
            loss_name: the option's name, for messages.

        Raises:
            UserError: names it.
        """

    def check_trainable(
        self, data: ComparisonData, loss: Loss, loss_name: str, data_name: str
    ) -> None:
        """Keep the rows that train, and fit the loss to their ratings; see `check_trainable`."""
        check_trainable(data, loss, loss_name, data_name)

    def install(self, model: Any, seed: int) -> None:
        """Give a model, with its head of one output, the head with all outputs."""

    def losses(self, loss: Loss, data: ComparisonData | None, seed: int) -> Loss:
        """The loss of the outputs; call `of_outputs` of it.

        Args:
            loss: of one reward, fitted to the training rows.
            data: whose training split is trained on; None: the outputs are only evaluated.
        """
        return loss


@dataclass(frozen=True)
class LinearHead(HeadSettings):
    """head=linear: one output, the reward."""

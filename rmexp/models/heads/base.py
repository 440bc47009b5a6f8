"""What the reward head has as outputs, how a loss trains them, and how they make one reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rmexp.data.comparison_data import ComparisonData
from rmexp.losses.base import Loss
from rmexp.losses.compatibility import check_trainable
from rmexp.models.reward_head import MultiOutputHead, find_head, replace_head


class HeadSettings:
    """An option of the group `head`; the reward is a fixed weighted sum of its outputs.

    A run calls, in this order: `check` (nothing is loaded), `check_trainable` (the rows are
    tokenised), `install` (the model is loaded, and nothing of it trains yet), `losses`. What
    evaluates a trained model calls `trained_losses` alone.
    """

    own_labels: ClassVar[bool] = False
    """Its outputs train on labels of their own, of which only the rows tell."""

    learns_weights: bool = False
    """The weights of the outputs in the reward are learnt on val, once they are trained."""

    def check(self, loss: Loss, loss_name: str, source: Any, data: ComparisonData) -> None:
        """Refuse what the head cannot be combined with.

        Args:
            loss_name: the option's name, for messages.
            source: of the model, which is not loaded.
            data: not read yet.

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

    def losses(self, loss: Loss, data: ComparisonData, seed: int) -> Loss:
        """The loss of the outputs; call `of_outputs` of it.

        Args:
            loss: of one reward, fitted to the training rows.
            data: whose training split is trained on.
        """
        return loss

    def trained_losses(self, loss: Loss, names: Sequence[str], data: ComparisonData) -> Loss:
        """The loss of outputs that are trained, and only evaluated; its state is restored later.

        Args:
            names: of the outputs of the trained head; none where it is known by its reward alone.
            data: the rows that are evaluated.
        """
        return loss


@dataclass(frozen=True)
class LinearHead(HeadSettings):
    """head=linear: one output, the reward."""


@torch.no_grad()
def install_outputs(
    model: Any, kind: str, names: Sequence[str], combine: Sequence[float]
) -> MultiOutputHead:
    """Give a model a head with several outputs, each a copy of the one that it has.

    Args:
        kind, names, combine: see `MultiOutputHead`.
    """
    _, one = find_head(model)
    with torch.device(one.weight.device):
        head = MultiOutputHead(one.in_features, one.bias is not None, kind, names, combine)
    for mine, its in zip(head.parameters(), one.parameters(), strict=True):
        mine.copy_(its.expand_as(mine))
    replace_head(model, head)
    return head

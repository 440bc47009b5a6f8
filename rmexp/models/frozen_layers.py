"""Stand-ins for frozen layers whose output is read from cached activations."""

from typing import Any

from torch import Tensor, nn


class SkippedLayer(nn.Module):
    """Replaces a frozen layer and returns its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)  # some backbones read it

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden


class ReplayLayer(SkippedLayer):
    """Replaces the highest frozen layer and returns its cached output.

    Attributes:
        states: (R, T, D) output for the micro-batch that comes next.
    """

    states: Tensor | None = None

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert self.states is not None, "the micro-batch has no cached activations"
        return self.states

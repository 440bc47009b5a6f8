"""The mean of the weights of several models, as one model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rmexp.core.errors import UserError
from rmexp.models.head_file import load_outputs
from rmexp.models.pretrained import TrainedWeights
from rmexp.models.reward_head import MultiOutputHead


@dataclass(frozen=True, kw_only=True)
class MergedWeights(TrainedWeights):
    """Members that were trained from one base, averaged (WARM: Ramé et al. 2024, arXiv:2401.12187).

    Args:
        members: name -> source of a member and its weight; the weights have the sum 1.
    """

    members: Mapping[str, tuple[Any, float]]

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """The merged model; besides it, memory holds one member at a time.

        Raises:
            UserError: a member has other weights than the first.
        """
        mean, combine = dict[str, Tensor](), dict[str, Tensor]()
        model = nn.Module()
        for name, (source, share) in self.members.items():
            del model  # the one before, before the next is loaded
            model = source.load_model(tokenizer, seed)  # LoRA's updates are merged
            load_outputs(model, source)
            _add(mean, model.state_dict(), share, name)
            for head in _heads_of_several_outputs(model):
                _add(combine, {"combine": head.combine_K}, share, name)  # not in the model's state
        model.load_state_dict(mean)
        for head in _heads_of_several_outputs(model):
            head.combine_K.copy_(combine["combine"])
        return model


def _heads_of_several_outputs(model: nn.Module) -> list[MultiOutputHead]:
    """The head, if it has several outputs: none or one."""
    return [module for module in model.modules() if isinstance(module, MultiOutputHead)]


@torch.no_grad()
def _add(mean: dict[str, Tensor], state: Mapping[str, Tensor], share: float, name: str) -> None:
    """Add a member's weights to the sum; what is no weight (positions) stays the first's."""
    shapes = {key: value.shape for key, value in state.items()}
    if mean and shapes != (first := {key: value.shape for key, value in mean.items()}):
        other = sorted(set(shapes.items()) ^ set(first.items()))[0][0]
        raise UserError(f"{name} has other weights than the first of the runs ({other}).")
    for key, value in state.items():
        if not value.is_floating_point():
            mean.setdefault(key, value.clone())
        elif key in mean:
            mean[key].add_(value, alpha=share)
        else:
            mean[key] = value * share

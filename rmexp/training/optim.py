"""Parameter groups, optimizer and learning-rate schedule."""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rmexp.models.reward_model import head_parameters


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with warm-up and a schedule.

    Args:
        lr: peak learning rate of the backbone, or of LoRA's matrices in it.
        head_lr: peak learning rate of the reward head; None takes `lr`.
        loss_lr: peak learning rate of the loss's parameters (cut points, tie width), which have
            no weight decay.
        weight_decay: of matrices in the backbone; vectors (norms, biases) have none anywhere.
        head_weight_decay: of matrices in the reward head; None takes `weight_decay`.
        beta1, beta2: decay rates of the moments.
        warmup: fraction of all steps over which the rate rises from 0.
        schedule: `cosine` or `linear` to 0, or `constant`.
        clip: maximum gradient norm over all parameters; None does not clip.
    """

    moments: ClassVar[int] = 2  # per trainable weight

    lr: Annotated[float, Gt(0)]
    head_lr: Annotated[float, Gt(0)] | None
    loss_lr: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]
    head_weight_decay: Annotated[float, Ge(0)] | None
    beta1: Annotated[float, Ge(0), Lt(1)]
    beta2: Annotated[float, Ge(0), Lt(1)]
    warmup: Annotated[float, Ge(0), Le(1)]
    schedule: Literal["cosine", "linear", "constant"]
    clip: Annotated[float, Gt(0)] | None

    def build(self, model: Any, loss: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """The optimizer over all trainable parameters, and its schedule over `steps` updates."""
        head = [p for p in head_parameters(model) if p.requires_grad]
        names = {id(p) for p in head}
        body = [p for p in model.parameters() if p.requires_grad and id(p) not in names]
        head_decay = self.weight_decay if self.head_weight_decay is None else self.head_weight_decay
        parts = (
            (body, self.lr, self.weight_decay),
            (head, self.head_lr or self.lr, head_decay),
            (list(loss.parameters()), self.loss_lr, 0.0),
        )
        groups = [
            {
                "params": [p for p in parameters if (p.ndim > 1) == matrices],
                "lr": lr,
                "weight_decay": decay if matrices else 0.0,
            }
            for parameters, lr, decay in parts
            for matrices in (True, False)
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(self.beta1, self.beta2),
            fused=True,
        )
        rate = functools.partial(_share_of_peak, self.schedule, round(self.warmup * steps), steps)
        return optimizer, LambdaLR(optimizer, rate)


def _share_of_peak(schedule: str, warmup: int, steps: int, done: int) -> float:
    """The learning rate after `done` of all `steps`, of which `warmup` raise it to its peak."""
    if done < warmup:
        return done / warmup
    rest = max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * ((done - warmup) / rest)))
    return max(0, steps - done) / rest if schedule == "linear" else 1.0

"""trainer=fsdp: every process keeps a part of each weight, of its gradient and its moments.

Lightning's ModelParallelStrategy with torch's `fully_shard` (Zhao et al. 2023, arXiv:2304.11277). A
checkpoint is whole, as a run on one device writes it, so that either goes on with the other's.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rmexp.core import distributed
from rmexp.models.tuning import layers


class FSDPStrategy(ModelParallelStrategy):
    """Lightning's strategy, with checkpoints that know nothing of it.

    Args:
        size: how many processes share the weights.
    """

    def __init__(self, size: int) -> None:
        super().__init__(data_parallel_size=size, tensor_parallel_size=1)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimizer's state over, as with other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights; on the processes that do not write, nothing."""
        assert self.lightning_module is not None
        return full_state(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole moments; on the processes that do not write, nothing."""
        return full_state(optimizer.state_dict())

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """One file."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """That file, whichever strategy wrote it."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's part of the weights."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's part of the moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_parted(optimizer, state))


def shard_model(module: Any, mesh: Any, bf16: bool) -> None:
    """Part the weights of a `RewardModule` among the processes of `mesh`, layer by layer.

    What the loss learns (cut points, a tie's width) is a few numbers, and stays whole everywhere.

    Args:
        bf16: layers compute in it, and are put together in it. Autocast would make copies of the
            whole weights instead, which the backward pass keeps, of all layers.
    """
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers(module.model):
        fully_shard(layer, mesh=mesh, mp_policy=half if bf16 else MixedPrecisionPolicy())
    fully_shard(module, mesh=mesh, ignored_params=set(module.loss.parameters()))


def full_state(state: Any) -> Any:
    """Nested state with parted tensors put together, on the CPU; empty where nobody writes it."""
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if distributed.is_rank_zero() else full.new_empty(0)
    if isinstance(state, dict):
        return {key: full_state(value) for key, value in state.items()}
    return state


def sharded_state(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's whole state, with the weights parted as the module has them."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # after a validation some are whole
    named = dict(module.named_parameters())
    return {name: _part_like(value, named.get(name)) for name, value in state.items()}


def _part_like(value: Tensor, like: Any) -> Tensor:
    """This process's part of a whole tensor, where `like` is parted; else the tensor itself."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(device=like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _parted(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state, with the moments of parted weights parted as they are."""
    numbers = chain.from_iterable(group["params"] for group in state["param_groups"])
    weights = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    parted = {}
    for number, weight in zip(numbers, weights, strict=True):
        moments = state["state"].get(number, {})
        parted[number] = {name: _part_like(value, weight) for name, value in moments.items()}
    return {**state, "state": parted}


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """`nn.utils.clip_grad_norm_` over weights of which some are parted; returns the whole norm."""
    kept = [p for p in parameters if p.grad is not None]
    if not any(isinstance(p, DTensor) for p in kept):
        return nn.utils.clip_grad_norm_(kept, limit)
    own, everywhere = [], []
    for parameter in kept:
        grad: Any = parameter.grad
        if isinstance(grad, DTensor):
            own.append(grad.to_local())
        else:
            everywhere.append(grad)
    squared = distributed.all_reduce_sum(nn.utils.get_total_norm(own).square())
    norm = (squared + nn.utils.get_total_norm(everywhere).square()).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for grad in (*own, *everywhere):
        grad.mul_(scale)
    return norm


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """What `fully_shard` does to the gradients of its weights, for those that are whole."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce_sum(parameter.grad).div_(distributed.world_size())

"""trainer=fsdp: weights, gradients and optimizer moments are sharded over the processes.

Lightning's ModelParallelStrategy with torch's `fully_shard` (Zhao et al. 2023, arXiv:2304.11277).
Checkpoints hold full tensors, as those of one device: a run can resume with or without sharding.
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
    """Lightning's strategy, with checkpoints of full tensors in one file.

    Args:
        size: number of processes that share the weights.
    """

    def __init__(self, size: int) -> None:
        super().__init__(data_parallel_size=size, tensor_parallel_size=1)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Full weights on rank 0, empty tensors elsewhere."""
        assert self.lightning_module is not None
        return full_state(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Full moments on rank 0, empty tensors elsewhere."""
        return full_state(optimizer.state_dict())

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_shard_moments(optimizer, state))


def shard_model(module: Any, mesh: Any, bf16: bool) -> None:
    """Shard the weights of a `RewardModule` over the processes of `mesh`, layer by layer.

    The few parameters of the loss are replicated.

    Args:
        bf16: layers compute and are gathered in bf16. Autocast would keep bf16 copies of the
            gathered weights of all layers for the backward pass.
    """
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers(module.model):
        fully_shard(layer, mesh=mesh, mp_policy=half if bf16 else MixedPrecisionPolicy())
    fully_shard(module, mesh=mesh, ignored_params=set(module.loss.parameters()))


def full_state(state: Any) -> Any:
    """Nested state with sharded tensors gathered on the CPU of rank 0, empty elsewhere."""
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if distributed.is_rank_zero() else full.new_empty(0)
    if isinstance(state, dict):
        return {key: full_state(value) for key, value in state.items()}
    return state


def sharded_state(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A full state dict with its tensors sharded like the module's parameters."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # some are gathered after a validation
    named = dict(module.named_parameters())
    return {name: _shard_like(value, named.get(name)) for name, value in state.items()}


def _shard_like(value: Tensor, like: Any) -> Tensor:
    """This process's shard of a full tensor if `like` is sharded; else the tensor itself."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(device=like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _shard_moments(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's full state with the moments sharded like their weights."""
    numbers = chain.from_iterable(group["params"] for group in state["param_groups"])
    weights = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    sharded = {}
    for number, weight in zip(numbers, weights, strict=True):
        moments = state["state"].get(number, {})
        sharded[number] = {name: _shard_like(value, weight) for name, value in moments.items()}
    return {**state, "state": sharded}


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """`nn.utils.clip_grad_norm_` for sharded and replicated weights; returns the total norm."""
    kept = [p for p in parameters if p.grad is not None]
    if not any(isinstance(p, DTensor) for p in kept):
        return nn.utils.clip_grad_norm_(kept, limit)
    shards, replicated = [], []
    for parameter in kept:
        grad: Any = parameter.grad
        if isinstance(grad, DTensor):
            shards.append(grad.to_local())
        else:
            replicated.append(grad)
    squared = distributed.all_reduce_sum(nn.utils.get_total_norm(shards).square())
    norm = (squared + nn.utils.get_total_norm(replicated).square()).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for grad in (*shards, *replicated):
        grad.mul_(scale)
    return norm


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of replicated parameters; `fully_shard` averages those of shards."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce_sum(parameter.grad).div_(distributed.world_size())

"""Which device and which precision `auto` means on this machine."""

from typing import Literal

import torch
from torch import Tensor

from rmexp.core.errors import UserError

Accelerator = Literal["cpu", "gpu"]
Precision = Literal["bf16-mixed", "32-true"]

PRECISIONS: dict[str, Precision] = {
    "bf16-mixed": "bf16-mixed",
    "bf16": "bf16-mixed",
    "32-true": "32-true",
    "32": "32-true",
}
"""Lightning's names."""

REFUSED_PRECISIONS = {
    "bf16-true": "weights that train would be held in bf16, where most updates are rounded away; "
    "bf16-mixed computes in bf16, holds what is frozen in bf16, and what trains in fp32",
    "16": "rmexp does not scale losses, without which gradients vanish in fp16; take bf16-mixed, "
    "or 32-true where the GPU has no bf16",
    "64-true": "rewards and losses are computed in fp32; take 32-true",
}


def resolve_accelerator(requested: Literal["auto"] | Accelerator) -> Accelerator:
    """`gpu` for `auto` if there is a CUDA device."""
    if requested != "auto":
        return requested
    return "gpu" if torch.cuda.is_available() else "cpu"


def device_name(accelerator: Accelerator) -> Literal["cpu", "cuda"]:
    """The accelerator's name in torch; `cuda` is the current device of this process."""
    return "cuda" if accelerator == "gpu" else "cpu"


def resolve_precision(requested: str | int, accelerator: Accelerator) -> Precision:
    """One of Lightning's names; `auto` is bf16 if the accelerator is fast at it.

    Raises:
        UserError: another name; says why.
    """
    name = str(requested)
    if name == "auto":
        return "bf16-mixed" if bf16_is_fast(accelerator) else "32-true"
    if name not in PRECISIONS:
        aliases = {"16-mixed": "16", "16-true": "16", "64": "64-true"}
        known = "should be auto, bf16-mixed (or bf16) or 32-true (or 32)"
        why = REFUSED_PRECISIONS.get(aliases.get(name, name), known)
        raise UserError(f"trainer.precision={name}: {why}.")
    return PRECISIONS[name]


def bf16_is_fast(accelerator: Accelerator) -> bool:
    """Whether the accelerator has matrix units (or at least dot products) for bf16."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def host_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU tensor that a GPU does not wait for, as it is made from pinned memory."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

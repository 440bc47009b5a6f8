"""Which device and which precision `auto` means on this machine."""

from typing import Literal

import torch

Accelerator = Literal["cpu", "gpu"]
Precision = Literal["bf16-mixed", "32-true"]


def resolve_accelerator(requested: Literal["auto"] | Accelerator) -> Accelerator:
    """`gpu` for `auto` if there is a CUDA device."""
    if requested != "auto":
        return requested
    return "gpu" if torch.cuda.is_available() else "cpu"


def device_name(accelerator: Accelerator) -> Literal["cpu", "cuda"]:
    """The accelerator's name in torch; `cuda` is the current device of this process."""
    return "cuda" if accelerator == "gpu" else "cpu"


def resolve_precision(
    requested: Literal["auto"] | Precision, accelerator: Accelerator
) -> Precision:
    """bf16 for `auto` if the accelerator is fast at it."""
    if requested != "auto":
        return requested
    return "bf16-mixed" if bf16_is_fast(accelerator) else "32-true"


def bf16_is_fast(accelerator: Accelerator) -> bool:
    """Whether the accelerator has matrix units (or at least dot products) for bf16."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

"""What the hardware can do."""

from typing import Literal

import torch


def bf16_is_fast(accelerator: Literal["cpu", "gpu"]) -> bool:
    """Has the device matrix units (or at least dot products) for bf16?"""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or can.get("avx512_bf16"))

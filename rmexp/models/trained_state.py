"""Trained weights in checkpoints: without frozen parameters, and LoRA merged for export."""

from collections.abc import Mapping
from typing import Any

from torch import nn


def trained_state(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's state without its frozen parameters, which the base model has."""
    frozen = _frozen_names(module)

    def of_frozen(name: str) -> bool:  # weights in 4 bits have scales: WEIGHT.absmax
        return name in frozen or f"{name.partition('.weight.')[0]}.weight" in frozen

    return {name: value for name, value in state.items() if not of_frozen(name)}


def load_trained_state(module: nn.Module, state: Mapping[str, Any], strict: bool = True) -> Any:
    """The inverse of `trained_state`: frozen parameters keep their values.

    Raises:
        RuntimeError: another name is missing or not known.
    """
    found = nn.Module.load_state_dict(module, state, strict=False)
    missing = sorted(set(found.missing_keys) - _frozen_names(module))
    if strict and (missing or found.unexpected_keys):
        raise RuntimeError(
            f"The weights are of another model: missing {missing[:3]}, "
            f"not known {found.unexpected_keys[:3]}."
        )
    return found


def _frozen_names(module: nn.Module) -> set[str]:
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def merge(model: nn.Module) -> None:
    """Add LoRA's updates to the base weights and leave a plain model."""
    adapted = [(n, m) for n, m in model.named_modules() if hasattr(m, "get_base_layer")]
    for name, module in adapted:
        adapter: Any = module
        adapter.merge()
        model.set_submodule(name, adapter.get_base_layer())

"""The first layers of a model alone: a smaller model that is trained and exported as any other.

docs/tune.md has the accuracy of some depths of SmolLM2.
"""

import re
from collections.abc import Iterable
from typing import Any

from rmexp.core.errors import UserError

LAYER_NUMBER = re.compile(r"\.(\d+)\.")
"""The number of a layer in the name of one of its weights."""


def keep_first_layers(config: Any, layers: int, where: str) -> None:
    """Cut the configuration of a text model to its first layers.

    Raises:
        UserError: the model has fewer, or does not say how many it has.
    """
    has = getattr(config, "num_hidden_layers", None)
    if has is None or layers > has:
        known = "does not say how many layers it has" if has is None else f"has {has} layers"
        raise UserError(f"model.layers={layers}: {where} {known}; null keeps all.")
    config.num_hidden_layers = layers
    for name, value in vars(config).items():  # layer_types of models with several kinds of layers
        if name.startswith("layer") and isinstance(value, list) and len(value) == has:
            setattr(config, name, value[:layers])


def of_first_layers(names: Iterable[str], layers: int | None) -> set[str]:
    """Names of weights without those of layers that are cut (None: none is)."""
    numbers = {name: LAYER_NUMBER.search(name) for name in names}
    return {
        name
        for name, number in numbers.items()
        if layers is None or number is None or int(number[1]) < layers
    }

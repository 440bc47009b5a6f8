"""Values that are not written to files: a run directory may be shared."""

from collections.abc import Mapping, Sequence
from typing import Any

SECRET_KEYS = ("task.token",)
"""Keys of the command line whose values are secret."""

HIDDEN = "hidden"
"""What files have in place of a secret."""


def without_secrets(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its secrets hidden."""
    hidden = dict(content)
    for group, key in (name.split(".") for name in SECRET_KEYS):
        part = hidden.get(group)
        if isinstance(part, Mapping) and part.get(key) is not None:
            hidden[group] = {**part, key: HIDDEN}
    return hidden


def words_without_secrets(words: Sequence[str]) -> list[str]:
    """Words of a command line with their secrets hidden."""
    return [
        f"{key}={HIDDEN}" if found and key.lstrip("+") in SECRET_KEYS else word
        for word in words
        for key, found, _ in [word.partition("=")]
    ]

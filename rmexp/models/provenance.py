"""What is known of the model that a reward model was made from: its hub id and its license."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml

CARD_FILE = "README.md"
"""The model card in a model's directory."""


@dataclass(frozen=True)
class Provenance:
    """Metadata of a base model, under the names of the hub's model cards; None: unknown.

    Attributes:
        base_model: hub id.
        license, license_name, license_link: as its own card has them.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None


def provenance_of(
    path: str, revision: str | None, given: Mapping[str, str | None] | None
) -> Provenance:
    """Collect what is known of a model; nothing is guessed.

    A directory names its hub id if it is a snapshot in the cache of the hub; otherwise the model
    derives from the `base_model` of its own card.

    Args:
        path: directory or hub id.
        revision: of the hub id.
        given: what the user says (`base_model`, `license`); it counts before the card.
    """
    folder = Path(path).expanduser()
    card = _card_metadata(_card_file(folder, path, revision))
    hub_id = _snapshot_id(folder) if folder.is_dir() else path
    known = {
        "base_model": hub_id or _single(card.get("base_model")),
        **{name: _single(card.get(name)) for name in ("license", "license_name", "license_link")},
    }
    said = {name: value for name, value in (given or {}).items() if value is not None}
    if "license" in said:
        known |= {"license_name": None, "license_link": None}
    return Provenance(**{**known, **said})


def _snapshot_id(folder: Path) -> str | None:
    """`owner/name` of a directory `models--owner--name/snapshots/COMMIT` of the hub's cache."""
    home = folder.resolve()
    owner, _, name = home.parent.parent.name.removeprefix("models--").partition("--")
    is_snapshot = home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")
    return f"{owner}/{name}" if is_snapshot and name else None


def _card_file(folder: Path, path: str, revision: str | None) -> Path | None:
    """The card in a directory, or of a hub id where the hub or its cache has it."""
    if folder.is_dir():
        return folder / CARD_FILE if (folder / CARD_FILE).is_file() else None
    try:
        return Path(huggingface_hub.hf_hub_download(path, CARD_FILE, revision=revision))
    except (OSError, ValueError):  # no card, no network
        return None


def _card_metadata(file: Path | None) -> Mapping[str, Any]:
    """The front matter of a card; empty where there is none that can be read."""
    if file is None:
        return {}
    try:
        return huggingface_hub.metadata_load(file) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _single(value: Any) -> str | None:
    """A field of a card that may be a text or a list of texts; of several models, none is known."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and value else None

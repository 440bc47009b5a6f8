"""Rows with images, which a text model does not see."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.data.formats.fields import decoded
from rmexp.data.formats.messages import is_media
from rmexp.data.formats.wrapper import FormatWrapper, Read, read_row
from rmexp.data.sources import BadRow

COLUMNS = frozenset(
    f"{kind}{ending}"
    for kind in ("image", "video", "audio")
    for ending in ("", "s", "_path", "_paths", "_url", "_urls")
)


@dataclass(frozen=True)
class TextOnly(FormatWrapper):
    """Refuses rows with images, videos or audio, or reads their texts alone.

    Args:
        format: raw row -> Comparison.
        ignore_images: read the texts.
    """

    ignore_images: bool = False

    def read(self, row: Mapping[str, Any]) -> Read:
        return read_row(self.format, self.within(row))

    def within(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row as the inner format gets it."""
        found = [name for name in row if name in COLUMNS and row[name]]
        if found and not self.ignore_images and any(_is_there(row[name]) for name in found):
            raise BadRow(
                f"{found[0]} is nothing that a text model sees: data.ignore_images=true reads the "
                "texts of such rows alone"
            )
        if not self.ignore_images:
            return row
        return {name: _text_parts(value) for name, value in row.items() if name not in found}


def _is_there(value: Any) -> bool:
    value = decoded(value)
    return any(one is not None for one in value) if isinstance(value, list) else bool(value)


def _text_parts(value: Any) -> Any:
    """Messages without the parts of their content that are no text."""
    if isinstance(value, list):
        parts = [one for one in value if not is_media(one)]
        return [_text_parts(one) for one in parts]
    if isinstance(value, Mapping):
        return {key: _text_parts(part) for key, part in value.items()}
    return value

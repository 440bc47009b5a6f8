"""Values of the command line that Hydra's grammar cannot read: quoted where the meaning is clear.

Hydra reads few characters outside quotes: no letters of other scripts and no `= # & ~ ; !`.
"""

import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException


def quote_values(words: Sequence[str]) -> list[str]:
    """The words of a command with quotes around values of plain text that need them.

    Each value of a sweep (`name=一,二`) and of a list (`runs=[一,二]`) is quoted. Values that have
    quotes, parentheses or braces stay as they are.
    """
    return [_quoted(word) if "=" in word and not parses(word) else word for word in words]


def quoted_command(override: str) -> str:
    """An override with a quoted value, as a user would type it into a shell."""
    key, _, value = override.partition("=")
    return shlex.quote(f"{key}={_quote(value)}")


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    if word.startswith("-") or re.search(r"[\"'(){}]", re.sub(r"\$\{[^{}]*\}", "", value)):
        return word
    parts = re.split(r"([,\[\]])", value)
    return f"{key}=" + "".join(
        part if part in ("", ",", "[", "]") or parses(f"{key}={part}") else _quote(part)
        for part in parts
    )


def _quote(text: str) -> str:
    quote = Quote.double if "'" in text and '"' not in text else Quote.single
    return QuotedString(text, quote).with_quotes()


def parses(override: str) -> bool:
    """Whether Hydra's grammar can read an override."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True

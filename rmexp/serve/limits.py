"""Limits of what a server accepts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestLimits:
    """What is more than this is refused.

    Args:
        body_bytes: of a request.
        characters: of a text, or of a rendered dialogue.
        texts: of a request.
        tokens: of a text; at most the model's positions.
    """

    body_bytes: int
    characters: int
    texts: int
    tokens: int

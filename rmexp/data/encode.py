"""Comparisons -> texts and token ids, many at a time."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.row_report import RowReport
from rmexp.data.text_style import spoken
from rmexp.templates import rendering
from rmexp.templates.bulk_tokenizer import BulkTokenizer

Encoded = tuple[Comparison, list[str], list[list[int]]]
"""A comparison, the text of each response with its prompt, and their token ids."""


def encode(
    comparisons: Sequence[Comparison],
    tokenizer: Any,
    max_length: int,
    report: RowReport,
    bulk: BulkTokenizer | None = None,
) -> Iterator[Encoded]:
    """Render and tokenise comparisons together; one that cannot be used has no tokens.

    Args:
        max_length: of the tokens of a response with its prompt.
        report: counts comparisons that the template refuses, that lost their oldest turns to fit,
            and that do not fit even so.
        bulk: of the tokenizer, for very many.
    """
    tokenize = bulk or functools.partial(rendering.tokenize, tokenizer)
    rendered: list[list[str]] = []
    filled = bulk.filled if bulk else None  # tracing a template is for very many
    found = rendering.render_comparisons(tokenizer, comparisons, filled)
    for comparison, texts in zip(comparisons, found, strict=True):
        if isinstance(texts, UserError):
            report.add_bad(comparison.place, str(texts))
            rendered.append([])
            continue
        rendered.append(texts)
        if rendering.omits_thinking(comparison, texts):
            report.trim("thinking that the template removes", comparison.subset)
    flat = iter(tokenize([text for texts in rendered for text in texts]))
    for comparison, texts in zip(comparisons, rendered, strict=True):
        tokens = [next(flat) for _ in texts]
        if max(map(len, tokens), default=0) > max_length:
            texts, tokens = _fitted(comparison, tokenizer, max_length, report)
        yield comparison, texts, tokens


def _fitted(
    comparison: Comparison, tokenizer: Any, max_length: int, report: RowReport
) -> tuple[list[str], list[list[int]]]:
    try:
        shorter = rendering.fit(tokenizer, comparison, max_length)
    except UserError as error:  # refused without its oldest turns
        report.add_bad(comparison.place, str(error))
        return [], []
    if shorter is None:
        report.drop(f"longer than {max_length} tokens", comparison.subset)
        return [], []
    report.trim(f"oldest prompt turns, to fit {max_length} tokens", comparison.subset)
    return shorter


def in_characters(comparison: Comparison) -> Encoded:
    """Plain texts of prompt and response, and the code points of each response."""
    prompt, *responses = (
        "\n".join(
            spoken([m]) + (json.dumps(m["tool_calls"]) if m.get("tool_calls") else "") for m in part
        )
        for part in (comparison.prompt, *comparison.responses)
    )
    texts = [f"{prompt}\n\n{response}" for response in responses]
    return comparison, texts, [list(map(ord, response)) or [0] for response in responses]


def batched_list(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` items (itertools.batched is Python 3.12)."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

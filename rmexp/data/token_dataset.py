"""Comparisons as token ids on disk: tokenised once for each `TokenizeSpec.key`, memory-mapped."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from rmexp.batching.prefix_tree import PrefixTreeBuilder
from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.core.disk_cache import load_or_build
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.data.label_columns import label_columns
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.splits import SplitKey
from rmexp.data.text_style import spoken, text_style
from rmexp.data.tokenize_spec import TokenizeSpec
from rmexp.templates import rendering

ROWS_PER_CHUNK = 512
"""Comparisons that are rendered and tokenised together."""

TOKEN_SCHEMA = datasets.Features(
    {
        "id": datasets.Value("string"),
        "subset": datasets.Value("string"),
        "split": datasets.Value("string"),
        "group": datasets.Value("string"),
        "language": datasets.Value("string"),
        "prompt_key": datasets.Value("string"),
        "response_keys": datasets.List(datasets.Value("string")),
        "tokens": datasets.List(datasets.List(datasets.Value("int32"))),
        "texts": datasets.List(datasets.Value("string")),
        "lengths": datasets.List(datasets.Value("int32")),
        "style": datasets.List(datasets.List(datasets.Value("int32"))),
        "ratings": datasets.List(datasets.Value("float64")),
        "attributes": datasets.List(datasets.List(datasets.Value("float64"))),
        "pairs": datasets.List(datasets.List(datasets.Value("int32"))),
        "margins": datasets.List(datasets.Value("float64")),
        "votes": datasets.List(datasets.List(datasets.Value("float32"))),
        "weights": datasets.List(datasets.Value("float64")),
        "rank_levels": datasets.List(datasets.Value("int32")),
        "weight": datasets.Value("float64"),
    }
    | {
        name: datasets.Value("int32")
        for name in (
            "size",
            "longest",
            "judged",
            "tied",
            "voted",
            "rated",
            "ranked",
            "without_margin",
            "without_ratings",
            "longer_wins",
            "shorter_wins",
        )
    }
)
"""One row for each comparison.

`response_keys`, `tokens`, `texts`, `lengths`, `style` (the counts of `text_style.STYLE_NAMES`),
`ratings` (NaN: unrated) and `rank_levels` (-1: unranked) have an entry for each response.
`attributes` has such ratings for each of the first of `TokenTable.attributes`; it is empty in rows
without attributes, and shorter in rows before the first that has them all. `pairs`
has (i, j, label) for each judgement, label 1 if i is better and 0 for a tie, and `margins` (NaN:
none), `votes` (shares for i, for j and for a tie) and `weights` belong to it. Counts for plans and
checks: `size`, tokens of the row's prefix tree; `longest`, tokens of its longest response with the
prompt; `judged` and `tied`, strict judgements and ties; `voted`, judgements whose voters disagree;
`rated`, ratings; `ranked`, distinct rank levels; strict judgements `without_margin`,
`without_ratings` of both responses, and those whose longer or shorter response is better.
"""


@dataclass(frozen=True)
class TokenTable:
    """The tokenised rows of a source.

    Attributes:
        rows: a data set with `TOKEN_SCHEMA`.
        report: of reading and tokenising.
        from_cache: they were tokenised earlier.
        dropped: readable comparisons that tokenising dropped: too long, refused by the template.
        attributes: the attributes of the rows, in the order in which they first occur.
    """

    rows: datasets.Dataset
    report: RowReport
    from_cache: bool
    dropped: list[SplitKey]
    attributes: tuple[str, ...] = ()


def load_or_tokenise(
    spec: TokenizeSpec, tokenizer: Any, cache: Path, progress: Callable[[str, int], None]
) -> TokenTable:
    """Load the tokenised rows from the cache, or tokenise the source into it.

    Args:
        tokenizer: None measures rows in characters, for rewards that need no model: texts are then
            plain, tokens are the responses' code points, and no row is too long.
        progress: called with what is counted and the count so far.

    Raises:
        UserError: the source or too many of its rows cannot be used.
    """
    home = cache / "tokenised" / spec.key(tokenizer)
    (table, notes), from_cache = load_or_build(
        home, _load, lambda folder: _write(spec, tokenizer, folder, progress)
    )
    for note in notes:
        note_fallback(note)
    return dataclasses.replace(table, from_cache=from_cache)


def _load(home: Path) -> tuple[TokenTable, list[str]]:
    """The rows, and what was noted when they were tokenised."""
    stored = json.loads((home / "report.json").read_bytes())
    rows = datasets.Dataset.from_file(str(home / "rows.arrow"))
    report = RowReport.from_dict(stored["report"])
    if len(rows) != report.kept:
        raise ValueError(f"{len(rows)} rows, not {report.kept}")
    dropped = [SplitKey(*key) for key in stored["dropped"]]
    attributes = tuple(stored["attributes"])
    return TokenTable(rows, report, True, dropped, attributes), stored["notes"]


def _write(
    spec: TokenizeSpec, tokenizer: Any, home: Path, progress: Callable[[str, int], None]
) -> None:
    from datasets.arrow_writer import ArrowWriter

    report, dropped, notes = RowReport(), [], list[str]()
    names: dict[str, int] = {}  # attribute -> its index
    comparisons = read_comparisons(spec.paths, spec.parse, report, spec.limit, spec.reading)
    with (
        collect_fallbacks(notes.append),
        ArrowWriter(path=str(home / "rows.arrow"), features=TOKEN_SCHEMA) as writer,
    ):
        for one, row in _tokenised_rows(comparisons, spec, tokenizer, report, names):
            if row is None:
                dropped.append(SplitKey(one.prompt_key, one.split, one.group))
                continue
            writer.write(row)
            report.kept += 1
            if report.kept % ROWS_PER_CHUNK == 0:
                progress("comparisons tokenised", report.kept)
        check_bad_rows(report, spec.on_bad_row, spec.max_bad_share)
        if report.kept == 0:
            long = any(cause.startswith("longer") for cause in report.dropped)
            fix = " Raise data.max_length." if long else ""
            lost = "; ".join(report.losses())
            raise UserError(f"No comparison is left of {report.read} rows: {lost}.{fix}")
        writer.finalize()
    stored = {
        "report": report.to_dict(),
        "dropped": dropped,
        "notes": notes,
        "attributes": list(names),
    }
    (home / "report.json").write_text(
        json.dumps(stored, ensure_ascii=False, indent=1), encoding="utf-8"
    )


def _tokenised_rows(
    comparisons: Iterable[Comparison],
    spec: TokenizeSpec,
    tokenizer: Any,
    report: RowReport,
    names: dict[str, int],
) -> Iterator[tuple[Comparison, dict[str, Any] | None]]:
    """Comparisons with their rows; None where a comparison is dropped."""
    for chunk in batched_list(comparisons, ROWS_PER_CHUNK):
        encoded = (
            map(_in_characters, chunk)
            if tokenizer is None
            else encode(chunk, tokenizer, spec.max_length, report)
        )
        for comparison, texts, tokens in encoded:
            row = _row(comparison, texts, tokens, spec, report, names) if tokens else None
            yield comparison, row


def _in_characters(comparison: Comparison) -> tuple[Comparison, list[str], list[list[int]]]:
    """Plain texts of prompt and response, and the code points of each response."""
    prompt, *responses = (
        "\n".join(
            spoken([m]) + (json.dumps(m["tool_calls"]) if m.get("tool_calls") else "") for m in part
        )
        for part in (comparison.prompt, *comparison.responses)
    )
    texts = [f"{prompt}\n\n{response}" for response in responses]
    return comparison, texts, [list(map(ord, response)) or [0] for response in responses]


def encode(
    comparisons: Sequence[Comparison], tokenizer: Any, max_length: int, report: RowReport
) -> Iterator[tuple[Comparison, list[str], list[list[int]]]]:
    """Render and tokenise comparisons together; one that cannot be used has no tokens.

    `report` counts comparisons that the template refuses, that lost their oldest turns to fit
    `max_length`, and that do not fit even so.
    """
    rendered = []
    for comparison in comparisons:
        try:
            texts = rendering.render_comparison(tokenizer, comparison)
            rendered.append(texts)
            if rendering.omits_thinking(comparison, texts):
                report.trim("thinking that the template removes", comparison.subset)
        except UserError as error:  # the template refuses a role or an order of roles
            report.add_bad(comparison.place, str(error))
            rendered.append([])
    flat = iter(rendering.tokenize(tokenizer, [text for texts in rendered for text in texts]))
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


def _row(
    comparison: Comparison,
    texts: list[str],
    tokens: list[list[int]],
    spec: TokenizeSpec,
    report: RowReport,
    names: dict[str, int],
) -> dict[str, Any] | None:
    unrated = comparison.ratings is None and not comparison.attributes
    if unrated and len(set(map(tuple, tokens))) < len(tokens) and len(comparison.responses) == 2:
        report.drop("both answers are the same once rendered", comparison.subset)
        return None
    levels = comparison.rank_levels()
    if spec.min_rating_gap is not None:
        comparison = pairs_from_ratings(comparison, spec.min_rating_gap)
    kept = [j for j in comparison.judgements if tokens[j.i] != tokens[j.j]]
    if len(kept) < len(comparison.judgements):
        report.trim("judgements between answers that are the same", comparison.subset)
    lengths = [len(ids) for ids in tokens]
    ratings = [np.nan if r is None else r for r in comparison.ratings or [None] * len(tokens)]
    return {
        "id": comparison.id,
        "subset": comparison.subset,
        "split": comparison.split,
        "group": comparison.group,
        "language": comparison.language,
        "prompt_key": comparison.prompt_key,
        "response_keys": comparison.response_keys,
        "tokens": tokens,
        "texts": texts,
        "lengths": lengths,
        "style": [text_style(response) for response in comparison.responses],
        "ratings": ratings,
        "attributes": _attribute_ratings(comparison, names),
        "weight": comparison.weight,
        "size": PrefixTreeBuilder().with_sequences(tokens).size,
        "longest": max(lengths),
        "rated": sum(r == r for r in ratings),
        **label_columns(kept, levels, ratings, lengths),
    }


def _attribute_ratings(comparison: Comparison, names: dict[str, int]) -> list[list[float]]:
    """The ratings in the order of `names`, to which new ones are added; NaN: unrated."""
    if not comparison.attributes:
        return []
    for name in comparison.attributes:
        names.setdefault(name, len(names))
    unrated = (None,) * len(comparison.responses)
    found = [comparison.attributes.get(name, unrated) for name in names]
    return [[np.nan if r is None else r for r in ratings] for ratings in found]


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

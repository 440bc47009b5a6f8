"""Comparisons as token ids on disk: tokenised once for each `TokenizeSpec.key`, memory-mapped."""

import contextlib
import dataclasses
import gc
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from rmexp.batching.prefix_tree import tree_size
from rmexp.comparison import MAX_PAIRS, Comparison, pairs_from_ratings
from rmexp.core.disk_cache import load_or_build
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.core.garbage import without_search
from rmexp.core.ordered_map import ordered_map, usable_cpus
from rmexp.data.encode import Encoded, batched_list, encode, in_characters
from rmexp.data.label_columns import label_columns
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.splits import SplitKey
from rmexp.data.text_style import text_style
from rmexp.data.tokenize_spec import TokenizeSpec
from rmexp.templates.bulk_tokenizer import BulkTokenizer

ROWS_PER_CHUNK = 512
"""Comparisons that are rendered and tokenised together."""

CHUNKS_ALONE = 40
"""Chunks that are done before worker processes start, which takes each some seconds of CPU."""

MAX_WORKERS = 4
"""Worker processes: more would wait for the process that reads the rows."""

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
        key: of the rows, see `TokenizeSpec.key`.
        rows: a data set with `TOKEN_SCHEMA`.
        report: of reading and tokenising.
        from_cache: they were tokenised earlier.
        dropped: readable comparisons that tokenising dropped: too long, refused by the template.
        attributes: the attributes of the rows, in the order in which they first occur.
    """

    key: str
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
    return TokenTable(home.name, rows, report, True, dropped, attributes), stored["notes"]


def _write(
    spec: TokenizeSpec, tokenizer: Any, home: Path, progress: Callable[[str, int], None]
) -> None:
    report, dropped, notes = RowReport(), list[SplitKey](), list[str]()
    names = list[str]()
    comparisons = read_comparisons(spec.paths, spec.parse, report, spec.limit, spec.reading)
    bulk = None if tokenizer is None else BulkTokenizer(tokenizer)
    tokenise = ChunkTokeniser(bulk, spec.max_length, spec.min_rating_gap)
    chunks = ordered_map(
        tokenise,
        batched_list(comparisons, ROWS_PER_CHUNK),
        min(MAX_WORKERS, usable_cpus()),
        CHUNKS_ALONE,
        {"TOKENIZERS_PARALLELISM": "false"},  # each worker has one CPU
    )
    schema = TOKEN_SCHEMA.arrow_schema
    with (
        collect_fallbacks(notes.append),
        without_search(),
        open(home / "rows.arrow", "wb") as stream,
        pa.ipc.new_stream(stream, schema) as writer,
        contextlib.closing(chunks),
    ):
        for chunk in chunks:
            gc.collect(0)  # what this chunk left behind
            names += [name for name in chunk.attributes if name not in names]
            writer.write_batch(chunk.with_order(names))
            dropped += chunk.dropped
            notes += [note for note in chunk.notes if note not in notes]
            report.merge(chunk.report)
            progress("comparisons tokenised", report.kept)
        check_bad_rows(report, spec.on_bad_row, spec.max_bad_share)
        if report.kept == 0:
            long = any(cause.startswith("longer") for cause in report.dropped)
            fix = " Raise data.max_length." if long else ""
            lost = "; ".join(report.losses())
            raise UserError(f"No comparison is left of {report.read} rows: {lost}.{fix}")
    stored = {
        "report": report.to_dict(),
        "dropped": dropped,
        "notes": notes,
        "attributes": names,
    }
    (home / "report.json").write_text(
        json.dumps(stored, ensure_ascii=False, indent=1), encoding="utf-8"
    )


@dataclass(frozen=True)
class TokenisedChunk:
    """Some rows, with what else a `TokenTable` has, and what was noted."""

    rows: pa.RecordBatch
    report: RowReport
    dropped: list[SplitKey]
    attributes: tuple[str, ...]
    notes: list[str]

    def with_order(self, names: Sequence[str]) -> pa.RecordBatch:
        """The rows with their attributes in the order of `names`."""
        if self.attributes == tuple(names[: len(self.attributes)]):
            return self.rows
        column = self.rows.schema.names.index("attributes")
        field = self.rows.schema.field(column)
        rows = self.rows.select(["attributes", "lengths"]).to_pydict()
        found = reordered(rows, self.attributes, names)
        return self.rows.set_column(column, field, pa.array(found, field.type))


@dataclass(frozen=True)
class ChunkTokeniser:
    """Comparisons -> rows with `TOKEN_SCHEMA`, in this process or another.

    Args:
        tokenize: None: see `load_or_tokenise`.
        max_length, min_rating_gap: see `TokenizeSpec`.
    """

    tokenize: BulkTokenizer | None
    max_length: int
    min_rating_gap: float | None

    def __call__(self, comparisons: Sequence[Comparison]) -> TokenisedChunk:
        """The rows of the comparisons that can be used."""
        report, dropped, notes = RowReport(), list[SplitKey](), list[str]()
        names: dict[str, None] = {}
        rows = []
        with collect_fallbacks(notes.append), without_search():
            encoded: Iterable[Encoded] = (
                map(in_characters, comparisons)
                if self.tokenize is None
                else encode(
                    comparisons, self.tokenize.tokenizer, self.max_length, report, self.tokenize
                )
            )
            for one, texts, tokens in encoded:
                row = self._row(one, texts, tokens, report, names) if tokens else None
                if row is None:
                    dropped.append(SplitKey(one.prompt_key, one.split, one.group))
                else:
                    rows.append(row)
        report.kept = len(rows)
        schema = TOKEN_SCHEMA.arrow_schema
        columns = {name: [row[name] for row in rows] for name in schema.names}
        batch = pa.RecordBatch.from_pydict(columns, schema=schema)
        return TokenisedChunk(batch, report, dropped, tuple(names), notes)

    def _row(
        self,
        comparison: Comparison,
        texts: list[str],
        tokens: list[list[int]],
        report: RowReport,
        names: dict[str, None],
    ) -> dict[str, Any] | None:
        unrated = comparison.ratings is None and not comparison.attributes
        if unrated and len(tokens) == 2 and tokens[0] == tokens[1]:
            report.drop("both answers are the same once rendered", comparison.subset)
            return None
        levels = comparison.rank_levels()
        if self.min_rating_gap is not None:
            comparison = pairs_from_ratings(comparison, self.min_rating_gap)
            if len(tokens) * (len(tokens) - 1) // 2 > MAX_PAIRS:
                report.trim(f"pairs of ratings beyond {MAX_PAIRS} of a row", comparison.subset)
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
            "size": tree_size(tokens),
            "longest": max(lengths),
            "rated": sum(r == r for r in ratings),
            **label_columns(kept, levels, ratings, lengths),
        }


def _attribute_ratings(comparison: Comparison, names: dict[str, None]) -> list[list[float]]:
    """The ratings in the order of `names`, to which new ones are added; NaN: unrated."""
    if not comparison.attributes:
        return []
    names |= dict.fromkeys(comparison.attributes)
    unrated = (None,) * len(comparison.responses)
    found = [comparison.attributes.get(name, unrated) for name in names]
    return [[np.nan if r is None else r for r in ratings] for ratings in found]


def reordered(
    rows: Mapping[str, Any], own: Sequence[str], names: Sequence[str]
) -> list[list[list[float]]]:
    """The column `attributes`, of the attributes `own`, in the order of `names`; NaN: unrated."""
    index = {name: k for k, name in enumerate(own)}
    found = []
    for ratings, tokens in zip(rows["attributes"], rows["lengths"], strict=True):
        unrated = [np.nan] * len(tokens)
        there = [index.get(name, len(ratings)) for name in names]
        found.append(
            [ratings[k] if k < len(ratings) else unrated for k in there] if ratings else []
        )
    return found

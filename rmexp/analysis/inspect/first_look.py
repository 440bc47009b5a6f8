"""What a file is and how its rows would be read, whether or not they can be trained on."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from rmexp.comparison import LABEL_KINDS, Comparison, pairs_from_ratings
from rmexp.core.errors import UserError
from rmexp.data.formats.value_kinds import kind_of
from rmexp.data.reader import check_mapped, parsed_rows
from rmexp.data.row_report import RowReport
from rmexp.data.row_source import MixedSource, RowSource
from rmexp.data.sources import BadRow, open_source
from rmexp.data.tokenize_spec import TokenizeSpec
from rmexp.losses.compatibility import fitting_losses

ROWS = 1000
"""Rows of a source that are looked at."""

_COLUMNS_SHOWN = 40


def first_look(source: RowSource | MixedSource, option: str) -> Iterator[str]:
    """Lines about the first rows of each source: columns, layout, what is odd, how to train.

    Args:
        option: of the group data, for the command.
    """
    if isinstance(source, MixedSource):
        for name, part in source.sources.items():
            yield f"data.sources.{name}:"
            yield from first_look(part, option)
        return
    report, columns, labels = RowReport(), _Columns(), set()
    try:
        with source.own_keys():
            for one in chain.from_iterable(_parsed(source.spec, report, columns)):
                labels |= set(_labels(one, source.spec.min_rating_gap))
    except UserError as error:
        yield f"! {error}"
        return
    report = report.reworded(source.with_own_keys)
    paths = ", ".join(source.paths)
    yield f"{paths}: {'the first ' if report.read == ROWS else ''}{report.read} rows"
    yield f"  columns: {', '.join(columns.words(report.read)) or 'none'}"
    yield from (f"  {line}" for line in report.lines()[1:])
    yield from (f"  ! {place}" for place in report.places.values())
    if report.read == 0:
        yield "  ! there are no rows"
        return
    losses = [loss for loss in fitting_losses(labels) if loss != "mix"] if labels else []
    if not losses:
        yield "  ! these rows have no label to train on; data.fields.FIELD=COLUMN names a column"
        return
    data = "jsonl" if option == "demo" else option
    loss = "" if "bradley_terry" in losses else f" loss={losses[0]}"
    skip = " data.on_bad_row=skip data.max_bad_share=1.0" if report.bad else ""
    kinds = ", ".join(kind for kind in LABEL_KINDS if kind in labels)
    yield f"  labels: {kinds}; losses that fit: {', '.join(losses)}"
    yield f"  train: python -m rmexp data={data} data.path={source.paths[0]}{loss}{skip}"


class _Columns:
    """Counts of the kinds of values in each column."""

    def __init__(self) -> None:
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count the values of a row."""
        for name, value in row.items():
            kind = kind_of(value)
            self.kinds[str(name)].update(() if kind is None else (kind,))

    def words(self, rows: int) -> Iterator[str]:
        """Each column with its kinds, and the share of rows that have it."""
        for name, kinds in islice(self.kinds.items(), _COLUMNS_SHOWN):
            share = sum(kinds.values()) / max(1, rows)
            some = "" if share == 1 else f", in {share:.0%}"
            yield f"{name} ({' or '.join(kinds) or 'empty'}{some})"
        if len(self.kinds) > _COLUMNS_SHOWN:
            yield f"... and {len(self.kinds) - _COLUMNS_SHOWN} more"


def _parsed(
    spec: TokenizeSpec, report: RowReport, columns: _Columns
) -> Iterator[Sequence[Comparison]]:
    """The comparisons of each of the first rows of each path."""
    check_mapped(spec.paths, spec.parse, spec.reading)
    for path in spec.paths.values():
        parts = open_source(path, None, spec.reading, report.note)
        rows = (parsed_rows(part, spec.parse, report, spec.reading) for part in parts)
        for raw, found in islice(chain.from_iterable(rows), ROWS):
            if not isinstance(raw.row, BadRow):
                columns.add(raw.row)
            yield [one for one, _ in found]


def _labels(one: Comparison, min_rating_gap: float | None) -> Iterator[str]:
    """The label kinds of a comparison, with the pairs of its ratings."""
    if min_rating_gap is not None:
        one = pairs_from_ratings(one, min_rating_gap)
    for judgement in one.judgements:
        yield "pairs" if judgement.label else "ties"
        if judgement.margin is not None:
            yield "margins"
        if max(judgement.shares) < 1:
            yield "votes"
    if one.ratings is not None and any(rating is not None for rating in one.ratings):
        yield "ratings"
    if len({level for level in one.rank_levels() if level is not None}) > 1:
        yield "lists"

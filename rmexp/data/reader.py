"""Source + format -> comparisons; every row that is dropped is counted."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rmexp.comparison import Comparison
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.data.formats.column_map import has_column
from rmexp.data.formats.wrapper import read_row
from rmexp.data.row_groups import grouped_rows
from rmexp.data.row_report import RowReport
from rmexp.data.source_keys import path_key, path_named
from rmexp.data.sources import BadRow, LeftOut, RawRow, ReadOptions, open_source, read_rows
from rmexp.data.sources.reading import SourcePart
from rmexp.data.sources.split_names import SPLIT_ALIASES

Format = Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
"""A row is a comparison, or several if it is a tree of dialogues."""


def read_comparisons(
    paths: Mapping[str | None, str | Sequence[str]],
    parse: Format,
    report: RowReport,
    limit: int | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> Iterator[Comparison]:
    """Stream the comparisons of several paths.

    Args:
        paths: split (None: not split yet) -> path, or list of paths.
        parse: the format; rows that it refuses are skipped.
        report: counts rows.
        limit: number of comparisons to take from the start of each split of each path.
        options: what the user says about the sources.

    Raises:
        UserError: the format does not suit these rows; names the first such row.
    """
    check_mapped(paths, parse, options)
    ids: Counter[str] = Counter()
    for split, path in paths.items():
        with path_named(path_key(split, paths)):
            for part in open_source(path, split, options, report.note):
                taken = 0
                for raw, found in parsed_rows(part, parse, report, options):
                    for one, home in found[: None if limit is None else limit - taken]:
                        taken += 1
                        name = _unique(one.id or f"row-{report.read}", ids)
                        yield one.named(name, home, raw.place)
                    if taken == limit:
                        break


def parsed_rows(
    part: SourcePart, parse: Format, report: RowReport, options: ReadOptions
) -> Iterator[tuple[RawRow, Sequence[tuple[Comparison, str | None]]]]:
    """Each row with its comparisons and their splits; none where it is refused or left out.

    Raises:
        UserError: the format does not suit these rows; names the first such row.
    """
    for raw in grouped_rows(part.rows, getattr(parse, "grouped_by", None)):
        report.read += 1
        found: Sequence[tuple[Comparison, str | None]] = ()
        try:
            if isinstance(raw.row, BadRow):
                raise raw.row
            reading, parsed = read_row(parse, raw.row)
            report.add_reading(reading)
            found = [
                (one, part.split or _declared_split(one.split, options, report))
                for one in ([parsed] if isinstance(parsed, Comparison) else parsed)
            ]
        except BadRow as error:
            report.add_bad(raw.place, str(error))
        except LeftOut as cause:
            report.drop(str(cause), "all")
        except UserError as error:
            raise UserError(f"{raw.place}: {error}") from None
        yield raw, found


def check_mapped(
    paths: Mapping[str | None, str | Sequence[str]], parse: Format, options: ReadOptions
) -> None:
    """Refuse columns that the user mapped and that no row has.

    Raises:
        UserError: names the field, the column, near columns, and how to leave it out.
    """
    missing: dict[str, str] = dict(getattr(parse, "mapped", {}))
    columns: dict[str, None] = {}
    for split, path in paths.items():
        with path_named(path_key(split, paths)):
            for raw in read_rows(path, None, options) if missing else ():
                if not isinstance(raw.row, BadRow):
                    columns |= dict.fromkeys(raw.row)
                    missing = {n: c for n, c in missing.items() if not has_column(raw.row, c)}
                if not missing:
                    return
    if missing and columns:
        known = [str(one) for one in columns]
        wrong = [
            f"data.fields.{name}={column}: no row has this column{suggest(column, known)}"
            for name, column in missing.items()
        ]
        off = " ".join(f"data.fields.{name}=null" for name in missing)
        raise UserError(
            f"{'; '.join(wrong)}; {off} leaves out what is optional. The columns are "
            f"{', '.join(known)}."
        )


def _unique(name: str, ids: Counter[str]) -> str:
    """Number repeated ids, around those that there are: predictions are joined by id."""
    ids[name] += 1
    if ids[name] == 1:
        return name
    while (numbered := f"{name}#{ids[name]}") in ids:
        ids[name] += 1
    ids[numbered] = 1
    return numbered


def _declared_split(name: Any, options: ReadOptions, report: RowReport) -> str | None:
    """The split that a row declares, by our name."""
    if name is None or name == "":
        return None
    key = str(name)
    if key in options.split_names:
        if (home := options.split_names[key]) is None:
            raise LeftOut(f"split {key}, as data.split_names says")
        return home
    if key.lower() not in SPLIT_ALIASES:
        report.unknown_splits[key] += 1
        raise BadRow(f"split is none of {', '.join(SPLIT_ALIASES)} ({key!r:.60})")
    return SPLIT_ALIASES[key.lower()]

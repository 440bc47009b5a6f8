"""Rows of Arrow tables: parquet and Arrow files, and directories that `datasets` saved."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.sources.rows import MAX_ROW_BYTES, BadRow, RawRow, find_flaw, too_large
from rmexp.data.sources.streams import SourceFile

ROWS_PER_BATCH = 1024

MAX_BATCH_BYTES = 2**32
"""Of the values of a column that are decoded together, if each were its chunk's largest."""


def parquet_rows(file: SourceFile) -> Iterator[RawRow]:
    """The rows of a parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(_seekable(file))
        check_header(table.schema_arrow.names, str(file.path))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"data.path={file.path} is not a parquet file ({_first_line(error)})."
        ) from error
    return rows_of_batches(_parquet_batches(table), f"{file.path}: row {{}}", first=1)


def _parquet_batches(table: Any) -> Iterator[Any]:
    """A value that a dictionary holds once may be decoded in each of a batch's rows."""
    for group in range(table.num_row_groups):
        facts = table.metadata.row_group(group)
        sizes = [facts.column(n).total_uncompressed_size for n in range(facts.num_columns)]
        most = MAX_BATCH_BYTES // max(1, *sizes)
        yield from table.iter_batches(max(1, min(ROWS_PER_BATCH, most)), row_groups=[group])


def arrow_rows(file: SourceFile) -> Iterator[RawRow]:
    """The rows of an Arrow file, in the file or the stream form."""
    import pyarrow

    try:
        source = _seekable(file)
        start = source.read(6)
        source.seek(0)
        if start == b"ARROW1":
            opened = pyarrow.ipc.open_file(source)
            batches = (opened.get_batch(n) for n in range(opened.num_record_batches))
        else:
            opened = batches = pyarrow.ipc.open_stream(source)
        check_header(opened.schema.names, str(file.path))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"data.path={file.path} is not an Arrow file ({_first_line(error)})."
        ) from error
    return rows_of_batches(batches, f"{file.path}: row {{}}", first=1)


def saved_splits(directory: Path) -> Mapping[str | None, Any] | None:
    """The splits of a directory that `datasets` saved; None: it is no such directory."""
    import datasets

    if (directory / "dataset_dict.json").is_file():
        files = ["dataset_dict.json"]
    elif (directory / "state.json").is_file() and (directory / "dataset_info.json").is_file():
        files = ["state.json"]
    else:
        return None
    try:
        loaded = datasets.load_from_disk(str(directory))
    except Exception as error:  # of JSON, Arrow, or a missing file
        raise UserError(
            f"data.path={directory} has a {files[0]} of `datasets`, but cannot be loaded ({error})."
        ) from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else {None: loaded}


def dataset_rows(rows: Any, name: str, split: str | None) -> Iterator[RawRow]:
    """The rows of a `datasets.Dataset`."""
    tables = rows.with_format("arrow").iter(ROWS_PER_BATCH)
    batches = (batch for table in tables for batch in table.to_batches())
    place = f"{name}[{split}]:{{}}" if split else f"{name}: row {{}}"
    return rows_of_batches(batches, place, first=0 if split else 1)


def check_header(names: Iterable[str], source: str) -> None:
    """Refuse two columns of one name.

    Raises:
        UserError: names the column.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"data.path={source}: two columns are called {twice[0]!r}: rename one.")


def rows_of_batches(batches: Iterable[Any], place: str, first: int) -> Iterator[RawRow]:
    """The rows of record batches; `place` is filled with their number, from `first`."""
    import pyarrow

    number = first
    try:
        for batch in batches:
            for row in _rows_of_batch(batch):
                yield RawRow(place.replace("{}", str(number)), row)
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        where = place.replace("{}", str(number))
        raise UserError(
            f"data.path={where} cannot be read ({_first_line(error)}); fetch the file again."
        ) from error


def _rows_of_batch(batch: Any) -> Iterable[dict[str, Any] | BadRow]:
    if batch.nbytes <= MAX_ROW_BYTES:
        try:
            return batch.to_pylist()
        except (ValueError, OverflowError):  # text that is not UTF-8, dates beyond Python's
            pass
    return (_row(batch.slice(n, 1)) for n in range(batch.num_rows))


def _row(one: Any) -> dict[str, Any] | BadRow:
    try:
        (row,) = one.to_pylist()
    except (ValueError, OverflowError) as error:
        text = isinstance(error, UnicodeDecodeError)
        return BadRow(f"{'not UTF-8' if text else 'a value cannot be read'} ({error!s:.100})")
    size = _size_of(row)
    return too_large(size) if size > MAX_ROW_BYTES else find_flaw(row) or row


def _size_of(value: Any) -> int:
    """Characters and bytes in a value, at any depth."""
    if isinstance(value, str | bytes):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_size_of, parts))


def _seekable(file: SourceFile) -> Any:
    """The file, mapped into memory; or what it is decompressed to."""
    import pyarrow

    if not file.sample:
        raise UserError(f"data.path={file.path} is empty.")
    if file.compression is None:
        return pyarrow.memory_map(str(file.path))
    return pyarrow.BufferReader(file.read())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

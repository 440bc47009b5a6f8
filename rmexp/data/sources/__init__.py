"""Raw rows of files, folders and hub data sets: one module per container, one `read_rows`."""

from rmexp.data.sources.local_paths import hub_id
from rmexp.data.sources.reading import check_source, open_source, read_rows
from rmexp.data.sources.rows import BadRow, LeftOut, RawRow, ReadOptions

__all__ = [
    "BadRow",
    "LeftOut",
    "RawRow",
    "ReadOptions",
    "check_source",
    "hub_id",
    "open_source",
    "read_rows",
]

"""Raw rows of files, local `datasets` directories and hub data sets.

A row that cannot be read (not JSON, not UTF-8) is yielded as a `BadRow`, so that the caller counts
it with the rows that the format refuses.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")

SPLIT_ALIASES = {
    "train": "train",
    "val": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "eval": "test",
}
"""Split names of data sets -> train, val or test."""


class BadRow(Exception):
    """A row that cannot be used; the message is the reason."""


class LeftOut(Exception):
    """A valid row that is not wanted or has no labels; the message is the cause."""


@dataclass(frozen=True)
class RawRow:
    """A row as in the source, and its place: `file:line` or `name[split]:index`."""

    place: str
    row: dict[str, Any] | BadRow
    split: str | None = None


def read_rows(path: str, split: str | None = None) -> Iterator[RawRow]:
    """Stream the rows of a file, a `datasets` directory (`save_to_disk`) or a hub data set.

    Args:
        path: a hub id may name one file (`owner/name:folder/rows.jsonl.gz`) or one split
            (`owner/name:train_prefs`) of it.
        split: the split of all rows (train, val, test); None keeps the splits of the data set.

    Raises:
        UserError: `path` cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        rows = _read_datasets_directory(file)
    elif file.is_file():
        rows = _read_file(file)
    elif _looks_like_a_hub_id(path):
        rows = _read_hub(path)
    else:
        raise missing(path)
    for raw in rows:
        yield RawRow(raw.place, raw.row, split or raw.split)


def check_source(path: str, key: str = "data.path") -> None:
    """Refuse a path that does not exist and is no hub id.

    Raises:
        UserError: names `key` and the path.
    """
    if not Path(path).expanduser().exists() and not _looks_like_a_hub_id(path):
        raise missing(path, key)


def missing(path: str, key: str = "data.path") -> UserError:
    """The error for a path that does not exist."""
    return UserError(f"{key}={path}: there is no such file{_nearby(Path(path).expanduser())}.")


def _read_file(file: Path) -> Iterator[RawRow]:
    name = file.name
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _read_json_lines(file)
    if name.endswith((".json", ".json.gz")):
        return _read_json_array(file)
    if name.endswith(".csv"):
        return _read_csv(file)
    if name.endswith(".parquet"):
        return _read_parquet(file)
    raise UserError(
        f"data.path={file}: cannot tell what is in it; known endings: {', '.join(SUFFIXES)}."
    )


def _open_bytes(file: Path) -> Any:
    return gzip.open(file, "rb") if file.name.endswith(".gz") else open(file, "rb")


def _read_json_lines(file: Path) -> Iterator[RawRow]:
    number = 0
    with _open_bytes(file) as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield RawRow(f"{file}:{number}", _parse_json_line(line))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"data.path={file}: the gzip stream breaks off after line {number} ({error}); "
                "fetch the file again."
            ) from error


def _parse_json_line(line: bytes) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})")
    except ValueError as error:
        return BadRow(f"not JSON ({error})")
    return row if isinstance(row, dict) else BadRow(f"a JSON {type(row).__name__}, not an object")


def _read_json_array(file: Path) -> Iterator[RawRow]:
    with _open_bytes(file) as stream:
        try:
            rows = json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"data.path={file} is not JSON ({error}); one object a line? Then name it .jsonl."
            ) from error
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise UserError(
            f"data.path={file}: expected a JSON list of rows, or an object with one list in it."
        )
    for number, row in enumerate(rows, 1):
        bad = BadRow(f"a JSON {type(row).__name__}, not an object")
        yield RawRow(f"{file}: row {number}", row if isinstance(row, dict) else bad)


def _read_csv(file: Path) -> Iterator[RawRow]:
    try:
        # Invalid UTF-8 becomes lone surrogates, which the formats refuse by row and field.
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                place = f"{file}:{reader.line_num}"
                if None in row or None in row.values():
                    yield RawRow(
                        place, BadRow(f"not the {len(reader.fieldnames or ())} cells of the header")
                    )
                else:
                    yield RawRow(place, row)
    except csv.Error as error:
        raise UserError(
            f"data.path={file}, line {reader.line_num} is not CSV ({error})."
        ) from error


def _read_parquet(file: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"data.path={file} is not a parquet file ({error}).") from error
    number = 0
    for batch in table.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield RawRow(f"{file}: row {number}", row)


def _read_datasets_directory(directory: Path) -> Iterator[RawRow]:
    import datasets

    if (directory / "dataset_dict.json").is_file() or (directory / "dataset_info.json").is_file():
        return _rows_of_dataset(datasets.load_from_disk(str(directory)), str(directory))
    files = [f for f in directory.rglob("*") if f.name.endswith(SUFFIXES)]
    if not files:
        raise UserError(
            f"data.path={directory}: neither a saved `datasets` directory "
            "nor a folder with data files."
        )
    return _rows_of_dataset(datasets.load_dataset(str(directory)), str(directory))


def _read_hub(path: str) -> Iterator[RawRow]:
    import datasets
    import huggingface_hub

    name, _, part = path.partition(":")
    try:
        if part.endswith(SUFFIXES):
            file = huggingface_hub.hf_hub_download(name, part, repo_type="dataset")
            return _read_file(Path(file))
        loaded = datasets.load_dataset(name, split=part or None)
    except Exception as error:  # the hub client raises many types; the first line names the problem
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"data.path={path}: no such file here, and the hub did not give it ({first})."
        ) from error
    return _rows_of_dataset(loaded, path)


def _rows_of_dataset(loaded: Any, name: str) -> Iterator[RawRow]:
    """Rows of a data set with its known splits, see `SPLIT_ALIASES`."""
    import datasets

    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    unknown = [str(part) for part in parts if part not in SPLIT_ALIASES]
    if len(parts) > 1 and unknown:
        raise UserError(
            f"data.path={name} has the splits {', '.join(map(str, parts))}, and it is "
            f"not known what {', '.join(unknown)} should be: save the wanted ones as files and "
            "give data.path, data.val_path and data.test_path."
        )
    for part, rows in parts.items():
        for index, row in enumerate(rows):
            split = SPLIT_ALIASES[part] if part is not None and len(parts) > 1 else None
            place = f"{name}[{part}]:{index}" if part else f"{name}: row {index + 1}"
            yield RawRow(place, row, split)


def _looks_like_a_hub_id(path: str) -> bool:
    """`owner/name` or `owner/name:part`, without the suffix of a file or a local folder `owner`."""
    owner, slash, name = path.partition(":")[0].partition("/")
    plain = bool(slash) and owner not in ("", ".", "..", "~") and "/" not in name and name != ""
    return plain and not name.endswith(SUFFIXES) and not Path(owner).exists()


def _nearby(file: Path) -> str:
    import difflib

    parent = file.parent
    if not parent.is_dir():
        return f" (nor a folder {parent})"
    close = difflib.get_close_matches(file.name, [f.name for f in parent.iterdir()], n=1)
    return f"; did you mean {parent / close[0]}?" if close else f" in {parent.resolve()}"

"""`read_rows`: the rows of anything that a user may name as a source."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.sources import local_paths
from rmexp.data.sources.arrow_rows import arrow_rows, dataset_rows, parquet_rows, saved_splits
from rmexp.data.sources.csv_rows import csv_rows
from rmexp.data.sources.hub_configs import (
    chosen_configuration,
    configurations,
    files_of_configuration,
)
from rmexp.data.sources.json_rows import json_rows
from rmexp.data.sources.rows import Note, RawRow, ReadOptions
from rmexp.data.sources.split_names import (
    SPLIT_ALIASES,
    group_by_split,
    looks_like_split,
    split_of_file,
)
from rmexp.data.sources.streams import BREAKS, SourceFile

NAMES_SHOWN = 4
"""Files that a sentence names; the rest is counted."""

Rows = Iterator[RawRow]


@dataclass(frozen=True)
class SourcePart:
    """The rows of one split of a source; `split` is None where they are still to be split."""

    split: str | None
    rows: Rows


@dataclass(frozen=True)
class _Piece:
    """A file or a part of a data set: its name, and what reads it."""

    name: str
    read: Callable[[], Rows]


_Named = list[tuple[str | None, _Piece]]


def read_rows(
    path: str | Sequence[str],
    split: str | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    note: Note = lambda sentence: None,
) -> Rows:
    """Stream the rows of a source, one split after the other; see `open_source`."""
    for part in open_source(path, split, options, note):
        for raw in part.rows:
            yield RawRow(raw.place, raw.row, part.split)


def open_source(
    path: str | Sequence[str],
    split: str | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008
    note: Note = lambda sentence: None,
) -> list[SourcePart]:
    """The parts of a source, whose rows are read as they are taken.

    Args:
        path: a file, a folder, a directory that `datasets` saved, a pattern (`shards/*.jsonl`), a
            hub id, or a list of these. Of a folder or a hub id, `DIR@CONFIG` names a
            configuration and `DIR:SPLIT` a split; of a hub id, `owner/name:FILE` a file.
        split: the split of all rows (train, val, test); None keeps the splits of the source.
        options: what the user says about the source.
        note: takes sentences on how it is read.

    Raises:
        UserError: `path` cannot be read, or its splits are not known.
    """
    paths = [path] if isinstance(path, str) else list(path)
    pieces = [piece for one in paths for piece in _pieces(one, len(paths) > 1, options, note)]
    source = paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"
    parts = group_by_split(pieces, options, source, note)
    if split is not None and len(parts) > 1:
        homes = " and ".join(str(home) for home, _ in parts)
        name = next(name for name, _ in pieces if name)
        raise UserError(
            f"data.path={source} has rows of {homes}, and all rows of this path would be {split}: "
            f"name the split to read, {source}:{name}."
        )
    if any(piece.name != name for name, piece in pieces) and len(pieces) > 1:
        note(f"{source}: {_where_it_went(parts, pieces)}")
    return [SourcePart(split or home, _chained(of_it)) for home, of_it in parts]


def check_source(path: str | Sequence[str], key: str = "data.path") -> None:
    """Refuse a path that does not exist, before anything is read.

    Raises:
        UserError: names `key` and the path.
    """
    for one in [path] if isinstance(path, str) else path:
        if local_paths.local_files(one) or local_paths.looks_like_hub_id(one):
            continue
        raise local_paths.missing(one, key)


def _pieces(path: str, listed: bool, options: ReadOptions, note: Note) -> _Named:
    local, config, split = local_paths.split_path(path)
    if os.path.isdir(local):
        return _of_split(path, _directory(local, config, options, note), split)
    if os.path.isfile(local):
        name = split_of_file(Path(local.name)) if listed else None
        return [(name, _file_piece(local, options, note))]
    if matched := local_paths.matching(path):
        files = [file for file in matched if local_paths.container_of(file) is not None]
        if not files:
            raise _unknown_suffix(matched[0])
        _note_others(path, [file for file in matched if file not in files], note)
        return _by_name(files, local_paths.common_folder(files), options, note)
    if local_paths.looks_like_hub_id(path):
        return _hub(path, options, note)
    raise local_paths.missing(path)


def _directory(directory: Path, config: str | None, options: ReadOptions, note: Note) -> _Named:
    if (saved := saved_splits(directory)) is not None:
        return _dataset_pieces(saved, str(directory))
    known = configurations(directory)
    name = chosen_configuration(directory, known, config)
    root = directory
    if name is not None and "data_files" in known[name]:
        found = files_of_configuration(directory, name, known[name])
        note(f"{directory}: configuration {name} of its README.md")
        return [(split, _file_piece(file, options, note)) for split, file in found]
    if name is not None:
        root = directory / str(known[name]["data_dir"])
    files, others = local_paths.data_files(root)
    if not files:
        raise UserError(
            f"data.path={root}: neither a saved `datasets` directory nor a folder with data files "
            f"({', '.join(local_paths.CONTAINERS)}, also compressed)."
        )
    _note_others(str(directory), others, note)
    return _by_name(files, root, options, note)


def _by_name(files: list[Path], root: Path, options: ReadOptions, note: Note) -> _Named:
    """Files with the splits that they are named after."""
    named: _Named = []
    for file in files:
        split = split_of_file(Path(os.path.relpath(file, root)))
        named.append((split, _file_piece(file, options, note)))
        if split is None and looks_like_split(file.name.partition(".")[0]):
            note(f"{file.name} is not taken for a split by its name: only train, val and test are")
    return named


def _file_piece(file: Path, options: ReadOptions, note: Note) -> _Piece:
    return _Piece(file.name, partial(_read_file, file, options, note))


def _read_file(path: Path, options: ReadOptions, note: Note) -> Rows:
    """The rows of a file, whose beginning is in memory while it is read: there may be thousands.

    Raises:
        UserError: it cannot be opened, is of no known kind, or breaks off.
    """
    file, place = SourceFile(path, options, note), "its start"
    try:
        for raw in _reader_of(file)(file):
            place = raw.place
            yield raw
    except PermissionError:
        raise UserError(f"data.path={path}: no permission to read this file.") from None
    except BREAKS as error:
        raise UserError(
            f"data.path={path} breaks off after {place} ({error}); fetch the file again."
        ) from error


def _reader_of(file: SourceFile) -> Callable[[SourceFile], Rows]:
    """By the first bytes where they are those of parquet or Arrow, else by the name."""
    named = local_paths.container_of(file.path)
    shown = {b"PAR1": ".parquet", b"ARRO": ".arrow"}.get(file.sample[:4])
    if shown is not None and shown != named:
        file.note(f"{file.path.name}: read as {shown[1:]}, which it is")
    readers: dict[str, Callable[[SourceFile], Rows]] = {
        ".csv": csv_rows,
        ".tsv": csv_rows,
        ".parquet": parquet_rows,
        ".arrow": arrow_rows,
    }
    kind = shown or named
    if kind is None:
        raise _unknown_suffix(file.path)
    return readers.get(kind, json_rows)


def _hub(path: str, options: ReadOptions, note: Note) -> _Named:
    import datasets
    import huggingface_hub

    whole, _, part = path.partition(":")
    name, _, config = whole.partition("@")
    try:
        if part.endswith(local_paths.SUFFIXES):
            file = huggingface_hub.hf_hub_download(name, part, repo_type="dataset")
            return [(None, _file_piece(Path(file), options, note))]
        configs = [config] if config else []
        loaded = datasets.load_dataset(name, *configs, split=part or None)
    except Exception as error:  # the hub client raises many types; the first line names the problem
        said = str(error).strip() or type(error).__name__
        which = "Config name is missing" in said
        first = " ".join(said.split()) if which else said.splitlines()[0]
        choose = f" Choose one: data.path={name}@CONFIG." if which else ""
        raise UserError(
            f"data.path={path}: no such file here{local_paths.nearby(path)}, and the hub did not "
            f"give it ({first}).{choose}"
        ) from error
    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    return _dataset_pieces(parts, path)


def _dataset_pieces(parts: Mapping[str | None, Any], name: str) -> _Named:
    return [
        (part, _Piece(part or name, partial(dataset_rows, rows, name, part)))
        for part, rows in parts.items()
    ]


def _of_split(path: str, pieces: _Named, split: str | None) -> _Named:
    """The pieces of the split that was asked for."""
    if split is None:
        return pieces
    alias = SPLIT_ALIASES.get(split)
    found = [piece for name, piece in pieces if name == split] or [
        piece for name, piece in pieces if name and alias and SPLIT_ALIASES.get(name) == alias
    ]
    if not found:
        names = ", ".join(dict.fromkeys(name or "files of no split" for name, _ in pieces))
        raise UserError(f"data.path={path} has no split {split}; it has {names}.")
    return [(None, piece) for piece in found]


def _chained(pieces: Sequence[_Piece]) -> Rows:
    for piece in pieces:
        yield from piece.read()


def _where_it_went(parts: Sequence[tuple[str | None, list[_Piece]]], pieces: _Named) -> str:
    if len(parts) == 1 and parts[0][0] is None:
        return f"{len(pieces)} files one after the other ({_listed([p.name for _, p in pieces])})"
    return "; ".join(f"{home} is {_listed([p.name for p in of_it])}" for home, of_it in parts)


def _note_others(source: str, others: Sequence[Path], note: Note) -> None:
    if others:
        note(f"{source}: no data, not read: {_listed([file.name for file in others])}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _unknown_suffix(file: Path) -> UserError:
    fixes = [fix for end, fix in local_paths.OTHER_CONTAINERS.items() if end in file.suffixes]
    if fixes:
        return UserError(f"data.path={file}: {fixes[0]}.")
    return UserError(
        f"data.path={file}: cannot tell what is in it; known endings: "
        f"{', '.join(local_paths.CONTAINERS)}, each also with .gz, .zst, .bz2 or .xz."
    )

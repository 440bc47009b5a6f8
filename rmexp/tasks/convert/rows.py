"""Where the rows come from, and what both peers do with them that rmexp does otherwise."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmexp.tasks.convert.settings import Settings

BUILDERS = ("json", "csv", "parquet", "text", "arrow")
"""Names that `datasets` takes in place of a path, with the files apart."""


REASONS = {
    "name": "save the rows of this configuration as a file, which is then the path",
    "split": "a file is read whole (data.limit takes its first rows)",
    "fraction": "see data.weights and data.limit",
    "data_files": "rows come from one file: join them",
}
"""What an entry may say besides, and what to say of it."""


Entry = dict[str, Any]


def convert_sources(
    s: Settings, key: str, entries: Sequence[Any], more: Callable[[str, Entry, str], None]
) -> None:
    """One data set is `data=jsonl`; several are `data=mix`, in which each row comes once as well.

    Args:
        s: the settings.
        key: the peer's name of the list.
        entries: the list.
        more: `(place, entry, ours)` takes what only this peer says out of an entry; `ours` is
            where the entry goes.
    """
    s.choose("data", "jsonl" if len(entries) == 1 else "mix", key)
    for number, given in enumerate(entries):
        place, ours = f"{key}[{number}]", "data"
        entry = _present(s, place, given)
        path = _path(s, place, entry)
        if len(entries) > 1:
            ours = f"data.sources.{_name(path.partition(':')[0], s.options)}"
            s.choose(f"data@{ours}", "jsonl", place)
        s.put(f"{ours}.path", path, place)
        more(place, entry, ours)
        for name in entry:
            s.leave(f"{place}.{name}", REASONS.get(name, "not known"))


def convert_validation(s: Settings, key: str, entries: Sequence[Any]) -> None:
    """The first of a list of data sets to evaluate on is what rmexp selects on."""
    entry = _present(s, f"{key}[0]", entries[0])
    ours = next(path for path in s.lines if path.startswith("data.") and path.endswith(".path"))
    s.put(ours.replace(".path", ".val_path"), _path(s, f"{key}[0]", entry), f"{key}[0].path")
    for number in range(1, len(entries)):
        s.leave(f"{key}[{number}]", "there is one source of validation rows")


def _present(s: Settings, place: str, entry: Any) -> Entry:
    """What an entry says, without what is null or as it always is here."""
    read = s.read(place, entry, Mapping[str, Any])
    usual = {"split": "train"}
    return {k: v for k, v in read.items() if v is not None and usual.get(k) != v}


def _path(s: Settings, place: str, entry: Entry) -> str:
    """The file, hub id or part of a hub id; takes out of the entry what says so."""
    path = str(s.read(f"{place}.path", entry.pop("path", None), str))
    entry.pop("ds_type", None)
    files = entry.get("data_files") or []
    files = [files] if isinstance(files, str) else files
    if len(files) == 1:
        entry.pop("data_files")
        whole = path in (*BUILDERS, files[0])
        return str(files[0]) if whole else part_of(path, files[0]) or f"{path}/{files[0]}"
    if not files and "split" in entry and (part := part_of(path, entry["split"])):
        entry.pop("split")
        return part
    return path


def part_of(path: str, part: Any) -> str | None:
    """A split or a file of a hub data set; None where `path` is not one."""
    return f"{path}:{part}" if re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) else None


def _name(path: str, taken: Container[str]) -> str:
    """What a source is called in the mixture: a key of Hydra's that is free."""
    plain = re.sub(r"\W+", "_", Path(path).name.split(".")[0].lower(), flags=re.ASCII).strip("_")
    name = plain if plain[:1].isalpha() else f"rows_{plain}"
    names = [name, *(f"{name}_{number}" for number in range(2, 1000))]
    return next(name for name in names if f"data@data.sources.{name}" not in taken)


def note_differences(s: Settings, long_rows: str) -> None:
    """What no key says.

    Args:
        s: the settings.
        long_rows: what the peer does with rows of too many tokens.
    """
    s.notes.append(
        f"Long rows: {s.peer} {long_rows}; rmexp drops the oldest turns of the prompt, and only "
        "then the pair."
    )
    s.notes.append(
        "rmexp keeps prompts out of training to select on and to report on: data.val_share and "
        "data.test_share, where the data has no such splits."
    )

"""Which files and parts of a source are train, val and test."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

from rmexp.core.errors import UserError
from rmexp.data.sources.rows import Note, ReadOptions

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Split names of data sets -> train, val or test."""

_Item = TypeVar("_Item")

_SHARD = re.compile(r"[-_.]\d+[-_]of[-_]\d+([-_.][0-9a-f]{8,})?$")
_NUMBER = re.compile(r"[-_.]?\d+$")


def split_of_file(file: PurePath) -> str | None:
    """The split that a file is named after, or else one of its folders; None: no split.

    `train.jsonl`, `train-00000-of-00002.parquet`, `test_0.csv` and `dev/part-1.json` are; so is
    `train_prefs-00000-of-00001.parquet`, whose split is `train_prefs`.
    """
    stem = file.name.lower().partition(".")[0]
    shard = _SHARD.sub("", stem)
    for name in (shard, _NUMBER.sub("", shard), *(p.lower() for p in reversed(file.parts[:-1]))):
        if name in SPLIT_ALIASES:
            return name
    return shard if shard != stem and _words(shard) & set(SPLIT_ALIASES) else None


def group_by_split(
    items: Sequence[tuple[str | None, _Item]], options: ReadOptions, source: str, note: Note
) -> list[tuple[str | None, list[_Item]]]:
    """Items with the names of their splits -> our splits, each with its items.

    Where all have the same name or none has one, their rows are still to be split.

    Raises:
        UserError: a name says neither train, val nor test; offers the keys that decide.
    """
    names = dict.fromkeys(name for name, _ in items)
    if len(names) < 2:
        return [(None, [item for _, item in items])]
    known: Mapping[str, str | None] = SPLIT_ALIASES | dict(options.split_names)
    unknown = [name for name in names if name is not None and name not in known]
    if unknown:
        raise UserError(_unknown(source, [name for name in names if name], unknown))
    found: dict[str | None, list[_Item]] = {"train": [], "val": [], "test": []}
    for name, item in items:
        if (home := "train" if name is None else known[name]) is not None:
            found[home].append(item)
    out = [name for name in names if name is not None and known[name] is None]
    if out:
        note(f"{source}: {', '.join(out)} left out, as data.split_names says")
    return [(home, of_it) for home, of_it in found.items() if of_it]


def offered_names(names: Sequence[str]) -> str:
    """The override that gives split names their likely meaning."""
    guesses = {name: _guess(name) or "null" for name in names}
    listed = ", ".join(f"{name}: {guess}" for name, guess in guesses.items())
    return f"'data.split_names={{{listed}}}'"


def looks_like_split(name: str) -> bool:
    """Whether a name has a word that names a split."""
    return _guess(name) is not None


def _unknown(source: str, names: Sequence[str], unknown: Sequence[str]) -> str:
    paths = {"train": "data.path", "val": "data.val_path", "test": "data.test_path"}
    chosen: dict[str, str] = {}
    for name in names:
        chosen.setdefault(paths[_guess(name) or "train"], name)
    if "data.path" not in chosen:
        chosen["data.path"] = names[0]
    words = " ".join(f"{key}={source}:{chosen[key]}" for key in paths.values() if key in chosen)
    is_are = "is no split" if len(unknown) == 1 else "are no splits"
    return (
        f"data.path={source} has the splits {', '.join(names)}; {', '.join(unknown)} {is_are} "
        f"known here: choose ({words}), or say what each is: {offered_names(unknown)}."
    )


def _guess(name: str) -> str | None:
    return next((SPLIT_ALIASES[word] for word in SPLIT_ALIASES if word in _words(name)), None)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))

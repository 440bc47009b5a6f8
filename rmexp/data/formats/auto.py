"""The format of a row by its columns."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmexp.comparison import Comparison
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.data.formats.column_map import value_at
from rmexp.data.formats.fields import FieldRow
from rmexp.data.formats.layouts import (
    BY_NAME,
    LAYOUTS,
    NAMED_ONLY,
    SHARED_FIELDS,
    UNLABELLED,
    RowLayout,
)
from rmexp.data.formats.unrecognised import why_not
from rmexp.data.formats.usual_names import TWO, Columns, field_of
from rmexp.data.formats.value_kinds import Signature, kind_of, normalised_name, signature
from rmexp.data.formats.wrapper import Read
from rmexp.data.sources import BadRow

OTHER_NAMES = {"context": "prompt", "completion": "response", "label": "rating"}
"""Fields that the user may map under another name."""

RATINGS_OFFERED = 3
"""Columns of numbers that are offered as the rating of rows without a label."""

LABEL_FIELDS = frozenset(columns.fields[0] for columns in SHARED_FIELDS)


@dataclass(frozen=True, eq=False)
class Reading:
    """How rows with certain columns are read.

    Args:
        layout: its name.
        words: the layout and the columns that it needs, as printed.
        columns: field of the format -> column.
        format: reads the fields.
        also: other columns that are read, and as what.
        unread: ignored columns that may matter, each with the override that reads it.
        others: all ignored columns.
    """

    layout: str
    words: str
    columns: Mapping[str, str]
    format: Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
    also: Sequence[str]
    unread: Sequence[str]
    others: Sequence[str]

    def __call__(self, row: Mapping[str, Any]) -> Comparison | Sequence[Comparison]:
        fields = {name: value_at(row, column) for name, column in self.columns.items()}
        return self.format(FieldRow(fields, self.columns, row))


@dataclass(frozen=True)
class Auto:
    """Reads each row by its columns, see `layouts.LAYOUTS`.

    Args:
        layout: the name of one layout that all rows have; None: any.
        fields: field -> its column in these rows; None: the field is not read. Other fields are
            found under their usual names.
    """

    layout: str | None = None
    fields: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in BY_NAME:
            raise UserError(
                f"data.format={self.layout}: there is no such layout"
                f"{suggest(self.layout, list(BY_NAME))}; known: auto, {', '.join(BY_NAME)}."
            )
        known = {name for layout in LAYOUTS for name in declared(layout)} | set(OTHER_NAMES)
        for name in self.fields:
            if name not in known:
                raise UserError(
                    f"data.fields.{name}: no layout has such a field{suggest(name, sorted(known))}."
                )

    @property
    def label_kinds(self) -> tuple[str, ...] | None:
        """The label kinds of the layout; None: only the rows tell."""
        return None if self.layout is None else BY_NAME[self.layout].format.label_kinds

    @property
    def mapped(self) -> Mapping[str, str]:
        """Field -> the column that the user named."""
        return {name: column for name, column in self.fields.items() if column is not None}

    def reading(self, row: Mapping[str, Any]) -> Reading:
        """How a row is read.

        Raises:
            BadRow: no layout has its columns, or several have.
        """
        mapped = tuple((OTHER_NAMES.get(k, k), column) for k, column in self.fields.items())
        own = tuple(
            (f"={column}", kind)
            for _, column in mapped
            if column is not None and (kind := kind_of(value_at(row, column))) is not None
        )
        found = recognise(signature(row) + own, mapped, self.layout)
        if isinstance(found, str):  # an empty answer is one that is missing here
            empty = tuple((name, kind_of(value) or "text") for name, value in row.items())
            if isinstance(again := recognise(empty + own, mapped, self.layout), Reading):
                return again
            raise BadRow(found)
        return found

    def __call__(self, row: Mapping[str, Any]) -> Comparison | Sequence[Comparison]:
        return self.read(row)[1]

    def read(self, row: Mapping[str, Any]) -> Read:
        """How the row is read, and its comparisons."""
        reading = self.reading(row)
        return reading, reading(row)


@functools.lru_cache(maxsize=4096)
def recognise(
    columns: Signature, mapped: tuple[tuple[str, str | None], ...], only: str | None
) -> Reading | str:
    """How rows with these columns are read, or why they cannot be.

    Args:
        columns: that have a value, with their kinds; a mapped column also as `=COLUMN`.
        mapped: field -> the column that the user named, or None for a field that is not read.
        only: the name of the one layout to consider.
    """
    there: dict[str, tuple[str, str]] = {}
    for name, kind in columns:
        own = name.startswith("=")
        there.setdefault(name if own else normalised_name(name), (name.removeprefix("="), kind))
    fixed = dict(mapped)
    taken = {column for field, column in mapped if column is not None and field not in LABEL_FIELDS}
    free = {key: found for key, found in there.items() if key[:1] == "=" or found[0] not in taken}
    asked = [BY_NAME[only]] if only else [layout for layout in LAYOUTS if layout.tier < NAMED_ONLY]
    layouts = [one for one in asked if _uses(one, fixed)] or asked
    matches, ambiguous = [], []
    for layout in layouts:
        match = _match(layout.needs, free, fixed)
        if isinstance(match, str):
            ambiguous.append((layout.tier, match))
        elif match is not None:
            matches.append((layout, *match))
    tiers = [layout.tier for layout, *_ in matches] + [tier for tier, _ in ambiguous]
    matches = [one for one in matches if one[0].tier == min(tiers)]
    matches = [one for one in matches if not any(_columns(one) < _columns(o) for o in matches)]
    surest = min((rank for _, rank, _ in matches), default=0)
    matches = [one for one in matches if one[1] == surest]
    matches = [
        one
        for n, one in enumerate(matches)
        if not any(o[2] == one[2] and o[0].format == one[0].format for o in matches[:n])
    ]
    if not matches:
        return ambiguous[0][1] if ambiguous else why_not(free, fixed, only)
    if len(matches) > 1:
        names = [layout.name for layout, *_ in matches]
        return (
            f"the columns are those of {' and of '.join(layout.title for layout, *_ in matches)}: "
            f"say {' or '.join(f'data.format={name}' for name in names)}"
        )
    return _reading(matches[0][0], matches[0][2], free, fixed)


Fields = dict[str, str]


def declared(layout: RowLayout) -> set[str]:
    """The fields that a layout reads."""
    every = (*layout.needs, *layout.takes, *SHARED_FIELDS)
    return {field for columns in every for field in columns.fields}


def _uses(layout: RowLayout, fixed: Mapping[str, str | None]) -> bool:
    return {name for name, column in fixed.items() if column is not None} <= declared(layout)


def _columns(match: tuple[RowLayout, int, Fields]) -> set[str]:
    return set(match[2].values())


def _match(
    needs: Iterable[Columns], there: Mapping[str, Any], fixed: Mapping[str, str | None]
) -> tuple[int, Fields] | str | None:
    """The tier of the least sure columns, and field -> column; what is ambiguous;
    None: some are missing."""
    found: Fields = {}
    ambiguous, worst = [], 0
    for need in needs:
        tier, choices = need.find(there, fixed)
        if not choices:
            return None
        worst = max(worst, tier)
        if len(choices) > 1:
            said = [
                " ".join(f"data.fields.{f}={c}" for f, c in zip(need.fields, choice, strict=True))
                for choice in choices
            ]
            either = " or ".join(" and ".join(choice) for choice in choices)
            what = " and ".join(need.fields)
            ambiguous.append(f"{what} may be {either}: say {' or '.join(said)}")
        found |= zip(need.fields, choices[0], strict=True)
    if ambiguous:
        return ambiguous[0]
    return (worst, found) if len(set(found.values())) == len(found) else None


def _reading(
    layout: RowLayout,
    needed: Fields,
    there: Mapping[str, tuple[str, str]],
    fixed: Mapping[str, str | None],
) -> Reading:
    fields = dict(needed)
    for columns in (*layout.takes, *SHARED_FIELDS):
        if columns.beside in (None, normalised_name(fields.get("prompt", ""))):
            _, choices = columns.find(there, fixed)
            fields |= zip(columns.fields, choices[0], strict=True) if choices else ()
    content = dict(needed)
    if "input" in fields and "prompt" in content:
        content["prompt"] += f" + {fields['input']}"
    words = f"{layout.title}: {', '.join(dict.fromkeys(content.values()))}"
    also = [
        column if column == name else f"{column} as {name}"
        for name, column in fields.items()
        if name not in needed and name != "input"
    ]
    unread = [
        f"{column} ignored: say data.fields.{name}={column}"
        for key, (column, kind) in there.items()
        if column not in fields.values()
        and (name := field_of(key, kind)) in declared(layout)
        and name not in fixed
    ]
    others = [column for _, (column, _) in there.items() if column not in fields.values()]
    if layout.tier == UNLABELLED:
        unread += [
            f"{column} ignored: say data.fields.rating={column} if it rates the response"
            for column, kind in there.values()
            if kind == "number" and column not in fields.values() and "rating" not in fixed
        ][:RATINGS_OFFERED]
    if third := _third_answer(fields, there):
        unread.append(f"{third} ignored: K answers are a list in one column, responses")
    return Reading(layout.name, words, fields, layout.format, also, unread, others)


def _third_answer(fields: Fields, there: Mapping[str, tuple[str, str]]) -> str | None:
    """The column of a third answer, such as response_3 beside response_1 and response_2."""
    one, other = (normalised_name(fields.get(field, "")) for field in TWO.fields)
    differ = [n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(differ) != 1 or len(one) != len(other):
        return None
    at = differ[0]
    third = other[:at] + chr(ord(other[at]) + 1) + other[at + 1 :]
    return there.get(third, (None, ""))[0]

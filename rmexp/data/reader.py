"""Source + format -> comparisons; every row that is dropped is counted."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rmexp.comparison import Comparison
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.data.formats.column_map import has_column
from rmexp.data.formats.wrapper import read_row
from rmexp.data.sources import BadRow, LeftOut, ReadOptions, open_source, read_rows
from rmexp.data.sources.split_names import SPLIT_ALIASES, looks_like_split, offered_names

Format = Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
"""A row is a comparison, or several if it is a tree of dialogues."""

EXAMPLES = 3
"""Bad rows that are named; the rest is counted."""

COLUMNS_SHOWN = 20
LAYOUTS_SHOWN = 5
"""Layouts of a file that are named, the most frequent first."""


@dataclass
class RowReport:
    """Counts of the rows that were read, kept, refused, dropped and shortened.

    Attributes:
        notes: sentences on how the sources were read.
        read_as: layout and columns -> rows, where rows are recognised by their columns.
        also: further column that is read, and as what -> rows that have it.
        unread: column that nobody reads, and how to read it -> rows that have it.
        others: other columns that nobody reads, the first few.
        bad: reason -> count.
        places: reason -> the first row with it as `file:line: reason`, of the first few reasons.
        unknown_splits: split names that rows declare and that are not known -> count.
        dropped, cut: cause -> subset -> count.
    """

    read: int = 0
    kept: int = 0
    notes: list[str] = field(default_factory=list)
    read_as: Counter[str] = field(default_factory=Counter)
    also: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    unknown_splits: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    cut: dict[str, Counter[str]] = field(default_factory=dict)

    def add_bad(self, place: str, reason: str) -> None:
        """Count a bad row; the reason is counted without the values it quotes in parentheses."""
        cause = reason.split(" (")[0]
        self.bad[cause] += 1
        if cause not in self.places and len(self.places) < EXAMPLES:
            self.places[cause] = f"{place}: {reason}"

    def add_reading(self, reading: Any) -> None:
        """Count how a row was read, see `formats.auto.Reading`; None: by a named format."""
        if reading is None:
            return
        if reading.words not in self.read_as:
            new = [column for column in reading.others if column not in self.others]
            self.others = [*self.others, *new][:COLUMNS_SHOWN]
        self.read_as[reading.words] += 1
        self.also.update(reading.also)
        self.unread.update(reading.unread)

    def note(self, sentence: str) -> None:
        """Keep a sentence on how a source was read."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def drop(self, cause: str, subset: str, count: int = 1) -> None:
        """Count comparisons that were dropped after reading."""
        self.dropped.setdefault(cause, Counter())[subset] += count

    def trim(self, cause: str, subset: str) -> None:
        """Count a comparison that was kept in part."""
        self.cut.setdefault(cause, Counter())[subset] += 1

    def merge(self, other: "RowReport") -> None:
        """Add the counts of another report."""
        self.read += other.read
        self.kept += other.kept
        self.notes += other.notes
        self.bad += other.bad
        self.unknown_splits += other.unknown_splits
        self.read_as += other.read_as
        self.also += other.also
        self.unread += other.unread
        new = [column for column in other.others if column not in self.others]
        self.others = [*self.others, *new][:COLUMNS_SHOWN]
        self.places = dict(list((self.places | other.places).items())[:EXAMPLES])
        for verb in ("dropped", "cut"):
            for cause, subsets in getattr(other, verb).items():
                getattr(self, verb).setdefault(cause, Counter()).update(subsets)

    def lines(self) -> list[str]:
        """A summary of one fact a line; the first is the total."""
        total = f"{self.read} rows read, {self.kept} comparisons kept"
        return [total, *self.notes, *self._layout_lines(), *self.losses()]

    def losses(self) -> list[str]:
        """What was refused, dropped and shortened, one cause a line."""
        out = [f"{count} bad: {reason}" for reason, count in self.bad.most_common()]
        for verb, causes in (("dropped", self.dropped), ("cut", self.cut)):
            for cause, subsets in causes.items():
                where = ", ".join(f"{name} {n}" for name, n in subsets.most_common(4))
                out.append(f"{sum(subsets.values())} {verb}: {cause} ({where})")
        return out

    def _layout_lines(self) -> list[str]:
        total, most = self.read_as.total(), self.read_as.most_common(LAYOUTS_SHOWN)
        with_ = [f"{words} ({n} rows)" if n < total else words for words, n in self.also.items()]
        more = [f"with {', '.join(with_)}"] if with_ else []
        more += [f"{words} ({count} rows)" for words, count in self.unread.most_common()]
        if len(most) == 1:
            return ["; ".join([f"read as: {most[0][0]}", *more])]
        rest = len(self.read_as) - len(most)
        others = [f"and {rest} more layouts or sets of columns"] if rest else []
        return [f"{count} rows read as: {words}" for words, count in most] + others + more

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "RowReport":
        """The inverse of `to_dict`."""
        nested = {
            name: {cause: Counter(n) for cause, n in stored[name].items()}
            for name in ("dropped", "cut")
        }
        names = ("bad", "read_as", "also", "unread", "unknown_splits")
        counts = {name: Counter(stored[name]) for name in names}
        return cls(**{**stored, **counts, **nested})


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
        for part in open_source(path, split, options, report.note):
            taken = 0
            for raw in part.rows:
                if limit is not None and taken >= limit:
                    break
                report.read += 1
                try:
                    if isinstance(raw.row, BadRow):
                        raise raw.row
                    reading, parsed = read_row(parse, raw.row)
                    report.add_reading(reading)
                    found = [parsed] if isinstance(parsed, Comparison) else parsed
                    declared = [
                        part.split or _declared_split(one.split, options, report) for one in found
                    ]
                except BadRow as error:
                    report.add_bad(raw.place, str(error))
                    continue
                except LeftOut as cause:
                    report.drop(str(cause), "all")
                    continue
                except UserError as error:
                    raise UserError(f"{raw.place}: {error}") from None
                room = None if limit is None else limit - taken
                for one, home in list(zip(found, declared, strict=True))[:room]:
                    taken += 1
                    name = _unique(one.id or f"row-{report.read}", ids)
                    yield dataclasses.replace(one, id=name, split=home, place=raw.place)


def check_mapped(
    paths: Mapping[str | None, str | Sequence[str]], parse: Format, options: ReadOptions
) -> None:
    """Refuse columns that the user mapped and that no row has.

    Raises:
        UserError: names the field, the column, near columns, and how to leave it out.
    """
    missing: dict[str, str] = dict(getattr(parse, "mapped", {}))
    columns: dict[str, None] = {}
    for raw in chain.from_iterable(read_rows(path, None, options) for path in paths.values()):
        if not missing:
            return
        if not isinstance(raw.row, BadRow):
            columns |= dict.fromkeys(raw.row)
            missing = {name: c for name, c in missing.items() if not has_column(raw.row, c)}
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


def _causes(report: RowReport) -> str:
    """Each cause once: its first row, and how many rows have it."""
    lines = [
        f"{place} [{report.bad[cause]} rows]" if report.bad[cause] > 1 else place
        for cause, place in report.places.items()
    ]
    rest = len(report.bad) - len(lines)
    more = sum(count for cause, count in report.bad.items() if cause not in report.places)
    return "\n  ".join(lines + ([f"... and {rest} other causes in {more} rows"] if rest else []))


def check_bad_rows(
    report: RowReport, on_bad_row: str, max_bad_share: float, group: str = "data"
) -> None:
    """Refuse bad rows that are not to be skipped, or are too many.

    Raises:
        UserError: names the first bad rows with file, line and reason, and the fix.
    """
    bad = sum(report.bad.values())
    rows = f"{bad} of {report.read} rows cannot be used:\n  {_causes(report)}\n"
    rows += _about_splits(report.unknown_splits, group)
    needed = math.ceil(100 * bad / max(1, report.read)) / 100
    skip = f"{group}.on_bad_row=skip"
    if needed > max_bad_share:
        skip += f" {group}.max_bad_share={needed}"
    if bad and bad == report.read:
        raise UserError(f"{rows}No row is left to use.")
    if bad and on_bad_row == "raise":
        raise UserError(f"{rows}Fix them, or leave them out with {skip}.")
    if bad > max_bad_share * report.read:
        raise UserError(
            f"{rows}That is {bad / report.read:.1%}, more than {group}.max_bad_share="
            f"{max_bad_share} allows to be skipped; is the format the right one? If so: {skip}."
        )
    if report.read == 0:
        what = "The evaluation set" if group.startswith("eval") else "The data"
        raise UserError(f"{what} has no rows.")


def _about_splits(unknown: Counter[str], group: str) -> str:
    """How to take or ignore a column with other split names than ours."""
    if not unknown:
        return ""
    names = [name for name, _ in unknown.most_common(8)]
    take = ""
    if any(map(looks_like_split, names)):
        take = f"say what each is ({offered_names(names, group)}), or "
    return (
        f"The column split has {', '.join(names)}: {take}ignore the column with "
        f"{group}.fields.split=null.\n"
    )

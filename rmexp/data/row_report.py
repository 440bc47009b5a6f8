"""Counts of rows: read, refused, dropped and shortened; and when they are too many."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.sources.split_names import looks_like_split, offered_names

EXAMPLES = 3
"""Bad rows that are named; the rest is counted."""

COLUMNS_SHOWN = 20
SUBSETS_SHOWN = 4
LAYOUTS_SHOWN = 5
"""Layouts of a file that are named, the most frequent first."""


_BY_SUBSET = ("dropped", "cut", "relabelled")
"""Fields of a report that count by cause and subset."""


@dataclass
class RowReport:
    """Counts of the rows that were read, kept, refused, dropped and shortened.

    Attributes:
        notes: sentences on how the sources were read.
        read_as: layout and columns -> rows, where rows are recognised by their columns.
        also: further column that is read, and as what -> rows that have it.
        unread: ignored column, and how to read it -> rows that have it.
        others: the first few of the other ignored columns.
        bad: reason -> count.
        places: reason -> the first row with it as `file:line: reason`, of the first few reasons.
        unknown_splits: split names that rows declare and that are not known -> count.
        dropped, cut, relabelled: cause -> subset -> count.
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
    relabelled: dict[str, Counter[str]] = field(default_factory=dict)

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
        for counts, names in ((self.also, reading.also), (self.unread, reading.unread)):
            for name in names:  # Counter.update costs more than the rest, for none or one
                counts[name] += 1

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

    def relabel(self, cause: str, subset: str, count: int) -> None:
        """Count labels of training rows that are left out or changed."""
        self.relabelled.setdefault(cause, Counter())[subset] += count

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
        for verb in _BY_SUBSET:
            for cause, subsets in getattr(other, verb).items():
                getattr(self, verb).setdefault(cause, Counter()).update(subsets)

    def lines(self) -> list[str]:
        """A summary of one fact a line; the first is the total."""
        total = f"{self.read} rows read, {self.kept} comparisons kept"
        changes = [
            f"{subsets.total()} {cause} ({_by_subset(subsets)})"
            for cause, subsets in self.relabelled.items()
        ]
        return [total, *self.notes, *self._layout_lines(), *self.losses(), *changes]

    def losses(self) -> list[str]:
        """What was refused, dropped and shortened, one cause a line."""
        out = [f"{count} bad: {reason}" for reason, count in self.bad.most_common()]
        for verb, causes in (("dropped", self.dropped), ("cut", self.cut)):
            for cause, subsets in causes.items():
                out.append(f"{subsets.total()} {verb}: {cause} ({_by_subset(subsets)})")
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
            name: {cause: Counter(n) for cause, n in stored[name].items()} for name in _BY_SUBSET
        }
        names = ("bad", "read_as", "also", "unread", "unknown_splits")
        counts = {name: Counter(stored[name]) for name in names}
        return cls(**{**stored, **counts, **nested})

    def reworded(self, change: Callable[[str], str]) -> "RowReport":
        """The report with other sentences on how rows were read, and why they were refused."""

        def changed(counts: Counter[str]) -> Counter[str]:
            return Counter({change(text): count for text, count in counts.items()})

        return dataclasses.replace(
            self,
            notes=list(map(change, self.notes)),
            unread=changed(self.unread),
            bad=changed(self.bad),
            places={change(cause): change(place) for cause, place in self.places.items()},
        )


def _by_subset(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(SUBSETS_SHOWN))


def _causes(report: RowReport) -> str:
    """Each cause once: its first row, and how many rows have it."""
    lines = [
        f"{place} [{report.bad[cause]} rows]" if report.bad[cause] > 1 else place
        for cause, place in report.places.items()
    ]
    rest = len(report.bad) - len(lines)
    more = sum(count for cause, count in report.bad.items() if cause not in report.places)
    return "\n  ".join(lines + ([f"... and {rest} other causes in {more} rows"] if rest else []))


def check_bad_rows(report: RowReport, on_bad_row: str, max_bad_share: float) -> None:
    """Refuse bad rows that are not to be skipped, or are too many.

    Raises:
        UserError: names the first bad rows with file, line and reason, and the fix.
    """
    bad = sum(report.bad.values())
    rows = f"{bad} of {report.read} rows cannot be used:\n  {_causes(report)}\n"
    rows += _about_splits(report.unknown_splits)
    needed = math.ceil(100 * bad / max(1, report.read)) / 100
    skip = "data.on_bad_row=skip"
    if needed > max_bad_share:
        skip += f" data.max_bad_share={needed}"
    if bad and bad == report.read:
        raise UserError(f"{rows}No row is left to use.")
    if bad and on_bad_row == "raise":
        raise UserError(f"{rows}Fix them, or leave them out with {skip}.")
    if bad > max_bad_share * report.read:
        raise UserError(
            f"{rows}That is {bad / report.read:.1%}, more than data.max_bad_share="
            f"{max_bad_share} allows to be skipped; is the format the right one? If so: {skip}."
        )
    if report.read == 0:
        raise UserError("data.path has no rows.")


def _about_splits(unknown: Counter[str]) -> str:
    """How to take or ignore a column with other split names than ours."""
    if not unknown:
        return ""
    names = [name for name, _ in unknown.most_common(8)]
    take = ""
    if any(map(looks_like_split, names)):
        take = f"say what each is ({offered_names(names)}), or "
    return (
        f"The column split has {', '.join(names)}: {take}ignore the column with "
        "data.fields.split=null.\n"
    )

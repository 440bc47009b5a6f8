"""Source + format -> comparisons; every row that is dropped is counted."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.sources import BadRow, LeftOut, ReadOptions, open_source
from rmexp.data.sources.split_names import SPLIT_ALIASES, looks_like_split, offered_names

Format = Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
"""A row is a comparison, or several if it is a tree of dialogues."""

EXAMPLES = 5
"""Bad rows that are named; the rest is counted."""


@dataclass
class RowReport:
    """Counts of the rows that were read, kept, refused, dropped and shortened.

    Attributes:
        notes: sentences on how the sources were read.
        bad: reason -> count.
        places: the first few bad rows as `file:line: reason`.
        unknown_splits: split names that rows declare and that are not known -> count.
        dropped, cut: cause -> subset -> count.
    """

    read: int = 0
    kept: int = 0
    notes: list[str] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)
    unknown_splits: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    cut: dict[str, Counter[str]] = field(default_factory=dict)

    def add_bad(self, place: str, reason: str) -> None:
        """Count a bad row; the reason is counted without the values it quotes in parentheses."""
        self.bad[reason.split(" (")[0]] += 1
        if len(self.places) < EXAMPLES:
            self.places.append(f"{place}: {reason}")

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
        self.places = [*self.places, *other.places][:EXAMPLES]
        for verb in ("dropped", "cut"):
            for cause, subsets in getattr(other, verb).items():
                getattr(self, verb).setdefault(cause, Counter()).update(subsets)

    def lines(self) -> list[str]:
        """A summary of one fact a line; the first is the total."""
        out = [f"{self.read} rows read, {self.kept} comparisons kept", *self.notes]
        out += [f"{count} bad: {reason}" for reason, count in self.bad.most_common()]
        for verb, causes in (("dropped", self.dropped), ("cut", self.cut)):
            for cause, subsets in causes.items():
                where = ", ".join(f"{name} {n}" for name, n in subsets.most_common(4))
                out.append(f"{sum(subsets.values())} {verb}: {cause} ({where})")
        return out

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
        flat = {name: Counter(stored[name]) for name in ("bad", "unknown_splits")}
        return cls(**{**stored, **flat, **nested})


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
                    parsed = parse(raw.row)
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


def check_bad_rows(
    report: RowReport, on_bad_row: str, max_bad_share: float, group: str = "data"
) -> None:
    """Refuse bad rows that are not to be skipped, or are too many.

    Raises:
        UserError: names the first bad rows with file, line and reason, and the fix.
    """
    bad = sum(report.bad.values())
    shown = "\n  ".join(report.places)
    more = f"\n  ... and {bad - len(report.places)} more" if bad > len(report.places) else ""
    rows = f"{bad} of {report.read} rows cannot be used:\n  {shown}{more}\n"
    rows += _about_splits(report.unknown_splits, group)
    if bad and on_bad_row == "raise":
        raise UserError(rows + f"Fix them, or leave them out with {group}.on_bad_row=skip.")
    if bad > max_bad_share * report.read:
        raise UserError(
            rows + f"That is {bad / report.read:.1%}, more than {group}.max_bad_share="
            f"{max_bad_share} "
            "allows to be skipped; is the format the right one?"
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

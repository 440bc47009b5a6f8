"""Source + format -> comparisons, with every row that was left out counted and placed."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.sources import SPLIT_ALIASES, BadRow, LeftOut, read_rows

Format = Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
"""A row becomes a comparison; a row that holds a whole tree of dialogues becomes several."""


EXAMPLES = 5
"""Bad rows that are named one by one; the rest is counted."""


@dataclass
class RowReport:
    """What became of the rows: nothing is left out silently.

    `bad` counts by reason; `dropped` and `cut` count by cause and subset. `places` names the first
    few bad rows as `file:line: reason`.
    """

    read: int = 0
    kept: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    cut: dict[str, Counter[str]] = field(default_factory=dict)

    def add_bad(self, place: str, reason: str) -> None:
        """Count a bad row; reasons are counted without the values they quote."""
        self.bad[reason.split(" (")[0]] += 1
        if len(self.places) < EXAMPLES:
            self.places.append(f"{place}: {reason}")

    def drop(self, cause: str, subset: str, count: int = 1) -> None:
        """Count comparisons that were left out after reading."""
        self.dropped.setdefault(cause, Counter())[subset] += count

    def trim(self, cause: str, subset: str) -> None:
        """Count a comparison that was kept with less of its prompt."""
        self.cut.setdefault(cause, Counter())[subset] += 1

    def merge(self, other: "RowReport") -> None:
        """Add what another report counted."""
        self.read += other.read
        self.kept += other.kept
        self.bad += other.bad
        self.places = [*self.places, *other.places][:EXAMPLES]
        for verb in ("dropped", "cut"):
            for cause, subsets in getattr(other, verb).items():
                getattr(self, verb).setdefault(cause, Counter()).update(subsets)

    def lines(self) -> list[str]:
        """For the terminal and the report: a line a fact, the first always the total."""
        out = [f"{self.read} rows read, {self.kept} comparisons kept"]
        out += [f"{count} bad: {reason}" for reason, count in self.bad.most_common()]
        for verb, causes in (("dropped", self.dropped), ("cut", self.cut)):
            for cause, subsets in causes.items():
                where = ", ".join(f"{name} {n}" for name, n in subsets.most_common(4))
                out.append(f"{sum(subsets.values())} {verb}: {cause} ({where})")
        return out

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        nested = {
            name: {cause: dict(n) for cause, n in getattr(self, name).items()}
            for name in ("dropped", "cut")
        }
        return {
            "read": self.read,
            "kept": self.kept,
            "bad": dict(self.bad),
            "places": self.places,
        } | nested

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "RowReport":
        """The inverse of `to_dict`."""
        nested = {
            name: {c: Counter(n) for c, n in stored[name].items()} for name in ("dropped", "cut")
        }
        return cls(
            stored["read"], stored["kept"], Counter(stored["bad"]), list(stored["places"]), **nested
        )


def read_comparisons(
    paths: Mapping[str | None, str], parse: Format, report: RowReport, limit: int | None = None
) -> Iterator[Comparison]:
    """Stream the comparisons of several files.

    `paths` maps our split (or None: not split yet) to a path. A row that the format refuses is
    counted in `report` and passed over. `limit` is the number of comparisons to take from each
    file, from its start.

    Raises:
        UserError: the format cannot be for these rows; the first such row is named.
    """
    seen: Counter[str] = Counter()
    for split, path in paths.items():
        taken = 0
        for raw in read_rows(path, split):
            if limit is not None and taken >= limit:
                break
            report.read += 1
            try:
                if isinstance(raw.row, BadRow):
                    raise raw.row
                parsed = parse(raw.row)
                found = [parsed] if isinstance(parsed, Comparison) else parsed
                declared = [raw.split or _declared_split(one.split) for one in found]
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
                name = _unique(one.id or f"row-{report.read}", seen)
                yield dataclasses.replace(one, id=name, split=home, place=raw.place)


def _unique(name: str, seen: Counter[str]) -> str:
    """Ids are unique, as predictions are joined by them: a repeated id gets a number."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"


def _declared_split(name: str | None) -> str | None:
    """Our name of the split that a row declares."""
    if not name:
        return None
    if name not in SPLIT_ALIASES:
        raise BadRow(f"split is {name!r}; known: {', '.join(SPLIT_ALIASES)}")
    return SPLIT_ALIASES[name]


def check_bad_rows(
    report: RowReport, on_bad_row: str, max_bad_share: float, group: str = "data"
) -> None:
    """Stop where bad rows are not to be skipped, or are too many.

    Raises:
        UserError: names the first bad rows with file, line and reason, and the mend.
    """
    bad = sum(report.bad.values())
    shown = "\n  ".join(report.places)
    more = f"\n  ... and {bad - len(report.places)} more" if bad > len(report.places) else ""
    rows = f"{bad} of {report.read} rows cannot be used:\n  {shown}{more}\n"
    if bad and on_bad_row == "raise":
        raise UserError(rows + f"Mend them, or leave them out with {group}.on_bad_row=skip.")
    if bad > max_bad_share * report.read:
        raise UserError(
            rows + f"That is {bad / report.read:.1%}, more than {group}.max_bad_share="
            f"{max_bad_share} "
            "allows to be skipped; is the format the right one?"
        )
    if report.read == 0:
        what = "The evaluation set" if group.startswith("eval") else "The data"
        raise UserError(f"{what} has no rows.")

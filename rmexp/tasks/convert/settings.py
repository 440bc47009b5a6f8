"""A peer's settings while they are converted: what became of each key.

Every key of the source ends in one of three places: `lines` (ours, with the source key in the
comment), `left` (no counterpart, with a reason or a hint), or `off` (null or false, and of no
meaning here).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from rmexp.config.compose import suggest
from rmexp.config.validate import describe_type
from rmexp.core.errors import UserError

Positive = Annotated[float, Gt(0)]


NotNegative = Annotated[float, Ge(0)]


Decay = Annotated[float, Ge(0), Lt(1)]


Count = Annotated[int, Gt(0)]


Whole = Annotated[int, Ge(0)]


Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Row:
    """A key whose value is taken over as it is.

    Args:
        key: the peer's name.
        ours: where the value goes, e.g. `optim.lr`.
        kind: what it must be: an annotation.
        default: what the peer does where the key is absent, if it matters to the weights; stated,
            so that the converted file trains the same. None states nothing.
    """

    key: str
    ours: str
    kind: Any
    default: Any = None


@dataclass
class Settings:
    """The source, and what it became so far.

    Attributes:
        peer: whose settings these are, as it is written: TRL, Axolotl.
        file: what messages call the source.
        values: the source's keys and values.
        whole: is it a whole configuration, so that the peer's defaults count too?
        options: group -> option and comment, for the defaults list.
        lines: our key -> value and comment.
        left: source key -> why it has no counterpart.
        notes: what else is different here.
    """

    peer: str
    file: str
    values: Mapping[str, Any]
    whole: bool = True
    options: dict[str, tuple[str, str]] = field(default_factory=dict)
    lines: dict[str, tuple[Any, str]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        """Is the key given, and not null?"""
        return self.values.get(key) is not None

    def take(self, key: str, kind: Any, default: Any = None) -> Any:
        """The value of a key, which counts as dealt with; `default` where it is absent or null.

        Raises:
            UserError: it is not what it must be.
        """
        self.seen.add(key)
        return self.read(key, self.values[key], kind) if self.has(key) else default

    def read(self, name: str, value: Any, kind: Any) -> Any:
        """A value as `kind`; "1e-5" is a number, as YAML takes it for text and the peers do not.

        Raises:
            UserError: it is something else.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            if isinstance(value, bool) and "number" in describe_type(kind):
                raise ValueError("true is no number")
            return TypeAdapter(kind, config={"allow_inf_nan": False}).validate_python(value)
        except (ValidationError, ValueError):
            raise self.wrong(name, value, f"should be {describe_type(kind)}") from None

    def wrong(self, name: str, value: Any, why: str) -> UserError:
        """What to say of a value that cannot be."""
        given = " ".join(str(value).split())
        return UserError(f"source={self.file}, {name}: {given:.80} {why}.")

    def put(self, ours: str, value: Any, comment: str) -> None:
        """State a value of ours."""
        self.lines[ours] = (value, comment)

    def choose(self, group: str, option: str, comment: str) -> None:
        """Choose an option of a group."""
        self.options[group] = (option, comment)

    def take_rows(self, rows: Iterable[Row]) -> None:
        """Convert every key of a table; state the peer's defaults of those that are absent."""
        for row in rows:
            value = self.take(row.key, row.kind, row.default)
            if value is not None:
                self.state(row.ours, value, row.key)

    def state(self, ours: str, value: Any, key: str) -> None:
        """State what a key became, or what the peer's default for it becomes."""
        if self.has(key):
            self.put(ours, value, key)
        elif self.whole:
            self.put(ours, value, self.by_default(key))

    def by_default(self, key: str) -> str:
        """The comment on what the source does not say."""
        return f"{key}, {self.peer}'s default"

    def leave(self, key: str, reason: str) -> None:
        """A key without a counterpart."""
        self.seen.add(key)
        self.left[key] = reason

    def leave_rest(self, reasons: Iterable[tuple[str, str]]) -> list[str]:
        """Give every key that nothing took its reason; returns the keys that were off.

        Args:
            reasons: patterns of keys, apart by blanks, and what to say of them.
        """
        rest = {key: value for key, value in self.values.items() if key not in self.seen}
        null = [key for key, v in self.values.items() if v is None and key not in self.left]
        off = [*null, *(key for key, v in rest.items() if v in (False, "", [], {}))]
        for key in (key for key in rest if key not in off):
            unknown = f"not known{suggest(key, sorted(self.seen))}"
            found = (why for names, why in reasons if any(fnmatch(key, n) for n in names.split()))
            self.left[key] = next(found, unknown)
        return off

"""A configuration of TRL or Axolotl while it is converted, and what became of each key."""

from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from rmexp.config.compose import suggest
from rmexp.config.validate import describe_type
from rmexp.core.errors import UserError

TABLES = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text(encoding="utf-8"))
READ = {name: {"kind": kind} for kind, names in TABLES["kinds"].items() for name in names.split()}
KEYS: dict[str, dict[str, Any]] = TABLES["single"] | TABLES["joint"] | READ
VALUE_TYPES = {
    "any": Any,
    "text": str,
    "flag": bool,
    "list": list,
    "names": Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)],
    "true": Literal[True],
    "pairwise": Literal["pairwise"],
    "loss": Literal["contrastive", "bradley_terry"],
    "bf16": bool | Literal["auto", "full"],
    "offload": bool | Literal["offload", "offload_disk"],
    "integer": int,
    "whole": Annotated[int, Ge(0)],
    "count": Annotated[int, Gt(0)],
    "positive": Annotated[float, Gt(0)],
    "not_negative": Annotated[float, Ge(0)],
    "decay": Annotated[float, Ge(0), Lt(1)],
    "share": Annotated[float, Ge(0), Le(1)],
}


@dataclass
class PeerSettings:
    """The source and its conversion so far. Methods take TRL's names of the keys."""

    peer: str  # the framework: TRL or Axolotl
    file: str  # name of the source in messages
    values: dict[str, Any]
    whole: bool = True  # whether the framework's defaults count: not in a mere fragment
    lines: dict[str, tuple[Any, str]] = field(default_factory=dict)  # rmexp's: value and comment
    left: dict[str, str] = field(default_factory=dict)  # source key -> why it is not converted
    notes: list[str] = field(default_factory=list)  # differences that no key shows

    def called(self, name: str) -> str:
        """The framework's name of a key."""
        return KEYS.get(name, {}).get("called", name) if self.peer == "Axolotl" else name

    def get(self, name: str) -> Any:
        """The value as the source has it, or None."""
        return self.values.get(self.called(name))

    def given(self, *names: str) -> list[str]:
        """Those of the keys that the source has."""
        return [name for name in names if self.get(name) is not None]

    def take(self, name: str) -> Any:
        """The checked value, else the framework's default, else None."""
        if not self.given(name):
            return KEYS[name].get(self.peer.lower())
        return self.check(self.called(name), self.get(name), VALUE_TYPES[KEYS[name]["kind"]])

    def check(self, key: str, value: Any, kind: Any) -> Any:
        """A value of a type, or a UserError; "1e-5" is a number, though YAML 1.1 wants a dot."""
        try:
            if isinstance(value, bool) and "number" in describe_type(kind):
                raise ValueError("pydantic takes true for 1")
            return TypeAdapter(kind, config={"allow_inf_nan": False}).validate_python(value)
        except (ValidationError, ValueError):
            text = f"{key}: {' '.join(str(value).split()):.80} should be {describe_type(kind)}."
            raise UserError(f"source={self.file}, {text}") from None

    def value(self, ours: str) -> Any:
        """The value that a key of rmexp has so far, or None."""
        return self.lines.get(ours, (None, ""))[0]

    def put(self, ours: str, value: Any, *names: str, note: str = "") -> None:
        """Set a key of rmexp; the comment has the source's keys and the note."""
        given, default = self.given(*names), f", {self.peer}'s default"
        if self.whole or given or not names:
            keys = [self.called(name) + ("" if name in given else default) for name in names]
            self.lines[ours] = (value, "; ".join([*keys, note] if note else keys))

    def convert(self, *names: str) -> None:
        """Convert keys one by one by their rows of the tables."""
        for name in names:
            row, value = KEYS[name], self.take(name)
            if value is None and "missing" in row and self.whole:
                default = f"the source has none, and {self.peer} no default"
                self.leave(name, f"{default}: {row['missing']}")
            elif value is not None and "others" in row and value not in row["values"]:
                self.leave(name, row["others"].format(value))
            elif value is not None and "ours" in row:
                value = row["values"].get(value, value) if "values" in row else value
                self.put(row["ours"], value, name)

    def leave(self, name: str, reason: str) -> None:
        """Report a key as not converted."""
        self.left[self.called(name)] = reason

    def leave_rest(self) -> None:
        """Report the keys that no row knows, and those that are off."""
        known = [self.called(name) for name in KEYS]
        patterns = TABLES["not_needed"] | TABLES["unsupported"]
        for key, value in self.values.items():
            if value is None or (not value and key not in known):
                self.left.setdefault(key, "off in the source")
            elif key not in known:
                reasons = (r for r in patterns if any(fnmatch(key, p) for p in patterns[r].split()))
                self.left[key] = next(reasons, f"not known{suggest(key, known)}")

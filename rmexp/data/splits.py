"""Which rows train, which select and which test: by shares of prompts, or by folds."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rmexp.core.errors import UserError, note_fallback
from rmexp.data.row_report import RowReport

SPLIT_NAMES = ("train", "val", "test")


class SplitKey(NamedTuple):
    """What decides the split of a row: its prompt's key, the split it declares, and its group."""

    prompt: str
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Fold:
    """Leave-one-group-out cross-validation: one group is the test set, the others train and select.

    Args:
        by: the column with the groups.
        number: of the group that is held out, from 0, in the order of their names.
        until: a group's name ends before the first of these characters; None: the whole value.
    """

    by: str
    number: int
    until: str | None = None

    def names(self, groups: Sequence[str]) -> list[str]:
        """The group of each row, given the value of its column."""
        if self.until is None:
            return list(groups)
        return [value.partition(self.until)[0] for value in groups]

    def assign(
        self, groups: Sequence[str], val_share: float, seed: int
    ) -> tuple[list[str], dict[str, Any]]:
        """The split of each row, and facts of the fold as plain JSON.

        Val consists of whole groups too, so that its rows are as new to the model as the test rows:
        `val_share` of the other groups, drawn by `seed` and fold. Where that is less than half a
        group (few groups, of many prompts each), no group is val here, and `assign_splits` splits
        val off by prompt.

        Raises:
            UserError: there is no such fold, or nothing to train on beside it.
        """
        rows = self.names(groups)
        names = sorted(set(rows))
        key = f"data.fold_by={self.by}" + ("" if self.until is None else f" until {self.until!r}")
        if len(names) < 2:
            raise UserError(
                f"{key} has one value here ({', '.join(names)}): nothing is left to train on."
            )
        if self.number >= len(names):
            raise UserError(
                f"data.fold={self.number}: {key} has {len(names)} values here, "
                f"so that folds go from 0 to {len(names) - 1}."
            )
        held = names[self.number]
        others = [name for name in names if name != held]
        others.sort(key=lambda name: _shuffled(f"{seed}:{held}", name))
        val = sorted(others[: min(round(val_share * len(others)), len(others) - 1)])
        homes = dict.fromkeys(val, "val") | {held: "test"}
        facts = {"by": self.by, "until": self.until, "number": self.number, "of": len(names)}
        return [homes.get(name, "train") for name in rows], facts | {"held_out": held, "val": val}


def describe_fold(facts: Mapping[str, Any]) -> str:
    """The facts of `Fold.assign` in a line."""
    val = ", ".join(facts["val"]) or "cut off by prompt"
    return (
        f"fold {facts['number']} (0 to {facts['of'] - 1}) by {facts['by']}: "
        f"test is {facts['held_out']}; val is {val}"
    )


@dataclass(frozen=True)
class SplitPolicy:
    """How rows are assigned to splits.

    Args:
        shares: of prompts, for `val` and `test` where the source declares no such split.
        seed: of the draw.
        fold: hold out a group in place of a share of prompts.
    """

    shares: Mapping[str, float]
    seed: int
    fold: Fold | None = None

    def assign(
        self,
        prompt_keys: list[str],
        declared: list[str | None],
        subsets: list[str],
        groups: Sequence[str | None],
        report: RowReport,
        dropped: Sequence[SplitKey] = (),
    ) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
        """The sorted rows of each split, see `assign_splits`, and the facts of the fold.

        Args:
            dropped: rows that tokenising dropped. They count here, so that the split of a prompt
                depends neither on the tokenizer nor on the template.
        """
        facts = None
        if self.fold is not None:
            if known := sum(split is not None for split in declared):
                note_fallback(
                    f"data.fold assigns all rows: the splits that {known} rows declare are ignored."
                )
            known_groups = [group or "" for group in (*groups, *(key.group for key in dropped))]
            assigned, facts = self.fold.assign(known_groups, self.shares["val"], self.seed)
            declared = list(assigned[: len(prompt_keys)])
            rest = assigned[len(prompt_keys) :]
            dropped = [key._replace(split=s) for key, s in zip(dropped, rest, strict=True)]
        return (
            assign_splits(prompt_keys, declared, subsets, self.shares, self.seed, report, dropped),
            facts,
        )

    @property
    def key(self) -> list[Any]:
        """What decides the splits, as plain JSON."""
        fold = [] if self.fold is None else [list(vars(self.fold).values())]
        return [dict(self.shares), self.seed, *fold]


@dataclass(frozen=True)
class SingleSplit:
    """All rows are one split, whatever they declare: an evaluation set."""

    name: str
    seed: ClassVar[int] = 0
    key: ClassVar[list[Any]] = []

    def assign(
        self,
        prompt_keys: list[str],
        declared: list[str | None],
        subsets: list[str],
        groups: Sequence[str | None],
        report: RowReport,
        dropped: Sequence[SplitKey] = (),
    ) -> tuple[dict[str, np.ndarray], None]:
        """See `SplitPolicy.assign`."""
        return {self.name: np.arange(len(prompt_keys))}, None


def assign_splits(
    prompt_keys: list[str],
    declared: list[str | None],
    subsets: list[str],
    shares: Mapping[str, float],
    seed: int,
    report: RowReport,
    dropped: Sequence[SplitKey] = (),
) -> dict[str, np.ndarray]:
    """Assign rows to train, val and test; equal prompts share a split.

    Declared splits are kept. Splits that no row declares are taken from the undeclared (or the
    train) rows: prompts in the order of a hash of `seed` and prompt, `shares` of them for test and
    val. A prompt that is declared in two splits stays in test before val before train, and the
    other rows are dropped and counted. The prompts of rows that are `dropped` already take part in
    the draw.

    Returns:
        For each split, the sorted indices of its rows.
    """
    known = [*zip(prompt_keys, declared, strict=True), *(key[:2] for key in dropped)]
    home: dict[str, str] = {}
    for wanted in ("test", "val", "train"):
        for key, split in known:
            if split == wanted:
                home.setdefault(key, wanted)
    missing = [name for name in ("test", "val") if name not in home.values()]
    free = {key for key, split in known if split is None} - set(home)
    pool = sorted(
        free | {k for k, name in home.items() if name == "train"}, key=lambda k: _shuffled(seed, k)
    )
    counts = {
        name: max(1, round(shares[name] * len(pool))) if shares[name] else 0 for name in missing
    }
    start = 0
    for name in missing:
        home |= dict.fromkeys(pool[start : start + counts[name]], name)
        start += counts[name]
    for key in free:
        home.setdefault(key, "train")
    rows: dict[str, list[int]] = {name: [] for name in SPLIT_NAMES}
    for index, (key, split) in enumerate(zip(prompt_keys, declared, strict=True)):
        if split in (None, home[key]) or (split == "train" and home[key] in missing):
            rows[home[key]].append(index)
        else:
            report.drop(f"a {split} prompt that is also in {home[key]}", subsets[index])
    return {name: np.array(indices, dtype=np.int64) for name, indices in rows.items()}


def _shuffled(seed: int | str, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()

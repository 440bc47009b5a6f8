"""Labels of training rows that are left out or changed: `data.exclude` and `data.relabel`."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rmexp.comparison import PreferenceLabel, levels_of_pairs
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.label_columns import LABEL_COLUMNS, label_columns, stored_judgements
from rmexp.data.label_file import SuspectedLabel, check_labels, pair_content, read_labels
from rmexp.data.row_report import RowReport
from rmexp.data.tokenize_spec import source_fingerprint

RelabelBy = Literal["flip", "soften", "weigh"]

IDS_SHOWN = 3
"""Ids that a message names."""

_COLUMNS = (
    *("id", "subset", "prompt_key", "response_keys", "lengths", "ratings", "rated"),
    *LABEL_COLUMNS,
)

LabelChange = Callable[[PreferenceLabel, float], PreferenceLabel | None]
"""A label and the probability that it is wrong -> the label that trains; None: none."""


def flip(label: PreferenceLabel, wrong: float) -> PreferenceLabel:
    """The opposite preference; how strong it is is not known."""
    return dataclasses.replace(label, i=label.j, j=label.i, margin=None)


def soften(label: PreferenceLabel, wrong: float) -> PreferenceLabel:
    """Expected votes, if the votes for the two responses are exchanged with probability `wrong`."""
    i, j, tie = label.shares
    mixed = (1 - wrong) * i + wrong * j, (1 - wrong) * j + wrong * i
    soft = dataclasses.replace(label, votes_i=mixed[0], votes_j=mixed[1], votes_tie=tie)
    return soft if soft.label >= 0 else dataclasses.replace(soft.flipped(), margin=None)


def weigh(label: PreferenceLabel, wrong: float) -> PreferenceLabel:
    """The label with its weight times the probability that it is right."""
    return dataclasses.replace(label, weight=label.weight * (1 - wrong))


CHANGES: Mapping[str, tuple[LabelChange, str]] = {
    "exclude": (lambda label, wrong: None, "excluded"),
    "flip": (flip, "flipped"),
    "soften": (soften, "softened"),
    "weigh": (weigh, "weighed by the probability that they are right"),
}
"""What happens to a label, and what the report calls it."""


@dataclass(frozen=True)
class LabelCorrections:
    """The labels of training rows that are left out or changed, from files of suspected labels.

    Val and test keep their labels. `relabel` comes first: `exclude` names labels as it leaves them,
    which are the labels that task=inspect judges. `exclude` and `flip` take the labels that are
    wrong with a probability above `wrong_above` or without one, the others all that have one.

    Args:
        exclude: a file of labels to leave out (`label_file`).
        relabel: a file of labels to change.
        relabel_by: `flip`, `soften` (soft votes) or `weigh` (the label's weight).
        wrong_above: probability of being wrong, 0..1.
    """

    exclude: str | None
    relabel: str | None
    relabel_by: RelabelBy
    wrong_above: float

    @property
    def files(self) -> dict[str, tuple[str, str]]:
        """Key of each file -> its path, and the name of its change in `CHANGES`, in order."""
        given = {"relabel": (self.relabel, self.relabel_by), "exclude": (self.exclude, "exclude")}
        return {f"data.{key}": (path, what) for key, (path, what) in given.items() if path}

    @property
    def key(self) -> list[Any]:
        """What decides the labels, as plain JSON; empty without files."""
        files = [[what, source_fingerprint(path)] for path, what in self.files.values()]
        return [*files, self.wrong_above] if files else []

    @property
    def softens(self) -> bool:
        """Whether labels become votes."""
        return self.relabel is not None and self.relabel_by == "soften"

    def check(self) -> None:
        """Raise a UserError if a file does not exist."""
        for key, (path, _) in self.files.items():
            check_labels(path, key)

    def apply(
        self, rows: Any, train: np.ndarray, report: RowReport
    ) -> tuple[Any, np.ndarray, dict[str, Any]]:
        """Change the labels of training rows.

        Args:
            rows: a data set with `TOKEN_SCHEMA`.
            train: its training rows.
            report: counts what is changed.

        Returns:
            The data set, the training rows that keep a label, and facts for `result.json`.

        Raises:
            UserError: a file cannot be read, or names no label of the training rows.
        """
        facts: dict[str, Any] = {}
        for key, (path, what) in self.files.items():
            labels = self._counting(read_labels(path, key), what, f"{key}={path}")
            rows, train, own = _change(rows, train, labels, what, f"{key}={path}", report)
            facts[key.removeprefix("data.")] = {"file": path, "by": what} | own
        return rows, train, facts

    def _counting(
        self, labels: Sequence[SuspectedLabel], what: str, named: str
    ) -> list[SuspectedLabel]:
        """The labels of a file that count for a change.

        Raises:
            UserError: there are none.
        """
        if what in ("soften", "weigh"):
            if lacking := [one.id for one in labels if one.wrong is None]:
                raise UserError(
                    f"{named}: {len(lacking)} labels have no probability of being wrong "
                    f"({_some(lacking)}), which data.relabel_by={what} reads: add the column "
                    "wrong, or use data.relabel_by=flip."
                )
            return list(labels)
        found = [one for one in labels if one.wrong is None or one.wrong > self.wrong_above]
        if not found:
            most = max(one.wrong for one in labels if one.wrong is not None)
            raise UserError(
                f"{named}: no label is wrong with a probability above data.wrong_above="
                f"{self.wrong_above:g} (the highest is {most:.3f}): lower it."
            )
        return found


def _change(
    rows: Any,
    train: np.ndarray,
    labels: Sequence[SuspectedLabel],
    what: str,
    named: str,
    report: RowReport,
) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """Change the labels of one file; see `LabelCorrections.apply`."""
    by_id: defaultdict[str, list[SuspectedLabel]] = defaultdict(list)
    for label in labels:
        by_id[label.id].append(label)
    ids = rows["id"][:]
    number = {name: n for n, name in enumerate(ids) if name in by_id}
    training = set(train.tolist())
    there = sorted(n for n in number.values() if n in training)
    changed: dict[int, dict[str, Any]] = {}
    unlabelled, counts = set[int](), {"labels": 0, "comparisons": 0, "rated": 0}
    used: set[int] = set()  # labels of the file that a pair has
    for n, row in zip(there, rows.select_columns(list(_COLUMNS)).select(there), strict=True):
        left, count = _judged_anew(row, by_id[row["id"]], what, used)
        if not count:
            continue
        counts["labels"] += count
        counts["comparisons"] += 1
        counts["rated"] += row["rated"] > 0
        levels = levels_of_pairs(left, len(row["lengths"]))
        changed[n] = label_columns(left, levels, row["ratings"], row["lengths"])
        if left:
            report.relabel(f"labels {CHANGES[what][1]}", row["subset"], count)
        else:
            unlabelled.add(n)
            report.drop("labels excluded", row["subset"])
    unused = [label for label in labels if id(label) not in used]
    elsewhere = set(number) - {ids[n] for n in there}
    held = [one for one in unused if one.id in elsewhere]
    strange = [one.id for one in unused if one.id not in elsewhere]
    if not changed:
        raise UserError(_no_match(named, labels, held, ids))
    for sentence in _unmatched(named, len(labels), len(held), strange):
        note_fallback(sentence)
    counts |= {"held_out": len(held), "unknown": len(strange)}
    kept = np.array([n for n in train.tolist() if n not in unlabelled], dtype=train.dtype)
    return _replaced(rows, changed), kept, counts


def _judged_anew(
    row: Mapping[str, Any], labels: Sequence[SuspectedLabel], what: str, used: set[int]
) -> tuple[list[PreferenceLabel], int]:
    """The judgements that a row keeps, and how many are changed or left out."""
    left, count = [], 0
    for judgement in stored_judgements(row):
        found = [one for one in labels if _names(one, judgement, row, what)]
        if not found:
            left.append(judgement)
            continue
        used |= set(map(id, found))
        count += 1
        wrong = 1.0 if found[0].wrong is None else found[0].wrong
        if (new := CHANGES[what][0](judgement, wrong)) is not None:
            left.append(new)
    return left, count


def _names(
    label: SuspectedLabel, judgement: PreferenceLabel, row: Mapping[str, Any], what: str
) -> bool:
    """Whether a label of a file is this judgement; a tie can only be left out."""
    i, j, keys = judgement.i, judgement.j, row["response_keys"]
    if label.pair is not None and set(label.pair) != {i, j}:
        return False
    if label.content not in (None, pair_content(row["prompt_key"], keys[i], keys[j])):
        return False
    return judgement.label != 0 or what == "exclude"


def _replaced(rows: Any, changed: Mapping[int, Mapping[str, Any]]) -> Any:
    """The data set with other labels in some rows."""
    for column in LABEL_COLUMNS:
        feature, values = rows.features[column], rows[column][:]
        for n, found in changed.items():
            values[n] = found[column]
        rows = rows.remove_columns(column).add_column(column, values, feature=feature)
    return rows


def _unmatched(named: str, count: int, held: int, strange: Sequence[str]) -> Iterator[str]:
    if held or strange:
        parts = [f"{held} are of val or test, which keep their labels"] if held else []
        if strange:
            parts.append(
                f"{len(strange)} name no pair of these rows, or a pair with other texts or another "
                f"label ({_some(strange)})"
            )
        yield f"{named}: of {count} labels, {' and '.join(parts)}: they change nothing."


def _no_match(
    named: str,
    labels: Sequence[SuspectedLabel],
    held: Sequence[SuspectedLabel],
    ids: Sequence[str],
) -> str:
    if len(held) == len(labels):
        return (
            f"{named}: all {len(labels)} labels are of val or test, which keep their labels: "
            "name labels of training rows."
        )
    return (
        f"{named}: none of the {len(labels)} labels is a pair of the training rows. Its ids are "
        f"like {_some([one.id for one in labels])}, those of the data like {_some(ids)}; where "
        "they fit, the texts or the labels are others: give the file that task=inspect wrote for "
        "these rows."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:IDS_SHOWN]) + (", ..." if len(names) > IDS_SHOWN else "")

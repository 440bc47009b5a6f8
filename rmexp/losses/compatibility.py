"""Checks that data has the labels that a loss needs."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from rmexp.comparison import LABEL_KINDS
from rmexp.config.compose import locate
from rmexp.config.schema import CONF_DIR
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.token_columns import COUNT_COLUMNS
from rmexp.losses.base import Loss


def check_fits(loss: Loss, loss_name: str, label_kinds: Collection[str], data_name: str) -> None:
    """Refuse a loss whose labels (see `comparison.LABEL_KINDS`) the data does not have.

    `loss_name` and `data_name` are the options, for messages.

    Raises:
        UserError: names the missing kinds, and the losses that fit.
    """
    if not loss.unmet(label_kinds):
        return
    # A mix needs the kinds of one of its losses: only the missing ones are named.
    both, lacking = (
        (" and ", loss.required()) if loss.needs_labels else (" or ", loss.unmet(label_kinds))
    )
    needed = both.join(kind for kind in LABEL_KINDS if kind in lacking)
    there = " and ".join(kind for kind in LABEL_KINDS if kind in label_kinds)
    raise UserError(
        f"loss={loss_name} needs {needed}; data={data_name} has {there or 'no judgement'}. "
        f"Losses that fit: {', '.join(fitting_losses(label_kinds)) or 'none'}."
    )


def fitting_losses(label_kinds: Collection[str]) -> Iterator[str]:
    """The options of conf/loss that can train on data with these label kinds."""
    for file in sorted((CONF_DIR / "loss").glob("*.yaml")):
        needs_labels = locate("loss", _target_of(file)).needs_labels
        if needs_labels and set(needs_labels) <= set(label_kinds):
            yield file.stem


def _target_of(file: Path) -> str:
    """The class of an option, which may come from the option in its defaults."""
    node = OmegaConf.load(file)
    if "_target_" in node:
        return str(node._target_)
    return _target_of(file.with_name(f"{node.defaults[0]}.yaml"))


def check_trainable(data: ComparisonData, loss: Loss, loss_name: str, data_name: str) -> None:
    """Keep the training rows that the loss trains on, and fit the loss to their ratings.

    Args:
        data: prepared; rows that cannot train are dropped from its training split.
        loss: its scale is set where it depends on the ratings.
        loss_name: the option's name, for messages; `data_name` the data's.

    Raises:
        UserError: the rows have nothing that the loss trains on, or nothing to select by; a pair
            lacks the margin or ratings that the loss reads; a comparison is larger than
            `data.tokens_per_batch`.
    """
    data.check_sizes(loss.needs_labels)
    if not any(sum(data.counts(split).values()) for split in ("train", "val", "test")):
        raise UserError(_unlabelled(data))
    label_kinds = {kind for kind, count in data.counts("train").items() if count}
    check_fits(loss, loss_name, label_kinds, data_name)
    for name, part in loss.components().items():
        if missing := set(part.needs_labels) - label_kinds:
            note_fallback(f"loss.losses.{name} has nothing to learn from: no {', '.join(missing)}.")
        elif "pairs" in part.needs_labels:
            _check_pairs(data, part)
    kinds = [kind for kind in loss.trains_on() if kind in COUNT_COLUMNS]
    data.keep_trainable(kinds, f"nothing in it for loss={loss_name}")
    _fit_to_ratings(data, loss)
    data.plan()  # refuses a comparison that no step can hold
    spans = data.rating_spans() if "ratings" in loss.trains_on() else {}
    if len(set(spans.values())) > 1:
        listed = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in spans.items())
        note_fallback(f"The rating scales of the sources differ, and are not adjusted: {listed}.")


def _unlabelled(data: ComparisonData) -> str:
    """Why no loss fits rows without a label: what was read, and what was not."""
    how = "; ".join(data.report.read_as) or "rows of that format"
    others = ", ".join(data.report.others)
    unread = f" Columns that were not read: {others}." if others else ""
    return (
        f"No row of {', '.join(data.source.paths)} has a label to train on, which is a better and "
        f"a worse answer or a rating; read as {how}.{unread} Name the column of a rating as "
        "data.fields.rating=COLUMN, or those of two answers as data.fields.chosen=COLUMN "
        "data.fields.rejected=COLUMN."
    )


def _check_pairs(data: ComparisonData, loss: Loss) -> None:
    """Check that each pair has the margin or the rating gap that the loss reads."""
    required = loss.required()
    for split in ("train", "val"):
        rows = data.splits[split]
        if "margins" in required and data.columns.numbers("without_margin")[rows].any():
            raise UserError(
                f"The loss takes each pair's margin, and pairs of {split} have none: give each "
                "row a number in its margin field, or the loss a constant."
            )
        without = int(data.columns.numbers("without_ratings")[rows].sum())
        if "ratings" in required and without:
            raise UserError(
                f"The loss takes the gap of each pair's ratings, but in {without} pairs of "
                f"{split} one response has no rating, or the better one no higher rating: leave "
                "those rows out, or give the loss a constant margin (loss.margin=1.0)."
            )


def _fit_to_ratings(data: ComparisonData, loss: Loss) -> None:
    """Fit the loss to the ratings of the training rows, weighted by their sampling rates."""
    train, rates = data.splits["train"], data.sampling_rate()
    rated = data.columns.numbers("rated")[train] > 0
    weights_C = (data.columns.numbers("weight")[train] * (1.0 if rates is None else rates))[rated]
    rows = data.columns.objects("ratings", train[rated])
    found = [(r, w) for row, w in zip(rows, weights_C, strict=True) for r in row if r == r]
    if found:
        loss.fit_to_ratings(*np.array(found, dtype=np.float64).T)

"""Checks that data has the labels that a loss needs."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from rmexp.comparison import LABEL_KINDS
from rmexp.config.compose import locate
from rmexp.config.schema import CONF_DIR
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.splits import SPLIT_NAMES
from rmexp.data.token_columns import COUNT_COLUMNS
from rmexp.losses.base import Loss

PAIR_MARGINS = {
    "margins": ("without_margin", "a margin", "give rows a number in their margin field"),
    "ratings": (
        "without_ratings",
        "a rating gap",
        "give the better answers a higher rating than the worse ones",
    ),
}
"""Label kind that a margin is read from -> the column that counts pairs without it, what it is, and
how to provide it."""


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
        UserError: the rows have nothing that the loss trains on, or nothing to select by; no pair
            has the margin or ratings that the loss reads; it trains on ratings of rows whose labels
            were corrected; it does not read votes that were made; a comparison is larger than
            `data.tokens_per_batch`.
    """
    _check_corrected(data, loss, loss_name)
    _check_sizes(data, loss.needs_labels)
    if not any(sum(data.counts(split).values()) for split in ("train", "val", "test")):
        raise UserError(_unlabelled(data))
    label_kinds = {kind for kind, count in data.counts("train").items() if count}
    check_fits(loss, loss_name, label_kinds, data_name)
    for name, part in loss.components().items():
        if missing := set(part.needs_labels) - label_kinds:
            note_fallback(f"loss.losses.{name} has nothing to learn from: no {', '.join(missing)}.")
        elif "pairs" in part.needs_labels:
            _leave_out_pairs(data, part, name)
    kinds = [kind for kind in loss.trains_on() if kind in COUNT_COLUMNS]
    data.keep_trainable(kinds, f"nothing in it for loss={loss_name}")
    _fit_to_ratings(data, loss)
    data.plan()  # refuses a comparison that no step can hold
    spans = data.rating_spans() if "ratings" in loss.trains_on() else {}
    if len(set(spans.values())) > 1:
        listed = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in spans.items())
        note_fallback(f"The rating scales of the sources differ, and are not adjusted: {listed}.")


def _check_corrected(data: ComparisonData, loss: Loss, loss_name: str) -> None:
    """Refuse a loss that would not see the labels that `data.exclude` or `data.relabel` changed.

    Raises:
        UserError: names the key, and losses or settings that fit.
    """
    for key, facts in data.corrected.items():
        if facts["rated"] and "ratings" in loss.trains_on():
            raise UserError(
                f"data.{key} changes pairs, and loss={loss_name} trains on the ratings of single "
                f"responses, which {facts['rated']} of these comparisons have: use a loss on pairs "
                f"(loss=bradley_terry), or leave out data.{key}."
            )
        reads_votes = any(part.reads_votes for part in loss.components().values())
        if facts["by"] == "soften" and not reads_votes:
            raise UserError(
                f"data.relabel_by=soften makes votes, which loss={loss_name} does not read: use "
                "loss=soft_bradley_terry, or data.relabel_by=weigh or flip."
            )


def _check_sizes(data: ComparisonData, needed: Sequence[str]) -> None:
    """Refuse rows of which none can train or none can select.

    Args:
        needed: the kinds of labels that the loss needs.

    Raises:
        UserError: too few prompts, no row of a split, only ties, or only weights of 0.
    """
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in data.splits.items())
    for name in ("train", "val"):
        if len(data.splits[name]):
            continue
        if (prompts := len(set(data.rows["prompt_key"][:]))) < len(SPLIT_NAMES):
            raise UserError(
                f"The {len(data.rows)} comparisons have {prompts} "
                f"prompt{'s'[: prompts - 1]}, and a prompt is in one split only, so that none "
                f"is left for {name}: give rows with other prompts, or data.val_path (and "
                "data.test_path, or data.test_share=0)."
            )
        lost = "; ".join(data.report.losses())
        raise UserError(
            f"No comparison is left for {name} ({sizes}{'; ' if lost else ''}{lost}): "
            "give more rows, other shares, or data.val_path."
        )
    everything = np.concatenate(list(data.splits.values()))
    found = {kind for kind, count in data.columns.counts(everything).items() if count}
    if "pairs" in needed and "ties" in found and "pairs" not in found:
        rated = " loss=regression trains on their ratings." if "ratings" in found else ""
        raise UserError(
            f"All {len(data.rows)} comparisons are ties: no pair tells which answer is better, "
            "so that there is nothing to learn or to select by; loss=ties needs pairs beside "
            f"the ties, too.{rated}"
        )
    in_val = {kind for kind, count in data.counts("val").items() if count}
    if "pairs" in needed and "ties" in in_val and "pairs" not in in_val:
        raise UserError(
            f"All {len(data.splits['val'])} comparisons of val are ties, and no pair is left "
            "to select by: give more rows, a larger data.val_share, or data.val_path."
        )
    for name, rows in data.splits.items():
        if len(rows) and not data.columns.numbers("weight")[rows].any():
            raise UserError(
                f"All {len(rows)} comparisons of {name} have weight 0: give some a weight, "
                "or leave the column out."
            )


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


def _leave_out_pairs(data: ComparisonData, loss: Loss, name: str) -> None:
    """Leave out pairs without the margin or the rating gap that a loss reads.

    The loss gives them the weight 0. Training rows that have no other pair are dropped, except in a
    mix, where `name` is the loss's name.

    Raises:
        UserError: no pair of a split has it.
    """
    for kind, (column, what, fix) in PAIR_MARGINS.items():
        if kind not in loss.required():
            continue
        for split in ("train", "val"):
            judged, without = (
                data.columns.numbers(one)[data.splits[split]] for one in ("judged", column)
            )
            pairs, lost = int(judged.sum()), int(without.sum())
            if pairs and lost == pairs:
                raise UserError(
                    f"The loss reads {what} of each pair, and none of the {pairs} pairs of {split} "
                    f"has one: {fix}, or the loss a constant margin."
                )
            if lost:
                reads = f"loss.losses.{name}" if name else "the loss"
                note_fallback(
                    f"{lost} of {pairs} pairs of {split} are without {what}, which {reads} reads: "
                    "it leaves them out."
                )
            if split == "train" and not name:
                data.drop_train((without < judged) | (judged == 0), f"without {what}")


def _fit_to_ratings(data: ComparisonData, loss: Loss) -> None:
    """Fit the loss to the ratings of the training rows, weighted by their sampling rates."""
    train, rates = data.splits["train"], data.sampling_rate()
    rated = data.columns.numbers("rated")[train] > 0
    weights_C = (data.columns.numbers("weight")[train] * (1.0 if rates is None else rates))[rated]
    rows = data.columns.objects("ratings", train[rated])
    found = [(r, w) for row, w in zip(rows, weights_C, strict=True) for r in row if r == r]
    if found:
        loss.fit_to_ratings(*np.array(found, dtype=np.float64).T)

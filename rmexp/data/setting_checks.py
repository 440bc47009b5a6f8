"""What data must be before a model loads: settings that go together, rows that a loss can use."""

from collections.abc import Mapping, Sequence

from rmexp.core.errors import UserError
from rmexp.data.token_columns import TokenColumns
from rmexp.losses.compatibility import Splits


def check_shares(val_share: float, test_share: float, val_path: str | None) -> None:
    """Refuse shares of prompts that leave nothing to select on, or to train on."""
    if val_share == 0 and val_path is None:
        raise UserError(
            "data.val_share=0 leaves nothing to select on; give data.val_path or a share."
        )
    if val_share + test_share >= 1:
        raise UserError(
            f"data.val_share={val_share} and data.test_share={test_share} "
            "leave no rows to train on."
        )


def check_steps(tokens_per_batch: int | None, group_by_prompt: bool, balance: str | None) -> None:
    """Refuse ways of dealing out steps that exclude each other."""
    if tokens_per_batch is not None and group_by_prompt:
        raise UserError(
            "data.tokens_per_batch deals out comparisons, data.group_by_prompt whole prompts: "
            "leave out one of them (with the latter data.batch_size counts prompts)."
        )
    if tokens_per_batch is not None and balance is not None:
        raise UserError(
            "data.tokens_per_batch lays all rows out once, data.balance draws some of them "
            "several times: leave out one of them."
        )


def check_fold(
    fold: int | None, by: str | None, until: str | None, paths: Mapping[str, str | None]
) -> None:
    """Refuse a fold of nothing, or of rows that were dealt out already."""
    if until is not None and by is None:
        raise UserError(
            f"data.fold_until={until} says where a group's name ends, and not what the groups "
            "are: set data.fold_by to the column that tells them apart."
        )
    if fold is None:
        return
    if by is None:
        raise UserError(
            f"data.fold={fold} says which group is held out, and not what the groups are: "
            "set data.fold_by to the column that tells them apart."
        )
    if given := [f"data.{name}_path" for name, path in paths.items() if path is not None]:
        raise UserError(
            f"data.fold holds out a part of data.path: leave out {' and '.join(given)}."
        )


def check_splits(columns: TokenColumns, splits: Splits, wanted: Sequence[str]) -> None:
    """There is something to train on, and something to select by.

    Raises:
        UserError: train or val has no judgement of the `wanted` kinds.
    """
    for name in ("train", "val"):
        counts = columns.counts(splits[name])
        if not any(counts[kind] for kind in wanted):
            raise UserError(
                f"The {name} split has {len(splits[name])} comparisons and none with "
                f"{' or '.join(wanted)}: give more rows, other shares (data.val_share), or "
                "ratings that differ by data.min_rating_gap."
            )

"""The options of conf/data: flat keys of a configuration -> `ComparisonData`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from rmexp.config.schema import CONF_DIR
from rmexp.config.yaml_io import read_yaml
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.corrections import LabelCorrections, RelabelBy
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.column_map import ColumnMap
from rmexp.data.formats.fold_group import FoldGroup
from rmexp.data.formats.text_only import TextOnly
from rmexp.data.reader import Format
from rmexp.data.row_source import MixedSource, RowSource
from rmexp.data.settings import BatchSettings, SamplingSettings
from rmexp.data.sources import ReadOptions
from rmexp.data.splits import Fold, SplitPolicy
from rmexp.data.token_columns import Balance
from rmexp.data.tokenize_spec import TokenizeSpec
from rmexp.templates.template import Template

AUTO = "auto"
"""The value of `data.format` and of `data.fields.FIELD` that leaves them to the columns."""

OFF = (None, "none", "None", "")
"""Values of `data.fields.FIELD` that switch a field off; YAML's null is the first."""

Count = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]


def comparison_data(
    format: str | Format,
    ignore_images: bool,
    path: str | list[str],
    fields: Mapping[str, str | None] | None,
    template: Template | None,
    system: str | None,
    val_path: str | list[str] | None,
    test_path: str | list[str] | None,
    encoding: str | None,
    split_names: Mapping[str, Literal["train", "val", "test"] | None] | None,
    limit: Count | None,
    on_bad_row: Literal["raise", "skip"],
    max_bad_share: Share,
    min_rating_gap: Annotated[float, Gt(0)] | None,
    val_share: Share,
    test_share: Share,
    split_seed: int,
    fold_by: str | None,
    fold_until: str | None,
    fold: Annotated[int, Ge(0)] | None,
    max_length: Count,
    exclude: str | None,
    relabel: str | None,
    relabel_by: RelabelBy,
    wrong_above: Share,
    max_per_prompt: Count | None,
    balance: Balance | None,
    batch_size: Count,
    tokens_per_batch: Count | None,
    group_by_prompt: bool,
    eval_batch_size: Count,
    micro_batch_tokens: Count,
    workers: Annotated[int, Ge(0)],
    cache: str,
) -> ComparisonData:
    """The data of an option; conf/data/jsonl.yaml describes the keys and has their defaults.

    Raises:
        UserError: settings exclude each other.
    """
    given = {"val": val_path, "test": test_path}
    paths: dict[str | None, str | list[str]] = {k: p for k, p in given.items() if p is not None}
    splits = _split_policy(val_share, test_share, split_seed, fold, fold_by, fold_until, paths)
    parse = row_format(format, fields or {}, ignore_images)
    spec = TokenizeSpec(
        {"train" if paths else None: path} | paths,
        parse if splits.fold is None else FoldGroup(parse, splits.fold.by),
        limit,
        on_bad_row,
        max_bad_share,
        min_rating_gap,
        max_length,
        ReadOptions(encoding, split_names or {}),
    )
    own = () if system is None else (Template(None, None, system, None, None, {}),)
    templates = own if template is None else (template, *own)
    return ComparisonData(
        RowSource(spec, templates, Path(cache).expanduser()),
        splits,
        SamplingSettings(max_per_prompt, balance),
        BatchSettings(
            batch_size, tokens_per_batch, group_by_prompt, eval_batch_size, micro_batch_tokens,
            workers,
        ),
        LabelCorrections(exclude, relabel, relabel_by, wrong_above),
    )  # fmt: skip


def row_format(
    format: str | Format, fields: Mapping[str, str | None], ignore_images: bool
) -> Format:
    """The format of a configuration's rows, see conf/data/jsonl.yaml."""
    columns = {
        name: None if column in OFF else column for name, column in fields.items() if column != AUTO
    }
    parse: Format
    if isinstance(format, str):
        parse = Auto(None if format == AUTO else format, columns)
    elif isinstance(format, Auto):
        parse = dataclasses.replace(format, fields=columns)
    else:
        parse = ColumnMap(format, columns)
    return TextOnly(parse, ignore_images)


def mixture(
    sources: Mapping[str, ComparisonData],
    weights: Mapping[str, Annotated[float, Gt(0)]] | None,
    temperature: Annotated[float, Gt(0)],
    val_share: Share,
    test_share: Share,
    split_seed: int,
    fold_by: str | None,
    fold_until: str | None,
    fold: Annotated[int, Ge(0)] | None,
    max_length: Count,
    exclude: str | None,
    relabel: str | None,
    relabel_by: RelabelBy,
    wrong_above: Share,
    max_per_prompt: Count | None,
    balance: Balance | None,
    batch_size: Count,
    tokens_per_batch: Count | None,
    group_by_prompt: bool,
    eval_batch_size: Count,
    micro_batch_tokens: Count,
    workers: Annotated[int, Ge(0)],
    cache: str,
) -> ComparisonData:
    """The rows of several sources, split together, so that no prompt is in two splits.

    See conf/data/mix.yaml.

    Raises:
        UserError: there are no sources, `weights` does not name them, settings exclude each other,
            or a source has a setting that only the mixture reads.
    """
    if not sources:
        raise UserError(
            "data=mix has no sources: add each as +data@data.sources.NAME=OPTION with "
            "data.sources.NAME.path=FILE, or write them into a YAML."
        )
    if weights is not None and set(weights) != set(sources):
        raise UserError(
            f"data.weights names {', '.join(weights)}; data.sources has {', '.join(sources)}."
        )
    if tokens_per_batch is not None and (weights is not None or temperature != 1):
        raise UserError(
            "data.tokens_per_batch uses every row once, data.weights and data.temperature sample "
            "rows repeatedly: leave out one of them."
        )
    splits = _split_policy(val_share, test_share, split_seed, fold, fold_by, fold_until, {})
    parts = {}
    for name, data in sources.items():
        _check_unread(name, data)
        assert isinstance(data.source, RowSource), "mixtures do not nest"
        parse = data.source.spec.parse
        if splits.fold is not None:
            parse = FoldGroup(parse, splits.fold.by)
        source = data.source.replaced(max_length=max_length, parse=parse)
        parts[name] = dataclasses.replace(source, group=f"data.sources.{name}")
    return ComparisonData(
        MixedSource(parts, weights, temperature, Path(cache).expanduser()),
        splits,
        SamplingSettings(max_per_prompt, balance),
        BatchSettings(
            batch_size, tokens_per_batch, group_by_prompt, eval_batch_size, micro_batch_tokens,
            workers,
        ),
        LabelCorrections(exclude, relabel, relabel_by, wrong_above),
    )  # fmt: skip


def _check_unread(name: str, data: ComparisonData) -> None:
    """Refuse settings of steps and splits in a source of a mixture: nothing would read them."""
    defaults = read_yaml(CONF_DIR / "data" / "jsonl.yaml")
    splits = data.split_policy
    assert isinstance(splits, SplitPolicy)
    given: dict[str, Any] = {
        "split_seed": splits.seed,
        "fold": splits.fold,
        **vars(data.sampling),
        **vars(data.batching),
        **vars(data.corrections),
        "max_length": data.source.max_length,
        **{f"{split}_share": share for split, share in splits.shares.items()},
    }
    for key, value in given.items():
        if value != defaults[key]:
            raise UserError(
                f"data.sources.{name}.{key} has no effect: set data.{key} for all sources."
            )


def _split_policy(
    val_share: float,
    test_share: float,
    seed: int,
    fold: int | None,
    by: str | None,
    until: str | None,
    paths: Mapping[str | None, str | list[str]],
) -> SplitPolicy:
    if val_share == 0 and "val" not in paths:
        raise UserError(
            "data.val_share=0 leaves no rows for validation: give data.val_path or a share."
        )
    if val_share + test_share >= 1:
        raise UserError(
            f"data.val_share={val_share} and data.test_share={test_share} "
            "leave no rows to train on."
        )
    if until is not None and by is None:
        raise UserError(
            f"data.fold_until={until} shortens the names of groups, but there are no groups: "
            "set data.fold_by to the column of the groups."
        )
    if fold is not None and by is None:
        raise UserError(
            f"data.fold={fold} is the number of a group, but there are no groups: "
            "set data.fold_by to the column of the groups."
        )
    if fold is not None and paths:
        given = " and ".join(f"data.{name}_path" for name in paths)
        raise UserError(f"data.fold splits the rows of data.path: leave out {given}.")
    held = None if fold is None or by is None else Fold(by, fold, until)
    return SplitPolicy({"val": val_share, "test": test_share}, seed, held)

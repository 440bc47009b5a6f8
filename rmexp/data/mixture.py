"""Several sources in one training set, by rows, by temperature or by shares of their own."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import datasets
import numpy as np
from annotated_types import Gt

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError, note_fallback
from rmexp.data import sampling
from rmexp.data.datamodule import ComparisonData
from rmexp.data.formats.fold_group import FoldGroup
from rmexp.data.reader import RowReport
from rmexp.data.token_dataset import TokenTable
from rmexp.losses.base import Loss

SHARED = (
    "split_seed",
    "fold",
    "max_per_prompt",
    "balance",
    "batch_size",
    "tokens_per_batch",
    "group_by_prompt",
    "eval_batch_size",
    "micro_batch_tokens",
    "workers",
    "max_length",
)
"""What the mixture says for all sources, about steps and splits."""


SPLITTING = ("val_share", "test_share", "fold_by", "fold_until")
"""What it says of splits beside; a source's own `fold_by` is read where it has a `fold`."""


class Mixture(ComparisonData):
    """The rows of several sources, split together, so that no prompt is in two splits.

    A source's subset `S` becomes `NAME.S`, or `NAME` where it has one only. Draws follow `weights`
    in training alone: validation and test have every row once.

    Args:
        sources: name -> its data.
        weights: name -> its share of all draws (they need not sum to 1); None: by `temperature`.
        temperature: shares as rows^(1 / temperature): 1 draws every row once, more lifts small
            sources.
        settings: see `ComparisonData`; what it says of steps and splits.

    Raises:
        UserError: there are no sources, the weights do not name them, or a source sets what only
            the mixture can.
    """

    def __init__(
        self,
        sources: Mapping[str, ComparisonData],
        weights: Mapping[str, Annotated[float, Gt(0)]] | None = None,
        temperature: Annotated[float, Gt(0)] = 1.0,
        **settings: Any,
    ) -> None:
        if not sources:
            raise UserError(
                "data=mix has no sources: add each as +data@data.sources.NAME=OPTION with "
                "data.sources.NAME.path=FILE, or write them into a YAML."
            )
        if unread := set(settings) - {*SHARED, *SPLITTING, "cache"}:
            key = sorted(unread)[0]
            raise UserError(f"data.{key} is each source's own: set data.sources.NAME.{key}.")
        first = next(iter(sources.values()))
        super().__init__(first.recipe.parse, first.paths[0], **settings)
        if weights is not None and set(weights) != set(sources):
            raise UserError(
                f"data.weights names {', '.join(weights)}; data.sources has {', '.join(sources)}."
            )
        if self.tokens_per_batch is not None and (weights is not None or temperature != 1):
            raise UserError(
                "data.tokens_per_batch lays all rows out once; data.weights and data.temperature "
                "draw some of them several times: leave out one of them."
            )
        for name, source in sources.items():
            _check_source_settings(name, source)
            parse = source.recipe.parse
            source.recipe = dataclasses.replace(
                source.recipe,
                group=f"data.sources.{name}",
                max_length=self.max_length,
                parse=parse if self.fold is None else FoldGroup(parse, self.fold.by),
            )
        self.sources, self.weights, self.temperature = sources, weights, temperature
        self.home = np.zeros(0, dtype=np.int64)

    @property
    def paths(self) -> list[str]:
        """Where the rows come from."""
        return [path for source in self.sources.values() for path in source.paths]

    @property
    def source_key(self) -> str:
        """What the rows are, whatever the tokenizer."""
        return " ".join(f"{name}:{source.source_key}" for name, source in self.sources.items())

    @property
    def label_kinds(self) -> set[str] | None:
        """What any of the sources has; None where one of them does not say."""
        kinds = [source.label_kinds for source in self.sources.values()]
        return None if None in kinds else {kind for found in kinds for kind in found or ()}

    def check_sources(self) -> None:
        """Refuse sources that are not there."""
        for source in self.sources.values():
            source.check_sources()

    def load(self, tokenizer: Any, progress: Callable[[str, int], None]) -> TokenTable:
        """The tokenised rows of all sources, one behind the other."""
        parts, report = [], RowReport()
        tables = {name: source.load(tokenizer, progress) for name, source in self.sources.items()}
        for name, table in tables.items():
            rows, found = table.rows, table.report
            subsets = rows["subset"][:]
            alone = len(set(subsets)) == 1
            renamed = {
                "id": [f"{name}:{row}" for row in rows["id"]],
                "subset": [name if alone else f"{name}.{subset}" for subset in subsets],
            }
            for column, values in renamed.items():
                rows = rows.remove_columns(column).add_column(column, values)
            parts.append(rows)
            report.merge(dataclasses.replace(found, places=[f"{name}: {p}" for p in found.places]))
        self.home = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return TokenTable(
            datasets.concatenate_datasets(parts),
            report,
            all(table.from_cache for table in tables.values()),
            [key for table in tables.values() for key in table.dropped],
        )

    def comparisons(self) -> Iterator[tuple[Comparison, ComparisonData]]:
        """Read the comparisons of all sources again."""
        for name, source in self.sources.items():
            for one, _ in source.comparisons():
                yield dataclasses.replace(one, id=f"{name}:{one.id}"), source

    def sampling_rate(self) -> np.ndarray | None:
        """How often each training row is drawn in an epoch; None: each once."""
        train = self.splits["train"]
        if self.balance is None and self.weights is None and self.temperature == 1:
            return None
        home = self.home[train]
        counts = np.bincount(home, minlength=len(self.sources)).tolist()
        if 0 in counts:
            name = list(self.sources)[counts.index(0)]
            raise UserError(f"data.sources.{name} has no training row, so that it has no share.")
        within = np.ones(len(home))
        if self.balance is not None:
            groups = self.columns.groups(self.balance, train)
            for source in range(len(counts)):
                own = np.flatnonzero(home == source)
                within[own] = sampling.balanced([groups[row] for row in own.tolist()])
        shares = (
            [self.weights[name] for name in self.sources]
            if self.weights is not None
            else sampling.tempered(counts, self.temperature)
        )
        return sampling.by_source(home, shares, within)

    def check_trainable(self, loss: Loss, loss_name: str, data_name: str) -> None:
        """See `ComparisonData`; and say where sources rate on scales of their own."""
        super().check_trainable(loss, loss_name, data_name)
        train = self.splits["train"]
        spans: dict[str, tuple[float, float]] = {}
        for home, name in enumerate(self.sources):
            rows = self.columns.objects("ratings", train[self.home[train] == home])
            if found := [r for row in rows for r in row if r == r]:
                spans[name] = (min(found), max(found))
        if "ratings" in loss.trains_on() and len(set(spans.values())) > 1:
            said = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in spans.items())
            note_fallback(f"The sources rate on scales of their own, taken as one: {said}.")

    def sampled(self) -> dict[str, tuple[float, float]]:
        """Source (and balanced group) -> its share of the training rows, and of the draws."""
        plan, train = self.plan(), self.splits["train"]
        drawn = plan.unit_times()[plan.units]
        names = [list(self.sources)[home] for home in self.home[train]]
        found = dict(sampling.shares_of(names, drawn))
        if self.balance is not None:
            found |= sampling.shares_of(self.columns.groups(self.balance, train), drawn)
        return found


def _check_source_settings(name: str, source: ComparisonData) -> None:
    """A source's step or split settings would be read by nobody."""
    parameters = inspect.signature(ComparisonData).parameters
    dealing = source.dealing
    dealt = {f"{split}_share": share for split, share in dealing.shares.items()}
    dealt["split_seed"] = dealing.seed
    for key in (*SHARED, *dealt):
        given = dealt[key] if key in dealt else getattr(source, key)
        if given != parameters[key].default:
            raise UserError(
                f"data.sources.{name}.{key} would be read by nobody: set data.{key}, for all."
            )

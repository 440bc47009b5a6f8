"""Sources of tokenised rows: one data set, or a mixture of several."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError, note_fallback
from rmexp.data import sampling
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport
from rmexp.data.source_keys import own_keys, path_key
from rmexp.data.sources import check_source
from rmexp.data.token_dataset import TokenTable, load_or_tokenise, reordered
from rmexp.data.tokenize_spec import TokenizeSpec
from rmexp.templates.template import Template

OWN_TEMPLATE_NOTE = (
    "data.template and data.system hold for these rows alone: an export has template and "
    "template.system."
)


@dataclass(frozen=True, eq=False)  # hashable by identity
class RowSource:
    """One data set and how its rows are rendered.

    Args:
        spec: what is read and how it is tokenised.
        templates: installed over the run's template, one after the other.
        cache: directory for tokenised rows.
        group: what the user types before the keys of this source. Messages of `rmexp.data` name
            keys as `data.KEY`; the source puts its own in their place.
    """

    spec: TokenizeSpec
    templates: tuple[Template, ...]
    cache: Path
    group: str = "data"

    names: ClassVar[tuple[str, ...]] = ()

    @property
    def paths(self) -> list[str]:
        """Where the rows come from."""
        given = self.spec.paths.values()
        return [path for one in given for path in ([one] if isinstance(one, str) else one)]

    @property
    def key(self) -> str:
        """A hash of the rows, whatever the template and tokenizer."""
        return self.spec.source_key

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and a response may have together."""
        return self.spec.max_length

    @property
    def label_kinds(self) -> set[str] | None:
        """The label kinds that rows of the format may have; None: only the rows tell."""
        kinds = getattr(self.spec.parse, "label_kinds", None)
        if kinds is None:
            return None
        rated = {"ratings", "lists"} <= set(kinds) and self.spec.min_rating_gap is not None
        return {*kinds, *(("pairs", "ties") if rated else ())}

    @property
    def attribute_weights(self) -> Mapping[str, float]:
        """Attribute -> its weight in the rating, where the format has such weights."""
        found = getattr(self.spec.parse, "attributes", None)
        return found if isinstance(found, Mapping) else {}

    def check(self) -> None:
        """Refuse paths that do not exist, before a tokenizer is loaded."""
        with self.own_keys():
            for split, path in self.spec.paths.items():
                check_source(path, path_key(split, self.spec.paths))

    def replaced(self, **changes: Any) -> "RowSource":
        """The source with other fields of its `spec`."""
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, **changes))

    def comparisons(self) -> Iterator[tuple[Comparison, "RowSource"]]:
        """Read the comparisons again, with the ids of the tokenised rows and their source."""
        spec = self.spec
        with self.own_keys():
            for one in read_comparisons(
                spec.paths, spec.parse, RowReport(), spec.limit, spec.reading
            ):
                yield one, self

    @contextmanager
    def own_keys(self) -> Iterator[None]:
        """Errors name the keys of this source."""
        try:
            yield
        except UserError as error:
            if (text := self.with_own_keys(str(error))) == str(error):
                raise
            raise UserError(text) from error.__cause__

    def with_own_keys(self, text: str) -> str:
        """A sentence with the keys of this source in place of `data.KEY`."""
        return text if self.group == "data" else own_keys(text, self.group)

    def own_tokenizer(self, tokenizer: Any) -> Any:
        """The tokenizer with the templates of these rows; itself where they have none."""
        if tokenizer is None or not self.templates:
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)
        for template in self.templates:
            template.install(tokenizer)
        return tokenizer

    def load(
        self, tokenizer: Any, progress: Callable[[str, int], None]
    ) -> tuple[TokenTable, np.ndarray]:
        """The tokenised rows, see `load_or_tokenise`, and the number of each row's source."""
        own = self.own_tokenizer(tokenizer)
        if own is not tokenizer:
            note_fallback(OWN_TEMPLATE_NOTE)
        with self.own_keys():
            table = load_or_tokenise(self.spec, own, self.cache, progress)
        table = dataclasses.replace(table, report=table.report.reworded(self.with_own_keys))
        return table, np.zeros(len(table.rows), dtype=np.int64)

    def sampling_rate(self, sources: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray | None:
        """(C,) draws an epoch of each training row, mean 1; None: each row once.

        Args:
            sources: (C,) the number of each row's source.
            groups: the group of each row, where groups are to be balanced.
        """
        return None if groups is None else sampling.balanced(groups)


@dataclass(frozen=True)
class MixedSource:
    """The rows of several sources, one after the other.

    A source's subset `S` becomes `NAME.S`, or `NAME` if it has only one. Training draws follow
    `weights`; validation and test have every row once.

    Args:
        sources: name -> source; they share `max_length`.
        weights: name -> its share of all draws (they need not sum to 1); None: by `temperature`.
        temperature: shares as rows^(1 / temperature): 1 draws every row once, more lifts small
            sources.
        cache: directory for cached activations.
    """

    sources: Mapping[str, RowSource]
    weights: Mapping[str, float] | None
    temperature: float
    cache: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The sources by their number."""
        return tuple(self.sources)

    @property
    def paths(self) -> list[str]:
        """Where the rows come from."""
        return [path for source in self.sources.values() for path in source.paths]

    @property
    def key(self) -> str:
        """A hash of the rows, whatever the template and tokenizer."""
        return " ".join(f"{name}:{source.key}" for name, source in self.sources.items())

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and a response may have together."""
        return next(iter(self.sources.values())).max_length

    @property
    def label_kinds(self) -> set[str] | None:
        """The label kinds that rows may have; None where a format does not tell."""
        found = [source.label_kinds for source in self.sources.values()]
        return None if None in found else {kind for kinds in found for kind in kinds or ()}

    @property
    def attribute_weights(self) -> Mapping[str, float]:
        """Attribute -> its weight in the rating of the first source that has one."""
        found: dict[str, float] = {}
        for source in self.sources.values():
            found = {**source.attribute_weights, **found}
        return found

    def check(self) -> None:
        """Refuse paths that do not exist, before a tokenizer is loaded."""
        for source in self.sources.values():
            source.check()

    def replaced(self, **changes: Any) -> "MixedSource":
        """The mixture with other fields of each source's `spec`."""
        sources = {name: source.replaced(**changes) for name, source in self.sources.items()}
        return dataclasses.replace(self, sources=sources)

    def comparisons(self) -> Iterator[tuple[Comparison, RowSource]]:
        """Read the comparisons again, with the ids of the tokenised rows and their source."""
        for name, source in self.sources.items():
            for one, _ in source.comparisons():
                yield dataclasses.replace(one, id=f"{name}:{one.id}"), source

    def own_tokenizer(self, tokenizer: Any) -> Any:
        """The run's tokenizer: a source's own templates hold for its rows alone."""
        return tokenizer

    def load(
        self, tokenizer: Any, progress: Callable[[str, int], None]
    ) -> tuple[TokenTable, np.ndarray]:
        """The tokenised rows of all sources, and the number of each row's source."""
        tables = {n: source.load(tokenizer, progress)[0] for n, source in self.sources.items()}
        parts, report = [], RowReport()
        names = list(dict.fromkeys(name for t in tables.values() for name in t.attributes))
        for name, table in tables.items():
            rows = table.rows
            subsets = rows["subset"][:]
            single = len(set(subsets)) == 1
            renamed: dict[str, list[Any]] = {
                "id": [f"{name}:{row}" for row in rows["id"]],
                "subset": [name if single else f"{name}.{subset}" for subset in subsets],
            }
            if table.attributes != tuple(names[: len(table.attributes)]):
                renamed["attributes"] = reordered(rows, table.attributes, names)
            for column, values in renamed.items():
                rows = rows.remove_columns(column).add_column(column, values)
            parts.append(rows)
            places = {
                f"{name}: {cause}": f"{name}: {place}"
                for cause, place in table.report.places.items()
            }
            report.merge(dataclasses.replace(table.report, places=places))
        mixed = TokenTable(
            " ".join(table.key for table in tables.values()),
            datasets.concatenate_datasets(parts),
            report,
            all(table.from_cache for table in tables.values()),
            [key for table in tables.values() for key in table.dropped],
            tuple(names),
        )
        return mixed, np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])

    def sampling_rate(self, sources: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray | None:
        """(C,) draws an epoch of each training row, mean 1; None: each row once.

        Raises:
            UserError: a source has no training row.
        """
        if groups is None and self.weights is None and self.temperature == 1:
            return None
        counts = np.bincount(sources, minlength=len(self.sources)).tolist()
        if 0 in counts:
            name = self.names[counts.index(0)]
            raise UserError(f"data.sources.{name} has no training row to sample.")
        within = np.ones(len(sources))
        if groups is not None:
            for number in range(len(counts)):
                own = np.flatnonzero(sources == number)
                within[own] = sampling.balanced([groups[row] for row in own.tolist()])
        shares = (
            [self.weights[name] for name in self.names]
            if self.weights is not None
            else sampling.tempered(counts, self.temperature)
        )
        return sampling.by_source(sources, shares, within)

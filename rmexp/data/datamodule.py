"""The LightningDataModule: a source, a format and a template in; train, val and test steps out."""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import numpy as np
from annotated_types import Ge, Gt, Le

from rmexp.batching.activation_store import ActivationStore
from rmexp.batching.collate import Batch, Collate, Layout
from rmexp.batching.rank_partition import RankPartition
from rmexp.batching.step_loader import BatchPlan, StepLoader, evaluation_loader
from rmexp.comparison import Comparison
from rmexp.core import distributed
from rmexp.core.errors import UserError, note_fallback
from rmexp.data import sampling
from rmexp.data.formats.column_map import ColumnMap
from rmexp.data.formats.fold_group import FoldGroup
from rmexp.data.reader import Format, RowReport, read_comparisons
from rmexp.data.setting_checks import check_fold, check_shares, check_splits, check_steps
from rmexp.data.sources import check_source
from rmexp.data.splits import Fold, SplitPolicy, describe_fold
from rmexp.data.token_columns import COUNT_COLUMNS, Balance, TokenColumns
from rmexp.data.token_dataset import TokenizeSpec, TokenTable, load_or_tokenise
from rmexp.losses.base import Loss
from rmexp.losses.compatibility import check_loss, fit_loss_to_ratings
from rmexp.templates.template import Template

SplitShare = Annotated[float, Ge(0), Le(1)]


OWN_TEMPLATE = (
    "data.template and data.system hold for these rows alone: an export carries template and "
    "template.system."
)


class ComparisonData(lightning.LightningDataModule):
    """Comparisons, tokenised once and cached, split by prompt, dealt out in steps.

    Args:
        format: raw row -> Comparison.
        path: file, `datasets` directory or hub id; the rows to split (or to train on).
        fields: field of the format -> the column that it is called in these rows.
        template: another template for these rows than the run's; None: the run's.
        system: a system prompt for these rows where they bring none.
        val_path, test_path: separate sources for validation and test rows.
        limit: comparisons taken from each source, from its start.
        on_bad_row: `raise` stops at bad rows, `skip` leaves them out, counted.
        max_bad_share: share of bad rows above which `skip` stops as well.
        min_rating_gap: ratings this far apart (or more) make a judged pair; None makes none.
        val_share, test_share: share of prompts cut off where the source declares no such split.
        split_seed: deals prompts into splits; separate from the run's seed, so that seeds share a
            test set.
        fold_by: the column that tells groups apart (or `subset`, `language`), where `fold` is set.
        fold_until: a group's name ends before the first of these signs; None: the whole value.
        fold: hold out this group as test, by its number in the order of names, from 0, and other
            groups as val; splits that rows declare are not used. None: split as usual.
        max_length: tokens of prompt and response together; oldest prompt turns go, responses stay.
        max_per_prompt: training comparisons of a prompt; more are left out, counted.
        balance: draw training rows so that all subsets (or languages, labels, pairs in which the
            longer and the shorter response won) come equally often; None draws each once.
        batch_size: comparisons of one optimizer step; with `group_by_prompt` prompts.
        tokens_per_batch: distinct tokens of one step, on average, in place of `batch_size`.
        group_by_prompt: all comparisons of a prompt share a step (and a tree).
        eval_batch_size: comparisons scored at once.
        micro_batch_tokens: tokens pushed through the model at once, padding included.
        workers: processes that collate steps.
        cache: directory for tokenised rows.
    """

    def __init__(
        self,
        format: Format,
        path: str,
        fields: Mapping[str, str | None] | None = None,
        template: Template | None = None,
        system: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        limit: Annotated[int, Gt(0)] | None = None,
        on_bad_row: Literal["raise", "skip"] = "raise",
        max_bad_share: SplitShare = 0.01,
        min_rating_gap: Annotated[float, Gt(0)] | None = 1.0,
        val_share: SplitShare = 0.1,
        test_share: SplitShare = 0.1,
        split_seed: int = 0,
        fold_by: str | None = None,
        fold_until: str | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        max_length: Annotated[int, Gt(0)] = 1024,
        max_per_prompt: Annotated[int, Gt(0)] | None = None,
        balance: Balance | None = None,
        batch_size: Annotated[int, Gt(0)] = 8,
        tokens_per_batch: Annotated[int, Gt(0)] | None = None,
        group_by_prompt: bool = False,
        eval_batch_size: Annotated[int, Gt(0)] = 16,
        micro_batch_tokens: Annotated[int, Gt(0)] = 4096,
        workers: Annotated[int, Ge(0)] = 0,
        cache: str = "~/.cache/rmexp",
    ) -> None:
        super().__init__()
        check_shares(val_share, test_share, val_path)
        check_steps(tokens_per_batch, group_by_prompt, balance)
        check_fold(fold, fold_by, fold_until, {"val": val_path, "test": test_path})
        paths = {None if val_path is None and test_path is None else "train": path}
        paths |= {name: p for name, p in (("val", val_path), ("test", test_path)) if p is not None}
        columns = {name: column for name, column in (fields or {}).items() if column is not None}
        parse = ColumnMap(format, columns) if columns else format
        self.fold = None
        if fold is not None and fold_by is not None:
            self.fold, parse = Fold(fold_by, fold, fold_until), FoldGroup(parse, fold_by)
        self.recipe = TokenizeSpec(
            paths, parse, limit, on_bad_row, max_bad_share, min_rating_gap, max_length
        )
        self.template, self.system = template, system
        self.dealing = SplitPolicy({"val": val_share, "test": test_share}, split_seed, self.fold)
        self.held_out: dict[str, Any] | None = None
        self.eval_batch_size = eval_batch_size
        self.max_per_prompt, self.balance = max_per_prompt, balance
        self.batch_size, self.tokens_per_batch = batch_size, tokens_per_batch
        self.group_by_prompt = group_by_prompt
        self.micro_batch_tokens, self.workers = micro_batch_tokens, workers
        self.cache = Path(cache).expanduser()
        self.rows: Any = None
        self.report = RowReport()
        self.splits: dict[str, np.ndarray] = {}
        self.from_cache = False
        self.layout: Layout = "padded"
        self.features: ActivationStore | None = None
        self.places: int | None = None
        self.fingerprint = ""

    def check_sources(self) -> None:
        """Refuse sources that are not there, before a tokenizer is loaded."""
        for path in self.recipe.paths.values():
            check_source(path)

    def prepare(self, tokenizer: Any, seed: int, progress: Callable[[str, int], None]) -> None:
        """Read, check, tokenise (or find in the cache) and split. Needs no model.

        Args:
            tokenizer: None for rewards that come from a file, see `load_or_tokenise`.

        Raises:
            UserError: the source or its rows cannot be used, or a split would be empty.
        """
        self.tokenizer, self.seed = tokenizer, seed
        table = self.load(tokenizer, progress)
        self.rows, self.report, self.from_cache = table.rows, table.report, table.from_cache
        self.dropped = table.dropped
        parts = [self.source_key, *self.dealing.key]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        self.splits = self.split()

    def split(self) -> dict[str, np.ndarray]:
        """Split -> its rows."""
        splits, self.held_out = self.dealing.deal(
            self.rows["prompt_key"][:],
            self.rows["split"][:],
            self.rows["subset"][:],
            self.rows["group"][:],
            self.report,
            self.dropped,
        )
        return splits

    def test_on_val(self) -> None:
        """Without test rows, take val for them."""
        if not any(self.counts("test").values()):
            self.splits["test"] = self.splits["val"]
            note_fallback("There is no test split: selected and judged on the same rows (val).")

    def comparisons(self) -> Iterator[tuple[Comparison, "ComparisonData"]]:
        """Read the comparisons again, with the ids of `rows`; each with the source it is from."""
        recipe = self.recipe
        for one in read_comparisons(recipe.paths, recipe.parse, RowReport(), recipe.limit):
            yield one, self

    def load(self, tokenizer: Any, progress: Callable[[str, int], None]) -> TokenTable:
        """The tokenised rows, see `load_or_tokenise`."""
        own = self.own_tokenizer(tokenizer)
        if own is not tokenizer:
            note_fallback(OWN_TEMPLATE)
        return load_or_tokenise(self.recipe, own, self.cache, progress)

    def own_tokenizer(self, tokenizer: Any) -> Any:
        """The tokenizer with these rows' own template and system prompt, where they have one."""
        if tokenizer is None or (self.template is None and self.system is None):
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)
        if self.template is not None:
            self.template.install(tokenizer)
        if self.system is not None:
            Template(tokenizer.chat_template, None, self.system, None, None, {}).install(tokenizer)
        return tokenizer

    @property
    def columns(self) -> TokenColumns:
        """The rows column by column."""
        return TokenColumns(self.rows)

    @property
    def source_key(self) -> str:
        """What the rows are, whatever the tokenizer."""
        return self.recipe.source_key

    @property
    def max_length(self) -> int:
        """Tokens of prompt and response together."""
        return self.recipe.max_length

    @property
    def paths(self) -> list[str]:
        """Where the rows come from."""
        return list(self.recipe.paths.values())

    @property
    def label_kinds(self) -> set[str] | None:
        """The kinds of judgement that the format's rows may have; None: only the rows tell."""
        kinds = getattr(self.recipe.parse, "label_kinds", None)
        if kinds is None:
            return None
        rated = {"ratings", "lists"} <= set(kinds) and self.recipe.min_rating_gap is not None
        return {*kinds, *(("pairs", "ties") if rated else ())}

    def _keep(self, keep: np.ndarray, cause: str) -> None:
        """Leave the other training rows out, counted by subset."""
        if keep.all():
            return
        train = self.splits["train"]
        lost = self.rows.select_columns("subset").select(train[~keep])
        for subset, count in Counter(lost["subset"]).items():
            self.report.drop(cause, subset, count)
        self.splits["train"] = train[keep]

    def counts(self, split: str) -> dict[str, int]:
        """Kind of judgement -> how many there are in a split: pairs and ties, else rows with it."""
        return self.columns.counts(self.splits[split])

    def check_trainable(self, loss: Loss, loss_name: str, data_name: str) -> None:
        """Keep the training rows that the loss learns from, and let it see their ratings.

        Raises:
            UserError: the loss finds nothing to learn from, or nothing to select by; a pair has no
                margin where each must; a comparison larger than `tokens_per_batch`.
        """
        columns = self.columns
        check_loss(columns, self.splits, loss, loss_name, data_name)
        if useful := [kind for kind in loss.trains_on() if kind in COUNT_COLUMNS]:
            keep = columns.with_any(useful, self.splits["train"])
            self._keep(keep, f"nothing in it for loss={loss_name}")
        self._keep(columns.numbers("weight")[self.splits["train"]] > 0, "of weight 0")
        if self.max_per_prompt is not None:
            prompts = columns.prompts(self.splits["train"])
            keep = sampling.capped(prompts, self.max_per_prompt, self.dealing.seed)
            self._keep(keep, f"beyond data.max_per_prompt={self.max_per_prompt}")
        check_splits(columns, self.splits, useful or tuple(COUNT_COLUMNS))
        self.test_on_val()
        fit_loss_to_ratings(columns, self.splits["train"], self.sampling_rate(), loss)
        self.plan()  # refuses what no step can hold

    def example(self) -> tuple[str, list[int]]:
        """The first response, as rendered and as token ids."""
        row = self.rows[0]
        return row["texts"][0], row["tokens"][0]

    def longest(self) -> int:
        """Tokens of the longest response with its prompt."""
        return int(self.columns.numbers("longest").max())

    def collate(self) -> Collate:
        """What makes steps of rows, with this data's padding, micro-batches and layout."""
        return Collate(
            self.tokenizer.pad_token_id,
            self.micro_batch_tokens,
            self.layout,
            self.places,
            self.features,
        )

    def plan(self) -> BatchPlan:
        """Which training rows share a step.

        Raises:
            UserError: a comparison has more tokens than a step may.
        """
        rows, limit = self.splits["train"], self.tokens_per_batch
        units = self.columns.prompts(rows) if self.group_by_prompt else np.arange(len(rows))
        sizes = self.columns.numbers("size")[rows]
        if limit is not None and len(rows) and sizes.max() > limit:
            row = self.rows[int(rows[sizes.argmax()])]
            raise UserError(
                f"Comparison {row['id']} has {sizes.max()} tokens, more than "
                f"data.tokens_per_batch={limit}: raise it, or lower data.max_length."
            )
        return BatchPlan(
            rows, units, sizes, self.batch_size, limit, self.seed, self.sampling_rate()
        )

    def sampling_rate(self) -> np.ndarray | None:
        """How often each training row is drawn in an epoch; None: each once."""
        if self.balance is None:
            return None
        return sampling.balanced(self.columns.groups(self.balance, self.splits["train"]))

    def sampled(self) -> dict[str, tuple[float, float]]:
        """Group -> its share of the training rows, and of the draws in training."""
        if self.balance is None:
            return {}
        plan = self.plan()
        drawn = plan.unit_times()[plan.units]
        return dict(
            sampling.shares_of(self.columns.groups(self.balance, self.splits["train"]), drawn)
        )

    def train_dataloader(self) -> StepLoader:
        """Shuffled steps, of which this process gets its portion; resumable."""
        count = distributed.world_size()
        portion = self.portion(distributed.rank(), count) if count > 1 else None
        return StepLoader(self.rows, self.plan(), self.collate(), self.workers, portion)

    def portion(self, rank: int, count: int) -> RankPartition:
        """What of each step falls to one of `count` processes."""
        columns, everything = self.columns, np.arange(len(self.rows))
        sizes, shared = columns.numbers("size"), columns.shared()
        return RankPartition(rank, count, sizes, shared, columns.prompts(everything))

    def dummy_batch(self) -> Batch:
        """The smallest training row: what a process computes, for nothing, when it has no rows."""
        train = self.splits["train"]
        row = int(train[self.columns.numbers("size")[train].argmin()])
        return self.collate()([{**self.rows[row], "row": row}]).batches[0]

    def val_dataloader(self) -> Any:
        """Every validation row once."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> Any:
        """Every test row once."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str) -> Any:
        """Every row of a split once, longest first; this process's part of it."""
        rows = self.splits[split]
        prompts, lengths = self.columns.prompts(rows), self.columns.numbers("longest")[rows]
        return evaluation_loader(
            self.rows,
            rows,
            prompts,
            lengths,
            self.collate(),
            self.eval_batch_size,
            distributed.rank(),
            distributed.world_size(),
        )

    def lines(self) -> list[str]:
        """What was read, for the terminal."""
        fresh = "read now" if self.tokenizer is None else "tokenised now"
        source = "from the cache" if self.from_cache else fresh
        sizes = []
        for name, rows in self.splits.items():
            counts = self.counts(name)
            said = [
                f"{counts[kind]} {kind}" for kind in ("pairs", "ties", "ratings") if counts[kind]
            ]
            sizes.append(f"{name} {len(rows)} ({', '.join(said) or 'no judgement'})")
        drawn = [
            f"drawn: {group} {share:.1%} of the time ({rows:.1%} of the rows)"
            for group, (rows, share) in self.sampled().items()
        ]
        fold = [] if self.held_out is None else [describe_fold(self.held_out)]
        lines = [*fold, *self.report.lines(), *drawn]
        return [f"data: {', '.join(sizes)}; {source}", *("  " + line for line in lines)]

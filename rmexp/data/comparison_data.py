"""Comparisons, tokenised, split by prompt, and handed out in steps."""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from rmexp.batching.batch import Batch
from rmexp.batching.collate import BatchLayout, Collate
from rmexp.batching.rank_partition import RankPartition
from rmexp.batching.step_loader import BatchPlan, StepLoader, evaluation_loader
from rmexp.core import distributed
from rmexp.core.errors import UserError, note_fallback
from rmexp.data import sampling
from rmexp.data.corrections import LabelCorrections
from rmexp.data.odd_labels import odd_labels
from rmexp.data.row_report import RowReport
from rmexp.data.row_source import MixedSource, RowSource
from rmexp.data.settings import BatchSettings, SamplingSettings
from rmexp.data.splits import SingleSplit, SplitPolicy, describe_fold
from rmexp.data.stored_splits import assigned_splits
from rmexp.data.token_columns import COUNT_COLUMNS, TokenColumns


class ComparisonData:
    """The tokenised rows of a source, their splits, and loaders over them.

    The layout of micro-batches depends on the model, so that loaders take it as an argument.

    Args:
        source: where the rows come from.
        split_policy: which rows train, select and test.
        sampling: which training rows are drawn.
        batching: the sizes of steps.
        corrections: of the labels of training rows; None: an evaluation set.

    Raises:
        UserError: settings exclude each other.

    Attributes:
        rows: the tokenised data set, see `token_dataset.TOKEN_SCHEMA`; set by `prepare`.
        splits: split -> the sorted indices of its rows.
        report: counts of the rows that were read, kept and dropped.
        held_out: facts of the fold that is held out; None without folds.
        corrected: facts of the labels that `corrections` changed; empty without files.
        fingerprint: hash of the source, the splits and the corrections.
        attributes: names of the attributes that rows are rated in.
    """

    def __init__(
        self,
        source: RowSource | MixedSource,
        split_policy: SplitPolicy | SingleSplit,
        sampling: SamplingSettings,
        batching: BatchSettings,
        corrections: LabelCorrections | None = None,
    ) -> None:
        if batching.tokens_per_batch is not None and sampling.balance is not None:
            raise UserError(
                "data.tokens_per_batch uses every row once, data.balance samples rows repeatedly: "
                "leave out one of them."
            )
        self.source, self.split_policy = source, split_policy
        self.sampling, self.batching = sampling, batching
        self.corrections = corrections
        self.rows: Any = None
        self.report = RowReport()
        self.splits: dict[str, np.ndarray] = {}
        self.held_out: dict[str, Any] | None = None
        self.corrected: dict[str, Any] = {}
        self.from_cache = False
        self.fingerprint = ""
        self.attributes: tuple[str, ...] = ()

    def prepare(self, tokenizer: Any, seed: int, progress: Callable[[str, int], None]) -> None:
        """Read, tokenise (or load from the cache) and split the rows; needs no model.

        Args:
            tokenizer: with the run's template; None for rewards that come from a file, see
                `load_or_tokenise`.
            seed: of the order of training rows.
            progress: called with a description and a count while rows are tokenised.

        Raises:
            UserError: the source or its rows cannot be used.
        """
        self.tokenizer, self.seed = tokenizer, seed
        table, self.home = self.source.load(tokenizer, progress)
        self.rows, self.report, self.from_cache = table.rows, table.report, table.from_cache
        self.attributes = table.attributes
        parts = [self.source.key, *self.split_policy.key]
        if self.corrections is not None:
            parts += self.corrections.key
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        self.splits, self.held_out = assigned_splits(self.split_policy, table, self.cache)
        if self.corrections is not None:
            self.rows, self.splits["train"], self.corrected = self.corrections.apply(
                self.rows, self.splits["train"], self.report
            )

    def check(self) -> None:
        """Refuse files that do not exist, before a tokenizer is loaded."""
        self.source.check()
        if self.corrections is not None:
            self.corrections.check()

    @property
    def label_kinds(self) -> set[str] | None:
        """The label kinds that rows of the source may have; None: only the rows tell."""
        kinds = self.source.label_kinds
        softened = self.corrections is not None and self.corrections.softens
        return kinds if kinds is None or not softened else kinds | {"votes"}

    def with_seed(self, seed: int) -> "ComparisonData":
        """A copy that shares the rows, with its own splits, report and order of training rows."""
        twin = copy.copy(self)
        twin.splits, twin.report, twin.seed = dict(self.splits), copy.deepcopy(self.report), seed
        return twin

    def hold_out(self, rows: np.ndarray) -> None:
        """Test on some of the training rows, which then do not train."""
        train = self.splits["train"]
        self.splits["train"], self.splits["test"] = train[~np.isin(train, rows)], rows

    @property
    def columns(self) -> TokenColumns:
        """The rows column by column."""
        return TokenColumns(self.rows)

    @property
    def cache(self) -> Path:
        """Directory for tokenised rows and cached activations."""
        return self.source.cache

    def counts(self, split: str) -> dict[str, int]:
        """Label kind -> its count in a split: pairs and ties, else rows that have it."""
        return self.columns.counts(self.splits[split])

    def example(self) -> tuple[str, list[int]]:
        """The first response, as rendered and as token ids."""
        row = self.rows[0]
        return row["texts"][0], row["tokens"][0]

    def longest(self) -> int:
        """Tokens of the longest response with its prompt."""
        return int(self.columns.numbers("longest").max())

    def keep_trainable(self, kinds: Sequence[str], reason: str) -> None:
        """Drop training rows that cannot train, and check what remains.

        Rows without a label of `kinds` (all rows are kept if it is empty), of weight 0, or beyond
        `max_per_prompt` are dropped and counted. Without test rows, test becomes val.

        Raises:
            UserError: train or val has no label of these kinds.
        """
        columns = self.columns
        if kinds:
            self.drop_train(columns.with_any(kinds, self.splits["train"]), reason)
        self.drop_train(columns.numbers("weight")[self.splits["train"]] > 0, "of weight 0")
        if (most := self.sampling.max_per_prompt) is not None:
            prompts = columns.prompts(self.splits["train"])
            keep = sampling.capped(prompts, most, self.split_policy.seed)
            self.drop_train(keep, f"beyond data.max_per_prompt={most}")
        self._check_labels(kinds or tuple(COUNT_COLUMNS))
        self.test_on_val()

    def _check_labels(self, wanted: Sequence[str]) -> None:
        for name in ("train", "val"):
            counts, rows = self.counts(name), len(self.splits[name])
            if not any(counts[kind] for kind in wanted):
                ties = f", {counts['ties']} ties" if counts["ties"] else ""
                raise UserError(
                    f"The {name} split has {rows} comparisons{ties} and none with "
                    f"{' or '.join(wanted)}: give more rows, other shares (data.val_share), or "
                    "ratings that differ by data.min_rating_gap."
                )

    def test_on_val(self) -> None:
        """Use val as test if there are no test rows."""
        if not any(self.counts("test").values()):
            self.splits["test"] = self.splits["val"]
            note_fallback("There is no test split: selection and test use the same rows (val).")

    def drop_train(self, keep: np.ndarray, cause: str) -> None:
        """Drop the training rows that are not to `keep`, (C,) of bool, and count them."""
        if keep.all():
            return
        train = self.splits["train"]
        lost = self.rows.select_columns("subset").select(train[~keep])
        for subset, count in Counter(lost["subset"]).items():
            self.report.drop(cause, subset, count)
        self.splits["train"] = train[keep]

    def rating_spans(self) -> dict[str, tuple[float, float]]:
        """Source of a mixture -> the lowest and highest rating of its training rows."""
        train, spans = self.splits["train"], {}
        for number, name in enumerate(self.source.names):
            rows = self.columns.objects("ratings", train[self.home[train] == number])
            if found := [rating for row in rows for rating in row if rating == rating]:
                spans[name] = (min(found), max(found))
        return spans

    def plan(self) -> BatchPlan:
        """Which training rows share a step.

        Raises:
            UserError: a comparison has more tokens than a step may have.
        """
        rows, limit = self.splits["train"], self.batching.tokens_per_batch
        grouped = self.batching.group_by_prompt
        units = self.columns.prompts(rows) if grouped else np.arange(len(rows))
        sizes = self.columns.numbers("size")[rows]
        if limit is not None and len(rows) and sizes.max() > limit:
            row = self.rows[int(rows[sizes.argmax()])]
            raise UserError(
                f"Comparison {row['id']} has {sizes.max()} tokens, more than "
                f"data.tokens_per_batch={limit}: raise it, or lower data.max_length."
            )
        size, rate = self.batching.batch_size, self.sampling_rate()
        return BatchPlan(rows, units, sizes, size, limit, self.seed, rate)

    def sampling_rate(self) -> np.ndarray | None:
        """(C,) draws an epoch of each training row, mean 1; None: each row once."""
        return self.source.sampling_rate(self.home[self.splits["train"]], self._balance_groups())

    def _balance_groups(self) -> Sequence[Any] | None:
        balance = self.sampling.balance
        return None if balance is None else self.columns.groups(balance, self.splits["train"])

    def sampled(self) -> dict[str, tuple[float, float]]:
        """Source and balanced group -> its shares of the training rows and of the draws."""
        if "train" not in self.splits:  # an evaluation set
            return {}
        names = self.source.names
        homes = self.home[self.splits["train"]]
        groupings = [[names[number] for number in homes] if names else None, self._balance_groups()]
        found: dict[str, tuple[float, float]] = {}
        for groups in groupings:
            if groups is not None:
                plan = self.plan()
                found |= sampling.shares_of(groups, plan.unit_rates()[plan.units])
        return found

    def collate(self, layout: BatchLayout) -> Collate:
        """The collator of these rows for a model's layout."""
        pad, tokens = self.tokenizer.pad_token_id, self.batching.micro_batch_tokens
        return Collate(pad, tokens, layout, len(self.attributes))

    def train_loader(self, layout: BatchLayout) -> StepLoader:
        """Shuffled steps, of which this process gets its part; resumable."""
        count = distributed.world_size()
        partition = self.partition(distributed.rank(), count) if count > 1 else None
        collate, workers = self.collate(layout), self.batching.workers
        return StepLoader(self.rows, self.plan(), collate, workers, partition)

    def partition(self, rank: int, count: int) -> RankPartition:
        """Which rows of each step the process `rank` of `count` gets."""
        columns = self.columns
        prompts = columns.prompts(np.arange(len(self.rows)))
        return RankPartition(rank, count, columns.numbers("size"), columns.shared(), prompts)

    def dummy_batch(self, layout: BatchLayout) -> Batch:
        """The smallest training row: what a process without rows computes, to keep in step."""
        train = self.splits["train"]
        row = int(train[self.columns.numbers("size")[train].argmin()])
        return self.collate(layout)([{**self.rows[row], "row": row}]).batches[0]

    def eval_loader(self, split: str, layout: BatchLayout) -> DataLoader:
        """Every row of a split once, longest first; of several processes, this one's part."""
        rows = self.splits[split]
        return evaluation_loader(
            self.rows,
            rows,
            self.columns.prompts(rows),
            self.columns.numbers("longest")[rows],
            self.collate(layout),
            self.batching.eval_batch_size,
            distributed.rank(),
            distributed.world_size(),
        )

    def lines(self) -> list[str]:
        """A summary of the data for the terminal."""
        fresh = "read now" if self.tokenizer is None else "tokenised now"
        source = "from the cache" if self.from_cache else fresh
        sizes = []
        for name, rows in self.splits.items():
            counts = self.counts(name)
            labels = [
                f"{counts[kind]} {kind}" for kind in ("pairs", "ties", "ratings") if counts[kind]
            ]
            sizes.append(f"{name} {len(rows)} ({', '.join(labels) or 'no judgement'})")
        drawn = [
            f"drawn: {group} {share:.1%} of the time ({rows:.1%} of the rows)"
            for group, (rows, share) in self.sampled().items()
        ]
        fold = [] if self.held_out is None else [describe_fold(self.held_out)]
        lines = [*fold, *self.report.lines(), *odd_labels(self.columns), *drawn]
        return [f"data: {', '.join(sizes)}; {source}", *("  " + line for line in lines)]

"""The LightningDataModule: a source, a format and a template in; train, val and test steps out."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import numpy as np
from annotated_types import Ge, Gt, Le

from rmexp.batches import Collate, Layout
from rmexp.errors import UserError, fallback
from rmexp.reading import Format, RowReport, assign_splits
from rmexp.sources import check_source
from rmexp.steps import Plan, StepLoader, evaluation_loader
from rmexp.tokenised import Recipe, load_or_tokenise

Share = Annotated[float, Ge(0), Le(1)]


class ComparisonData(lightning.LightningDataModule):
    """Comparisons, tokenised once and cached, split by prompt, dealt out in steps.

    Args:
        format: raw row -> Comparison.
        path: file, `datasets` directory or hub id; the rows to split (or to train on).
        val_path, test_path: separate sources for validation and test rows.
        limit: comparisons taken from each source, from its start.
        on_bad_row: `raise` stops at bad rows, `skip` leaves them out, counted.
        max_bad_share: share of bad rows above which `skip` stops as well.
        min_rating_gap: ratings this far apart (or more) make a judged pair; None makes none.
        val_share, test_share: share of prompts cut off where the source declares no such split.
        split_seed: deals prompts into splits; separate from the run's seed, so that seeds share a
            test set.
        max_length: tokens of prompt and response together; oldest prompt turns go, responses stay.
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
        val_path: str | None = None,
        test_path: str | None = None,
        limit: Annotated[int, Gt(0)] | None = None,
        on_bad_row: Literal["raise", "skip"] = "raise",
        max_bad_share: Share = 0.01,
        min_rating_gap: Annotated[float, Gt(0)] | None = 1.0,
        val_share: Share = 0.1,
        test_share: Share = 0.1,
        split_seed: int = 0,
        max_length: Annotated[int, Gt(0)] = 1024,
        batch_size: Annotated[int, Gt(0)] = 8,
        tokens_per_batch: Annotated[int, Gt(0)] | None = None,
        group_by_prompt: bool = False,
        eval_batch_size: Annotated[int, Gt(0)] = 16,
        micro_batch_tokens: Annotated[int, Gt(0)] = 4096,
        workers: Annotated[int, Ge(0)] = 0,
        cache: str = "~/.cache/rmexp",
    ) -> None:
        super().__init__()
        if val_share == 0 and val_path is None:
            raise UserError(
                "data.val_share=0 leaves nothing to select on; give data.val_path or a share."
            )
        if tokens_per_batch is not None and group_by_prompt:
            raise UserError(
                "data.tokens_per_batch deals out comparisons, data.group_by_prompt whole prompts: "
                "leave out one of them (with the latter data.batch_size counts prompts)."
            )
        if val_share + test_share >= 1:
            raise UserError(
                f"data.val_share={val_share} and data.test_share={test_share} "
                "leave no rows to train on."
            )
        paths = {None if val_path is None and test_path is None else "train": path}
        paths |= {name: p for name, p in (("val", val_path), ("test", test_path)) if p is not None}
        self.recipe = Recipe(
            paths, format, limit, on_bad_row, max_bad_share, min_rating_gap, max_length
        )
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed, self.eval_batch_size = split_seed, eval_batch_size
        self.batch_size, self.tokens_per_batch = batch_size, tokens_per_batch
        self.group_by_prompt = group_by_prompt
        self.micro_batch_tokens, self.workers = micro_batch_tokens, workers
        self.cache = Path(cache).expanduser()
        self.rows: Any = None
        self.report = RowReport()
        self.splits: dict[str, np.ndarray] = {}
        self.from_cache = False
        self.layout: Layout = "padded"
        self.places: int | None = None
        self.fingerprint = ""

    def check_sources(self) -> None:
        """Refuse sources that are not there, before a tokenizer is loaded."""
        for path in self.recipe.paths.values():
            check_source(path)

    def prepare(self, tokenizer: Any, seed: int, progress: Callable[[str, int], None]) -> None:
        """Read, check, tokenise (or find in the cache) and split. Needs no model.

        Raises:
            UserError: the source or its rows cannot be used, or a split would be empty.
        """
        self.tokenizer, self.seed = tokenizer, seed
        self.rows, self.report, self.from_cache = load_or_tokenise(
            self.recipe, tokenizer, self.cache, progress
        )
        parts = [self.recipe.source_key, self.shares, self.split_seed]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        self.splits = assign_splits(
            self.rows["prompt_key"][:],
            self.rows["split"][:],
            self.rows["subset"][:],
            self.shares,
            self.split_seed,
            self.report,
        )
        self._drop_unjudged()

    def _drop_unjudged(self) -> None:
        """Rows without a strictly judged pair teach a loss over pairs nothing."""
        judged_C = self._column("judged")
        train = self.splits["train"]
        unjudged = self.rows.select_columns("subset").select(train[judged_C[train] == 0])
        for subset, count in Counter(unjudged["subset"]).items():
            self.report.drop("no judged pair to train on", subset, count)
        self.splits["train"] = train[judged_C[train] > 0]
        self.pairs = {name: int(judged_C[rows].sum()) for name, rows in self.splits.items()}

    def _column(self, name: str) -> np.ndarray:
        """A column of numbers, without making Python objects of the rows."""
        return self.rows.data.column(name).to_numpy()

    def _prompts(self, indices: np.ndarray) -> np.ndarray:
        """The prompt of each of these rows, as a number from 0."""
        column = self.rows.data.column("prompt_key").combine_chunks().dictionary_encode()
        return np.unique(column.indices.to_numpy()[indices], return_inverse=True)[1]

    def check_trainable(self, needs: str, needs_margins: bool) -> None:
        """Refuse splits that cannot train or select; say so where none is left to report on.

        Args:
            needs: what the loss learns from (`losses.Loss.needs`).
            needs_margins: the loss takes each pair's own margin (`losses.Loss.needs_margins`).

        Raises:
            UserError: no judged pair to train on, or none to select by; a comparison larger than
                `tokens_per_batch`.
        """
        if needs != "pairs":
            raise UserError(f"The loss needs {needs}; data gives pairs.")
        if needs_margins and not self.has_margins():
            raise UserError(
                "loss.margin=data, but some pairs of the data have no margin: give each row a "
                "number in its margin field, or the loss a constant, as loss.margin=1.0."
            )
        for name in ("train", "val"):
            if self.pairs[name] == 0:
                raise UserError(
                    f"The {name} split has {len(self.splits[name])} comparisons and no judged "
                    "pair: give more rows, other shares (data.val_share), or ratings that differ "
                    "by data.min_rating_gap."
                )
        self.plan()  # refuses what no step can hold
        if self.pairs["test"] == 0:
            self.splits["test"], self.pairs["test"] = self.splits["val"], self.pairs["val"]
            fallback("There is no test split: selected and judged on the same rows (val).")

    def has_margins(self) -> bool:
        """Has every strictly judged pair a margin of its own?"""
        return not self._column("without_margin").any()

    def example(self) -> tuple[str, list[int]]:
        """The first response, as rendered and as token ids."""
        row = self.rows[0]
        return row["texts"][0], row["tokens"][0]

    def longest(self) -> int:
        """Tokens of the longest response with its prompt."""
        return int(self._column("longest").max())

    def collate(self) -> Collate:
        """What makes steps of rows, with this data's padding, micro-batches and layout."""
        return Collate(
            self.tokenizer.pad_token_id, self.micro_batch_tokens, self.layout, self.places
        )

    def plan(self) -> Plan:
        """Which training rows share a step.

        Raises:
            UserError: a comparison has more tokens than a step may.
        """
        rows, limit = self.splits["train"], self.tokens_per_batch
        units = self._prompts(rows) if self.group_by_prompt else np.arange(len(rows))
        sizes = self._column("size")[rows]
        if limit is not None and len(rows) and sizes.max() > limit:
            row = self.rows[int(rows[sizes.argmax()])]
            raise UserError(
                f"Comparison {row['id']} has {sizes.max()} tokens, more than "
                f"data.tokens_per_batch={limit}: raise it, or lower data.max_length."
            )
        return Plan(rows, units, sizes, self.batch_size, limit, self.seed)

    def train_dataloader(self) -> StepLoader:
        """Shuffled steps; resumable."""
        return StepLoader(self.rows, self.plan(), self.collate(), self.workers)

    def val_dataloader(self) -> Any:
        """Every validation row once."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> Any:
        """Every test row once."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str) -> Any:
        """Every row of a split once, longest first."""
        rows = self.splits[split]
        prompts, lengths = self._prompts(rows), self._column("longest")[rows]
        return evaluation_loader(
            self.rows, rows, prompts, lengths, self.collate(), self.eval_batch_size
        )

    def lines(self) -> list[str]:
        """What was read, for the terminal."""
        sizes = ", ".join(
            f"{n} {len(rows)} ({self.pairs[n]} pairs)" for n, rows in self.splits.items()
        )
        source = "from the cache" if self.from_cache else "tokenised now"
        return [f"data: {sizes}; {source}", *("  " + line for line in self.report.lines())]

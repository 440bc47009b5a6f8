"""The LightningDataModule: a source, a format and a template in; train, val and test steps out."""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import numpy as np
from annotated_types import Ge, Gt, Le

from rmexp import sampling
from rmexp.batches import Collate, Layout
from rmexp.comparisons import Comparison
from rmexp.contract import check_fits
from rmexp.errors import UserError, fallback
from rmexp.formats.renamed import Renamed
from rmexp.losses.base import Loss
from rmexp.reading import Format, RowReport, assign_splits, read_comparisons
from rmexp.sources import check_source
from rmexp.steps import Plan, StepLoader, evaluation_loader
from rmexp.templates import Template
from rmexp.tokenised import Recipe, load_or_tokenise

Share = Annotated[float, Ge(0), Le(1)]
Balance = Literal["subset", "language", "label", "length"]
COLUMNS = {
    "pairs": "judged",
    "ties": "tied",
    "votes": "voted",
    "ratings": "rated",
    "lists": "ranked",
}
"""Kind of judgement -> the column that counts it in a row; an order has two levels or more."""

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
        max_bad_share: Share = 0.01,
        min_rating_gap: Annotated[float, Gt(0)] | None = 1.0,
        val_share: Share = 0.1,
        test_share: Share = 0.1,
        split_seed: int = 0,
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
        if val_share == 0 and val_path is None:
            raise UserError(
                "data.val_share=0 leaves nothing to select on; give data.val_path or a share."
            )
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
        if val_share + test_share >= 1:
            raise UserError(
                f"data.val_share={val_share} and data.test_share={test_share} "
                "leave no rows to train on."
            )
        paths = {None if val_path is None and test_path is None else "train": path}
        paths |= {name: p for name, p in (("val", val_path), ("test", test_path)) if p is not None}
        columns = {name: column for name, column in (fields or {}).items() if column is not None}
        parse = Renamed(format, columns) if columns else format
        self.recipe = Recipe(
            paths, parse, limit, on_bad_row, max_bad_share, min_rating_gap, max_length
        )
        self.template, self.system = template, system
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed, self.eval_batch_size = split_seed, eval_batch_size
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
        self.rows, self.report, self.from_cache = self.load(tokenizer, progress)
        parts = [self.source_key, self.shares, self.split_seed]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        self.splits = self.split()

    def split(self) -> dict[str, np.ndarray]:
        """Split -> its rows."""
        return assign_splits(
            self.rows["prompt_key"][:],
            self.rows["split"][:],
            self.rows["subset"][:],
            self.shares,
            self.split_seed,
            self.report,
        )

    def comparisons(self, report: RowReport) -> Iterator[tuple[Comparison, float | None]]:
        """The comparisons anew, not rendered, under the ids of `rows`; each with the gap between
        ratings that makes a pair of it."""
        recipe = self.recipe
        for one in read_comparisons(recipe.paths, recipe.parse, report, recipe.limit):
            yield one, recipe.min_rating_gap

    def load(
        self, tokenizer: Any, progress: Callable[[str, int], None]
    ) -> tuple[Any, RowReport, bool]:
        """The tokenised rows, the report on them, and whether they came from the cache."""
        own = self.own_tokenizer(tokenizer)
        if own is not tokenizer:
            fallback(OWN_TEMPLATE)
        return load_or_tokenise(self.recipe, own, self.cache, progress)

    def own_tokenizer(self, tokenizer: Any) -> Any:
        """The tokenizer with these rows' own template and system prompt, where they have one."""
        if self.template is None and self.system is None:
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)
        if self.template is not None:
            self.template.install(tokenizer)
        if self.system is not None:
            Template(source=tokenizer.chat_template, system=self.system).install(tokenizer)
        return tokenizer

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
    def has(self) -> set[str] | None:
        """The kinds of judgement that the format's rows may have; None: only the rows tell."""
        kinds = getattr(self.recipe.parse, "has", None)
        if kinds is None:
            return None
        rated = {"ratings", "lists"} <= set(kinds) and self.recipe.min_rating_gap is not None
        return {*kinds, *(("pairs", "ties") if rated else ())}

    def _keep(self, keep: np.ndarray, cause: str) -> None:
        """Leave the other training rows out, counted by subset."""
        train = self.splits["train"]
        lost = self.rows.select_columns("subset").select(train[~keep])
        for subset, count in Counter(lost["subset"]).items():
            self.report.drop(cause, subset, count)
        self.splits["train"] = train[keep]

    def counts(self, split: str) -> dict[str, int]:
        """Kind of judgement -> how many there are in a split: pairs and ties, else rows with it."""
        rows = self.splits[split]
        found = {kind: self._column(name)[rows] for kind, name in COLUMNS.items()}
        strict = int(found["pairs"].sum())
        without = int(self._column("without_margin")[rows].sum())
        return {
            "pairs": strict,
            "ties": int(found["ties"].sum()),
            "votes": int((found["votes"] > 0).sum()),
            "margins": strict - without,
            "ratings": int((found["ratings"] > 0).sum()),
            "lists": int((found["lists"] > 1).sum()),
        }

    def _column(self, name: str) -> np.ndarray:
        """A column of numbers, without making Python objects of the rows."""
        return self.rows.data.column(name).to_numpy()

    def _prompts(self, indices: np.ndarray) -> np.ndarray:
        """The prompt of each of these rows, as a number from 0."""
        column = self.rows.data.column("prompt_key").combine_chunks().dictionary_encode()
        return np.unique(column.indices.to_numpy()[indices], return_inverse=True)[1]

    def check_trainable(self, loss: Loss, loss_name: str, data_name: str) -> None:
        """Keep the training rows that the loss learns from, and let it see their ratings.

        Raises:
            UserError: the loss finds nothing to learn from, or nothing to select by; a pair has no
                margin where each must; a comparison larger than `tokens_per_batch`.
        """
        has = {kind for kind, count in self.counts("train").items() if count}
        check_fits(loss, loss_name, has, data_name)
        for name, part in loss.parts().items():
            if missing := set(part.needs) - has:
                fallback(f"loss.losses.{name} has nothing to learn from: no {', '.join(missing)}.")
            elif "pairs" in part.needs:
                self._check_pairs(part.required())
        train, useful = self.splits["train"], [k for k in loss.learns_from() if k in COLUMNS]
        if useful:
            found = [self._column(COLUMNS[k])[train] > (k == "lists") for k in useful]
            self._keep(np.any(found, axis=0), f"nothing in it for loss={loss_name}")
        self._keep(self._column("weight")[self.splits["train"]] > 0, "of weight 0")
        if self.max_per_prompt is not None:
            prompts = self._prompts(self.splits["train"])
            keep = sampling.capped(prompts, self.max_per_prompt, self.split_seed)
            self._keep(keep, f"beyond data.max_per_prompt={self.max_per_prompt}")
        self._check_splits(useful or tuple(COLUMNS))
        self._show_ratings(loss)
        self.plan()  # refuses what no step can hold

    def _show_ratings(self, loss: Loss) -> None:
        """Let the loss learn its scale; a rating counts as often as its row is drawn."""
        train = self.splits["train"]
        times = self.times()
        weights_C = self._column("weight")[train] * (1.0 if times is None else times)
        rows = self._lists("ratings", train)
        found = [(r, w) for row, w in zip(rows, weights_C, strict=True) for r in row if r == r]
        if found:
            loss.learn(*np.array(found, dtype=np.float64).T)

    def _check_pairs(self, required: Sequence[str]) -> None:
        """Each pair has the margin, or the rating gap, that the loss asks for."""
        for split in ("train", "val"):
            rows = self.splits[split]
            if "margins" in required and self._column("without_margin")[rows].any():
                raise UserError(
                    f"The loss takes each pair's margin, and pairs of {split} have none: give each "
                    "row a number in its margin field, or the loss a constant."
                )
            without = int(self._column("without_ratings")[rows].sum())
            if "ratings" in required and without:
                raise UserError(
                    f"The loss takes the gap of each pair's ratings, but in {without} pairs of "
                    f"{split} one response has no rating, or the better one no higher rating."
                )

    def _check_splits(self, wanted: Sequence[str]) -> None:
        for name in ("train", "val"):
            counts = self.counts(name)
            if not any(counts[kind] for kind in wanted):
                raise UserError(
                    f"The {name} split has {len(self.splits[name])} comparisons and none with "
                    f"{' or '.join(wanted)}: give more rows, other shares (data.val_share), or "
                    "ratings that differ by data.min_rating_gap."
                )
        if not any(self.counts("test").values()):
            self.splits["test"] = self.splits["val"]
            fallback("There is no test split: selected and judged on the same rows (val).")

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
        return Plan(rows, units, sizes, self.batch_size, limit, self.seed, self.times())

    def times(self) -> np.ndarray | None:
        """How often each training row is drawn in an epoch; None: each once."""
        if self.balance is None:
            return None
        return sampling.balanced(self.groups(self.balance, self.splits["train"]))

    def groups(self, by: Balance, rows: np.ndarray) -> Sequence[Any]:
        """The subset, language, label or longer winner of each of these rows; None: not told.

        Raises:
            UserError: the rows do not say.
        """
        if by == "length":
            more = self._column("longer_wins")[rows] - self._column("shorter_wins")[rows]
            return [{1: "longer won", -1: "shorter won"}.get(n) for n in np.sign(more).tolist()]
        if by == "label":
            found = [next((r for r in row if r == r), None) for row in self._lists("ratings", rows)]
        else:
            found = self._lists(by, rows)
        if all(value is None for value in found):
            raise UserError(f"data.balance={by}, but no training row has a {by}.")
        return found

    def _lists(self, name: str, rows: np.ndarray) -> list[Any]:
        """A column of some rows as Python objects."""
        return self.rows.select_columns(name).select(rows)[name][:]

    def sampled(self) -> dict[str, tuple[float, float]]:
        """Group -> its share of the training rows, and of the draws in training."""
        if self.balance is None:
            return {}
        plan = self.plan()
        drawn = plan.unit_times()[plan.units]
        return dict(sampling.shares_of(self.groups(self.balance, self.splits["train"]), drawn))

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
        source = "from the cache" if self.from_cache else "tokenised now"
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
        lines = [*self.report.lines(), *drawn]
        return [f"data: {', '.join(sizes)}; {source}", *("  " + line for line in lines)]

"""model=implicit: a policy and its reference as a reward model that scores."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt

from rmexp.batching.collate import BatchLayout, Collate, Layout, unlabelled_row
from rmexp.batching.packing import Row
from rmexp.batching.prefix_tree import tree_size
from rmexp.comparison import Comparison
from rmexp.core.devices import Precision
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.encode import encode
from rmexp.data.row_report import RowReport
from rmexp.data.tokenize_spec import source_fingerprint
from rmexp.inference.scorer import Scorer
from rmexp.models.implicit_reward import ImplicitReward
from rmexp.models.layout_probe import (
    LAYOUT_TOLERANCE,
    RequestedLayout,
    attention_reason,
    probed_tokens,
)
from rmexp.models.model_checks import max_positions
from rmexp.models.pretrained import Pretrained
from rmexp.policy.policy_model import PolicyModel, policy_model
from rmexp.templates.rendering import response_starts


class ReferenceModel(PolicyModel):
    """The model that a policy was trained from; it needs no chat template."""

    key: ClassVar[str] = "reference"

    def load_tokenizer(self) -> Any:
        return Pretrained.load_tokenizer(self)


@dataclass(frozen=True)
class ImplicitModel:
    """The implicit reward of a policy, see `ImplicitReward`.

    Args:
        policy: directory or hub id of a language model; a LoRA adapter is merged into its base.
        reference: of the model that the policy was trained from, with the same tokenizer.
        beta: that of the policy's training, above 0.
        layout: of the responses to a prompt, see `layout_probe.choose_layout`.
        cache: directory for converted weights.
    """

    policy: str | None
    reference: str | None
    beta: Annotated[float, Gt(0)]
    layout: RequestedLayout
    cache: str

    def check(self) -> None:
        """Refuse what is missing or no language model, by its files.

        Raises:
            UserError: names the key.
        """
        for source in self._sources():
            source.check()

    def load_tokenizer(self) -> Any:
        """The policy's.

        Raises:
            UserError: the reference has another one.
        """
        policy, reference = self._sources()
        tokenizer, other = policy.load_tokenizer(), reference.load_tokenizer()
        ours, theirs = tokenizer.get_vocab(), other.get_vocab()
        if ours != theirs:
            differ = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
            raise UserError(
                f"policy={self.policy} and reference={self.reference} have other tokenizers "
                f"({len(differ)} tokens differ, the first {differ[0]!r}), so that their "
                "probabilities of a response cannot be compared: give the model that the policy "
                "was trained from."
            )
        return tokenizer

    def load_model(self, tokenizer: Any, seed: int) -> ImplicitReward:
        """Both models in fp32; nothing is drawn, so that `seed` has no effect."""
        policy, reference = (
            source.load_language_model(tokenizer, torch.float32) for source in self._sources()
        )
        return ImplicitReward(policy, reference, self.beta)

    @property
    def name(self) -> str:
        return f"{Path(str(self.policy)).name} relative to {Path(str(self.reference)).name}"

    def fingerprint(self) -> str:
        """Changes with what the rewards are computed from."""
        paths = (str(self.policy), str(self.reference))
        return " ".join([*map(source_fingerprint, paths), str(self.beta)])

    def _sources(self) -> tuple[PolicyModel, PolicyModel]:
        if self.policy is None or self.reference is None:
            raise UserError(
                "model=implicit needs policy=DIR, a language model that was trained on preferences "
                "(DPO), and reference=DIR, the model that it was trained from: its reward is what "
                "that training changed."
            )
        policy = policy_model(self.policy, self.cache)
        return policy, policy_model(self.reference, self.cache, ReferenceModel)


@dataclass
class ImplicitScorer(Scorer):
    """A scorer whose `model` is an `ImplicitReward`."""

    @property
    def names(self) -> tuple[str, ...]:
        """None: its model has no head."""
        return ()

    def comparisons(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[list[float] | None]:
        """The rewards of each comparison's responses; None if it cannot be scored."""
        rows: list[Row] = []
        starts: list[list[int]] = []
        sizes: list[int] = []
        for one, texts, tokens in encode(comparisons, self.tokenizer, self.max_length, report):
            begins = response_starts(self.tokenizer, one, texts, tokens) if tokens else []
            fits = tree_size(tokens) <= self.micro_batch_tokens
            parts = [slice(None)] if fits else [slice(k, k + 1) for k in range(len(tokens))]
            for part in parts if tokens else ():
                rows.append(unlabelled_row(tokens[part], one.prompt_key) | {"row": len(rows)})
                starts.append(begins[part])
            sizes.append(len(tokens))
        flat = iter([reward for found in self.score_rows(rows, starts) for reward in found])
        return [[next(flat) for _ in range(size)] or None for size in sizes]

    def score_rows(self, rows: Sequence[Row], starts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The rewards of rows that are numbered by their `row`.

        Args:
            starts: number of tokens before each response of each row.
        """
        found: list[list[float]] = [[] for _ in rows]
        device = next(self.model.parameters()).device
        layout = BatchLayout(self.layout, positions_of(self.model))
        collate = Collate(self.tokenizer.pad_token_id, self.micro_batch_tokens, layout)
        with self.inference():
            for batch in collate(rows).batches:
                items = batch.items_N.tolist()
                begins = list(_in_turn(items, starts))
                rewards = self.model.rewards(batch.to(device), begins).tolist()
                for n, reward in zip(items, rewards, strict=True):
                    found[n].append(reward)
        return found


def _in_turn(items: Sequence[int], starts: Sequence[Sequence[int]]) -> Iterator[int]:
    """The next start of each item, in the order of a batch."""
    left = {n: iter(starts[n]) for n in items}
    return (next(left[n]) for n in items)


def positions_of(model: ImplicitReward) -> int | None:
    """Maximum number of positions that both models have; None: no limit."""
    known = [positions for one in model.models if (positions := max_positions(one)) is not None]
    return min(known, default=None)


def open_implicit_scorer(
    source: ImplicitModel,
    tokenizer: Any,
    device: str,
    precision: Precision,
    max_length: int,
    micro_batch_tokens: int,
) -> ImplicitScorer:
    """Load both models and choose their layout: trees, if these give the rewards of padded rows.

    Raises:
        UserError: `layout` is tree, and trees are not exact for the models.
    """
    model = source.load_model(tokenizer, 0).to(device)
    limit = min(max_length, positions_of(model) or sys.maxsize)

    def scorer(layout: Layout, precision: Precision) -> ImplicitScorer:
        return ImplicitScorer(model, tokenizer, layout, precision, limit, micro_batch_tokens)

    if source.layout == "padded":
        return scorer("padded", precision)
    if (reason := _tree_reason(scorer)) is None:
        return scorer("tree" if source.layout == "tree" else "mixed", precision)
    if source.layout == "tree":
        raise UserError(f"model.layout=tree: {reason}; take model.layout=padded.")
    note_fallback(f"Scoring in padded rows, as token trees are not exact: {reason}.")
    return scorer("padded", precision)


def _tree_reason(scorer: Any) -> str | None:
    """Why trees are not exact for one of the models, or None."""
    model = scorer("padded", "32-true").model
    if reason := next(filter(None, map(attention_reason, model.models)), None):
        return reason
    rows = [unlabelled_row(probed_tokens(model.policy))]
    starts = [[4] * len(rows[0]["tokens"])]
    try:
        (padded,), (tree,) = (
            scorer(layout, "32-true").score_rows(rows, starts) for layout in ("padded", "tree")
        )
    except Exception as error:  # whatever fails, the padded layout is used instead
        return f"it fails in that layout ({(str(error).splitlines() or ['?'])[0][:100]})"
    difference = max(abs(one - other) for one, other in zip(padded, tree, strict=True))
    scale = max(1.0, *map(abs, padded))
    return None if difference <= LAYOUT_TOLERANCE * scale else f"rewards differ by {difference:.1e}"

"""Scoring with a reward model: comparisons in, rewards out."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import numpy as np
import torch
from torch import Tensor

from rmexp.batching.collate import BatchLayout, Collate, Layout, unlabelled_row
from rmexp.batching.prefix_tree import tree_size
from rmexp.comparison import Comparison, Message
from rmexp.config.validate import describe_type
from rmexp.core.devices import Precision
from rmexp.core.errors import UserError
from rmexp.data.encode import encode
from rmexp.data.formats.messages import prompt_messages, response_messages
from rmexp.data.row_report import RowReport
from rmexp.data.sources import BadRow
from rmexp.evaluation.aggregate import MEAN, Aggregate, Aggregation, member_std
from rmexp.evaluation.calibration import Calibration
from rmexp.inference.export import check_fingerprint
from rmexp.inference.reward_details import RewardDetails
from rmexp.models.frozen_weights import hold_in_bf16
from rmexp.models.head_file import load_outputs
from rmexp.models.layout_probe import choose_layout, restrict_final_layer
from rmexp.models.model_checks import check_padding, max_positions
from rmexp.models.model_files import check_reward_head
from rmexp.models.reward_model import combine_outputs, compute_outputs, last_layer, model_facts

Value = TypeVar("Value")
"""What is found for a sequence."""

Trees = Sequence[Sequence[Sequence[int]]]
"""Token sequences of each tree."""

Scale = Literal["raw", "normalised", "probability", "rating"]
"""Scales of rewards, all in the same order.

`raw` is the model's output; `normalised` has mean 0 and standard deviation 1 on the validation
rows; `probability` is that of beating a response of their mean reward; `rating` is on the raters'
scale.
"""


@dataclass
class Scorer:
    """A reward model with its tokenizer, ready to score.

    Args:
        model: see `prepare_model`.
        tokenizer: with the template that the model was trained with.
        layout: as chosen by `choose_layout`.
        precision: `bf16-mixed` or `32-true`; rewards are fp32 either way.
        max_length: tokens of a prompt and a response; longer dialogues lose their oldest turns.
        micro_batch_tokens: maximum tokens in one forward pass.
        calibration: fitted on the run's validation rows; None if the model has none.
        how: the rewards of members become one, if it has several.
    """

    model: Any
    tokenizer: Any
    layout: Layout
    precision: Precision = "32-true"
    max_length: int = 1024
    micro_batch_tokens: int = 4096
    calibration: Calibration | None = None
    how: Aggregation = MEAN

    @property
    def parts(self) -> "Sequence[Scorer]":
        """The scorers that it consists of; itself by default."""
        return [self]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs of its head; empty for head=linear."""
        return last_layer(self.model).names

    @property
    def has_members(self) -> bool:
        """Whether several rewards of a response tell how uncertain it is: of head=ensemble."""
        return bool(self.names) and last_layer(self.model).kind == "ensemble"

    @property
    def has_details(self) -> bool:
        """Whether a response has more than its reward: members, attributes or quantiles."""
        return bool(self.names)

    @overload
    def score(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
        scale: Scale = "raw",
        *,
        uncertainty: Literal[False] = False,
    ) -> list[float]: ...

    @overload
    def score(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
        scale: Scale = "raw",
        *,
        uncertainty: Literal[True],
    ) -> RewardDetails: ...

    def score(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
        scale: Scale = "raw",
        *,
        uncertainty: bool = False,
    ) -> list[float] | RewardDetails:
        """The reward of each response to a prompt; the prompt is computed once for all of them.

        Args:
            prompt: text (one user message) or a list of messages.
            responses: texts, or lists of messages that begin with the assistant's.
            unfinished: the responses are the first steps of answers. Their reward is read at the
                last token, without an end of turn (models trained on data=stepwise).
            scale: see `Scale`.
            uncertainty: give the members' rewards and their standard deviation too.

        Returns:
            One number a response.

        Raises:
            UserError: prompt or response cannot be used or is longer than `max_length`, the model
                has no calibration for the scale, or no members.
        """
        self.check_scale(scale)
        if uncertainty and (not self.has_members or scale != "raw"):
            raise UserError(
                "uncertainty=True needs several members, such as rmexp.load([RUN, RUN]) or a run "
                "with head=ensemble, and scale='raw'."
            )
        if uncertainty:
            return self.details(prompt, responses, unfinished)
        report = RowReport()
        (found,) = self.comparisons([as_comparison(prompt, responses, unfinished)], report)
        if found is None:
            raise _cannot_be_scored(report)
        return self.scaled(found, scale)

    def details(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
    ) -> RewardDetails:
        """The reward of each response, and what it consists of; see `score`."""
        report = RowReport()
        (found,) = self.detailed([as_comparison(prompt, responses, unfinished)], report)
        if found is None:
            raise _cannot_be_scored(report)
        return found

    def outputs(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
    ) -> dict[str, list[float]]:
        """Each output of the head by name, for each response, in the unit in which it is read.

        Members of head=ensemble in units of the reward, with one mean on val; quantiles of
        head=quantile in units of the rating, which do not cross; with loss=regression attributes
        of head=attributes in units of their ratings.

        Raises:
            UserError: see `score`; or the head has one output.
        """
        if not self.names:
            raise UserError("The model has one output, its reward: see `score`.")
        found = self.details(prompt, responses, unfinished)
        return found.outputs or dict(zip(self.names, found.members, strict=True))

    def aggregate_members(self, aggregate: Aggregate | None, lcb_lambda: float) -> None:
        """Set how the rewards of members become one; None: by their mean, if there are any.

        Raises:
            UserError: there are no members.
        """
        if aggregate is not None and not self.has_members:
            raise UserError(
                f"aggregate={aggregate} needs several rewards for a response: a run with "
                "head=ensemble, or several runs."
            )
        self.how = Aggregation(aggregate or "mean", lcb_lambda)

    def scales(self) -> dict[Scale, str | None]:
        """Each scale, and why the model does not have it; None if it does."""
        known = self.calibration
        none = "the model has no calibration.json" if known is None else None
        no_pairs = "the model's validation rows had no pairs"
        no_ratings = "the model's validation rows had no ratings"
        return {
            "raw": None,
            "normalised": none,
            "probability": none or (no_pairs if known and known.temperature is None else None),
            "rating": none or (no_ratings if known and known.isotonic is None else None),
        }

    def check_scale(self, scale: Scale) -> None:
        """Check that the model has a scale.

        Raises:
            UserError: it has not.
        """
        if scale not in get_args(Scale):
            raise UserError(f"scale={scale!r}: should be {describe_type(Scale)}.")
        if reason := self.scales()[scale]:
            raise UserError(f"scale={scale}: {reason}.")

    def scaled(self, rewards: Sequence[float], scale: Scale) -> list[float]:
        """Rewards on a scale that `check_scale` accepts."""
        if scale == "raw" or self.calibration is None:
            return list(rewards)
        convert = getattr(self.calibration, scale)
        return [float(value) for value in convert(np.array(rewards, dtype=np.float64))]

    def comparisons(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[list[float] | None]:
        """The rewards of each comparison's responses; None if it cannot be scored.

        Args:
            comparisons: comparisons to score together.
            report: counts comparisons that cannot be scored, and shortened prompts.
        """
        return self._by_comparison(comparisons, report, self.trees)

    def detailed(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[RewardDetails | None]:
        """The rewards of each comparison's responses with their details, see `comparisons`."""
        if not self.has_details:
            rewards = self.comparisons(comparisons, report)
            return [None if one is None else RewardDetails(one) for one in rewards]
        found = self._by_comparison(comparisons, report, self.values_of_trees)
        return [None if one is None else self.details_of(np.stack(one)) for one in found]

    def details_of(
        self, values_N_V: np.ndarray, aggregate: Aggregate | None = None
    ) -> RewardDetails:
        """What the values of N responses say, see `values_of_trees`.

        Args:
            aggregate: of members; None: as `how` says.
        """
        if self.has_members:
            how = dataclasses.replace(self.how, aggregate=aggregate or self.how.aggregate)
            members_M_N = values_N_V.T
            std = member_std(members_M_N).tolist()
            return RewardDetails(how(members_M_N).tolist(), std, members_M_N.tolist())
        rewards, *outputs = values_N_V.T.tolist()
        return RewardDetails(rewards, outputs=dict(zip(self.names, outputs, strict=True)))

    def _by_comparison(
        self,
        comparisons: Sequence[Comparison],
        report: RowReport,
        compute: Callable[[Trees, Sequence[str]], list[list[Value]]],
    ) -> list[list[Value] | None]:
        """What `compute` finds in trees, for each comparison's responses; see `comparisons`."""
        encoded = list(encode(comparisons, self.tokenizer, self.max_length, report))
        trees, keys = list[Sequence[Sequence[int]]](), list[str]()
        for comparison, _, tokens in encoded:
            fits = tree_size(tokens) <= self.micro_batch_tokens
            parts = [tokens] if tokens and fits else [[ids] for ids in tokens]
            trees += parts
            keys += [comparison.prompt_key] * len(parts)
        flat = chain.from_iterable(compute(trees, keys))
        return [list(islice(flat, len(tokens))) or None for _, _, tokens in encoded]

    def trees(self, trees: Trees, keys: Sequence[str] | None = None) -> list[list[float]]:
        """The rewards of token sequences; those of one tree compute their shared prefix once.

        Args:
            trees: the sequences of each tree, which should fit `micro_batch_tokens` together.
            keys: trees with the same key may be joined; None: none are.
        """

        def rewards(outputs_N_K: Tensor) -> list[float]:
            if self.has_members and self.how.aggregate != "mean":
                return self.how(self._read(outputs_N_K).T).tolist()
            return combine_outputs(self.model, outputs_N_K).tolist()

        return self._computed(trees, keys, rewards)

    def values_of_trees(
        self, trees: Trees, keys: Sequence[str] | None = None
    ) -> list[list[np.ndarray]]:
        """What `details_of` reads of each tree's token sequences, see `trees`.

        Returns:
            (V,) for each sequence: the rewards of the members; without members the reward, and the
            outputs of the head.
        """

        def values(outputs_N_K: Tensor) -> list[np.ndarray]:
            read_N_K = self._read(outputs_N_K)
            if self.has_members:
                return list(read_N_K)
            rewards_N = combine_outputs(self.model, outputs_N_K).double().cpu().numpy()
            return list(np.column_stack([rewards_N, read_N_K]))

        return self._computed(trees, keys, values)

    def _read(self, outputs_N_K: Tensor) -> np.ndarray:
        """(N, K) the outputs in the units in which they are read."""
        head, values_N_K = last_layer(self.model), outputs_N_K.double().cpu().numpy()
        if self.calibration is not None and head.names:
            values_N_K = self.calibration.read_outputs(values_N_K, head.names)
        return np.sort(values_N_K, axis=1) if head.kind == "quantile" else values_N_K

    def _computed(
        self,
        trees: Trees,
        keys: Sequence[str] | None,
        read: Callable[[Tensor], list[Value]],
    ) -> list[list[Value]]:
        """What `read` makes of the outputs, of each sequence of each tree."""
        keys = [str(n) for n in range(len(trees))] if keys is None else keys
        rows = [unlabelled_row(tree, key) for tree, key in zip(trees, keys, strict=True)]
        found: list[list[Value]] = [[] for _ in rows]
        device = next(self.model.parameters()).device
        collate = Collate(
            self.tokenizer.pad_token_id,
            self.micro_batch_tokens,
            BatchLayout(self.layout, max_positions(self.model)),
        )
        step = collate([row | {"row": n} for n, row in enumerate(rows)])
        with self.inference():
            for batch in step.batches:
                values = read(compute_outputs(self.model, batch.to(device)))
                for n, value in zip(batch.items_N.tolist(), values, strict=True):
                    found[n].append(value)
        return found

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients, in the scorer's precision; may be nested.

        Autocast keeps cast weights until the outermost block ends: enter it around many calls.
        """
        device = next(self.model.parameters()).device
        self.model.eval()
        autocast = torch.autocast(device.type, torch.bfloat16, self.precision == "bf16-mixed")
        with torch.inference_mode(), autocast:
            yield


def _cannot_be_scored(report: RowReport) -> UserError:
    reasons = "; ".join([*report.places.values(), *report.lines()[1:]])
    return UserError(f"Cannot be scored: {reasons}.")


def as_comparison(
    prompt: str | Sequence[Message],
    responses: Sequence[str | Sequence[Message]],
    unfinished: bool = False,
    blank: bool = False,
) -> Comparison:
    """The comparison of a prompt and responses, see `Scorer.score`.

    Args:
        blank: accept empty responses.

    Raises:
        UserError: the prompt or a response cannot be used.
    """
    if isinstance(responses, (str, Mapping)):
        raise UserError("responses is one response; give a list of them: [response].")
    try:
        return Comparison(
            id="",
            prompt=prompt_messages(prompt),
            responses=tuple(
                response_messages(response, f"responses[{k}]", blank)
                for k, response in enumerate(responses)
            ),
            unfinished=unfinished,
            place="the prompt",
        )
    except (BadRow, ValueError) as error:
        raise UserError(f"Cannot be scored: {error}.") from None


def open_scorer(
    source: Any,
    tokenizer: Any,
    device: str,
    precision: Precision,
    layout: Literal["auto", "tree", "padded"],
    max_length: int | None,
    micro_batch_tokens: int = 4096,
    calibration: Calibration | None = None,
) -> Scorer:
    """Load a trained reward model, check it, and choose its layout.

    Args:
        source: loads the model, see `models.pretrained`.
        max_length: at most the model's positions, which None takes; for the others, see `Scorer`.

    Raises:
        UserError: the model has no reward head, or was trained with another template.
    """
    if (directory := getattr(source, "path", None)) is not None:
        check_fingerprint(Path(directory), tokenizer)
        check_reward_head(Path(directory))
    model = source.load_model(tokenizer, 0)
    load_outputs(model, source)
    if model_facts(model).fresh_head:
        raise UserError(f"{source.path} has no reward head: train it first.")
    if precision == "bf16-mixed":
        hold_in_bf16(model, everything=True)
    model.to(device)
    check_padding(model, tokenizer.pad_token_id)
    limits = [length for length in (max_length, max_positions(model)) if length is not None]
    chosen = choose_layout(model, layout)
    restrict_final_layer(model)
    return Scorer(
        model,
        tokenizer,
        chosen,
        precision,
        min(limits, default=sys.maxsize),
        micro_batch_tokens,
        calibration,
    )

"""Scoring with a reward model: comparisons in, rewards out."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from rmexp.batching.collate import BatchLayout, Collate, Layout, unlabelled_row
from rmexp.batching.prefix_tree import PrefixTreeBuilder
from rmexp.comparison import Comparison, Message
from rmexp.config.validate import describe_type
from rmexp.core.devices import Precision
from rmexp.core.errors import UserError
from rmexp.data.formats.messages import prompt_messages, response_messages
from rmexp.data.reader import RowReport
from rmexp.data.sources import BadRow
from rmexp.data.token_dataset import encode
from rmexp.evaluation.calibration import Calibration
from rmexp.inference.export import check_fingerprint
from rmexp.models.layout_probe import choose_layout
from rmexp.models.model_checks import check_padding, max_positions
from rmexp.models.reward_model import compute_rewards, model_facts

Scale = Literal["reward", "normalised", "rating"]


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
    """

    model: Any
    tokenizer: Any
    layout: Layout
    precision: Precision = "32-true"
    max_length: int = 1024
    micro_batch_tokens: int = 4096
    calibration: Calibration | None = None

    def score(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
        scale: Scale = "reward",
    ) -> list[float]:
        """The reward of each response to a prompt; the prompt is computed once for all of them.

        Args:
            prompt: text (one user message) or a list of messages.
            responses: texts, or lists of messages that begin with the assistant's.
            unfinished: the responses are the first steps of answers. Their reward is read at the
                last token, without an end of turn (models trained on data=stepwise).
            scale: `reward` is the model's output, `normalised` has mean 0 and standard deviation 1
                on the validation rows, `rating` is on the raters' scale. All have the same order.

        Returns:
            One number a response.

        Raises:
            UserError: prompt or response cannot be used or is longer than `max_length`, or the
                model has no calibration for the scale.
        """
        if isinstance(responses, (str, Mapping)):
            raise UserError("responses is one response; give a list of them: [response].")
        convert = self._conversion(scale)
        try:
            comparison = Comparison(
                id="",
                prompt=prompt_messages(prompt),
                responses=tuple(
                    response_messages(response, f"responses[{k}]")
                    for k, response in enumerate(responses)
                ),
                unfinished=unfinished,
                place="the prompt",
            )
        except (BadRow, ValueError) as error:
            raise UserError(f"Cannot be scored: {error}.") from None
        report = RowReport()
        found = self.comparisons([comparison], report)[0]
        if found is None:
            raise UserError(
                f"Cannot be scored: {'; '.join([*report.places.values(), *report.lines()[1:]])}."
            )
        return found if convert is None else convert(np.array(found)).tolist()

    def _conversion(self, scale: Scale) -> Callable[[Any], Any] | None:
        """Function from rewards to the scale; None for `reward`."""
        if scale not in get_args(Scale):
            raise UserError(f"scale={scale!r}: should be {describe_type(Scale)}.")
        if scale == "reward":
            return None
        if self.calibration is None:
            raise UserError(f"scale={scale}: the model has no calibration.json.")
        if scale == "rating" and self.calibration.isotonic is None:
            raise UserError("scale=rating: the model's validation rows had no ratings.")
        return self.calibration.rating if scale == "rating" else self.calibration.normalised

    @torch.inference_mode()
    def comparisons(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[list[float] | None]:
        """The rewards of each comparison's responses; None if it cannot be scored.

        Args:
            comparisons: comparisons to score together.
            report: counts comparisons that cannot be scored, and shortened prompts.
        """
        encoded = list(encode(comparisons, self.tokenizer, self.max_length, report))
        rows = []
        for comparison, _, tokens in encoded:
            key = comparison.prompt_key  # a hash of the prompt: once, however many parts there are
            fits = PrefixTreeBuilder().with_sequences(tokens).size <= self.micro_batch_tokens
            trees = [tokens] if tokens and fits else [[ids] for ids in tokens]
            rows += [unlabelled_row(tree, key) for tree in trees]
        found: list[list[float]] = [[] for _ in rows]
        device = next(self.model.parameters()).device
        collate = Collate(
            self.tokenizer.pad_token_id,
            self.micro_batch_tokens,
            BatchLayout(self.layout, max_positions(self.model)),
        )
        self.model.eval()
        step = collate([row | {"row": n} for n, row in enumerate(rows)])
        # Around all batches: autocast keeps cast weights until it exits.
        with torch.autocast(device.type, torch.bfloat16, self.precision == "bf16-mixed"):
            for batch in step.batches:
                rewards_N = compute_rewards(self.model, batch.to(device)).tolist()
                for n, reward in zip(batch.items_N.tolist(), rewards_N, strict=True):
                    found[n].append(reward)
        flat = chain.from_iterable(found)
        return [list(islice(flat, len(tokens))) or None for _, _, tokens in encoded]


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
    model = source.load_model(tokenizer, 0)
    if model_facts(model).fresh_head:
        raise UserError(f"{source.path} has no reward head: train it first.")
    model.to(device)
    check_padding(model, tokenizer.pad_token_id)
    limits = [length for length in (max_length, max_positions(model)) if length is not None]
    return Scorer(
        model,
        tokenizer,
        choose_layout(model, layout),
        precision,
        min(limits, default=sys.maxsize),
        micro_batch_tokens,
        calibration,
    )

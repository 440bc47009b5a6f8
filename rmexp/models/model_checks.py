"""Checks of a loaded model: padding, number of positions, rewards that depend on lengths."""

import sys
from typing import Any

import torch

from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.core.errors import UserError
from rmexp.models.reward_model import (
    BATCH_INVARIANCE_TOLERANCE,
    backbone,
    compute_rewards,
    random_tokens,
)


@torch.no_grad()
def check_padding(model: Any, pad_token_id: int) -> None:
    """Refuse a model whose reward for a sequence changes with the padding after it.

    Raises:
        UserError: it changes, is not finite, or the model fails on padded rows.
    """
    model.eval()
    long, device = random_tokens(model), next(model.parameters()).device
    short = long[:8]
    collate = Collate(pad_token_id, sys.maxsize, BatchLayout("padded", max_positions(model)))
    lone, both = (collate([unlabelled_row(rows)]).batches[0] for rows in ([short], [long, short]))
    try:
        alone = compute_rewards(model, lone.to(device))
        together = compute_rewards(model, both.to(device))[1:]
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{type(model).__name__} cannot score a batch of padded rows ({first[:150]}); rmexp "
            "trains decoders and encoders with one reward for each row."
        ) from error
    if not alone.isfinite().all():
        raise UserError(
            f"{type(model).__name__} gives rewards that are NaN or infinite; are its weights whole?"
        )
    if not torch.allclose(
        alone, together, rtol=BATCH_INVARIANCE_TOLERANCE, atol=BATCH_INVARIANCE_TOLERANCE
    ):
        raise UserError(
            f"{type(model).__name__} gives a text another reward when padding follows it: its "
            "rewards would depend on what else is in the batch."
        )


def max_positions(model: Any) -> int | None:
    """Maximum number of positions, if the configuration has it."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    for module in backbone(model).modules():
        table: Any = getattr(module, "position_embeddings", None)
        if getattr(table, "padding_idx", None) is not None:
            return positions - table.padding_idx - 1  # RoBERTa's positions start behind it
    return positions


def length_dependent(model: Any, longest: int) -> str | None:
    """A note if a long row changes the rotary embeddings of its whole batch, or None."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    usual = rope.get("original_max_position_embeddings")
    if rope.get("rope_type") not in ("longrope", "dynamic") or usual is None or longest <= usual:
        return None
    return (
        f"The longest row has {longest} tokens: beyond {usual}, {type(model).__name__} embeds the "
        "positions of a whole batch otherwise, so that a reward depends on what else is in the "
        f"batch; data.max_length={usual} avoids that."
    )

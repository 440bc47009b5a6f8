"""Toy objects for tests: batches without tokens, rows without text, a tiny model."""

import torch

from rmexp.batches import Batch
from rmexp.loading import Tiny
from rmexp.templates import Template


def toy_batch(responses, pairs, weights=None, margins=None, ratings=None):
    """A micro-batch that losses can judge; it has no tokens."""
    count = len(pairs)
    index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    nothing = torch.zeros(responses, dtype=torch.int64)
    return Batch(
        tokens_R_T=nothing[None],
        positions_R_T=nothing[None],
        trees=None,
        row_N=nothing,
        end_N=nothing,
        better_P=index[:, 0],
        worse_P=index[:, 1],
        margins_P=torch.tensor(margins or [float("nan")] * count),
        weights_P=torch.tensor(weights or [1.0] * count),
        ratings_N=torch.tensor(ratings or [float("nan")] * responses),
        items_N=nothing,
    )


def tiny_tokenizer():
    """The byte-level tokenizer with its template installed."""
    tokenizer = Tiny().load_tokenizer()
    Template().install(tokenizer)
    return tokenizer


def toy_row(tokens, pairs=((0, 1, 1),), row=0, weights=None):
    """A row of the tokenised data set."""
    return {
        "tokens": tokens,
        "pairs": [list(p) for p in pairs],
        "margins": [float("nan")] * len(pairs),
        "weights": [1.0] * len(pairs) if weights is None else list(weights),
        "ratings": [float("nan")] * len(tokens),
        "row": row,
        "prompt_key": str(row),
    }

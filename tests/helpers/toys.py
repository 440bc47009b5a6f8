"""Toy objects for tests: batches, rows and a tiny model."""

import math

from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from tests.helpers.options import from_conf


def toy_batch(*rows):
    """The micro-batch of some toy rows."""
    return Collate(0, 10**9, BatchLayout("padded"))(list(rows)).batches[0]


def toy_comparison(responses, row=0, **judgements):
    """A row of one-token responses; see `toy_row`."""
    # The padded layout puts longer rows first: equal lengths keep the order.
    return toy_row([[10 * row + k] for k in range(responses)], row=row, **judgements)


def toy_row(tokens, pairs=((0, 1, 1),), row=0, weights=None, margins=None, votes=None, **more):
    """A row of the tokenized dataset; `votes` are shares for i, for j, and for a tie."""
    usual = {1: (1.0, 0.0, 0.0), 0: (0.0, 0.0, 1.0)}
    return (
        unlabelled_row(tokens, str(row))
        | {
            "pairs": [list(p) for p in pairs],
            "margins": list(margins or [math.nan] * len(pairs)),
            "votes": list(votes or [usual[verdict] for *_, verdict in pairs]),
            "weights": [1.0] * len(pairs) if weights is None else list(weights),
            "row": row,
        }
        | more
    )


def tiny_tokenizer():
    """The byte-level tokenizer with its template installed."""
    tokenizer = from_conf("model/tiny").load_tokenizer()
    from_conf("template/tokenizer").install(tokenizer)
    return tokenizer

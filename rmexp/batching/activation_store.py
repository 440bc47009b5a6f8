"""Cached activations of a model's frozen part: computed once, on disk, memory-mapped.

A causal model's hidden state at a token depends only on the tokens up to it, so that states are
looked up by token sequence, whatever the micro-batch, epoch, job or layout.
"""

import hashlib
import itertools
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STATES, KEYS, SPANS, FACTS = "states.f32", "keys.npy", "spans.npy", "facts.json"
"""The files of a store; the last one marks it as complete."""

KEY_BYTES = 16


@dataclass(frozen=True)
class ActivationStore:
    """The hidden states of token sequences; those of a shared prefix are stored once.

    Args:
        states_S_D: float32, all states.
        keys_N: the keys of the sequences, sorted.
        spans_N_3: of each key, start of its prefix in the states, length of the prefix, start of
            the rest.
        pooled: only the last token's state of each sequence is stored.
    """

    states_S_D: np.ndarray
    keys_N: np.ndarray
    spans_N_3: np.ndarray
    pooled: bool

    @classmethod
    def open(cls, home: Path) -> "ActivationStore":
        """The store in a directory that `ActivationWriter` has finished."""
        facts = json.loads((home / FACTS).read_bytes())
        shape = (facts["states"], facts["width"])
        states = np.memmap(home / STATES, dtype=np.float32, mode="r", shape=shape)
        keys, spans = (np.load(home / name, mmap_mode="r") for name in (KEYS, SPANS))
        return cls(states, keys, spans, facts["pooled"])

    def of(self, tokens: Sequence[int]) -> np.ndarray:
        """(len(tokens), D) the states of a sequence; (1, D) in a `pooled` store.

        Raises:
            KeyError: the sequence is not in the store.
        """
        key = sequence_key(tokens)
        at = int(np.searchsorted(self.keys_N, np.array(key, dtype=self.keys_N.dtype)))
        if self.keys_N[at : at + 1].tobytes() != key:
            raise KeyError(key)
        start, shared, rest = self.spans_N_3[at].tolist()
        more = (1 if self.pooled else len(tokens)) - shared
        if not more:
            return self.states_S_D[start : start + shared]
        parts = (self.states_S_D[start : start + shared], self.states_S_D[rest : rest + more])
        return np.concatenate(parts)


class ActivationWriter:
    """Writes a store of states of `width` D to an empty directory; `finish` completes it."""

    def __init__(self, home: Path, width: int, pooled: bool) -> None:
        self.home, self.width, self.pooled = home, width, pooled
        self.count = 0
        self._stream = open(home / STATES, "wb")  # noqa: SIM115 - closed by `finish`
        self._keys, self._spans = bytearray(), array("q")

    def add(self, states: np.ndarray) -> int:
        """Append (S, D) states; returns the index of the first."""
        start = self.count
        self._stream.write(np.ascontiguousarray(states, dtype=np.float32).data)
        self.count += len(states)
        return start

    def add_sequence(self, tokens: Sequence[int], start: int, shared: int, rest: int) -> None:
        """Record a sequence: `shared` states begin at `start`, the others at `rest`."""
        self._keys += sequence_key(tokens)
        self._spans.extend((start, shared, rest))

    def finish(self) -> None:
        self._stream.close()
        keys_N = np.frombuffer(self._keys, dtype=f"S{KEY_BYTES}")
        order_N = np.argsort(keys_N)
        np.save(self.home / KEYS, keys_N[order_N])
        np.save(self.home / SPANS, np.array(self._spans).reshape(-1, 3)[order_N])
        facts = {"states": self.count, "width": self.width, "pooled": self.pooled}
        (self.home / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def sequence_key(tokens: Sequence[int]) -> bytes:
    tokens_T = np.asarray(tokens, dtype=np.int32)
    return hashlib.blake2b(tokens_T.tobytes(), digest_size=KEY_BYTES).digest()


def unique_sequences(
    rows: Iterator[tuple[str, Sequence[Sequence[int]]]], limit: int
) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """(prompt, responses' tokens) of rows -> distinct sequences of a prompt, at most `limit` each.

    The rows of a prompt are neighbours. Sequences are sorted, so that those that share a long
    prefix come together.
    """
    for prompt, group in itertools.groupby(rows, lambda row: row[0]):
        ordered = sorted({tuple(ids) for _, tokens in group for ids in tokens})
        for n in range(0, len(ordered), limit):
            yield prompt, ordered[n : n + limit]

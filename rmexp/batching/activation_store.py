"""What a frozen part of a model gives token sequences: computed once, on disk, memory-mapped.

A causal model's hidden state at a token depends on the tokens up to it and on nothing else, so that
it may be looked up by the sequence, whatever micro-batch, epoch, job or layout asks for it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STATES, INDEX, FACTS = "states.f32", "index.npz", "facts.json"
"""The files of a store; the last one is written last."""


KEY = 16
"""Bytes of a sequence's key."""


@dataclass(frozen=True)
class ActivationStore:
    """The hidden states of token sequences, those of a shared start kept once.

    Args:
        states_S_D: float32, all of them.
        places: key of a sequence -> where its start lies, how long that is, where the rest lies.
        pooled: only the last token's state of each is kept.
    """

    states_S_D: np.ndarray
    places: Mapping[bytes, tuple[int, int, int]]
    pooled: bool

    @classmethod
    def open(cls, home: Path) -> "ActivationStore":
        """The store in a directory that `ActivationWriter` has finished."""
        facts = json.loads((home / FACTS).read_text())
        with np.load(home / INDEX) as index:
            keys, places = index["keys"].tobytes(), index["places"].tolist()
        names = (keys[n : n + KEY] for n in range(0, len(keys), KEY))
        shape = (facts["states"], facts["width"])
        states = np.memmap(home / STATES, dtype=np.float32, mode="r", shape=shape)
        found = {name: tuple(place) for name, place in zip(names, places, strict=True)}
        return cls(states, found, facts["pooled"])

    def of(self, tokens: Sequence[int]) -> np.ndarray:
        """(len(tokens), D) the states of a sequence; where only the last is kept, (1, D).

        Raises:
            KeyError: the store was made for other rows.
        """
        start, shared, rest = self.places[prefix_key(tokens)]
        more = (1 if self.pooled else len(tokens)) - shared
        if not more:
            return self.states_S_D[start : start + shared]
        parts = (self.states_S_D[start : start + shared], self.states_S_D[rest : rest + more])
        return np.concatenate(parts)


class ActivationWriter:
    """Writes a store, a stretch of states after the other; `finish` makes it one.

    Args:
        home: an empty directory.
        width: D.
        pooled: see `ActivationStore`.
    """

    def __init__(self, home: Path, width: int, pooled: bool) -> None:
        self.home, self.width, self.pooled = home, width, pooled
        self.count = 0
        self._stream = open(home / STATES, "wb")  # noqa: SIM115 - closed by `finish`
        self._keys: list[bytes] = []
        self._places: list[tuple[int, int, int]] = []

    def add(self, states: np.ndarray) -> int:
        """Append (S, D) states; where the first of them lies."""
        start = self.count
        self._stream.write(np.ascontiguousarray(states, dtype=np.float32).data)
        self.count += len(states)
        return start

    def place(self, tokens: Sequence[int], start: int, shared: int, rest: int) -> None:
        """The sequence's first `shared` states lie from `start` on, the others from `rest` on."""
        self._keys.append(prefix_key(tokens))
        self._places.append((start, shared, rest))

    def finish(self) -> None:
        """Write the index, and then that the store is whole."""
        self._stream.close()
        keys = np.frombuffer(b"".join(self._keys), dtype=np.uint8)
        np.savez(self.home / INDEX, keys=keys, places=np.array(self._places).reshape(-1, 3))
        facts = {"states": self.count, "width": self.width, "pooled": self.pooled}
        (self.home / FACTS).write_text(json.dumps(facts))


def prefix_key(tokens: Sequence[int]) -> bytes:
    """A sequence's name in the store."""
    return hashlib.blake2b(np.asarray(tokens, dtype=np.int32).tobytes(), digest_size=KEY).digest()


def unique_prefixes(
    sequences: Iterator[tuple[str, Sequence[Sequence[int]]]], most: int
) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """(prompt, responses' tokens) of rows -> the distinct ones by prompt, up to `most` at once."""
    prompts: dict[str, dict[tuple[int, ...], None]] = {}
    for prompt, tokens in sequences:
        prompts.setdefault(prompt, {}).update(dict.fromkeys(map(tuple, tokens)))
    for prompt, found in prompts.items():
        # In order, those that share most of their start come together.
        ordered = sorted(found)
        for n in range(0, len(ordered), most):
            yield prompt, ordered[n : n + most]

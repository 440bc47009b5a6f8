"""Dynamic batching: one thread owns the model and computes the texts of concurrent requests."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rmexp.batching.prefix_groups import Tokens, prefix_groups
from rmexp.batching.prefix_tree import PrefixTreeBuilder, tree_size
from rmexp.inference.scorer import Scorer

WINDOW = 256
"""Maximum waiting texts that a batch is chosen from; finding their groups takes milliseconds."""


class QueueFull(Exception):
    """The queue has no room.

    Args:
        seconds: until there is room, as estimated; 1 or more.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full for {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class _Text:
    """A text in the queue, and whom its reward is for."""

    ids: Tokens
    arrived: float
    futures: list[Future[Any]] = field(default_factory=list)
    running: bool = False

    @property
    def wanted(self) -> int:
        """How many still want its reward."""
        return sum(not future.cancelled() for future in self.futures)


class Batcher:
    """Computes token sequences together, oldest first; a reward does not depend on its batch.

    Texts that share a prefix share a tree, from whatever request they are. An equal text that
    waits or runs already is not computed again, and one whose futures are all cancelled is dropped.

    Args:
        scorer: only this object's thread calls it.
        queue_texts: maximum number of waiting texts.
        wait_seconds: how long a text waits for others to share its batch; no longer than it takes
            to fill one.
        on_batch: called after each batch with the texts it computed, and their tokens, given and
            computed.
    """

    def __init__(
        self,
        scorer: Scorer,
        queue_texts: int,
        wait_seconds: float,
        on_batch: Callable[[int, int, int], None] = lambda texts, given, computed: None,
    ) -> None:
        self.scorer, self.queue_texts, self.wait_seconds = scorer, queue_texts, wait_seconds
        self._on_batch = on_batch
        self._texts: dict[Tokens, _Text] = {}  # in the order of their arrival
        self._changed = threading.Condition()
        self._closing = False
        self._tokens_per_second: float | None = None
        self._thread = threading.Thread(target=self._work, name="rmexp-batcher", daemon=True)
        self._thread.start()

    def submit(self, sequences: Sequence[Tokens]) -> list[Future[Any]]:
        """A future reward of each sequence; cancel what is not wanted.

        Where the scorer has details, it is what `Scorer.values_of_trees` has in its place.

        Raises:
            QueueFull: there is no room for all of them.
            RuntimeError: the batcher is closed.
        """
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            if self.waiting + len(sequences) > self.queue_texts:
                raise QueueFull(self._seconds_left())
            futures = []
            for ids in sequences:
                text = self._texts.setdefault(ids, _Text(ids, time.monotonic()))
                futures.append(Future[Any]())
                text.futures.append(futures[-1])
            self._changed.notify()
        return futures

    @property
    def waiting(self) -> int:
        """Number of rewards that are waited for and not being computed."""
        with self._changed:
            return sum(text.wanted for text in self._texts.values() if not text.running)

    def close(self) -> None:
        """Compute what waits, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _seconds_left(self) -> int:
        """Estimated seconds until the texts of the queue are computed."""
        tokens = sum(map(len, self._texts))
        return max(1, math.ceil(tokens / (self._tokens_per_second or math.inf)))

    def _work(self) -> None:
        with self.scorer.inference():
            while (waiting := self._wait()) is not None:
                budget = self.scorer.micro_batch_tokens
                groups, tokens = choose_batch(
                    [text.ids for text in waiting[:WINDOW]], budget, self.scorer.layout != "padded"
                )
                self._compute([[waiting[index] for index in group] for group in groups], tokens)

    def _wait(self) -> list[_Text] | None:
        """The waiting texts once they are to be computed; None at the end."""
        with self._changed:
            while True:
                for text in [t for t in self._texts.values() if not t.wanted and not t.running]:
                    del self._texts[text.ids]
                waiting = list(self._texts.values())
                if not waiting and self._closing:
                    return None
                if not waiting:
                    self._changed.wait()
                    continue
                left = waiting[0].arrived + self.wait_seconds - time.monotonic()
                full = sum(len(text.ids) for text in waiting) >= self.scorer.micro_batch_tokens
                if left <= 0 or full or self._closing:
                    return waiting
                self._changed.wait(left)

    def _compute(self, groups: list[list[_Text]], tokens: int) -> None:
        """Compute the groups, whose trees have `tokens` together."""
        texts = [text for group in groups for text in group]
        with self._changed:
            for text in texts:
                text.running = True
        started = time.monotonic()
        rewards, error = list[Any](), None
        try:
            trees = [[text.ids for text in group] for group in groups]
            scorer = self.scorer
            compute = scorer.values_of_trees if scorer.has_details else scorer.trees
            rewards = [one for tree in compute(trees) for one in tree]
        except Exception as failure:  # out of memory: the next batch may fit
            error = failure
        with self._changed:
            for text in texts:
                del self._texts[text.ids]
        for n, text in enumerate(texts):
            for future in text.futures:
                if not future.set_running_or_notify_cancel():
                    continue  # cancelled meanwhile
                if error is None:
                    future.set_result(rewards[n])
                else:
                    future.set_exception(error)
        given = sum(len(text.ids) * len(text.futures) for text in texts)
        self._tokens_per_second = given / max(time.monotonic() - started, 1e-6)
        self._on_batch(len(texts), given, tokens)


def choose_batch(
    sequences: Sequence[Tokens], budget: int, trees: bool
) -> tuple[list[list[int]], int]:
    """Which of the waiting sequences are computed next, as the trees of a batch.

    Groups are taken by their oldest sequence, as far as their trees have `budget` tokens together.
    A group is split only if its tree alone has more; its first sequence is taken in any case.

    Args:
        sequences: distinct, oldest first.
        budget: tokens of the trees of a batch.
        trees: group those that share a prefix; else each is its own group.

    Returns:
        The groups, and the tokens of their trees together.
    """
    groups = prefix_groups(sequences) if trees else [[n] for n in range(len(sequences))]
    chosen, left = list[list[int]](), budget
    for group in groups:
        size = _tree_size(group, sequences)
        if size > budget:
            group = _beginning(group, sequences, left, at_least=0 if chosen else 1)
            size = _tree_size(group, sequences)
        if group and (size <= left or not chosen):
            chosen.append(group)
            left -= size
    return chosen, budget - left


def _tree_size(group: Sequence[int], sequences: Sequence[Tokens]) -> int:
    return tree_size([sequences[index] for index in group])


def _beginning(
    group: Sequence[int], sequences: Sequence[Tokens], limit: int, at_least: int
) -> list[int]:
    """As many sequences of the group as make a tree of `limit` tokens.

    Added one after the other, a sequence that begins a later one counts as a branch: the tree of
    all has no more tokens than that.
    """
    builder = PrefixTreeBuilder()
    for count, index in enumerate(group):
        builder = builder.with_sequences([sequences[index]])
        if count >= at_least and builder.size > limit:
            return list(group[:count])
    return list(group)

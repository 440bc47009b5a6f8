"""Detection of a diverging loss."""

from collections import deque
from typing import Any

DIVERGENCE_WINDOW = 20
DIVERGENCE_FACTOR = 100.0


class Divergence:
    """A loss diverges when its mean over the last 20 steps exceeds 100 times that of the first 20.

    A first mean below 1 counts as 1, as a loss near 0 may well fluctuate. Noise and the jumps
    between epochs stay far below the threshold.
    """

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=DIVERGENCE_WINDOW)

    def add(self, loss: float) -> str | None:
        """Add a step's loss; returns a message if it diverges."""
        if len(self.first) < DIVERGENCE_WINDOW:
            self.first.append(loss)
            return None
        self.last.append(loss)
        start, now = (sum(part) / DIVERGENCE_WINDOW for part in (self.first, self.last))
        if len(self.last) < DIVERGENCE_WINDOW or now <= DIVERGENCE_FACTOR * max(1.0, start):
            return None
        return (
            f"the loss diverges: {now:.4g} over the last {DIVERGENCE_WINDOW} steps, "
            f"{start:.4g} at first"
        )

    def state(self) -> dict[str, Any]:
        return {"first": self.first, "last": list(self.last)}

    def load(self, state: dict[str, Any]) -> None:
        self.first, self.last = list(state["first"]), deque(state["last"], maxlen=DIVERGENCE_WINDOW)

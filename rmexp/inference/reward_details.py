"""What the rewards of responses consist of."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RewardDetails:
    """Rewards of N responses, and what they consist of.

    Attributes:
        rewards: (N,); of members, their aggregate.
        std: (N,) standard deviation of the M members of an ensemble; empty without members.
        members: (M, N) their rewards.
        outputs: name -> (N,) of each attribute or quantile, see `Scorer.outputs`; empty without.
    """

    rewards: list[float]
    std: list[float] = field(default_factory=list)
    members: list[list[float]] = field(default_factory=list)
    outputs: dict[str, list[float]] = field(default_factory=dict)

    def row(self, n: int) -> dict[str, Any]:
        """What is known of response n: `reward`, and `std` and `members`, or `outputs`."""
        row: dict[str, Any] = {"reward": self.rewards[n]}
        if self.std:
            row |= {"std": self.std[n], "members": [member[n] for member in self.members]}
        if self.outputs:
            row["outputs"] = {name: values[n] for name, values in self.outputs.items()}
        return row

"""head=ensemble: members on one backbone, each with its own bootstrap sample of the prompts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses.base import Loss
from rmexp.losses.outputs import MemberLosses
from rmexp.models.heads.base import HeadSettings, install_outputs
from rmexp.models.model_files import has_reward_head
from rmexp.models.reward_head import draw_head, find_head


@dataclass(frozen=True)
class EnsembleHead(HeadSettings):
    """head=ensemble: members that differ in their initial weights and in the prompts they train on.

    The reward is the mean over the members; their spread tells how sure it is. All members train in
    one pass over the shared model. As an ensemble of reward models: Coste et al. 2023,
    arXiv:2310.02743; with a shared backbone: Zhang et al. 2024, arXiv:2401.16635. The bootstrap is
    that of Oza and Russell 2001, "Online bagging and boosting": a member draws a prompt n times, n
    from Poisson(1), the limit of sampling with replacement. Unlike sampling a fixed number, the
    draws of a prompt depend on no other prompt, so that they stay if rows are added or left out.

    Args:
        members: number of members.
        bootstrap: draw prompts; False: every member trains on all of them.
    """

    members: Annotated[int, Ge(2)]
    bootstrap: bool

    def check(self, loss: Loss, loss_name: str, source: Any, data: ComparisonData) -> None:
        folder = getattr(source, "path", None)
        if folder is not None and has_reward_head(Path(folder).expanduser()):
            self._check_start()

    def _check_start(self) -> None:
        """Refuse members that start from one trained head, and train on the same prompts."""
        if not self.bootstrap:
            raise UserError(
                "head=ensemble head.bootstrap=false: the checkpoint has a reward head, from which "
                "all members start, so that they would stay equal; take head.bootstrap=true."
            )

    def install(self, model: Any, seed: int) -> None:
        """Members of a fresh head start at random, the first one as head=linear does; those of a
        trained head all start from it.

        Raises:
            UserError: they start alike and train on the same prompts.
        """
        _, one = find_head(model)
        if not one.facts.fresh_head:  # also one that only loading finds, such as a hub's
            self._check_start()
        weights = [1 / self.members] * self.members
        head = install_outputs(model, "ensemble", self.names, weights)
        if one.facts.fresh_head:
            draw_head(head, *(member_seed(seed, k) for k in range(self.members)))

    def losses(self, loss: Loss, data: ComparisonData, seed: int) -> Loss:
        return MemberLosses(loss, self.names, self._draws(data, seed) if self.bootstrap else None)

    def trained_losses(self, loss: Loss, names: Sequence[str], data: ComparisonData) -> Loss:
        return MemberLosses(loss, self.names, None)

    @property
    def names(self) -> list[str]:
        return [str(k) for k in range(self.members)]

    def _draws(self, data: ComparisonData, seed: int) -> np.ndarray:
        """draws_C_K of all rows, see `MemberLosses`; 1 for those that do not train."""
        draws_C_K = np.ones((len(data.rows), self.members), dtype=np.uint8)
        train = data.splits["train"]
        keys = data.rows.select(train)["prompt_key"][:]
        known = {key: prompt_draws(key, seed, self.members) for key in set(keys)}
        draws_C_K[train] = np.stack([known[key] for key in keys])
        return draws_C_K


def member_seed(seed: int, member: int) -> int:
    """The seed of a member's initial weights; the first member's is the run's."""
    return seed if member == 0 else int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def prompt_draws(prompt_key: str, seed: int, members: int) -> np.ndarray:
    """(K,) how often each member draws a prompt: Poisson(1), by the seed and the prompt alone."""
    digest = hashlib.sha256(f"{seed}/{prompt_key}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    return generator.poisson(1.0, members).astype(np.uint8)

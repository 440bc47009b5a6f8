"""Losses: one `nn.Module` each, values and weights per judged unit, formula and source documented.

A loss maps rewards_N of a micro-batch to `{term: (values_U, weights_U)}`, U the units that the term
judges (here pairs). A step's loss is, summed over terms, sum(values x weights) / (total weight of
the term over the whole step). Weights must not depend on the rewards.

To add one: write a class with `needs` and `forward`, and a YAML in conf/loss/ that names it.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rmexp.batches import Batch
from rmexp.errors import fallback

Terms = dict[str, tuple[Tensor, Tensor]]
Margin = Annotated[float, Ge(0)] | Literal["data"]
"""A margin for every pair in units of reward, or `data`: each pair's own, from its row."""


class Loss(nn.Module):
    """What every loss shares."""

    needs: ClassVar[str]
    """The judgements it learns from: `pairs`."""

    @property
    def needs_margins(self) -> bool:
        """Does it take each pair's own margin from the data?"""
        return getattr(self, "margin", None) == "data"

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """`{term: (values_U, weights_U)}` of one micro-batch, in fp32."""
        raise NotImplementedError

    @torch.no_grad()
    def total_weights(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The weight of each term over a step's micro-batches, known before any forward pass."""
        totals: dict[str, float] = {}
        for batch in batches:
            for term, (_, weights_U) in self(torch.zeros_like(batch.ratings_N), batch).items():
                totals[term] = totals.get(term, 0.0) + float(weights_U.sum())
        return totals


class BradleyTerry(Loss):
    """-log sigmoid(r_better - r_worse - margin).

    Bradley and Terry 1952; as a reward-model loss: Ouyang et al. 2022 (InstructGPT),
    arXiv:2203.02155, eq. 1; with a margin: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, eq. 2.

    Args:
        margin: by how much the better reward must lead before the loss falls under log 2.
    """

    needs = "pairs"

    def __init__(self, margin: Margin = 0.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """One value a judged pair."""
        gaps_P = rewards_N[batch.better_P] - rewards_N[batch.worse_P]
        return {
            "pairs": (-F.logsigmoid(gaps_P - pair_margins(self.margin, batch)), batch.weights_P)
        }


class Contrastive(Loss):
    """max(0, margin - (r_better - r_worse)), the hinge of ranking SVMs.

    Herbrich, Graepel and Obermayer 1999, "Support vector learning for ordinal regression".

    Args:
        margin: the lead at which a pair costs nothing; with 0, constant rewards are a minimum.
    """

    needs = "pairs"

    def __init__(self, margin: Margin = 1.0) -> None:
        super().__init__()
        self.margin = margin
        if margin == 0:
            fallback(
                "loss.margin=0 with the contrastive loss: constant rewards minimise it, so nothing "
                "need be learnt; take a margin above 0."
            )

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """One value a judged pair."""
        gaps_P = rewards_N[batch.better_P] - rewards_N[batch.worse_P]
        return {"pairs": (F.relu(pair_margins(self.margin, batch) - gaps_P), batch.weights_P)}


def pair_margins(margin: Margin, batch: Batch) -> Tensor | float:
    """The margin of each judged pair: the constant, or margins_P from the data."""
    return batch.margins_P if margin == "data" else float(margin)

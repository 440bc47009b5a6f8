"""Losses over pairs of responses, of which one is better or which tie."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.core.errors import note_fallback
from rmexp.losses.base import Loss, Margin, Terms, pair_gaps, pair_margins, pair_weights

TANGENT = 10.0
"""Negative gap beyond which the exponential loss is replaced by its tangent."""


class BradleyTerry(Loss):
    """-log sigmoid(r_better - r_worse - margin).

    Bradley and Terry 1952; as a reward-model loss: Ouyang et al. 2022 (InstructGPT),
    arXiv:2203.02155, eq. 1; with a margin: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, eq. 2.

    Args:
        margin: lead of the better reward at which the loss is log 2.
        label_smoothing: probability that a label is wrong; this share of the loss is that of the
            flipped pair (Mitchell 2023, "A note on DPO with noisy preferences"), whose other
            response must lead by the same margin: -log sigmoid(r_worse - r_better - margin).
        scale: multiply by the pair's margin (`data`) or rating difference (`ratings`), the scaled
            loss of Wang et al. 2024 (HelpSteer2-Preference), arXiv:2410.01257, section 3.2.
        centring: coefficient of (r_better + r_worse)^2, which keeps rewards around 0 (Eisenstein et
            al. 2023, arXiv:2312.09244, eq. 3); 0.01 is usual.
        average: `pairs`, or `lists`: the pairs of a comparison share one weight, 1 / (K choose 2)
            each, as in InstructGPT.
    """

    needs_labels = ("pairs",)

    def __init__(
        self,
        margin: Margin,
        label_smoothing: Annotated[float, Ge(0), Lt(0.5)],
        scale: Literal["data", "ratings"] | None,
        centring: Annotated[float, Ge(0)],
        average: Literal["pairs", "lists"],
    ) -> None:
        super().__init__()
        self.margin, self.label_smoothing, self.scale = margin, label_smoothing, scale
        self.centring, self.average = centring, average

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        gaps_P, margins_P = pair_gaps(rewards_N, batch), pair_margins(self.margin, batch)
        values_P = -F.logsigmoid(gaps_P - margins_P)
        if self.label_smoothing:
            flipped_P = -F.logsigmoid(-gaps_P - margins_P)
            values_P = torch.lerp(values_P, flipped_P, self.label_smoothing)
        if self.scale is not None:
            values_P = values_P * pair_margins(self.scale, batch)
        weights_P = pair_weights(batch, self.margin, self.scale)
        if self.average == "lists":
            home_P = batch.list_N[batch.better_P]
            weights_P = weights_P / torch.bincount(home_P)[home_P] if len(home_P) else weights_P
        terms = {"pairs": (values_P, weights_P)}
        if self.centring:
            sums_P = rewards_N[batch.better_P] + rewards_N[batch.worse_P]
            terms["centring"] = (self.centring * sums_P.square(), weights_P)
        return terms


class Contrastive(Loss):
    """max(0, margin - (r_better - r_worse)), the hinge of ranking SVMs.

    Herbrich, Graepel and Obermayer 1999, "Support vector learning for ordinal regression".

    Args:
        margin: lead at which a pair has zero loss; with 0, constant rewards are a minimum.
        squared: squared hinge (the L2 loss of SVMs): smooth, with more weight on large violations.
    """

    needs_labels = ("pairs",)

    def __init__(self, margin: Margin, squared: bool) -> None:
        super().__init__()
        self.margin, self.squared = margin, squared
        if margin == 0:
            note_fallback(
                "loss.margin=0 with the contrastive loss: constant rewards minimise it, so nothing "
                "need be learned; set a margin above 0."
            )

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        values_P = F.relu(pair_margins(self.margin, batch) - pair_gaps(rewards_N, batch))
        weights_P = pair_weights(batch, self.margin)
        return {"pairs": (values_P.square() if self.squared else values_P, weights_P)}


class Focal(Loss):
    """-(1 - 2 max(0, p - 1/2))^gamma log p, p = sigmoid(r_better - r_worse).

    Down-weights pairs that are already ranked correctly. Cai et al. 2024 (InternLM2),
    arXiv:2403.17297, section 4.2.1, without their penalty; after Lin et al. 2017, arXiv:1708.02002.

    Args:
        gamma: exponent of the weight of easy pairs; 0 is Bradley-Terry.
    """

    needs_labels = ("pairs",)

    def __init__(self, gamma: Annotated[float, Ge(0)]) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        gaps_P = pair_gaps(rewards_N, batch)
        # 1 - 2 max(0, p - 1/2) = min(1, 2 (1 - p)), which avoids cancellation where p is near 1.
        faded_P = torch.clamp(math.log(2) + F.logsigmoid(-gaps_P), max=0)
        values_P = -torch.exp(self.gamma * faded_P) * F.logsigmoid(gaps_P)
        return {"pairs": (values_P, batch.weights_P)}


class SoftBradleyTerry(Loss):
    """-p log sigmoid(d) - (1 - p) log sigmoid(-d), d = r_i - r_j, p the share of votes for i.

    Cross-entropy with soft targets. A vote for a tie counts half for each response; tied pairs
    train as well.
    """

    needs_labels = ("votes",)
    reads_votes = True

    def trains_on(self) -> tuple[str, ...]:
        return ("pairs", "ties")

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        gaps_J, votes_J_3, weights_J = all_pairs(rewards_N, batch)
        share_J = votes_J_3[:, 0] + votes_J_3[:, 2] / 2
        values_J = -share_J * F.logsigmoid(gaps_J) - (1 - share_J) * F.logsigmoid(-gaps_J)
        return {"pairs": (values_J, weights_J)}


class Ties(Loss):
    """-log P(label), where the label is i, j or a tie; the mean over votes where there are votes.

    With d = r_i - r_j: Rao and Kupper 1967: P(i) = sigmoid(d - width), P(j) = sigmoid(-d - width),
    P(tie) the rest. Davidson 1970: P(i), P(j), P(tie) proportional to exp(d/2), exp(-d/2), width.

    Args:
        model: `rao_kupper` or `davidson`.
        tie_width: initial width; it is learned (`optim.loss_lr`).
    """

    needs_labels = ("pairs", "ties")
    reads_votes = True

    def __init__(
        self,
        model: Literal["rao_kupper", "davidson"],
        tie_width: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__()
        self.model = model
        # Both widths are positive, so their logarithm is unconstrained.
        self.log_width = nn.Parameter(torch.tensor(math.log(tie_width)))

    def trains_on(self) -> tuple[str, ...]:
        return ("pairs", "ties")

    def log_chances(self, gaps_J: Tensor) -> Tensor:
        """(J, 3) log probabilities of i, j and a tie."""
        if self.model == "davidson":
            logits = (gaps_J / 2, -gaps_J / 2, self.log_width.expand_as(gaps_J))
            return torch.log_softmax(torch.stack(logits, -1), -1)
        width = self.log_width.exp()
        i, j = F.logsigmoid(gaps_J - width), F.logsigmoid(-gaps_J - width)
        # P(tie) = (exp(2 width) - 1) P(i) P(j)
        tie = i + j + 2 * width + torch.log(-torch.expm1(-2 * width))
        return torch.stack([i, j, tie], -1)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        gaps_J, votes_J_3, weights_J = all_pairs(rewards_N, batch)
        return {"pairs": (-(votes_J_3 * self.log_chances(gaps_J)).sum(-1), weights_J)}


class SquaredMargin(Loss):
    """(r_better - r_worse - margin)^2, which does not push pairs beyond the margin.

    The form of IPO, whose margin is 1 / (2 tau): Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Args:
        margin: target difference of the rewards.
    """

    needs_labels = ("pairs",)

    def __init__(self, margin: Margin) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        leads_P = pair_gaps(rewards_N, batch) - pair_margins(self.margin, batch)
        return {"pairs": (leads_P.square(), pair_weights(batch, self.margin))}


class Exponential(Loss):
    """exp(-(r_better - r_worse)), the loss of RankBoost.

    Freund et al. 2003, "An efficient boosting algorithm for combining preferences". Below a gap of
    -10 the loss is replaced by its tangent, so that it stays finite.
    """

    needs_labels = ("pairs",)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        behind_P = -pair_gaps(rewards_N, batch)
        curved_P = torch.exp(behind_P.clamp(max=TANGENT))
        values_P = curved_P + math.exp(TANGENT) * F.relu(behind_P - TANGENT)
        return {"pairs": (values_P, batch.weights_P)}


class Centring(Loss):
    """(r_better + r_worse)^2, a regulariser for `Mix` that keeps rewards around 0.

    Eisenstein et al. 2023, arXiv:2312.09244, eq. 3.
    """

    needs_labels = ("pairs",)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        sums_P = rewards_N[batch.better_P] + rewards_N[batch.worse_P]
        return {"pairs": (sums_P.square(), batch.weights_P)}


def all_pairs(rewards_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(J,) gaps, (J, 3) vote shares and (J,) weights of all pairs and ties, J = P + Q."""
    ties_Q = rewards_N[batch.tied_Q_2[:, 0]] - rewards_N[batch.tied_Q_2[:, 1]]
    return (
        torch.cat([pair_gaps(rewards_N, batch), ties_Q]),
        torch.cat([batch.votes_P_3, batch.votes_Q_3]),
        torch.cat([batch.weights_P, batch.weights_Q]),
    )

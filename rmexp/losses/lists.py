"""Losses over the order of a comparison's responses: partial orders, with ties."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rmexp.batching.collate import Batch
from rmexp.losses.base import Loss, Terms


class PlackettLuce(Loss):
    """-log P(order): the best is drawn first, then the best of the rest, each as exp(r).

    Plackett 1975, Luce 1959; as ListMLE: Xia et al. 2008. The lowest level says nothing among
    itself, so that a ranking of the best few out of K is a partial ranking. Ties above it are
    taken as Efron 1977 takes tied deaths (Cox regression). With two responses it is Bradley-Terry.

    Args:
        at_least: ranked responses that a list must have to count; 3 leaves pairs to another loss.
    """

    needs_labels = ("lists",)

    def __init__(self, at_least: Annotated[int, Ge(2)]) -> None:
        super().__init__()
        self.at_least = at_least

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """One value a comparison: the sum over its draws."""
        drawn_S, same_S_N = _above_bottom(batch, self.at_least)
        tied_S_N = same_S_N & (batch.levels_N == batch.levels_N[drawn_S, None])
        lower_S_N = same_S_N & (batch.levels_N < batch.levels_N[drawn_S, None])
        # Of m tied responses the one drawn as number l leaves l / m of their weight behind it.
        before_S = (tied_S_N & (_order(batch) < drawn_S[:, None])).sum(1)
        left_S = torch.log1p(-before_S / tied_S_N.sum(1))
        pool_S = torch.logaddexp(
            _log_sum(rewards_N, lower_S_N), _log_sum(rewards_N, tied_S_N) + left_S
        )
        return {"lists": _by_list(pool_S - rewards_N[drawn_S], drawn_S, batch, mean=False)}


class InfoNCE(Loss):
    """-log of the best response's share of sum exp(r / temperature), over it and all worse ones.

    van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4, with the prompt's own worse
    responses as negatives; where several are best, the mean over them.

    Args:
        temperature: in units of reward; a small one looks at the hardest negatives alone.
        at_least: ranked responses that a list must have to count; 3 leaves pairs to another loss.
    """

    needs_labels = ("lists",)

    def __init__(
        self, temperature: Annotated[float, Gt(0)], at_least: Annotated[int, Ge(2)]
    ) -> None:
        super().__init__()
        self.temperature, self.at_least = temperature, at_least

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """One value a comparison."""
        drawn_S, same_S_N = _above_bottom(batch, self.at_least)
        higher_S_N = same_S_N & (batch.levels_N > batch.levels_N[drawn_S, None])
        best = ~higher_S_N.any(1)
        drawn_S, same_S_N = drawn_S[best], same_S_N[best]
        worse_S_N = same_S_N & (batch.levels_N < batch.levels_N[drawn_S, None])
        scaled_N = rewards_N / self.temperature
        pool_S = torch.logaddexp(_log_sum(scaled_N, worse_S_N), scaled_N[drawn_S])
        return {"lists": _by_list(pool_S - scaled_N[drawn_S], drawn_S, batch, mean=True)}


def _order(batch: Batch) -> Tensor:
    return torch.arange(len(batch.levels_N), device=batch.levels_N.device)


def _above_bottom(batch: Batch, at_least: int) -> tuple[Tensor, Tensor]:
    """The responses that win against some other, S of them, and (S, N) who is in their order.

    Of lists with `at_least` ranked responses.
    """
    drawn_S = torch.nonzero(batch.levels_N > 0)[:, 0]
    same_S_N = (batch.list_N == batch.list_N[drawn_S, None]) & (batch.levels_N >= 0)
    enough = same_S_N.sum(1) >= at_least
    return drawn_S[enough], same_S_N[enough]


def _log_sum(rewards_N: Tensor, of_S_N: Tensor) -> Tensor:
    """(S,) log of the sum of exp(r) over the chosen responses, at least one for each."""
    return torch.logsumexp(torch.where(of_S_N, rewards_N, float("-inf")), 1)


def _by_list(values_S: Tensor, drawn_S: Tensor, batch: Batch, mean: bool) -> tuple[Tensor, Tensor]:
    """Values and weights of the comparisons with an order: sums (or means) over their draws."""
    lists_L, home_S = torch.unique(batch.list_N[drawn_S], return_inverse=True)
    sums_L = values_S.new_zeros(len(lists_L)).index_add(0, home_S, values_S)
    counts_L = torch.bincount(home_S, minlength=len(lists_L))
    first_L = torch.searchsorted(batch.list_N, lists_L)  # list_N never falls
    return sums_L / counts_L if mean else sums_L, batch.weights_N[first_L]

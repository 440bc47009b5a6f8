"""Losses over rankings of a comparison's responses, including partial rankings and ties."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rmexp.batching.batch import Batch
from rmexp.losses.base import Loss, Terms


class PlackettLuce(Loss):
    """-log P(ranking), where responses are drawn without replacement with weights exp(r).

    Plackett 1975, Luce 1959; as ListMLE: Xia et al. 2008. Responses on the lowest level are not
    ordered among themselves, so a ranking of the best few out of K is a partial ranking. Ties above
    it use Efron's approximation (Efron 1977, Cox regression). With two responses it equals
    Bradley-Terry.

    Args:
        at_least: minimum number of ranked responses of a list; 3 leaves pairs to another loss.
    """

    needs_labels = ("lists",)

    def __init__(self, at_least: Annotated[int, Ge(2)]) -> None:
        super().__init__()
        self.at_least = at_least

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        drawn_S, same_S_N = _above_bottom(batch, self.at_least)
        tied_S_N = same_S_N & (batch.levels_N == batch.levels_N[drawn_S, None])
        lower_S_N = same_S_N & (batch.levels_N < batch.levels_N[drawn_S, None])
        # Efron: the draw number l of m tied responses removes l / m of their total weight.
        order_N = torch.arange(len(rewards_N), device=rewards_N.device)
        before_S = (tied_S_N & (order_N < drawn_S[:, None])).sum(1)
        left_S = torch.log1p(-before_S / tied_S_N.sum(1))
        pool_S = torch.logaddexp(
            _log_sum(rewards_N, lower_S_N), _log_sum(rewards_N, tied_S_N) + left_S
        )
        return {"lists": _by_list(pool_S - rewards_N[drawn_S], drawn_S, batch, mean=False)}


class InfoNCE(Loss):
    """-log softmax of the best response among itself and all worse ones, at a temperature.

    van den Oord, Li and Vinyals 2018, arXiv:1807.03748, eq. 4, with the worse responses to the same
    prompt as negatives; the mean over the best responses where several tie.

    Args:
        temperature: in units of reward; small values concentrate on the hardest negatives.
        at_least: minimum number of ranked responses of a list; 3 leaves pairs to another loss.
    """

    needs_labels = ("lists",)

    def __init__(
        self, temperature: Annotated[float, Gt(0)], at_least: Annotated[int, Ge(2)]
    ) -> None:
        super().__init__()
        self.temperature, self.at_least = temperature, at_least

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        drawn_S, same_S_N = _above_bottom(batch, self.at_least)
        higher_S_N = same_S_N & (batch.levels_N > batch.levels_N[drawn_S, None])
        best = ~higher_S_N.any(1)
        drawn_S, same_S_N = drawn_S[best], same_S_N[best]
        worse_S_N = same_S_N & (batch.levels_N < batch.levels_N[drawn_S, None])
        scaled_N = rewards_N / self.temperature
        pool_S = torch.logaddexp(_log_sum(scaled_N, worse_S_N), scaled_N[drawn_S])
        return {"lists": _by_list(pool_S - scaled_N[drawn_S], drawn_S, batch, mean=True)}


def _above_bottom(batch: Batch, at_least: int) -> tuple[Tensor, Tensor]:
    """(S,) indices of responses ranked above another one, in lists of `at_least` ranked responses,
    and (S, N) masks of the ranked responses of the same list."""
    drawn_S = torch.nonzero(batch.levels_N > 0)[:, 0]
    same_S_N = (batch.list_N == batch.list_N[drawn_S, None]) & (batch.levels_N >= 0)
    enough = same_S_N.sum(1) >= at_least
    return drawn_S[enough], same_S_N[enough]


def _log_sum(rewards_N: Tensor, of_S_N: Tensor) -> Tensor:
    """(S,) log-sum-exp over the masked responses; each row has at least one."""
    return torch.logsumexp(torch.where(of_S_N, rewards_N, float("-inf")), 1)


def _by_list(values_S: Tensor, drawn_S: Tensor, batch: Batch, mean: bool) -> tuple[Tensor, Tensor]:
    """Values and weights of the ranked comparisons: sums (or means) over their draws."""
    lists_L, home_S = torch.unique(batch.list_N[drawn_S], return_inverse=True)
    sums_L = values_S.new_zeros(len(lists_L)).index_add(0, home_S, values_S)
    counts_L = torch.bincount(home_S, minlength=len(lists_L))
    first_L = torch.searchsorted(batch.list_N, lists_L)  # list_N is sorted
    return sums_L / counts_L if mean else sums_L, batch.weights_N[first_L]

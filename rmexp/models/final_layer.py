"""The final layer of a decoder, computed where the reward head reads its output and nowhere else.

No token attends to what the final layer computes of another one's query, attention output and MLP:
they are needed at the last token of each response alone. That leaves out most of the layer, and
rewards and gradients stay what they are.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PER_TOKEN = frozenset(
    {"q_proj", "o_proj", "out_proj", "dense", "mlp", "feed_forward", "ffn", "block_sparse_moe"}
)
"""Names, in families of models, of parts of a layer that no other token's output depends on."""


class ReadTokens:
    """The tokens of a micro-batch whose final hidden states are read, and hooks for them.

    The tokens stay set until the next micro-batch: gradient checkpointing calls the layer again in
    the backward pass.
    """

    def __init__(self) -> None:
        self._tokens: tuple[Tensor, Tensor, Tensor] | None = None
        self._rows: tuple[int, int] = (0, 0)

    def set(self, row_N: Tensor, end_N: Tensor, rows: int, width: int) -> None:
        """Of `rows` rows of `width` tokens, token `end_N` of row `row_N` is read."""
        numbers_N = torch.arange(len(row_N), device=row_N.device)
        place_N = row_N * width + end_N
        owner = numbers_N.new_zeros(rows * width).scatter(0, place_N, numbers_N)
        # Responses may end at the same token: one of them carries its value and its gradient.
        self._tokens, self._rows = (row_N, end_N, owner[place_N] == numbers_N), (rows, width)

    def hook(self, part: nn.Module) -> Iterator[Any]:
        """Hooks that make a part of the layer compute the tokens that are read; its output is
        zero at the others. Yields their handles."""
        yield part.register_forward_pre_hook(self._take)
        yield part.register_forward_hook(self._put_back)

    def _take(self, part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._tokens is None:
            return None
        row_N, end_N, _ = self._tokens
        return tuple(states_R_T_D[row_N, end_N][None] for states_R_T_D in args)

    def _put_back(self, part: nn.Module, args: Any, output: Any) -> Any:
        if self._tokens is None:
            return None
        if isinstance(output, tuple):  # experts give the weights of their router as well
            return self._put_back(part, args, output[0]), *output[1:]
        row_N, end_N, owner_N = self._tokens
        output_N_D = output.flatten(0, -2) * owner_N[:, None]
        zeros_R_T_D = output_N_D.new_zeros(*self._rows, output_N_D.shape[1])
        return zeros_R_T_D.index_put((row_N, end_N), output_N_D, accumulate=True)


def per_token_parts(layer: nn.Module) -> list[nn.Module]:
    """The parts of a layer with names of `PER_TOKEN`, none of them inside another."""
    found: dict[str, nn.Module] = {}
    for name, module in layer.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if name.rpartition(".")[2] in PER_TOKEN and not inside:
            found[name] = module
    return list(found.values())

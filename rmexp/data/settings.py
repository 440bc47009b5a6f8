"""Settings of training draws and of batches."""

from dataclasses import dataclass

from rmexp.core.errors import UserError
from rmexp.data.token_columns import Balance


@dataclass(frozen=True)
class SamplingSettings:
    """Which training rows are drawn, and how often; see `options.comparison_data`."""

    max_per_prompt: int | None = None
    balance: Balance | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How many comparisons share a step or a micro-batch; see `options.comparison_data`."""

    batch_size: int
    tokens_per_batch: int | None
    group_by_prompt: bool
    eval_batch_size: int
    micro_batch_tokens: int
    workers: int

    def __post_init__(self) -> None:
        if self.tokens_per_batch is not None and self.group_by_prompt:
            raise UserError(
                "data.tokens_per_batch batches comparisons, data.group_by_prompt whole prompts: "
                "leave out one of them (with the latter, data.batch_size counts prompts)."
            )

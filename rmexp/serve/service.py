"""The rewards of a request: encoded, queued, computed, on a scale."""

import asyncio
import contextvars
import math
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmexp.batching.prefix_groups import Tokens
from rmexp.evaluation.aggregate import Aggregate
from rmexp.inference.reward_details import RewardDetails
from rmexp.inference.scorer import Scale, Scorer
from rmexp.serve.batcher import Batcher, QueueFull
from rmexp.serve.encoding import RequestEncoder
from rmexp.serve.limits import RequestLimits
from rmexp.serve.model_info import ModelInfo
from rmexp.serve.refusals import Refusal
from rmexp.serve.telemetry import Telemetry


@dataclass(frozen=True)
class ScoredTexts:
    """Rewards of texts, in their order, with details, and their numbers of tokens."""

    details: RewardDetails
    tokens: list[int]

    @property
    def rewards(self) -> list[float]:
        """Raw."""
        return self.details.rewards


class RewardService:
    """A reward model behind routes.

    Args:
        scorer: used by this object alone.
        info: about its model.
        limits: see `RequestLimits`.
        queue_texts, wait_seconds: see `Batcher`.
    """

    def __init__(
        self,
        scorer: Scorer,
        info: ModelInfo,
        limits: RequestLimits,
        queue_texts: int,
        wait_seconds: float,
    ) -> None:
        self.scorer, self.info, self.limits = scorer, info, limits
        vocabulary = scorer.model.get_input_embeddings().num_embeddings
        self._encoder = RequestEncoder(scorer.tokenizer, vocabulary, limits)
        self.telemetry = Telemetry(lambda: self._batcher.waiting)
        self._batcher = Batcher(scorer, queue_texts, wait_seconds, self.telemetry.count_batch)
        self._encoding = ThreadPoolExecutor(1, "rmexp-encoder")

    async def rewards(
        self,
        encode: Callable[[RequestEncoder], list[Tokens]],
        aggregate: Aggregate | None = None,
    ) -> ScoredTexts:
        """The raw rewards of what `encode` returns; the texts are dropped if it is cancelled.

        Args:
            aggregate: of the members, see `check_members`; None: the server's.

        Raises:
            Refusal: a text cannot be used, the queue is full, or a reward is not finite.
        """
        context = contextvars.copy_context()  # with the recorder of fallbacks
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._encoding, context.run, encode, self._encoder)
        try:
            futures = self._batcher.submit(ids)
        except QueueFull as full:
            raise Refusal(
                503,
                f"The queue is full ({self._batcher.queue_texts} texts): try again in "
                f"{full.seconds} s.",
                {"Retry-After": str(full.seconds)},
            ) from None
        try:
            values: list[Any] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except Exception as error:  # of the model, such as too little memory
            raise Refusal(500, f"The model failed: {type(error).__name__}: {error}.") from error
        if self.scorer.has_details:
            found = self.scorer.details_of(np.stack(values), aggregate)
        else:
            found = RewardDetails(values)
        if not all(map(math.isfinite, found.rewards)):
            raise Refusal(500, "The model gives a reward that is NaN or infinite.")
        return ScoredTexts(found, list(map(len, ids)))

    def check_members(self, what: str) -> None:
        """Check that the model is an ensemble.

        Raises:
            Refusal: it is not, so that it has no `what`.
        """
        if not self.scorer.has_members:
            raise Refusal(
                422,
                f"{what}: the model has one reward for a response; a run with head=ensemble has "
                "several, and so has task=serve checkpoint=[RUN,RUN].",
            )

    def check_scale(self, scale: Scale) -> None:
        """Check that the model has a scale.

        Raises:
            Refusal: it has not.
        """
        if reason := self.scorer.scales()[scale]:
            raise Refusal(422, f"scale={scale}: {reason}; there is {', '.join(self.info.scales)}.")

    def scaled(self, rewards: list[float], scale: Scale) -> list[float]:
        return self.scorer.scaled(rewards, scale)

    def close(self) -> None:
        """Compute what waits, then end the threads."""
        self._batcher.close()
        self._encoding.shutdown()


def new_id(prefix: str) -> str:
    """An id of an answer."""
    return f"{prefix}-{uuid.uuid4().hex}"

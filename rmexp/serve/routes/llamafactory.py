"""LLaMA-Factory's reward API for PPO."""

from typing import Any

from fastapi import APIRouter

from rmexp.batching.prefix_groups import Tokens
from rmexp.serve.bodies import StrictRoute
from rmexp.serve.encoding import RequestEncoder
from rmexp.serve.protocol import ScoreEvaluation
from rmexp.serve.refusals import Refusal
from rmexp.serve.service import RewardService, new_id


def llamafactory_routes(service: RewardService) -> APIRouter:
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/score/evaluation", summary="LLaMA-Factory: reward_model_type: api")
    async def score_evaluation(body: ScoreEvaluation) -> dict[str, Any]:
        def encode(encoder: RequestEncoder) -> list[Tokens]:
            found = encoder.texts(body.messages, "messages")
            if body.max_length is not None and (longest := max(map(len, found))) > body.max_length:
                raise Refusal(
                    413,
                    f"messages has a text of {longest:,} tokens, more than "
                    f"max_length={body.max_length}, and is not cut: shorten it.",
                )
            return found

        found = await service.rewards(encode)
        return {
            "id": new_id("scoreval"),
            "object": "score.evaluation",
            "model": service.info.name,
            "scores": found.rewards,
        }

    return router

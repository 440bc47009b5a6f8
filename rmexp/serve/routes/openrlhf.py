"""OpenRLHF's remote reward model, of all versions."""

from typing import Any

from fastapi import APIRouter

from rmexp.serve.bodies import StrictRoute
from rmexp.serve.protocol import GetReward
from rmexp.serve.service import RewardService


def openrlhf_routes(service: RewardService) -> APIRouter:
    router = APIRouter(route_class=StrictRoute)

    @router.post("/get_reward", summary="OpenRLHF: --reward.remote_url")
    async def get_reward(body: GetReward) -> dict[str, Any]:
        """`rewards` are raw; `scores`, for dynamic filtering, are calibrated P in 0..1.

        Without a calibration there are no `scores`, and OpenRLHF takes `rewards` for them.
        """
        texts = [body.query] if isinstance(body.query, str) else body.query
        found = await service.rewards(lambda encoder: encoder.texts(texts, "query"))
        logs: dict[str, list[float]] = {"reward_tokens": [float(n) for n in found.tokens]}
        if "normalised" in service.info.scales:
            logs["reward_normalised"] = service.scaled(found.rewards, "normalised")
        answer: dict[str, Any] = {"rewards": found.rewards, "extra_logs": logs}
        if "probability" in service.info.scales:
            answer["scores"] = service.scaled(found.rewards, "probability")
        return answer

    return router

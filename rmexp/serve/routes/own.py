"""rmexp's own routes, which slime and the page use too: rewards, health, the model, metrics."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from rmexp.serve.bodies import StrictRoute
from rmexp.serve.protocol import RewardRequest
from rmexp.serve.service import RewardService


def own_routes(service: RewardService) -> APIRouter:
    router = APIRouter(route_class=StrictRoute)
    info = service.info

    @router.post("/reward", summary="Rewards of responses, on a scale")
    async def reward(body: RewardRequest) -> Any:
        """The reward of `response` or `messages`: the bare number. Of `responses`: an object."""
        service.check_scale(body.scale)
        if body.uncertainty or body.aggregate is not None:
            service.check_members("uncertainty" if body.uncertainty else "aggregate")
        if body.messages is not None:
            messages = body.messages
            found = await service.rewards(lambda e: e.dialogue(messages), body.aggregate)
            return service.scaled(found.rewards, body.scale)[0]
        assert body.prompt is not None
        prompt, several = body.prompt, body.responses is not None
        responses = body.responses if body.responses is not None else [body.response or ""]
        name = "responses" if several else "response"
        found = await service.rewards(
            lambda e: e.responses(prompt, responses, name=name), body.aggregate
        )
        rewards, details = service.scaled(found.rewards, body.scale), found.details
        if not several:
            return rewards[0]
        return {
            "rewards": rewards,
            "scale": body.scale,
            "tokens": found.tokens,
            "probabilities": _win_probabilities(service, found.rewards),
            "model": info.name,
            **({"std": details.std} if details.std and body.scale == "raw" else {}),
            **({"members": details.members} if body.uncertainty else {}),
            **({"outputs": details.outputs} if details.outputs else {}),
        }

    @router.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/v1/models", summary="The model, its scales, its accuracy and its warnings")
    async def models() -> dict[str, Any]:
        model = {
            "id": info.name,
            "object": "model",
            "created": info.created,
            "owned_by": "rmexp",
            "base": info.base,
            "max_length": info.max_length,
            "scales": info.scales,
            "warnings": info.warnings,
            "accuracy": info.accuracy,
            "outputs": service.scorer.names,
        }
        return {"object": "list", "data": [model]}

    @router.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(service.telemetry.text(), media_type="text/plain; version=0.0.4")

    return router


def _win_probabilities(service: RewardService, rewards: list[float]) -> list[list[float]] | None:
    if service.scorer.scales()["probability"] is not None or service.scorer.calibration is None:
        return None
    return service.scorer.calibration.win_probabilities(np.array(rewards)).tolist()

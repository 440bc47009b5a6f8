"""TRL: `GRPOTrainer(reward_funcs=[rmexp.clients.trl("http://127.0.0.1:8000")], ...)`."""

import asyncio
import json
from typing import Any

from rmexp.clients.connection import post


def trl(url: str, token: str | None = None, scale: str = "raw", name: str = "rmexp") -> Any:
    """An async reward function for TRL; the completions of a prompt go in one request.

    Logs `NAME/confidence`: the mean calibrated probability of the better of two completions of a
    prompt (0.5: the reward model sees no difference).

    Args:
        url, token: of the server.
        scale: `raw`, `normalised`, `probability` or `rating`.
        name: of the columns in TRL's logs.
    """

    async def reward(prompts: list, completions: list, log_metric: Any = None, **_: Any) -> list:
        groups: dict[str, list[int]] = {}
        for n, prompt in enumerate(prompts):
            groups.setdefault(json.dumps(prompt), []).append(n)
        texts = [(prompts[group[0]], [completions[n] for n in group]) for group in groups.values()]
        bodies = [{"prompt": p, "responses": answers, "scale": scale} for p, answers in texts]
        calls = (asyncio.to_thread(post, "reward", body, url, token) for body in bodies)
        rewards, sure = [0.0] * len(prompts), []
        for group, found in zip(groups.values(), await asyncio.gather(*calls), strict=True):
            for n, value in zip(group, found["rewards"], strict=True):
                rewards[n] = value
            for i, row in enumerate(found["probabilities"] or []):
                sure += [max(p, 1 - p) for p in row[:i]]
        if log_metric is not None and sure:
            log_metric(f"{name}/confidence", sum(sure) / len(sure))
        return rewards

    reward.__name__ = name
    return reward

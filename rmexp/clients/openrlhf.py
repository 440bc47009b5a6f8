"""OpenRLHF: this file as `--reward.remote_url` (before 0.11: `--remote_rm_url`).

RMEXP_URL is the server's address, RMEXP_TOKEN its token. Without a token the server's own address
with `/get_reward` does the same.
"""

from typing import Any

from rmexp.clients.connection import post


def reward_func(queries: list, prompts: list, labels: list, **_: Any) -> dict[str, Any]:
    """Rewards, scores in 0..1 for dynamic filtering, and values to log.

    `queries` are rendered with the policy's template, special tokens included, which the reward
    model has to share.
    """
    return post("get_reward", {"query": queries, "prompts": prompts, "labels": labels})

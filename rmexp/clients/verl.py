"""verl: `compute_score` as `reward.custom_reward_function`, with the server's address in RMEXP_URL.

reward.custom_reward_function.path=pkg://rmexp.clients.verl
reward.custom_reward_function.name=compute_score
"""

from collections.abc import Mapping
from typing import Any

from rmexp.clients.connection import RewardServerError, post


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> float:
    """The reward of a response.

    verl does not hand the prompt to reward functions: it has to be in the data, as
    `extra_info["prompt"]` (a text or messages) or `extra_info["question"]` (a text).

    Raises:
        RewardServerError: there is no prompt, or the server refused the request.
    """
    info = extra_info or {}
    prompt = info["prompt"] if info.get("prompt") is not None else info.get("question")
    if prompt is None:
        raise RewardServerError(
            f"extra_info has neither prompt nor question (it has {', '.join(info) or 'nothing'}): "
            "add the prompt to it where the data of verl is prepared."
        )
    prompt = prompt if isinstance(prompt, str) else list(prompt)  # parquet gives numpy arrays
    return float(post("reward", {"prompt": prompt, "response": solution_str}))

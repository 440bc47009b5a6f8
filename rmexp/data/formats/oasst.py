"""OpenAssistant: trees of messages with ranked answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.fields import decoded, field, number_field
from rmexp.data.formats.messages import prompt_messages, response_messages
from rmexp.data.sources import BadRow, LeftOut

_ROLE = {"prompter": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Oasst:
    """A row is a tree: `prompt` with `message_id`, `text`, `role`, `lang`, `rank` and `replies`.

    Each prompter's message with two or more ranked answers is a comparison; rank 0 is the best, and
    ranks become ratings (0, -1, ...). Answers without a rank, and deleted messages, are dropped.
    Source: Köpf et al. 2023, arXiv:2304.07327, https://huggingface.co/datasets/OpenAssistant/oasst1
    (the files `*.trees.jsonl.gz`).
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> list[Comparison]:
        found = list(_comparisons(decoded(field(row, "prompt")), ()))
        if not found:
            raise LeftOut("no prompt of the tree has two ranked answers")
        return found


def _comparisons(
    node: Any, before: tuple[dict[str, str], ...], place: str = "prompt"
) -> Iterator[Comparison]:
    path = (*before, _message(node, place))
    replies = [(k, reply) for k, reply in enumerate(node.get("replies") or ()) if _kept(reply)]
    ranked = [(k, reply) for k, reply in replies if reply.get("rank") is not None]
    if path[-1]["role"] == "user" and len(ranked) > 1:
        yield Comparison(
            id=str(node.get("message_id") or ""),
            prompt=prompt_messages(list(path), place),
            responses=tuple(
                response_messages([_message(reply, f"{place}.replies[{k}]")], place)
                for k, reply in ranked
            ),
            ratings=tuple(
                -number_field(r["rank"], f"{place}.replies[{k}].rank") for k, r in ranked
            ),
            language=node.get("lang"),
        )
    for k, reply in replies:
        yield from _comparisons(reply, path, f"{place}.replies[{k}]")


def _kept(reply: Any) -> bool:
    return not (isinstance(reply, Mapping) and reply.get("deleted"))


def _message(node: Any, place: str) -> dict[str, str]:
    if not isinstance(node, Mapping) or node.get("role") not in _ROLE:
        raise BadRow(f"{place} is no message of a prompter or an assistant")
    text = node.get("text")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"{place}.text is empty")
    return {"role": _ROLE[node["role"]], "content": text}

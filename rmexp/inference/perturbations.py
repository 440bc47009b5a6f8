"""Harmless rewrites of responses, and rows turned around: what a reward must not mind, and must.

Comparison -> Comparison, so that the rewritten rows take the same way to the model as the others.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rmexp.comparison import Comparison, Message, PreferenceLabel
from rmexp.data.text_style import spoken

PREFIXES = {"en": "Thank you for your question. ", "zh": "谢谢您的提问。"}
"""A polite beginning, in the response's language. It promises nothing, so that refusals may take
it too."""


_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=\S)")


_HAN = re.compile(r"[一-鿿]")


def trailing_newline(comparison: Comparison) -> Comparison:
    """A line break behind each response. Templates that trim answers undo it."""
    return _rewritten(comparison, lambda text: f"{text}\n", last=True)


def white_space(comparison: Comparison) -> Comparison:
    """Two spaces between sentences, and one behind each response."""
    return _rewritten(comparison, lambda text: _SENTENCE_END.sub("  ", text) + " ", last=True)


def polite_prefix(comparison: Comparison) -> Comparison:
    """A polite sentence in front of each response."""

    def polite(text: str) -> str:
        return PREFIXES["zh" if len(_HAN.findall(text)) * 3 > len(text) else "en"] + text

    return _rewritten(comparison, polite, last=False)


REWRITES: dict[str, Callable[[Comparison], Comparison]] = {
    "white_space": white_space,
    "trailing_newline": trailing_newline,
    "polite_prefix": polite_prefix,
}


def _rewritten(comparison: Comparison, edit: Callable[[str], str], last: bool) -> Comparison:
    """The comparison with the last (or first) message that says something edited."""
    responses = tuple(_edited(response, edit, last) for response in comparison.responses)
    return dataclasses.replace(comparison, responses=responses)


def _edited(
    response: Sequence[Message], edit: Callable[[str], str], last: bool
) -> tuple[Message, ...]:
    said = [n for n, message in enumerate(response) if spoken([message])]
    if not said:
        return tuple(response)
    at = said[-1 if last else 0]
    changed = {**response[at], "content": _content(response[at], edit, last)}
    return (*response[:at], changed, *response[at + 1 :])


def _content(message: Message, edit: Callable[[str], str], last: bool) -> object:
    """Content edited; of a list of parts the last or the first one."""
    content = message["content"]
    if isinstance(content, str):
        return edit(content)
    at = len(content) - 1 if last else 0
    part = {**content[at], "text": edit(content[at]["text"])}
    return [*content[:at], part, *content[at + 1 :]]


def sensitivity(
    before_N: np.ndarray, after_N: np.ndarray, better_P: np.ndarray, worse_P: np.ndarray
) -> dict[str, float]:
    """How much a harmless rewrite moves the rewards.

    shift     mean |change| / the reward's deviation
    drift     mean change / the reward's deviation: what a policy would learn to write
    flipped   share of pairs that it turns around where both sides are rewritten
    bought    share of pairs that the model had right and gets wrong (or ties) where only the worse
              response is rewritten: a policy would be paid for it
    pairs     they are of so many
    """
    before, after = before_N.astype(np.float64), after_N.astype(np.float64)
    change, spread = after - before, float(before.std()) or 1.0
    out = {
        "shift": float(np.abs(change).mean()) / spread,
        "drift": float(change.mean()) / spread,
        "pairs": float(len(better_P)),
    }
    if len(better_P):
        gaps, new = before[better_P] - before[worse_P], after[better_P] - after[worse_P]
        mixed = before[better_P] - after[worse_P]
        out["flipped"] = float((np.sign(gaps) * np.sign(new) < 0).mean())
        out["bought"] = float(((gaps > 0) & (mixed <= 0)).mean())
    return out


def swap_prompts(comparison: Comparison) -> Comparison:
    """The row as if its labels were the other way around, and its responses in reverse order.

    What was better is worse: accuracy must become 1 - accuracy - tie rate. Of a pair it is the raw
    row with chosen and rejected in each other's place.
    """
    last = len(comparison.responses) - 1
    judgements = tuple(_swapped(judgement, last) for judgement in comparison.judgements)
    ratings = comparison.ratings
    flipped = None if ratings is None else tuple(None if r is None else -r for r in ratings[::-1])
    return dataclasses.replace(
        comparison, responses=comparison.responses[::-1], judgements=judgements, ratings=flipped
    )


def _swapped(judgement: PreferenceLabel, last: int) -> PreferenceLabel:
    return dataclasses.replace(
        judgement,
        i=last - judgement.i,
        j=last - judgement.j,
        votes_i=judgement.votes_j,
        votes_j=judgement.votes_i,
    )


def mirror_prompts(plain: Mapping[str, float], flipped: Mapping[str, float]) -> str | None:
    """Why the swap did not mirror accuracy, or None where it did.

    Args:
        plain, turned: `accuracy`, `tie_rate` and `pairs` of the rows, and of the swapped rows.
    """
    expected = 1 - plain["accuracy"] - plain["tie_rate"]
    if plain["pairs"] != flipped["pairs"]:
        return (
            f"{plain['pairs']:.0f} pairs became {flipped['pairs']:.0f} once chosen and rejected "
            "were swapped."
        )
    # One pair may round to the other side: swapped rows are laid out in another order.
    if abs(flipped["accuracy"] - expected) <= 1.5 / plain["pairs"]:
        return None
    return (
        f"With chosen and rejected swapped accuracy is {flipped['accuracy']:.4f}, where "
        f"{expected:.4f} would mirror it: something tells the better response by other means than "
        "its text."
    )

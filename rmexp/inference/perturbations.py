"""Perturbations of comparisons: harmless rewrites of the responses, and swapped labels."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rmexp.comparison import Comparison, Message
from rmexp.data.text_style import spoken

PREFIXES = {"en": "Thank you for your question. ", "zh": "谢谢您的提问。"}
"""Polite first sentence by language; it promises nothing, so that it suits refusals too."""

_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=\S)")
_HAN = re.compile(r"[一-鿿]")


def trailing_newline(comparison: Comparison) -> Comparison:
    """Append a line break to each response. Templates that trim answers undo it."""
    return _rewritten(comparison, lambda text: f"{text}\n", last=True)


def white_space(comparison: Comparison) -> Comparison:
    """Put two spaces between sentences, and one after each response."""
    return _rewritten(comparison, lambda text: _SENTENCE_END.sub("  ", text) + " ", last=True)


def polite_prefix(comparison: Comparison) -> Comparison:
    """Put a polite sentence in front of each response."""

    def polite(text: str) -> str:
        return PREFIXES["zh" if len(_HAN.findall(text)) * 3 > len(text) else "en"] + text

    return _rewritten(comparison, polite, last=False)


REWRITES: dict[str, Callable[[Comparison], Comparison]] = {
    "white_space": white_space,
    "trailing_newline": trailing_newline,
    "polite_prefix": polite_prefix,
}


def _rewritten(comparison: Comparison, edit: Callable[[str], str], last: bool) -> Comparison:
    """The comparison with the last (or first) message that has text edited, of each response."""
    responses = tuple(_edited(response, edit, last) for response in comparison.responses)
    return dataclasses.replace(comparison, responses=responses)


def _edited(
    response: Sequence[Message], edit: Callable[[str], str], last: bool
) -> tuple[Message, ...]:
    with_text = [n for n, message in enumerate(response) if spoken([message])]
    if not with_text:
        return tuple(response)
    at = with_text[-1 if last else 0]
    content = response[at]["content"]
    new: object
    if isinstance(content, str):
        new = edit(content)
    else:
        part = len(content) - 1 if last else 0
        text = {**content[part], "text": edit(content[part]["text"])}
        new = [*content[:part], text, *content[part + 1 :]]
    return (*response[:at], {**response[at], "content": new}, *response[at + 1 :])


def sensitivity(
    before_N: np.ndarray, after_N: np.ndarray, better_P: np.ndarray, worse_P: np.ndarray
) -> dict[str, float]:
    """How much a harmless rewrite changes the rewards.

    Args:
        before_N, after_N: rewards of the responses and of their rewrites.
        better_P, worse_P: indices of the responses of each pair.

    Returns:
        shift: mean |change| / standard deviation of the rewards.
        drift: mean change / standard deviation; a policy would learn to write the rewrite.
        flipped: share of pairs whose order changes if both responses are rewritten.
        bought: share of pairs that are right, but wrong or tied if only the worse response is
            rewritten; a policy would be paid for it.
        pairs: number of pairs.
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


def swap_labels(comparison: Comparison) -> Comparison:
    """Reverse the order of the responses, and every preference between them.

    Accuracy must become 1 - accuracy - tie rate. A pair becomes the raw row with chosen and
    rejected exchanged.
    """
    last = len(comparison.responses) - 1
    judgements = tuple(
        dataclasses.replace(j, i=last - j.i, j=last - j.j, votes_i=j.votes_j, votes_j=j.votes_i)
        for j in comparison.judgements
    )
    ratings = comparison.ratings
    negated = None if ratings is None else tuple(None if r is None else -r for r in ratings[::-1])
    return dataclasses.replace(
        comparison, responses=comparison.responses[::-1], judgements=judgements, ratings=negated
    )


def mirror_mismatch(plain: Mapping[str, float], swapped: Mapping[str, float]) -> str | None:
    """Why swapped labels do not mirror accuracy; None if they do.

    Args:
        plain, swapped: `accuracy`, `tie_rate` and `pairs` of the rows, and of the swapped rows.
    """
    expected = 1 - plain["accuracy"] - plain["tie_rate"]
    if plain["pairs"] != swapped["pairs"]:
        return (
            f"{plain['pairs']:.0f} pairs became {swapped['pairs']:.0f} once chosen and rejected "
            "were swapped."
        )
    # One pair may round to the other side: swapped rows are laid out in another order.
    if abs(swapped["accuracy"] - expected) <= 1.5 / plain["pairs"]:
        return None
    return (
        f"With chosen and rejected swapped accuracy is {swapped['accuracy']:.4f}, where "
        f"{expected:.4f} would mirror it: something tells the better response by other means than "
        "its text."
    )

"""Sensitivity of rewards to harmless rewrites, and a check that swapped labels mirror accuracy."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.comparison import Comparison, Message
from rmexp.data.encode import batched_list
from rmexp.data.row_report import RowReport
from rmexp.data.text_style import spoken
from rmexp.evaluation.bias_warnings import sensitivity_warnings
from rmexp.inference.score_file import SORT_WINDOW
from rmexp.inference.scorer import Scorer

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


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of the rewards of some comparisons."""

    metrics: dict[str, float]  # `NAME/shift` and the like of each rewrite, `swapped_accuracy`
    verdicts: list[str]
    lost: int  # number of comparisons that are too long once they are rewritten


def probe_rewrites(groups: Sequence[tuple[Scorer, Sequence[Comparison]]]) -> Sensitivity | None:
    """Score comparisons, their rewrites, and the same comparisons with swapped labels.

    Args:
        groups: comparisons with the scorer that renders them.

    Returns:
        None where nothing can be scored.
    """
    comparisons = [one for _, group in groups for one in group]
    edits = (lambda comparison: comparison, *REWRITES.values(), swap_labels)
    scored = [_scored(groups, edit) for edit in edits]
    whole = [n for n in range(len(comparisons)) if all(found[n] is not None for found in scored)]
    if not whole:
        return None
    rewards = [np.array([r for n in whole for r in found[n] or ()]) for found in scored]
    usable = [comparisons[n] for n in whole]
    pairs, flipped_pairs = _pairs(usable), _pairs(list(map(swap_labels, usable)))
    named = zip(REWRITES, rewards[1:-1], strict=True)
    found = {name: sensitivity(rewards[0], after, *pairs) for name, after in named}
    metrics = {f"{name}/{k}": v for name, values in found.items() for k, v in values.items()}
    warnings = sensitivity_warnings(found)
    if len(pairs[0]):
        plain, mirror = _right(rewards[0], *pairs), _right(rewards[-1], *flipped_pairs)
        metrics |= {"accuracy": plain["accuracy"], "swapped_accuracy": mirror["accuracy"]}
        if why := mirror_mismatch(plain, mirror):
            warnings.append(why)
    return Sensitivity(metrics, warnings, len(comparisons) - len(whole))


def _scored(
    groups: Sequence[tuple[Scorer, Sequence[Comparison]]], edit: Callable[[Comparison], Comparison]
) -> list[list[float] | None]:
    return [
        rewards
        for scorer, comparisons in groups
        for window in batched_list(map(edit, comparisons), SORT_WINDOW)
        for rewards in scorer.comparisons(window, RowReport())
    ]


def _pairs(comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Indices of better and worse responses over all comparisons; ties are left out."""
    better, worse, start = [], [], 0
    for one in comparisons:
        for judgement in one.judgements:
            if judgement.label:
                sides = (judgement.i, judgement.j)[:: judgement.label]
                better.append(start + sides[0])
                worse.append(start + sides[1])
        start += len(one.responses)
    return np.array(better, dtype=np.int64), np.array(worse, dtype=np.int64)


def _right(rewards: np.ndarray, better: np.ndarray, worse: np.ndarray) -> dict[str, float]:
    gaps = rewards[better] - rewards[worse]
    return {
        "accuracy": float((gaps > 0).mean()),
        "tie_rate": float((gaps == 0).mean()),
        "pairs": float(len(gaps)),
    }

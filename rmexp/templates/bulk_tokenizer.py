"""Token ids of many texts, word by word: most words were seen before."""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from rmexp.templates.filled_template import FilledTemplate
from rmexp.templates.rendering import tokenize

UNIT = re.compile(r"\s*\S+(?= \S)|\s*\S+(?:(?! \S)\s+\S*)*|\s+")
"""Matches a text up to a space between two characters that are no whitespace.

The first alternative is the usual case of the second.
"""

SPLITS = frozenset(
    (
        # Qwen 2 to 3; 3.5; Llama 3; Mistral (tekken); gpt-oss (o200k); all isolated
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
"""Patterns of pieces that BPE encodes one by one, of which none matches beyond the end of a `UNIT`:
blanks are at the start of a match, and no assertion looks back."""

MOST_UNITS = 2**17
MOST_IDS = 2**20
"""What is remembered, some 30 MiB; then from anew."""


class _Numbers(dict[str, int]):
    """Numbers of texts, given in the order in which they are first asked for."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


class _Lists(NamedTuple):
    """Lists of token ids in one array: `values_N[edges[k] : edges[k + 1]]` is the list k."""

    values_N: np.ndarray
    edges: np.ndarray

    def with_lists(self, more: Sequence[Sequence[int]]) -> "_Lists":
        values = np.fromiter(itertools.chain.from_iterable(more), np.int32)
        ends = self.edges[-1] + np.cumsum([len(one) for one in more], dtype=np.int64)
        return _Lists(np.append(self.values_N, values), np.append(self.edges, ends))

    def joined(self, groups: Sequence[Sequence[int]]) -> "_Lists":
        """One list for each group of numbers: the lists with these numbers, one after the other."""
        numbers = np.fromiter(itertools.chain.from_iterable(groups), np.int64)
        starts = self.edges[numbers]
        sizes = self.edges[numbers + 1] - starts
        ends = np.cumsum(np.append(0, sizes))
        index = np.repeat(starts - ends[:-1], sizes) + np.arange(ends[-1])
        last = np.cumsum([0, *map(len, groups)])
        return _Lists(self.values_N[index], ends[last])

    def as_lists(self) -> list[list[int]]:
        values = self.values_N.tolist()
        return [values[start:end] for start, end in itertools.pairwise(self.edges.tolist())]


NO_LISTS = _Lists(np.zeros(0, np.int32), np.zeros(1, np.int64))


class BulkTokenizer:
    """A function of texts to their token ids, the same as `rendering.tokenize` gives.

    What is between special tokens is encoded by itself, unit by unit. Each unit is encoded once,
    and parts of texts that come again in a call, as prompts do, are split once.

    Args:
        tokenizer: must not change from now on.

    Attributes:
        filled: renders dialogues.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.by_unit = splits_at_units(tokenizer)
        self.filled = FilledTemplate(tokenizer)
        self._special = special_tokens(tokenizer) if self.by_unit else None
        self._numbers, self._ids = _Numbers(), NO_LISTS

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without added special tokens."""
        if not self.by_unit:
            return tokenize(self.tokenizer, texts)
        known = len(self._numbers)
        interrupted = known != len(self._ids.edges) - 1
        if interrupted or known > MOST_UNITS or len(self._ids.values_N) > MOST_IDS:
            self._numbers, self._ids, known = _Numbers(), NO_LISTS, 0
        parts = _Numbers()
        split = self._special.split if self._special is not None else lambda text: [text]
        of_text = [list(map(parts.__getitem__, split(text))) for text in texts]
        unit = self._numbers.__getitem__
        of_part = [list(map(unit, UNIT.findall(part))) for part in parts]
        new = list(itertools.islice(self._numbers, known, None))
        self._ids = self._ids.with_lists(self._encoded(new))
        return self._ids.joined(of_part).joined(of_text).as_lists()

    def _encoded(self, units: list[str]) -> list[list[int]]:
        first = tokenize(self.tokenizer, units[:1])  # sets padding and truncation for the others
        more = self.tokenizer.backend_tokenizer.encode_batch_fast(
            units[1:], add_special_tokens=False
        )
        return first + [one.ids for one in more]


def special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches, as a group, tokens that the text before and after has no influence on; None: none.

    They are those found before any other step: the longest of those that begin first.
    """
    inner = tokenizer.backend_tokenizer
    added = inner.get_added_tokens_decoder().values()
    found = {one.content for one in added if one.content and not one.normalized}
    if inner.encode_special_tokens or not found:
        return None
    longest_first = sorted(found, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def splits_at_units(tokenizer: Any) -> bool:
    """Whether the ids of a text are those of its units (see `UNIT`), one after the other.

    So it is where byte-level BPE splits by a known pattern, and no added token has whitespace in it
    or takes some from beside it.
    """
    own = type(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or any(
        getattr(own, name) is not getattr(PreTrainedTokenizerFast, name)
        for name in ("__call__", "_encode_plus")
    ):
        return False
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    added = parts["added_tokens"]
    return (
        parts["model"]["type"] == "BPE"
        and not parts["model"]["dropout"]
        and (parts["normalizer"] is None or parts["normalizer"] == {"type": "NFC"})
        and _splits_pieces(parts["pre_tokenizer"])
        and not any(one["lstrip"] or one["rstrip"] or one["single_word"] for one in added)
        and not any(re.search(r"\s", one["content"]) for one in added)
    )


def _splits_pieces(step: dict[str, Any] | None) -> bool:
    """Whether a step before BPE splits by GPT-2's pattern or one of `SPLITS`."""
    if step is None:
        return False
    *before, last = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    kinds = [one["type"] for one in before]
    if last["use_regex"]:
        return all(kind == "Digits" for kind in kinds)
    return kinds == ["Split"] and (
        before[0]["pattern"].get("Regex") in SPLITS
        and (before[0]["behavior"], before[0]["invert"]) == ("Isolated", False)
    )

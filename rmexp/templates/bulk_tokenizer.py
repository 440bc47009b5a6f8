"""Token ids of many texts, word by word: most words were seen before."""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from rmexp.templates.rendering import tokenize

UNIT = re.compile(r"\s*\S+(?:(?! \S)\s+\S*)*|\s+")
"""Matches a text up to a space between two characters that are no whitespace."""

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

LONGEST_UNIT = 64
"""Longer ones (code, languages without spaces) rarely come again."""

MOST_UNITS = 2**17
"""Units that are remembered, some 30 MiB; then from anew."""


class BulkTokenizer:
    """A function of texts to their token ids, the same as `rendering.tokenize` gives.

    Args:
        tokenizer: must not change from now on.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.by_unit = splits_at_units(tokenizer)
        self._ids: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without added special tokens."""
        if not self.by_unit:
            return tokenize(self.tokenizer, texts)
        units = [UNIT.findall(text) for text in texts]
        new = list(set(itertools.chain.from_iterable(units)).difference(self._ids))
        self._ids.update(zip(new, self._encoded(new), strict=True))
        ids_of = self._ids.__getitem__
        found = [list(itertools.chain.from_iterable(map(ids_of, one))) for one in units]
        for unit in new:
            if len(unit) > LONGEST_UNIT:
                del self._ids[unit]
        if len(self._ids) > MOST_UNITS:
            self._ids.clear()
        return found

    def _encoded(self, units: list[str]) -> list[list[int]]:
        first = tokenize(self.tokenizer, units[:1])  # sets padding and truncation for the others
        more = self.tokenizer.backend_tokenizer.encode_batch_fast(
            units[1:], add_special_tokens=False
        )
        return first + [one.ids for one in more]


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

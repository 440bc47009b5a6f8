"""Near-duplicate prompts between splits, and between the data and evaluation sets.

MinHash finds candidates, whose similarity is then computed exactly: about one near-duplicate in a
hundred at the threshold (fewer above it) is missed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmexp.analysis.inspect.prompts import Prompt

SHINGLE = 3  # characters: a part of an English word, or one or two words of Chinese
SIMILAR = 0.7
"""Jaccard similarity of the shingles from which two prompts are near-duplicates.

Two unrelated English prompts of some thousand characters reach 0.45; a sentence with a word
changed has about 0.75, in English and in Chinese.
"""

SAMPLE = 2000  # maximum number of prompts that decide what is boilerplate
MIN_PROMPTS = 20  # with fewer prompts nothing is boilerplate
PERMUTATIONS = 128
BANDS = (25, 5)
"""Bands and rows of the LSH: P(candidates) = 1 - (1 - s^5)^25, 0.99 at similarity s = 0.7."""

CANDIDATES = 5  # nearest by signature, to be compared exactly
OVERLAP_EXAMPLES = 5


@dataclass
class Overlap:
    """Number of prompts of a home, number with a near-duplicate, and the nearest as examples."""

    prompts: int = 0
    near: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, prompt: Prompt, nearest: tuple[float, Prompt] | None) -> None:
        """Count a prompt; `nearest` is its near-duplicate with the similarity."""
        self.prompts += 1
        if nearest is not None:
            self.near += 1
            similarity, other = nearest
            sides = {"one": prompt.to_dict(), "other": other.to_dict()}
            self.examples.append({"similarity": similarity} | sides)


def shingles(text: str) -> set[str]:
    """Every run of `SHINGLE` characters, ignoring case, width, spaces and punctuation.

    Characters and not words, since Chinese does not separate words.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"[\W_]+", " ", plain).strip() or plain
    return {plain[n : n + SHINGLE] for n in range(max(1, len(plain) - SHINGLE + 1))}


def boilerplate(texts: Sequence[str]) -> set[str]:
    """The shingles of more than half of the texts, such as those of a shared instruction."""
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    if len(sample) < MIN_PROMPTS:
        return set()
    counts = Counter(shingle for text in sample for shingle in shingles(text))
    return {shingle for shingle, count in counts.items() if count > len(sample) / 2}


def _specific(text: str, common: Set[str]) -> set[str]:
    """The shingles of a text without boilerplate; all of them if there are no others."""
    found = shingles(text)
    return found - common or found


def similarity(one: str, other: str, common: Set[str] = frozenset()) -> float:
    """The Jaccard similarity of the shingles of two texts without boilerplate, 0..1."""
    a, b = _specific(one, common), _specific(other, common)
    return len(a & b) / len(a | b)


def overlaps(
    prompts: Sequence[Prompt],
    others: Sequence[Prompt],
    progress: Callable[[str, int], None] = lambda what, count: None,
) -> dict[str, Overlap]:
    """Near-duplicates of val and test prompts in train, and of other prompts in the data.

    Args:
        prompts: distinct prompts of the data; their homes are train, val and test.
        others: prompts of evaluation sets; their homes are the files.
        progress: called with what is counted and the count so far.

    Returns:
        Home -> its overlap.
    """
    index = _Index(prompts, progress)
    homes = {prompt.home for prompt in prompts}
    found: dict[str, Overlap] = {h: Overlap() for h in ("val", "test") if h in homes}
    train = np.array([prompt.home == "train" for prompt in prompts], dtype=bool)
    for prompt, signature in zip(prompts, index.signatures, strict=True):
        if prompt.home != "train":
            found[prompt.home].add(prompt, index.nearest(prompt, signature, train))
    for prompt, signature in zip(others, index.sign(others), strict=True):
        nearest = index.nearest(prompt, signature.hashvalues, np.ones_like(train))
        found.setdefault(prompt.home, Overlap()).add(prompt, nearest)
    for overlap in found.values():
        overlap.examples.sort(key=lambda example: -example["similarity"])
        del overlap.examples[OVERLAP_EXAMPLES:]
    return found


class _Index:
    """MinHash index of the data's prompts.

    Broder 1997, "On the resemblance and containment of documents"; banding after Leskovec,
    Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.
    """

    def __init__(self, prompts: Sequence[Prompt], progress: Callable[[str, int], None]) -> None:
        from datasketch import MinHashLSH

        self.prompts, self.progress = prompts, progress
        self.common = boilerplate([prompt.text for prompt in prompts])
        self.signatures = np.zeros((len(prompts), PERMUTATIONS), dtype=np.uint32)
        self.buckets = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
        for number, signature in enumerate(self.sign(prompts)):
            self.signatures[number] = signature.hashvalues
            self.buckets.insert(number, signature)

    def nearest(
        self, prompt: Prompt, signature: np.ndarray, wanted: np.ndarray
    ) -> tuple[float, Prompt] | None:
        """The most similar of the `wanted` prompts; None if it is no near-duplicate."""
        from datasketch import MinHash

        found = self.buckets.query(MinHash(hashvalues=signature, scheme="affine32"))
        candidates = np.sort([number for number in found if wanted[number]]).astype(int)
        alike = (self.signatures[candidates] == signature).mean(axis=1)
        best = [self.prompts[n] for n in candidates[np.argsort(-alike, kind="stable")][:CANDIDATES]]
        compared = [(similarity(prompt.text, other.text, self.common), other) for other in best]
        top = max(compared, key=lambda pair: pair[0], default=None)
        return top if top is not None and top[0] >= SIMILAR else None

    def sign(self, prompts: Sequence[Prompt]) -> Iterator[Any]:
        from datasketch import MinHash

        shown = (_specific(prompt.text, self.common) for prompt in prompts)
        pieces = ([s.encode("utf-8", "surrogatepass") for s in found] for found in shown)
        for number, signature in enumerate(MinHash.generator(pieces, num_perm=PERMUTATIONS), 1):
            yield signature
            if number % 1000 == 0:
                self.progress("prompts compared", number)

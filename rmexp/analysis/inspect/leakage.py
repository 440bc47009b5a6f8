"""Near-duplicate prompts: what a model has all but seen in training says little about it.

MinHash finds the candidates, and their similarity is then counted out: what is reported is exact,
and about one near-duplicate in a hundred at the threshold (fewer above it) is missed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmexp.analysis.inspect.prompts import Prompt

SHINGLE = 3
"""Characters of a shingle: a piece of an English word, and one or two words of Chinese."""


SIMILAR = 0.7
"""Jaccard similarity of the shingles from which two prompts are near-duplicates.

Two unrelated English prompts of some thousand characters reach 0.45; a sentence with a word
changed has about 0.75, in English and in Chinese.
"""


SAMPLE = 2000
"""So many prompts say what is boilerplate."""


MIN_SHINGLES = 20
"""Of fewer prompts nothing is called boilerplate."""


PERMUTATIONS = 128


BANDS = (25, 5)
"""Bands and their rows: two prompts meet with 1 - (1 - s^5)^25, 0.99 at a similarity s of 0.7."""


CANDIDATES = 5
"""So many of the nearest by their signatures are compared in full."""


OVERLAP_EXAMPLES = 5


PROMPT_CHARACTERS = 200
"""Characters of a prompt that an example shows."""


@dataclass
class Overlap:
    """Of so many prompts of a home, how many have a near-duplicate; the nearest as examples."""

    prompts: int = 0
    near: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


def shingles(text: str) -> set[str]:
    """Every run of `SHINGLE` characters, whatever the case, width, spaces and punctuation.

    Characters and not words, as Chinese does not part its words.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"[\W_]+", " ", plain).strip() or plain
    return {plain[n : n + SHINGLE] for n in range(max(1, len(plain) - SHINGLE + 1))}


def boilerplate(texts: Sequence[str]) -> set[str]:
    """The shingles of more than half of the texts: an instruction that all share is no likeness.

    (Syllables that every longer text has are among them, and say as little.)
    """
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    if len(sample) < MIN_SHINGLES:
        return set()
    counts = Counter(shingle for text in sample for shingle in shingles(text))
    return {shingle for shingle, count in counts.items() if count > len(sample) / 2}


def own(text: str, common: Set[str]) -> set[str]:
    """The shingles of a text without boilerplate; one that is nothing else keeps its own."""
    found = shingles(text)
    return found - common or found


def similarity(one: str, other: str, common: Set[str] = frozenset()) -> float:
    """The Jaccard similarity of the shingles of two texts without boilerplate, 0..1."""
    a, b = own(one, common), own(other, common)
    return len(a & b) / len(a | b)


def overlaps(
    prompts: Sequence[Prompt],
    others: Sequence[Prompt],
    progress: Callable[[str, int], None] = lambda what, count: None,
) -> dict[str, Overlap]:
    """What of val and test is nearly in train, and what of other homes is nearly in `prompts`.

    Args:
        prompts: of the data, one a distinct prompt; their homes are train, val and test.
        others: of evaluation sets; their homes are the files.
        progress: is called with what is counted, and how many so far.
    """
    index = _Index(prompts, progress)
    homes = {prompt.home for prompt in prompts}
    found: dict[str, Overlap] = {h: Overlap() for h in ("val", "test") if h in homes}
    train = np.array([prompt.home == "train" for prompt in prompts], dtype=bool)
    for number, prompt in enumerate(prompts):
        if prompt.home != "train":
            nearest = index.nearest(prompt, index.signatures[number], train)
            _add(found[prompt.home], prompt, nearest)
    everywhere = np.ones(len(prompts), dtype=bool)
    for prompt, signature in zip(others, index.sign(others), strict=True):
        nearest = index.nearest(prompt, signature.hashvalues, everywhere)
        _add(found.setdefault(prompt.home, Overlap()), prompt, nearest)
    for overlap in found.values():
        overlap.examples = sorted(overlap.examples, key=lambda e: -e["similarity"])[
            :OVERLAP_EXAMPLES
        ]
    return found


class _Index:
    """The prompts of the data by their signatures.

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
        """The most similar of the `wanted` prompts, where one is a near-duplicate."""
        from datasketch import MinHash

        met = self.buckets.query(MinHash(hashvalues=signature, scheme="affine32"))
        candidates = np.sort([number for number in met if wanted[number]]).astype(int)
        alike = (self.signatures[candidates] == signature).mean(axis=1)
        best = [self.prompts[n] for n in candidates[np.argsort(-alike, kind="stable")][:CANDIDATES]]
        compared = [(similarity(prompt.text, other.text, self.common), other) for other in best]
        top = max(compared, key=lambda pair: pair[0], default=None)
        return top if top is not None and top[0] >= SIMILAR else None

    def sign(self, prompts: Sequence[Prompt]) -> Iterator[Any]:
        """The MinHash of each prompt."""
        from datasketch import MinHash

        shown = (own(prompt.text, self.common) for prompt in prompts)
        pieces = ([s.encode("utf-8", "surrogatepass") for s in found] for found in shown)
        for number, signature in enumerate(MinHash.generator(pieces, num_perm=PERMUTATIONS), 1):
            yield signature
            if number % 1000 == 0:
                self.progress("prompts compared", number)


def _add(overlap: Overlap, prompt: Prompt, nearest: tuple[float, Prompt] | None) -> None:
    overlap.prompts += 1
    if nearest is None:
        return
    overlap.near += 1
    alike, other = nearest
    overlap.examples.append(
        {"similarity": alike, "one": _shown(prompt), "other": _shown(other)},
    )


def _shown(prompt: Prompt) -> dict[str, str]:
    text = (
        prompt.text
        if len(prompt.text) <= PROMPT_CHARACTERS
        else prompt.text[:PROMPT_CHARACTERS] + " ..."
    )
    return {"home": prompt.home, "id": prompt.id, "place": prompt.place, "text": text}

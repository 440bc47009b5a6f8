"""reWordBench: do transformations that leave the ranking as it was change what wins?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.data.formats.benchmarks import ORIGINAL, original_id
from rmexp.evaluation.benchmarks.base import BenchmarkResult, ScoredList, mean, usable, wins
from rmexp.evaluation.stats.bootstrap import Means, stratified


@dataclass(frozen=True)
class ReWordBench:
    """`NAME/accuracy` after the transformation NAME, and `NAME/drop` from that of the same rows.

    `accuracy` and `drop` are their plain means over the transformations, `original/accuracy` is
    that of the rows before, each counted once. A drop is paired: its interval is that of the
    difference. Source: Wu et al. 2025, arXiv:2503.11751 (ranking accuracy before and after).
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """Score; transformed rows without their original are left out."""
        kept, notes = usable(lists)
        before = {one.id: one for one in kept if one.subset == ORIGINAL}
        after = [one for one in kept if one.subset != ORIGINAL]
        pairs = [
            (one, before[name])
            for one in after
            if (name := original_id(one.id, one.subset)) in before
        ]
        if lost := len(after) - len(pairs):
            notes.append(
                f"{lost} transformed comparisons have no original of their id: they are left out."
            )
        units = [(one.subset, old.prompt, [wins(one), wins(old)]) for one, old in pairs]
        units += [(ORIGINAL, old.prompt, [wins(old)] * 2) for old in before.values()]
        if not pairs:
            return BenchmarkResult({}, notes)
        strata, prompts, values = zip(*units, strict=True)
        scores = stratified(np.array(values), np.array(strata), np.array(prompts), _combine)
        return BenchmarkResult(scores, notes)


def _combine(means: Means) -> dict[str, np.ndarray]:
    changed = {name: values for name, values in means.items() if name != ORIGINAL}
    out = {f"{name}/accuracy": values[..., 0] for name, values in means.items()}
    out |= {f"{name}/drop": values[..., 1] - values[..., 0] for name, values in changed.items()}
    for score in ("accuracy", "drop"):
        out[score] = mean([out[f"{name}/{score}"] for name in changed])
    return out

"""Labelled pairs joined with pairwise verdicts from a file.

A verdict has a side and no scale: the gap of a pair is +1 where the better response wins, -1 where
it loses, and 0 for ties and abstentions, which count as not won, as equal rewards do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rmexp.core.errors import UserError
from rmexp.data.verdict_file import PairKey, PairVerdicts
from rmexp.evaluation.external_rewards import EXAMPLES_SHOWN, counted
from rmexp.evaluation.scored_set import EvalLabels, ScoredSet

Verdicts = Mapping[PairKey, PairVerdicts]


class PairOutcome(NamedTuple):
    """What the verdicts on a pair come to, for one of its responses, the better one.

    side        1: it wins, -1: it loses, 0: a tie, or no verdict
    abstained   1 if all verdicts on the pair abstain
    flips       1 if the result depends on the order in which the two were shown, NaN if it is
                known in one order alone
    first       mean probability that the one shown first wins, over both orders; NaN likewise
    """

    side: float
    abstained: float
    flips: float
    first: float


def outcome(verdicts: Verdicts, name: str, better: int, worse: int) -> PairOutcome | None:
    """The outcome for response `better` of comparison `name`; None if no row has the pair."""
    found = verdicts.get((name, min(better, worse), max(better, worse)))
    if found is None:
        return None
    sign = 1 if better < worse else -1
    as_is, swapped = found.by_order
    probability = found.probability
    flips = first = math.nan
    if not (math.isnan(as_is) or math.isnan(swapped)):
        flips = float(_side(as_is) != _side(swapped))
        first = (as_is + 1 - swapped) / 2
    if math.isnan(probability):
        return PairOutcome(0.0, 1.0, flips, first)
    return PairOutcome(sign * _side(probability), 0.0, flips, first)


def _side(probability: float) -> float:
    return float(np.sign(round(probability - 0.5, 12)))


@dataclass(frozen=True)
class VerdictSet(ScoredSet):
    """An evaluation set with pairwise verdicts.

    `rewards_N` is the share of its verdicts that a response wins, a half where it has none: what
    suites that score lists take. Its scale means nothing.

    sides_P flips_P firsts_P abstained_P   see `PairOutcome`
    ties_Q                                 the sides of pairs that annotators tied; NaN: no verdict
    """

    sides_P: np.ndarray = field(kw_only=True)
    flips_P: np.ndarray = field(kw_only=True)
    firsts_P: np.ndarray = field(kw_only=True)
    abstained_P: np.ndarray = field(kw_only=True)
    ties_Q: np.ndarray = field(kw_only=True)

    @property
    def gaps_P(self) -> np.ndarray:
        """The sides."""
        return self.sides_P


def with_verdicts(labels: EvalLabels, ids_C: Sequence[str], verdicts: Verdicts) -> VerdictSet:
    """Add verdicts to comparisons of which each labelled pair has one, see `join_verdicts`.

    Args:
        ids_C: id of each comparison.
    """
    starts_C = np.searchsorted(labels.rows_N, np.arange(len(ids_C)))

    def outcomes(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
        found = []
        for one, other in zip(better.tolist(), worse.tolist(), strict=True):
            row = labels.rows_N[one]
            start = int(starts_C[row])
            result = outcome(verdicts, ids_C[row], one - start, other - start)
            found.append(result or (math.nan,) * 4)
        return np.array(found, dtype=np.float64).reshape(-1, 4).T

    sides_P, abstained_P, flips_P, firsts_P = outcomes(labels.better_P, labels.worse_P)
    ties_Q = outcomes(labels.tied_Q_2[:, 0], labels.tied_Q_2[:, 1])[0]
    return VerdictSet(
        **vars(labels),
        rewards_N=_won_shares(labels, ids_C, verdicts),
        sides_P=sides_P,
        flips_P=flips_P,
        firsts_P=firsts_P,
        abstained_P=abstained_P,
        ties_Q=ties_Q,
    )


def _won_shares(labels: EvalLabels, ids_C: Sequence[str], verdicts: Verdicts) -> np.ndarray:
    start = dict(zip(ids_C, np.searchsorted(labels.rows_N, np.arange(len(ids_C))), strict=True))
    won_N, shown_N = np.zeros((2, len(labels.rows_N)))
    for (name, low, high), found in verdicts.items():
        if name in start and not math.isnan(found.probability):
            for k, share in ((low, found.probability), (high, 1 - found.probability)):
                won_N[start[name] + k] += share
                shown_N[start[name] + k] += 1
    half_N = np.full(len(won_N), 0.5)
    return np.divide(won_N, shown_N, out=half_N, where=shown_N > 0).astype(np.float32)


def join_verdicts(
    ids: Sequence[str],
    counts: Sequence[int],
    pairs: Sequence[Sequence[Sequence[int]]],
    verdicts: Verdicts,
) -> tuple[list[int], list[str]]:
    """Indices of the comparisons whose strictly labelled pairs all have a verdict, and notes.

    Args:
        ids: ids of the comparisons.
        counts: number of responses of each.
        pairs: (better, worse, label) of each pair of each comparison; label 0 is a tie.
        verdicts: of `read_verdicts`.

    Raises:
        UserError: nothing joins, or a verdict is on a response that a comparison does not have.
    """
    sizes = dict(zip(ids, counts, strict=True))
    for name, _, high in verdicts:
        if name in sizes and high >= sizes[name]:
            raise UserError(
                f"A verdict is on response {high} of {name}, which has {sizes[name]} responses, "
                "numbered from 0."
            )
    kept, absent = [], []
    for place, (name, own) in enumerate(zip(ids, pairs, strict=True)):
        strict = [(min(i, j), max(i, j)) for i, j, label in own if label]
        if all((name, *pair) in verdicts for pair in strict):
            kept.append(place)
        else:
            absent.append(name)
    known = {name for name, *_ in verdicts}
    if not any(ids[place] in known for place in kept):
        raise UserError(
            "No comparison has a verdict on each of its labelled pairs. The data's ids are like "
            f"{', '.join(ids[:EXAMPLES_SHOWN])}; those of the verdicts like "
            f"{', '.join(sorted(known)[:EXAMPLES_SHOWN])}."
        )
    notes = [
        *counted(absent, "comparisons lack a verdict on a labelled pair: they are left out"),
        *counted(sorted(known - set(ids)), "ids of the verdicts are not in the data"),
    ]
    return kept, notes

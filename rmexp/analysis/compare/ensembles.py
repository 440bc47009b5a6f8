"""Ensembles of the compared runs: one more entry each, with rewards that the runs give together."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rmexp.analysis.compare.cross_validation import Rewards
from rmexp.analysis.compare.runs import MERGED, Run
from rmexp.core.errors import UserError, note_fallback
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.calibration import Calibration, member_scale, own_scale


def ensembles_of(
    rewards: Sequence[tuple[Run, Rewards]], how: Sequence[Aggregation]
) -> list[tuple[Run, Rewards]]:
    """An ensemble of all runs for each aggregate. A merged run is no member: its members are.

    Args:
        rewards: of each run on the set, by the same comparisons.

    Raises:
        UserError: there are fewer than two members, or one has no scale.
    """
    if not how:
        return []
    members = [(run, known) for run, known in rewards if MERGED not in run.config]
    if len(members) < 2:
        raise UserError(f"aggregate={how[0].aggregate} needs two runs or more that are compared.")
    keys = list(dict.fromkeys(key for _, known in members for key in known))
    scaled_M_N = np.stack([_scaled(run, known, keys) for run, known in members])
    return [
        (_ensemble([run for run, _ in members], one), _by_key(keys, one(scaled_M_N))) for one in how
    ]


def _ensemble(members: Sequence[Run], how: Aggregation) -> Run:
    name = f"{how.aggregate} of {len(members)} runs"
    return Run(name, members[0].path, members=tuple(members))


def _by_key(keys: Sequence[tuple[str, int]], rewards_N: np.ndarray) -> Rewards:
    return dict(zip(keys, rewards_N.tolist(), strict=True))


def _scaled(run: Run, rewards: Rewards, keys: Sequence[tuple[str, int]]) -> np.ndarray:
    """(N,) standardised rewards; NaN where the run has none."""
    values_N = np.array([rewards.get(key, math.nan) for key in keys], dtype=np.float64)
    return _scale(run, rewards).normalised(values_N)


def _scale(run: Run, rewards: Mapping[tuple[str, int], float]) -> Calibration:
    """The calibration of a run; a file of rewards, or an evaluation of one, standardises itself.

    Raises:
        UserError: the run has none, or is one of several folds.
    """
    if run.fold is not None:
        raise UserError(f"aggregate: {run.name} is a fold, and folds are models of other rows.")
    if run.trained is None:
        note_fallback(f"{run.name} has no calibration, its own rewards standardise it.")
        return own_scale(np.array(list(rewards.values())))
    return member_scale(run.trained)

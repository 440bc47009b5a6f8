"""An evaluation set as arrays: labels, and rewards."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow.compute as pc

from rmexp.core.errors import UserError
from rmexp.data.text_style import STYLE_NAMES

EVAL_COLUMNS = (
    "subset",
    "prompt_key",
    "lengths",
    "style",
    "ratings",
    "rank_levels",
    "pairs",
    "weights",
    "weight",
)
"""Columns of `TOKEN_SCHEMA` to load; texts and tokens stay on disk."""


@dataclass(frozen=True)
class HeadOutputs:
    """What the outputs of a head give for responses; nothing for head=linear.

    Attributes:
        kind: the option of the group `head`.
        names: of the outputs.
        values: row of the data set -> the outputs of each response.
    """

    kind: str = "linear"
    names: tuple[str, ...] = ()
    values: Mapping[int, Sequence[Sequence[float]]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class EvalLabels:
    """Labels of C comparisons with N responses, P strict pairs and Q ties.

    items_C      row of each comparison in the data set
    subsets_C    name of its subset
    prompts_C    its prompt, numbered from 0
    weights_C    its weight
    rows_N       comparison of each response, 0 to C - 1, ascending
    tokens_N     int, length as rendered
    style_N_S    counts of `STYLE_NAMES`
    ratings_N    float, NaN where unrated
    levels_N     rank level in its comparison, 0 the worst; -1 if it is not ranked
    better_P     index of the better response
    worse_P      index of the worse response
    weights_P    weight of the judgement times weight of its row
    tied_Q_2     tied pairs, which accuracy leaves out
    """

    items_C: np.ndarray
    subsets_C: np.ndarray
    prompts_C: np.ndarray
    weights_C: np.ndarray
    rows_N: np.ndarray
    tokens_N: np.ndarray
    style_N_S: np.ndarray
    ratings_N: np.ndarray
    levels_N: np.ndarray
    better_P: np.ndarray
    worse_P: np.ndarray
    weights_P: np.ndarray
    tied_Q_2: np.ndarray

    @property
    def weights_N(self) -> np.ndarray:
        """The weight of each response's comparison."""
        return self.weights_C[self.rows_N]

    @property
    def prompts_N(self) -> np.ndarray:
        """The prompt of each response."""
        return self.prompts_C[self.rows_N]

    @property
    def prompts_P(self) -> np.ndarray:
        """The prompt of each pair, the cluster of intervals."""
        return self.prompts_N[self.better_P]

    @property
    def subsets_P(self) -> np.ndarray:
        """The subset of each pair."""
        return self.subsets_C[self.rows_N[self.better_P]]

    def part(self, keep_C: np.ndarray) -> dict[str, Any]:
        """The fields, restricted to some of the comparisons."""
        keep_N, number = keep_C[self.rows_N], lambda keep: np.cumsum(keep) - 1
        keep_Q = keep_N[self.tied_Q_2].all(1)
        axes = {"C": keep_C, "N": keep_N, "P": keep_N[self.better_P], "Q": keep_Q}
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if "_" in f.name}
        found = {
            name: values if values is None else values[axes[name.split("_")[1]]]
            for name, values in named.items()
        }
        found["rows_N"] = number(keep_C)[found["rows_N"]]
        for name in ("better_P", "worse_P", "tied_Q_2"):
            found[name] = number(keep_N)[found[name]]
        return found

    def with_rewards(
        self, rewards: Mapping[int, Sequence[float]], outputs: HeadOutputs | None = None
    ) -> "ScoredSet":
        """Add rewards; comparisons with a reward that is NaN or infinite are dropped and counted.

        Args:
            rewards: row of the data set -> the reward of each response.
            outputs: of the head that gave them; None: not known.

        Raises:
            UserError: there are no comparisons, or none has finite rewards.
        """
        if not len(self.items_C):
            raise UserError("There is no comparison to evaluate.")
        values = list(chain.from_iterable(rewards[item] for item in self.items_C.tolist()))
        rewards_N = np.array(values, dtype=np.float32)
        assert rewards_N.shape == self.rows_N.shape, "a reward for each response"
        whole = ScoredSet(**vars(self), rewards_N=rewards_N)
        if outputs is not None and outputs.values:
            found = chain.from_iterable(outputs.values[item] for item in self.items_C.tolist())
            whole = dataclasses.replace(
                whole,
                outputs_N_K=np.array(list(found), dtype=np.float32),
                kind=outputs.kind,
                names=outputs.names,
            )
        unusable = np.bincount(self.rows_N, ~np.isfinite(rewards_N), minlength=len(self.items_C))
        if not unusable.any():
            return whole
        if unusable.all():
            raise UserError("Every comparison has a reward that is NaN or infinite.")
        lost = int((unusable > 0).sum())
        return dataclasses.replace(whole, **whole.part(unusable == 0), lost=lost)


@dataclass(frozen=True)
class ScoredSet(EvalLabels):
    """An evaluation set with its rewards.

    rewards_N    float32, finite
    lost         number of dropped comparisons, with a reward that is not finite
    outputs_N_K  float32, the outputs of the head that gave the rewards; None for head=linear
    kind, names  of that head, see `HeadOutputs`
    """

    rewards_N: np.ndarray
    lost: int = 0
    outputs_N_K: np.ndarray | None = None
    kind: str = "linear"
    names: tuple[str, ...] = ()

    @property
    def gaps_P(self) -> np.ndarray:
        """r_better - r_worse in fp64, so that no difference of fp32 rewards rounds to a tie."""
        return self.rewards_N[self.better_P].astype(np.float64) - self.rewards_N[self.worse_P]

    def subset(self, name: str) -> "ScoredSet":
        """The comparisons of one subset."""
        return dataclasses.replace(self, **self.part(self.subsets_C == name), lost=0)


def eval_labels(rows: Any, indices: np.ndarray) -> EvalLabels:
    """The labels of the rows `indices` of a data set with `EVAL_COLUMNS`."""
    table = rows.select_columns(list(EVAL_COLUMNS)).select(indices).with_format("arrow")[:]
    columns = {name: table[name].combine_chunks() for name in EVAL_COLUMNS}

    def flat(name: str) -> np.ndarray:
        return columns[name].flatten().to_numpy(zero_copy_only=False)

    def nested(name: str, width: int) -> np.ndarray:
        return columns[name].flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)

    counts_C = columns["lengths"].value_lengths().to_numpy(zero_copy_only=False)
    starts_C = np.cumsum(counts_C) - counts_C
    weights_C = columns["weight"].to_numpy(zero_copy_only=False)
    home = np.repeat(
        np.arange(len(indices)), columns["pairs"].value_lengths().to_numpy(zero_copy_only=False)
    )
    pairs = nested("pairs", 3).astype(np.int64)
    sides, strict = pairs[:, :2] + starts_C[home][:, None], pairs[:, 2] != 0
    return EvalLabels(
        items_C=np.asarray(indices, dtype=np.int64),
        subsets_C=np.array(columns["subset"].to_pylist(), dtype=object),
        # Sorted, so that resampled intervals do not depend on the order of the rows.
        prompts_C=pc.rank(columns["prompt_key"], tiebreaker="dense").to_numpy().astype(int) - 1,
        weights_C=weights_C,
        rows_N=np.repeat(np.arange(len(indices)), counts_C),
        tokens_N=flat("lengths").astype(np.int64),
        style_N_S=nested("style", len(STYLE_NAMES)).astype(np.int64),
        ratings_N=flat("ratings").astype(np.float64),
        levels_N=flat("rank_levels").astype(np.int64),
        better_P=sides[strict, 0],
        worse_P=sides[strict, 1],
        weights_P=(flat("weights") * weights_C[home])[strict],
        tied_Q_2=sides[~strict],
    )

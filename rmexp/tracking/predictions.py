"""Rewards and labels of evaluation sets, as files that comparisons of runs read.

predictions/SET.parquet   one row per response
judgements/SET.parquet    one row per labelled pair; other models' rewards are compared on them
metrics.jsonl             what was logged, written by `run_directory`
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.core.errors import UserError

PREDICTIONS = {
    "id": "string",  # of the comparison
    "response": "int32",  # its index there
    "text": "string",  # as rendered
    "reward": "float64",
    "subset": "string",
    "tokens": "int32",
    "rating": "float64",  # null: nobody rated it
    "prompt": "string",  # a hash of the prompt, independent of the template
}

JUDGEMENTS = {
    "id": "string",
    "better": "int32",  # response
    "worse": "int32",  # the other; in a tie the order has no meaning
    "verdict": "int32",  # 1: better is better; 0: people tied them
    "prompt": "string",  # as in PREDICTIONS
    "subset": "string",
    "weight": "float64",
}


@dataclass(frozen=True)
class EvalSetTables:
    """Content of a set's files except the rewards.

    sizes_C      (row of the data set, number of responses), in the set's order
    predictions  a table with the columns `PREDICTIONS` without the reward
    judgements   a table with the columns `JUDGEMENTS`
    """

    sizes_C: list[tuple[int, int]]
    predictions: Any
    judgements: Any


def eval_set_tables(rows: Any, indices: Any) -> EvalSetTables:
    """Collect the tables of a set.

    Args:
        rows: a data set with the columns of `TOKEN_SCHEMA`.
        indices: its rows in the set.
    """
    sizes: list[tuple[int, int]] = []
    responses: list[tuple[Any, ...]] = []
    pairs: list[tuple[Any, ...]] = []
    for index, row in zip(indices, rows.select(indices), strict=True):
        sizes.append((int(index), len(row["texts"])))
        each = zip(row["texts"], row["lengths"], row["ratings"], strict=True)
        for k, (text, length, rating) in enumerate(each):
            rated = rating if rating is not None and rating == rating else None
            of_it = (row["subset"], length, rated, row["prompt_key"])
            responses.append((row["id"], k, text, *of_it))
        for (i, j, verdict), weight in zip(row["pairs"], row["weights"], strict=True):
            about = (row["prompt_key"], row["subset"], row["weight"] * weight)
            pairs.append((row["id"], i, j, verdict, *about))
    known = {name: kind for name, kind in PREDICTIONS.items() if name != "reward"}
    return EvalSetTables(sizes, _table(known, responses), _table(JUDGEMENTS, pairs))


def write_set(run: Path, name: str, set: EvalSetTables, rewards: Mapping[int, list[float]]) -> None:
    """Write both files of the set `name` into a run directory.

    Args:
        run: the run directory.
        name: of the set.
        set: its tables.
        rewards: row of the data set -> the reward of each response.
    """
    import pyarrow

    values = [rewards[index] for index, _ in set.sizes_C]
    for (index, size), found in zip(set.sizes_C, values, strict=True):
        assert len(found) == size, f"row {index} has {size} responses and {len(found)} rewards"
    column = pyarrow.array(list(chain.from_iterable(values)), PREDICTIONS["reward"])
    position = list(PREDICTIONS).index("reward")
    _write(run / "judgements" / f"{name}.parquet", set.judgements)
    predictions = set.predictions.add_column(position, "reward", column)
    _write(run / "predictions" / f"{name}.parquet", predictions)


def _table(columns: Mapping[str, str], rows: list[tuple[Any, ...]]) -> Any:
    import pyarrow

    schema = pyarrow.schema([(n, pyarrow.type_for_alias(kind)) for n, kind in columns.items()])
    values = zip(*rows, strict=True) if rows else [[] for _ in columns]
    table = {n: list(column) for n, column in zip(columns, values, strict=True)}
    return pyarrow.table(table, schema=schema)


def _write(file: Path, table: Any) -> None:
    import pyarrow.parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)


@dataclass(frozen=True)
class Judgements:
    """The P strictly labelled pairs of a set with a weight above 0, sorted, so that runs align.

    ids_P better_P worse_P   the comparison, and the indices of the two responses in it
    prompts_P                a hash of the prompt: the cluster
    weights_P                weight in every mean
    tied                     number of pairs that people tied, which are left out
    """

    ids_P: np.ndarray
    better_P: np.ndarray
    worse_P: np.ndarray
    prompts_P: np.ndarray
    weights_P: np.ndarray
    subsets_P: np.ndarray
    tied: int

    @property
    def keys(self) -> set[tuple[str, int, int]]:
        """Identifies each pair."""
        return set(zip(self.ids_P, self.better_P.tolist(), self.worse_P.tolist(), strict=True))

    @property
    def digest(self) -> str:
        """Equal for equal pairs of equal prompts and weights (16 hex digits)."""
        columns = (self.ids_P, self.better_P, self.worse_P, self.prompts_P, self.weights_P)
        parts = [column.tolist() for column in columns]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def read_judgements(file: Path) -> Judgements:
    """Read the strictly labelled pairs of a file, sorted by comparison and responses."""
    columns = _read(file, ("id", "better", "worse", "verdict", "prompt", "subset", "weight"))
    rows = list(zip(*columns, strict=True))
    strict = sorted((row for row in rows if row[3] == 1 and row[6] > 0), key=lambda row: row[:3])
    found: Any = zip(*strict, strict=True) if strict else [()] * 7
    ids, better, worse, _, prompts, subsets, weights = found
    return Judgements(
        ids_P=np.array(ids, dtype=object),
        better_P=np.array(better, dtype=np.int64),
        worse_P=np.array(worse, dtype=np.int64),
        prompts_P=np.array(prompts, dtype=object),
        subsets_P=np.array(subsets, dtype=object),
        weights_P=np.array(weights, dtype=np.float64),
        tied=sum(row[3] != 1 for row in rows),
    )


def read_predictions(file: Path) -> dict[tuple[str, int], float]:
    """Read the reward of each response, by comparison and index; NaN where missing.

    Raises:
        UserError: the file cannot be read.
    """
    ids, responses, rewards = _read(file, ("id", "response", "reward"))
    values = (float("nan") if reward is None else reward for reward in rewards)
    return dict(zip(zip(ids, responses, strict=True), values, strict=True))


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read the complete lines of `metrics.jsonl`; a killed run may end with a partial one."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def read_responses(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the row of each response, by comparison and index, with the columns `PREDICTIONS`.

    Raises:
        UserError: the file cannot be read.
    """
    rows = zip(*_read(file, tuple(PREDICTIONS)), strict=True)
    named = (dict(zip(PREDICTIONS, row, strict=True)) for row in rows)
    return {(row["id"], row["response"]): row for row in named}


def _read(file: Path, names: tuple[str, ...]) -> list[list[Any]]:
    """Read columns of a parquet file.

    Raises:
        UserError: the file is incomplete or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file, columns=list(names))
        return [table[name].to_pylist() for name in names]
    except (pyarrow.ArrowException, KeyError):
        raise UserError(
            f"{file}: not a whole parquet file with the columns {', '.join(names)}."
        ) from None

"""Rewards and labels of evaluation sets, as files that comparisons of runs read.

predictions/SET.parquet   one row per response
judgements/SET.parquet    one row per labelled pair; other models' rewards are compared on them
metrics.jsonl             what was logged, written by `run_directory`
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.core.errors import UserError
from rmexp.data.label_file import pair_content
from rmexp.evaluation.scored_set import HeadOutputs

PREDICTIONS = {
    "id": "string",  # of the comparison
    "response": "int32",  # its index there
    "text": "string",  # as rendered
    "reward": "float64",
    "subset": "string",
    "tokens": "int32",
    "rating": "float64",  # null: unrated
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
    "content": "string",  # a hash of prompt and responses: what two runs must share to be paired
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
    responses: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for index, row in zip(indices, rows.select(indices), strict=True):
        prompt, keys = row["prompt_key"], row["response_keys"]
        shared = {"id": row["id"], "subset": row["subset"], "prompt": prompt}
        sizes.append((int(index), len(row["texts"])))
        each = zip(row["texts"], row["lengths"], row["ratings"], strict=True)
        for k, (text, tokens, rating) in enumerate(each):
            known = rating is not None and rating == rating
            own = {"text": text, "tokens": tokens, "rating": rating if known else None}
            responses.append({**shared, "response": k, **own})
        for (i, j, verdict), weight in zip(row["pairs"], row["weights"], strict=True):
            weight *= row["weight"]
            content = pair_content(prompt, keys[i], keys[j])
            own = {"better": i, "worse": j, "verdict": verdict, "weight": weight}
            pairs.append({**shared, **own, "content": content})
    known_columns = {name: kind for name, kind in PREDICTIONS.items() if name != "reward"}
    return EvalSetTables(sizes, _table(known_columns, responses), _table(JUDGEMENTS, pairs))


def write_set(
    run: Path,
    name: str,
    set: EvalSetTables,
    rewards: Mapping[int, list[float]],
    outputs: HeadOutputs | None = None,
) -> None:
    """Write both files of the set `name` into a run directory.

    Args:
        run: the run directory.
        name: of the set.
        set: its tables.
        rewards: row of the data set -> the reward of each response.
        outputs: of the head that gave them; a column `outputs` has them.
    """
    import pyarrow

    values = [rewards[index] for index, _ in set.sizes_C]
    for (index, size), found in zip(set.sizes_C, values, strict=True):
        assert len(found) == size, f"row {index} has {size} responses and {len(found)} rewards"
    column = pyarrow.array(list(chain.from_iterable(values)), PREDICTIONS["reward"])
    position = list(PREDICTIONS).index("reward")
    _write(run / "judgements" / f"{name}.parquet", set.judgements)
    predictions = set.predictions.add_column(position, "reward", column)
    if outputs is not None and outputs.values:
        given = list(chain.from_iterable(outputs.values[index] for index, _ in set.sizes_C))
        known = {"kind": outputs.kind, "names": json.dumps(outputs.names, ensure_ascii=False)}
        kind = pyarrow.list_(pyarrow.float64())
        predictions = predictions.append_column(
            pyarrow.field("outputs", kind, metadata=known), pyarrow.array(given, kind)
        )
    _write(run / "predictions" / f"{name}.parquet", predictions)


def _table(columns: Mapping[str, str], rows: list[dict[str, Any]]) -> Any:
    import pyarrow

    schema = pyarrow.schema([(n, pyarrow.type_for_alias(kind)) for n, kind in columns.items()])
    return pyarrow.Table.from_pylist(rows, schema)


def _write(file: Path, table: Any) -> None:
    import pyarrow.parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)


@dataclass(frozen=True)
class Judgements:
    """The P strictly labelled pairs of a set with a weight above 0, sorted by content.

    Runs on the same rows have the same pairs in the same order, whatever the ids.

    contents_P               a hash of the prompt and the two responses
    ids_P better_P worse_P   the comparison, and the indices of the two responses in it
    prompts_P                a hash of the prompt: the cluster
    weights_P                weight in every mean
    tied                     number of tied pairs, which are left out
    """

    contents_P: np.ndarray
    ids_P: np.ndarray
    better_P: np.ndarray
    worse_P: np.ndarray
    prompts_P: np.ndarray
    weights_P: np.ndarray
    subsets_P: np.ndarray
    tied: int

    @property
    def sides(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The better and the worse response of each pair: comparison and index."""
        better, worse = (
            list(zip(self.ids_P.tolist(), side.tolist(), strict=True))
            for side in (self.better_P, self.worse_P)
        )
        return better, worse

    @property
    def digest(self) -> str:
        """Equal for pairs of equal content and weights (16 hex digits)."""
        parts = [column.tolist() for column in (self.contents_P, self.weights_P)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def common(self, other: "Judgements") -> int:
        """The number of pairs that both have."""
        counts = (Counter(one.contents_P.tolist()) for one in (self, other))
        return (next(counts) & next(counts)).total()


def read_judgements(file: Path) -> Judgements:
    """Read the strictly labelled pairs of a file, sorted by content.

    Files of older versions have no content: there the ids stand for it.
    """
    rows = _read(file, JUDGEMENTS, optional="content")
    for row in rows:
        if row["content"] is None:
            row["content"] = "/".join(str(row[k]) for k in ("prompt", "id", "better", "worse"))
    strict = [row for row in rows if row["verdict"] == 1 and row["weight"] > 0]
    strict.sort(key=lambda row: (row["content"], row["id"], row["better"], row["worse"]))

    def column(name: str, dtype: Any = object) -> np.ndarray:
        return np.array([row[name] for row in strict], dtype=dtype)

    return Judgements(
        contents_P=column("content"),
        ids_P=column("id"),
        better_P=column("better", np.int64),
        worse_P=column("worse", np.int64),
        prompts_P=column("prompt"),
        subsets_P=column("subset"),
        weights_P=column("weight", np.float64),
        tied=sum(row["verdict"] != 1 for row in rows),
    )


def read_predictions(file: Path) -> dict[tuple[str, int], float]:
    """Read the reward of each response, by comparison and index; NaN where missing.

    Raises:
        UserError: the file cannot be read.
    """
    return {
        (row["id"], row["response"]): float("nan") if row["reward"] is None else row["reward"]
        for row in _read(file, ("id", "response", "reward"))
    }


def read_outputs(file: Path, responses: Mapping[int, Sequence[tuple[str, int]]]) -> HeadOutputs:
    """Read the outputs of the head that gave the rewards; none of head=linear.

    Args:
        responses: row of a data set -> the comparison and index of each of its responses.
    """
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(file)
    if "outputs" not in schema.names:
        return HeadOutputs()
    known = schema.field("outputs").metadata
    rows = _read(file, ("id", "response", "outputs"))
    found = {(row["id"], row["response"]): row["outputs"] for row in rows}
    return HeadOutputs(
        known[b"kind"].decode(),
        tuple(json.loads(known[b"names"])),
        {index: [found[one] for one in of_row] for index, of_row in responses.items()},
    )


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read the complete lines of `metrics.jsonl`; a killed run may end with a partial one."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def read_responses(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the row of each response, by comparison and index, with the columns `PREDICTIONS`.

    Raises:
        UserError: the file cannot be read.
    """
    return {(row["id"], row["response"]): row for row in _read(file, PREDICTIONS)}


def _read(file: Path, columns: Iterable[str], optional: str | None = None) -> list[dict[str, Any]]:
    """Read the rows of a parquet file; a column that may be absent is then null.

    Raises:
        UserError: the file is incomplete or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    names = list(columns)
    try:
        with pyarrow.parquet.ParquetFile(file) as stream:
            absent = optional not in stream.schema_arrow.names
            kept = [name for name in names if not (absent and name == optional)]
            rows = stream.read(kept).select(kept).to_pylist()
    except (pyarrow.ArrowException, KeyError):
        raise UserError(
            f"{file}: not a whole parquet file with the columns {', '.join(names)}."
        ) from None
    return [dict.fromkeys(names) | row for row in rows]

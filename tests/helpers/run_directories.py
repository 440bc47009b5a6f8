"""Run directories written by hand, for comparisons without training."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml

from rmexp.runner.sweep_plan import read_plan
from rmexp.tracking.predictions import JUDGEMENTS, PREDICTIONS


def write_parquet(file, columns, rows):
    """Rows may lack the last columns, which are then null."""
    schema = pyarrow.schema([(n, pyarrow.type_for_alias(kind)) for n, kind in columns.items()])
    table = pyarrow.Table.from_pylist(
        [dict(zip(columns, row, strict=False)) for row in rows], schema=schema
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)


def write_run(
    home,
    wins,
    prompts=None,
    *,
    config=None,
    given=(),
    labels=None,
    set="test",
    ids=None,
    metrics=None,
    **result,
):
    """A finished run in which the better response of pair n has the higher reward if wins[n].

    `wins` may be numbers: the gap r_better - r_worse.
    """
    gaps = np.where(np.array(wins) == 0, -1.0, np.array(wins, dtype=float))
    ids = ids or [f"row-{n}" for n in range(len(gaps))]
    prompts = prompts if prompts is not None else [f"p{n}" for n in range(len(gaps))]
    predictions = [
        (name, k, f"text {k}", reward, "all", 3, None, str(prompt))
        for name, gap, prompt in zip(ids, gaps, prompts, strict=True)
        for k, reward in enumerate((float(gap), 0.0))
    ]
    judged = [(i, 0, 1, 1, str(p), "all", 1.0) for i, p in zip(ids, prompts, strict=True)]
    write_parquet(home / "predictions" / f"{set}.parquet", PREDICTIONS, predictions)
    write_parquet(home / "judgements" / f"{set}.parquet", JUDGEMENTS, judged)
    accuracy = float((gaps > 0).sum() / max(1, len(gaps)))
    facts = {
        "status": "done",
        "task": "train",
        "labels": labels or {"loss": "contrastive", "data": "demo", "model": "tiny"},
        "metrics": {f"{set}/accuracy": accuracy} | (metrics or {}),
        "training_seconds": 10.0,
        "pairs_per_second": 5.0,
        "peak_memory_gib": 1.5,
    }
    (home / "result.json").write_text(json.dumps(facts | result))
    base = {"task": {"_target_": "rmexp.tasks.train.train"}, "checkpoint": None, "name": home.name}
    settings = base | {"seed": 0, "loss": {"_target_": "L", "margin": 1.0}} | (config or {})
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    (home / "overrides.yaml").write_text(yaml.safe_dump(list(given)))
    (home / "environment.json").write_text(json.dumps({"data_fingerprint": "d1"}))
    return home


def margin(value, seed=0):
    """The configuration of a sweep over loss.margin and seed."""
    return {"seed": seed, "loss": {"_target_": "L", "margin": value}}


def run_table(run):
    """Metrics, rewards and log of a run."""
    rewards = [
        pyarrow.parquet.read_table(run / "predictions" / f"{name}.parquet").to_pydict()
        for name in ("val", "test")
    ]
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    return metrics, rewards, (run / "metrics.jsonl").read_text()


def sweep_table(home):
    """`run_table` of each run of a sweep, by its directory."""
    return {cell.directory: run_table(home / cell.directory) for cell in read_plan(home).cells}

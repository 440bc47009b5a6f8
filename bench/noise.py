"""python -m bench.noise FOLDER WORD ...: how well wrong labels are found, and what to do with them.

A fifth of the training labels is flipped at random, `task=inspect task.folds=5` ranks the labels
that result, and reward heads train on them in several ways; `task=compare` tests the ways against
each other on the test rows, whose labels are as they were. WORD are overrides of data and model:

    S=../shared/data
    python -m bench.noise /tmp/noise/demo data=demo
    python -m bench.noise /tmp/noise/ukp data=ukp data.path=$S/ukp_convarg1/pairs.jsonl.gz
    python -m bench.noise /tmp/noise/hh data=hh_rlhf data.max_length=512 \\
        data.path=$S/hh_rlhf_harmless_base_test/pairs.jsonl.gz

Val, by which a run selects its weights, keeps its labels too. Finished steps are not repeated.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.config.compose import build, compose_config
from rmexp.config.schema import register
from rmexp.evaluation.scored_set import eval_labels

SHARE = 0.2
"""Of the labels: flipped, and then suspected."""

HEADS = ("optim.head_lr=1e-3", "trainer.max_epochs=8")
SEEDS = "seed=0,1,2,3,4"
TRAIN = ("tune=head", "loss=bradley_terry", "logger=none", "sweep.export=none")

Pair = tuple[str, tuple[int, int]]
"""A comparison's id and two of its responses, in the order of their indices."""


def main(folder: Path, words: Sequence[str]) -> None:
    """Measure one data set; writes noise.json and compare.txt into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = training_pairs(words)
    drawn = np.random.default_rng(0).permutation(len(pairs))[: round(SHARE * len(pairs))]
    flipped = {pairs[n] for n in drawn.tolist()}
    flips = write(folder / "flips.jsonl", ({"id": name, "pair": pair} for name, pair in flipped))
    inspected = folder / "inspect"
    if not (inspected / "labels.jsonl").exists():
        asked = ("task=inspect", "task.folds=5", f"data.relabel={flips}", *HEADS, *words)
        rmexp(*asked, f"hydra.run.dir={inspected}")
    ranked = [json.loads(line) for line in (inspected / "labels.jsonl").open(encoding="utf-8")]
    found = detection(ranked, flipped)
    print(json.dumps(found, indent=1))
    trainings = ways(folder, flips, pairs, flipped, ranked)
    arms = {name: folder / name for name in trainings}
    for name, more in trainings.items():
        rmexp("-m", SEEDS, *TRAIN, *more, *HEADS, *words, f"hydra.sweep.dir={arms[name]}")
    runs = f"runs=[{','.join(map(str, arms.values()))}]"
    compared = rmexp("task=compare", runs, "task.pairs=all", f"hydra.run.dir={folder / 'compare'}")
    (folder / "compare.txt").write_text(compared, encoding="utf-8")
    measured = found | {"accuracy": {name: accuracies(path) for name, path in arms.items()}}
    (folder / "noise.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    print(compared)


def training_pairs(words: Sequence[str]) -> list[Pair]:
    """The labelled pairs of the training rows."""
    register()
    config = compose_config([*words])
    tokenizer, data = build(config.model).load_tokenizer(), build(config.data)
    build(config.template).install(tokenizer)
    data.prepare(tokenizer, 0, lambda *_: None)
    labels = eval_labels(data.rows, data.splits["train"])
    starts_C = np.searchsorted(labels.rows_N, np.arange(len(labels.items_C)))
    names = data.rows.select_columns(["id"]).select(labels.items_C)["id"][:]
    sides = np.sort(np.stack([labels.better_P, labels.worse_P], axis=1), axis=1)
    home_P = labels.rows_N[labels.better_P]
    within = (sides - starts_C[home_P][:, None]).tolist()
    return [(names[c], (i, j)) for c, (i, j) in zip(home_P.tolist(), within, strict=True)]


def detection(ranked: Sequence[Mapping[str, Any]], flipped: set[Pair]) -> dict[str, Any]:
    """Precision and recall of the first `SHARE` of the ranking, and the AUROC of all of it."""
    hits = np.array([pair_of(row) in flipped for row in ranked])
    first = round(SHARE * len(hits))
    ranks = np.flatnonzero(hits)  # 0 is the most suspect
    others = len(hits) - len(ranks)
    before = ranks - np.arange(len(ranks))  # right labels that are more suspect
    return {
        "pairs": len(hits),
        "flipped": int(hits.sum()),
        "precision": float(hits[:first].mean()),
        "recall": float(hits[:first].sum() / hits.sum()),
        "auroc": float(1 - before.mean() / others),
        "more_likely_wrong": int(sum(row["wrong"] > 0.5 for row in ranked)),
    }


def ways(
    folder: Path,
    flips: Path,
    pairs: Sequence[Pair],
    flipped: set[Pair],
    ranked: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[str, ...]]:
    """Name of each way to train -> its overrides."""
    suspects = {pair_of(row) for row in ranked[: round(SHARE * len(ranked))]}
    wrong = {pair_of(row): row["wrong"] for row in ranked}
    drawn = np.random.default_rng(1).permutation(len(pairs))[: len(suspects)]
    chosen = {
        "suspects": suspects,
        "chance": {pairs[n] for n in drawn.tolist()},
        "back": flipped ^ suspects,
    }
    files = {
        name: write(folder / f"{name}.jsonl", ({"id": i, "pair": pair} for i, pair in some))
        for name, some in chosen.items()
    }
    # Of the labels as they were: a flipped label that is wrong with probability p was right with p.
    soft = write(
        folder / "soft.jsonl",
        (
            {"id": pair[0], "pair": pair[1], "wrong": 1 - p if pair in flipped else p}
            for pair, p in wrong.items()
        ),
    )
    noisy = f"data.relabel={flips}"
    return {
        "as_they_were": (),
        "flipped": (noisy,),
        "flips_left_out": (f"data.exclude={flips}",),
        "suspects_left_out": (noisy, f"data.exclude={files['suspects']}"),
        "chance_left_out": (noisy, f"data.exclude={files['chance']}"),
        "suspects_flipped": (f"data.relabel={files['back']}",),
        "softened": (
            f"data.relabel={soft}",
            "data.relabel_by=soften",
            "loss=soft_bradley_terry",
        ),
        "smoothed": (noisy, f"loss.label_smoothing={SHARE}"),
    }


def accuracies(folder: Path) -> list[float]:
    """Test accuracy of each seed."""
    files = sorted(folder.glob("*/result.json"))
    return [json.loads(file.read_bytes())["metrics"]["test/accuracy"] for file in files]


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair of a row of a file of labels."""
    i, j = sorted(row["pair"])
    return row["id"], (i, j)


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a JSONL file, sorted."""
    file.write_text("".join(sorted(json.dumps(row) + "\n" for row in rows)), encoding="utf-8")
    return file


def rmexp(*words: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "rmexp", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])

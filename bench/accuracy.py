"""python -m bench.accuracy [--tune full] [--seeds 3] [--steps 24]: accuracy compared with TRL.

Both train the same part of SmolLM2-135M from the same weights on the same HH pairs in the same
order, PAIRS pairs a step; both are judged by `task=evaluate` on the same held-out pairs. A seed is
an order of the rows. Each that is done is a line of accuracy.jsonl; docs/accuracy.md is written
after it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.prepare import RATE, flat, judged_pairs, start
from bench.rounds import table
from bench.sides import trl_trainer
from bench.sweeps import freeze
from bench.works import PAIRS, ROOT, write_hh

LINES = ROOT / "bench/accuracy.jsonl"
PAGE = ROOT / "docs/accuracy.md"
HELD_OUT, VAL = 300, 16
SIDES = ("rmexp", "trl")
LEARNING_RATE = 3 * RATE
FROZEN_ROWS = 128
"""Training pairs where most layers are frozen, since activations of all pairs are computed."""

TRAINS = {"full": None, "last_layers": 4, "head": 0}
"""tune -> number of top layers that train in TRL; None: all."""


def main() -> None:
    """Train and evaluate both sides for missing seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", default="full", choices=TRAINS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmexp-accuracy-") as folder:
        home = Path(folder)
        rows(home, None if chosen.tune == "full" else FROZEN_ROWS)
        for seed in range(chosen.seeds):
            line: dict[str, Any] = {"tune": chosen.tune, "seed": seed, "steps": chosen.steps}
            if any(known.items() >= line.items() for known in lines()):
                continue
            line |= both(home, chosen.tune, seed, chosen.steps)
            with open(LINES, "a") as stream:
                stream.write(json.dumps(line) + "\n")
            write()
    write()


def rows(home: Path, limit: int | None) -> None:
    """Weights, and HH's rows in three files: to train (as many as `limit`), to select (not used),
    to judge."""
    write_hh(home, start(home))
    every = (home / "rows.jsonl").read_text().splitlines(keepends=True)
    random.Random(0).shuffle(every)
    cuts = {
        "test": every[:HELD_OUT],
        "val": every[HELD_OUT : HELD_OUT + VAL],
        "train": every[HELD_OUT + VAL :][:limit],
    }
    for name, part in cuts.items():
        (home / f"{name}.jsonl").write_text("".join(part))


def words(home: Path, tune: str, seed: int, steps: int) -> list[str]:
    """rmexp's command."""
    layers = TRAINS[tune]
    return [
        f"tune={tune}", *([f"tune.n={layers}"] if layers else []),
        "data=hh_rlhf", f"data.path={home}/train.jsonl", f"data.val_path={home}/val.jsonl",
        f"data.test_path={home}/test.jsonl", f"data.batch_size={PAIRS}", "data.max_length=2048",
        "model=hf", f"model.path={home}/start", f"cache={home}/cache", "loss=bradley_terry",
        "logger=none", "trainer.precision=bf16-mixed", f"trainer.max_steps={steps}",
        "trainer.validations=1", "trainer.keep=none", f"optim.lr={LEARNING_RATE}",
        "optim.head_lr=null", "optim.schedule=constant", "optim.warmup=0", f"seed={seed}",
        f"name={tune}{seed}",
    ]  # fmt: skip


def both(home: Path, tune: str, seed: int, steps: int) -> dict[str, Any]:
    """The test accuracy of each side, and how often both prefer the same response."""
    ran = command(home, *words(home, tune, seed, steps))
    peer = home / f"trl-{tune}-{seed}"
    asked = [str(home), tune, str(seed), str(steps), str(peer)]
    subprocess.run(
        [sys.executable, "-m", "bench.accuracy", *asked],
        cwd=ROOT, check=True, env={**os.environ, "RMEXP_ACCURACY_SIDE": "trl"},
    )  # fmt: skip
    judged = command(
        home, "task=evaluate", f"checkpoint={peer}", "data=hh_rlhf",
        f"data.path={home}/test.jsonl", "data.max_length=2048", "logger=none",
        "trainer.precision=bf16-mixed", f"cache={home}/cache", f"name=trl-seed{seed}",
    )  # fmt: skip
    found = {"rmexp": gaps(ran), "trl": gaps(judged)}
    metrics = {"rmexp": metric(ran), "trl": metric(judged)}
    alike = float(np.mean((found["rmexp"] > 0) == (found["trl"] > 0)))
    correlation = float(np.corrcoef(found["rmexp"], found["trl"])[0, 1])
    return {"accuracy": metrics, "alike": alike, "correlation": correlation}


def command(home: Path, *asked: str) -> Path:
    """Run rmexp; the run directory."""
    before = set(home.rglob("result.json"))
    subprocess.run(
        [sys.executable, "-m", "rmexp", *asked],
        cwd=home, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (made,) = set(home.rglob("result.json")) - before
    return made.parent


def metric(run: Path) -> list[float]:
    """Accuracy on the held-out pairs, with its interval."""
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    name = f"{judged_set(run)}/accuracy"
    return [metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]]


def judged_set(run: Path) -> str:
    """The ids of the held-out pairs."""
    (name,) = {file.stem for file in (run / "predictions").glob("*.parquet")} - {"val"}
    return name


def gaps(run: Path) -> np.ndarray:
    """(P,) reward gaps of the held-out pairs, in the order of their rows."""
    from rmexp.tracking.predictions import read_judgements, read_predictions

    name = judged_set(run)
    pairs = read_judgements(run / "judgements" / f"{name}.parquet")
    rewards = read_predictions(run / "predictions" / f"{name}.parquet")
    columns = zip(pairs.ids_P, pairs.better_P.tolist(), pairs.worse_P.tolist(), strict=True)
    # A row's id is its number: among all rows in the one run, among the judged ones in the other.
    ordered = sorted(columns, key=lambda pair: int(pair[0].rpartition("-")[2]))
    return np.array([rewards[i, better] - rewards[i, worse] for i, better, worse in ordered])


def train_trl(home: Path, tune: str, seed: int, steps: int, out: Path) -> None:
    """TRL's RewardTrainer on the pairs of rmexp's steps, in their order."""
    import transformers

    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register

    register()
    composed = compose_config(words(home, tune, seed, steps))
    tokenizer = transformers.AutoTokenizer.from_pretrained(home / "start")
    build(composed.template).install(tokenizer)
    data = build(composed.data)
    data.prepare(tokenizer, seed, lambda *_: None)
    made = judged_pairs(data)
    pairs = [flat(made(row) for row in step) for step in islice(data.plan().steps(0), steps)]
    tokenizer.save_pretrained(home / "tokenizer")
    trainer = trl_trainer(
        home / "start", home / "tokenizer", flat(pairs), home / "trl",
        bf16=True, max_steps=steps, learning_rate=LEARNING_RATE, gradient_checkpointing=False,
    )  # fmt: skip
    freeze(trainer.model, TRAINS[tune])
    trainer.train()
    trainer.save_model(str(out))


def lines() -> list[dict[str, Any]]:
    """Measurements so far."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def write() -> None:
    """docs/accuracy.md."""
    found = lines()
    shown = "{:.3f} [{:.3f}, {:.3f}]".format
    cells = [
        [line["tune"], str(line["steps"]), str(line["seed"]),
         *(shown(*line["accuracy"][side]) for side in SIDES),
         f"{line['alike']:.3f}", f"{line['correlation']:.4f}"]
        for line in found
    ]  # fmt: skip
    columns = "what trains|steps|seed|rmexp|TRL|pairs ranked alike|correlation of reward gaps"
    means = []
    for tune in dict.fromkeys(line["tune"] for line in found):
        own = [line["accuracy"] for line in found if line["tune"] == tune]
        rmexp, trl = (np.mean([one[side][0] for one in own]) for side in SIDES)
        means.append(f"- tune={tune}, mean of {len(own)}: rmexp {rmexp:.3f}, TRL {trl:.3f}.")
    PAGE.write_text(
        f"""# Accuracy compared with TRL, in bf16

```bash
python -m bench.accuracy
```

SmolLM2-135M on HH harmless, lr {LEARNING_RATE:g}, steps of {PAIRS} pairs: rmexp and TRL train from
the same weights on the same pairs in the same order. The same part of the model trains: `full`,
`last_layers` (four layers and the final norm) or `head`. Accuracy is on {HELD_OUT} held-out pairs,
with its 95% interval. Rows are drawn from all other pairs or, where most of the model is frozen,
from {FROZEN_ROWS} pairs.

{chr(10).join(table(columns, cells))}

{chr(10).join(means)}
"""
    )


if __name__ == "__main__":
    if os.environ.get("RMEXP_ACCURACY_SIDE") == "trl":
        place, part, order, count, kept = sys.argv[1:]
        train_trl(Path(place), part, int(order), int(count), Path(kept))
    else:
        main()

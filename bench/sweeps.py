"""Whole sweeps by the real command line beside cold runs of TRL, from start to end of a process.

python -m bench sweeps-full|sweeps-last-layers|sweeps-head|sweeps-heads200 [--runs N]
[--trl-steps N] [--accuracy]. What is measured is a line of sweeps.jsonl; to measure it again,
delete that. `python -m bench.sweeps prepare|trl ...` are the processes of one measurement.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.prepare import RATE, judged_pairs, start
from bench.rounds import HOME
from bench.sides import trl_trainer
from bench.works import PAIRS, QUICK_LAYERS, ROOT, write_hh

SWEEPS = HOME / "sweeps.jsonl"
ROWS, HELD_OUT = 400, 300
"""Pairs that are trained on; pairs that both sides are judged on, where that is asked for."""

QUICK_ROWS = 160
RUNS = 12
WARMUP = 2
"""TRL warm-up steps, not used to extrapolate a whole run."""

LOSSES, MARGINS, SEEDS = ("bradley_terry", "contrastive"), ("0.5", "1.0", "2.0"), ("0", "1")
GRIDS = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 1, 2), 6: (2, 3, 1), RUNS: (2, 3, 2)}
"""Runs of a sweep -> how many of the losses, margins and seeds."""

HEADS = (
    f"loss={','.join(LOSSES)}",
    f"loss.margin={','.join(f'{0.2 * n:.1f}' for n in range(1, 11))}",
    f"seed={','.join(map(str, range(10)))}",
)
HEADS_SECONDS = 60.0
OVERHEAD = 0.10

Process = Callable[..., Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep that is measured.

    title    what trains
    words    of rmexp's command
    epochs   over the rows
    floor    of the ratio; None: there is no other side
    layers   that train in TRL, from the top; None: all. The head always does.
    rows     pairs that are trained on
    kept     layers that the model keeps, from the first; None: all
    """

    title: str
    words: tuple[str, ...]
    epochs: int
    floor: float | None = None
    layers: int | None = None
    rows: int = ROWS
    kept: int | None = None
    precision: str = "bf16-mixed"


WORKS = {
    "sweeps-full": Sweep("everything", ("tune=full",), 1, 3.5),
    "sweeps-last-layers": Sweep(
        "the last 4 layers, norm and head", ("tune=last_layers", "tune.n=4"), 3, 8, 4
    ),
    "sweeps-head": Sweep("the head", ("tune=head",), 3, 50, 0),
    "sweeps-heads200": Sweep("200 further heads", ("tune=head",), 3),
}
ALL = WORKS | {
    "quick-sweep": replace(
        WORKS["sweeps-head"], rows=QUICK_ROWS, kept=QUICK_LAYERS, precision="auto"
    )
}
"""With the one of `python -m bench quick`."""


def measure(
    name: str, folder: Path, process: Process, runs: int, trl_steps: int | None, judged: bool
) -> dict[str, Any]:
    """One sweep and what stands against it; `folder` may be that of others, too.

    Args:
        runs: that are measured of the sweep, of `GRIDS`; where heads train together, all are.
        trl_steps: of TRL's that are timed; None: its whole run.
        judged: judge a run of both sides with the same setting on held-out pairs.
    """
    if not (folder / "sweep").is_dir():
        process("bench.sweeps", "prepare", name, folder)
    work = ALL[name]
    if work.floor is None:
        command(folder, folder / "warm", name, "loss=bradley_terry", "seed=0,1")
        seconds, _ = command(folder, folder / "warm", name, *HEADS)
        return {"rmexp": {"seconds": seconds, "jobs": results(folder / "warm", 200)}}
    ours = sweep(name, folder, RUNS if work.layers == 0 else runs)
    print(f"{name}  rmexp  {ours['seconds']:.0f} s for {RUNS} runs", flush=True)
    began = time.time()
    theirs = process("bench.sweeps", "trl", name, folder, trl_steps or 0, began, int(judged))
    print(f"{name}  TRL    {theirs['seconds']:.0f} s a run", flush=True)
    trained = [ours["jobs"][key] for key in ("steps", "trainable")]
    if trained != [theirs["steps"], theirs["trainable"]]:
        sys.exit(f"bench: {name} trains {trained} steps and parameters, TRL others: {theirs}")
    found = {"rmexp": ours, "trl": theirs}
    return found | ({"accuracy": judge(name, folder)} if judged else {})


def words(folder: Path, name: str) -> list[str]:
    """rmexp's command but for the grid."""
    data, work = folder / "sweep", ALL[name]
    return [
        "data=hh_rlhf", f"data.path={data}/rows.jsonl", f"data.val_path={data}/val.jsonl",
        "data.test_share=0", f"data.batch_size={PAIRS}", "model=hf", f"model.path={folder}/start",
        "logger=none", f"trainer.precision={work.precision}", f"trainer.max_epochs={work.epochs}",
        "trainer.validations=1", "trainer.keep=none", "sweep.export=none", f"optim.lr={RATE}",
        "optim.head_lr=null", "optim.schedule=constant", "optim.warmup=0", *work.words,
    ]  # fmt: skip


def precision(name: str) -> str:
    """What both sides compute in."""
    from rmexp.core.devices import resolve_precision  # imports torch

    return resolve_precision(ALL[name].precision, "cpu")


def command(folder: Path, home: Path, name: str, *more: str) -> tuple[float, str]:
    """Run `python -m rmexp -m` in `home`, with its own cache; seconds and output.

    From the start of its process to its end, whatever it does.
    """
    home.mkdir(exist_ok=True)
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "RMEXP_CACHE": f"{home}/cache"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rmexp", "-m", *words(folder, name), *more],
        cwd=home, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"bench: {name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout


def results(home: Path, count: int) -> dict[str, Any]:
    """What the result.json of the newest sweep's jobs say: seconds in order, and what is common."""
    newest = max(home.glob("outputs/sweeps/*"), key=lambda path: path.stat().st_mtime)
    read = [json.loads(file.read_text()) for file in newest.glob("*/result.json")]
    assert len(read) == count, f"{newest} has {len(read)} jobs, not {count}"
    read.sort(key=lambda result: int(result["name"].split("-")[0]))
    found = {key: [result[key] for result in read] for key in ("seconds", "training_seconds")}
    return found | {key: read[0][key] for key in ("steps", "trainable")}


def sweep(name: str, folder: Path, count: int) -> dict[str, Any]:
    """The seconds of a sweep of RUNS runs, nothing of it known before."""
    options = zip(("loss", "loss.margin", "seed"), (LOSSES, MARGINS, SEEDS), strict=True)
    grid = [
        f"{key}={','.join(values[:number])}"
        for (key, values), number in zip(options, GRIDS[count], strict=True)
    ]
    home = folder / name
    measured, said = command(folder, home, name, *grid)
    jobs = results(home, count)
    kept = re.search(r"^features: .*, ([\d.]+) s$", said, re.MULTILINE)
    features = float(kept[1]) if kept else 0.0
    # Those that were left out would have been like the last ones: the first warmed up.
    like = jobs["seconds"][1:] or jobs["seconds"]
    more = (RUNS - count) * sum(like) / len(like)
    working = features + sum(jobs["training_seconds"]) * RUNS / count
    return {
        "seconds": measured + more,
        "measured_runs": count,
        "measured_seconds": round(measured, 1),
        "features_seconds": features,
        "overhead": round((measured + more) / working - 1, 4),
        "jobs": jobs,
    }


def judge(name: str, folder: Path) -> dict[str, Any]:
    """Accuracy of both sides on the held-out pairs, after the same training."""
    home, test = folder / name, folder / "sweep/test.jsonl"
    seen = ("loss=bradley_terry", "loss.margin=0", f"data.test_path={test}", "seed=0")
    command(folder, home, name, *seen, "name=same", "hydra.sweep.dir=same")
    evaluated = [
        "-m", "rmexp", "task=evaluate", f"checkpoint={home}/trl-model", "data=hh_rlhf",
        f"data.path={test}", "logger=none", "trainer.precision=bf16-mixed", "name=trl",
        "hydra.run.dir=trl-judged",
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(ROOT), "RMEXP_CACHE": f"{home}/cache"}
    subprocess.run(
        [sys.executable, *evaluated], cwd=home, env=os.environ | environment, check=True,
        capture_output=True,
    )  # fmt: skip
    (ours,) = (home / "same").glob("*/result.json")
    files = {"rmexp": ours, "trl": home / "trl-judged/result.json"}
    return {side: _accuracy(json.loads(file.read_text())) for side, file in files.items()}


def _accuracy(result: Mapping[str, Any]) -> list[float]:
    metrics = result["metrics"]
    (name,) = (n for n in metrics if re.fullmatch(r"(?!val/)[^/]+/accuracy", n))
    return [metrics[f"{name}{end}"] for end in ("", "_low", "_high")]


# ------------------------------------------------------------------ processes
def prepare(name: str, folder: Path) -> None:
    """Write the weights, the rows of both sides, and TRL's pairs in rmexp's order."""
    from rmexp.config.compose import build, compose_config

    home, work = folder / "sweep", ALL[name]
    tokenizer = start(folder, work.kept)
    home.mkdir()
    write_hh(home, tokenizer)
    lines = (home / "rows.jsonl").read_text().splitlines(keepends=True)
    for file, count in (("rows", work.rows), ("val", 1), ("test", HELD_OUT)):
        (home / f"{file}.jsonl").write_text("".join(lines[:count]))
        del lines[:count]
    composed = compose_config([*words(folder, name), f"cache={folder}/prepared"])
    build(composed.template).install(tokenizer)
    tokenizer.save_pretrained(home / "tokenizer")
    data = build(composed.data)
    data.prepare(tokenizer, 0, lambda *_: None)
    made = judged_pairs(data)
    pairs = [pair for step in data.plan().steps(0) for row in step for pair in made(int(row))]
    (home / "pairs.json").write_text(json.dumps(pairs))


def trl(name: str, folder: Path, timed: int, began: float, save: bool) -> dict[str, Any]:
    """A run of TRL's with its defaults, since the start of this process's parent's clock.

    With `timed`, only these steps run after the warm-up; the rest is extrapolated by the tokens
    that TRL pushes, as its steps vary threefold with their padding.
    """
    from transformers import TrainerCallback

    clock: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.append(time.time())
            control.should_training_stop |= bool(timed) and len(clock) == WARMUP + timed

    work, home = ALL[name], folder / "sweep"
    pairs = json.loads((home / "pairs.json").read_text())
    trainer = trl_trainer(
        folder / "start", home / "tokenizer", pairs, folder / name / "trl",
        bf16=precision(name) == "bf16-mixed", num_train_epochs=work.epochs,
    )  # fmt: skip
    trains = freeze(trainer.model, work.layers)
    trainer.add_callback(Clock())
    trainer.train()
    ended = time.time()
    if save:
        trainer.save_model(str(folder / name / "trl-model"))
    steps = math.ceil(len(pairs) / PAIRS) * work.epochs
    found = {"seconds": ended - began, "steps": steps, "trainable": trains, "timed_steps": steps}
    if timed and WARMUP + timed < steps:
        pushed = [pushes(pairs[n : n + PAIRS]) for n in range(0, len(pairs), PAIRS)] * work.epochs
        rate = (clock[-1] - clock[WARMUP - 1]) / sum(pushed[WARMUP : WARMUP + timed])
        whole = clock[WARMUP - 1] - began + rate * sum(pushed[WARMUP:])
        found |= {"seconds": whole, "timed_steps": timed}
    return found | {"until_first_step_ends": round(clock[0] - began, 1)}


def pushes(pairs: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a micro-batch of TRL's, padding included."""
    lengths = [n for pair in pairs for n in pair["lengths"]]
    return len(lengths) * max(lengths)


def freeze(model: Any, layers: int | None) -> int:
    """Let what rmexp trains train: the last `layers`, with any of them the norm, and the head."""
    if layers is not None:
        model.requires_grad_(False)
        below = [model.model.norm, *model.model.layers[-layers:]] if layers else []
        for part in (model.score, *below):
            part.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "prepare":
        prepare(rest[0], Path(rest[1]))
        print("\n{}")
    else:
        work_name, place, steps_timed, since, keeps = rest
        measured = trl(work_name, Path(place), int(steps_timed), float(since), keeps == "1")
        print("\n" + json.dumps(measured), flush=True)
        os._exit(0)

"""One side of a training work, in a process of its own: the last line that it prints is JSON.

python -m bench.sides rmexp|trl|trl-default|trl-by-length WORK FOLDER STEPS WARMUP
Scoring works have the sides rmexp|padded|padded-sorted; see scoring.py.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.prepare import LONGEST, RATE, overrides
from bench.works import PAIRS, WORKS


def rmexp(name: str, folder: Path, steps: int, warmup: int) -> None:
    """The real command line; the clock is read after every step."""
    from rmexp.__main__ import main
    from rmexp.training.callbacks import TrainingProgress

    before = TrainingProgress.on_train_batch_end
    clock: list[float] = []
    seen: list[list[Any]] = []

    def timed(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        clock.append(time.perf_counter())
        seen.append(batch.batches)
        before(self, trainer, module, outputs, batch, index)
        if len(clock) == steps:  # validation and export are not compared
            memory = peak_memory_gib()
            pairs = [sum(len(b.better_P) for b in step) for step in seen[warmup:]]
            figures = rates(clock[warmup - 1 :], pairs) | {
                "losses": losses(Path("outputs")),
                "peak_memory_gib": memory,
            }
            dtype = WORKS[name].precision
            finish(figures | goodput(module.model, seen[warmup:], sum(figures["seconds"]), dtype))

    TrainingProgress.on_train_batch_end = timed  # type: ignore[method-assign]
    os.chdir(folder / name)
    sys.argv = ["rmexp", *overrides(name, folder, steps)]
    main()


def goodput(model: Any, steps: list[list[Any]], seconds: float, precision: str) -> dict[str, Any]:
    """Distinct tokens of each step, and the share of the matmuls' peak that they were done at."""
    import torch

    from bench.peak import gemm_peak, step_flops

    sizes = [[sum(tree.size for tree in laid_out(batch)) for batch in step] for step in steps]
    flops = sum(step_flops(model, [t for batch in step for t in laid_out(batch)]) for step in steps)
    packed = int(median(size for step in sizes for size in step))
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    peak = gemm_peak(model, packed, dtype)
    return {
        "tokens": [sum(step) for step in sizes],
        "packed_tokens": packed,
        "teraflops": round(flops / 1e12, 4),
        "gemm_peak_teraflops": round(peak / 1e12, 4),
        "goodput_mfu": round(flops / seconds / peak, 4),
    }


def laid_out(batch: Any) -> list[Any]:
    """The trees of a micro-batch; padded rows are trees of one branch."""
    from rmexp.batching.prefix_tree import Tree

    if batch.trees is not None:
        return batch.trees
    ends = dict(zip(batch.row_N.tolist(), batch.end_N.tolist(), strict=True))
    return [Tree(0, (end + 1,)) for end in ends.values()]


def losses(outputs: Path) -> list[float]:
    """train/loss of the newest run."""
    newest = max(outputs.rglob("metrics.jsonl"), key=lambda f: f.stat().st_mtime)
    lines = map(json.loads, newest.read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def trl(side: str, name: str, folder: Path) -> None:
    """TRL's RewardTrainer on the prepared micro-batches; the clock is read after each."""
    from trl import RewardTrainer

    work, home = WORKS[name], folder / name
    stored = json.loads(
        (home / f"{'trl-by-length' if side == 'trl-by-length' else 'trl'}.json").read_text()
    )
    total, warmup = len(stored["batches"]), stored["warmup"]
    clock: list[float] = []
    found: list[float] = []

    class Timed(RewardTrainer):
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            found.append(loss.item())
            return loss

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            # An optimizer step lies between two readings, as many in all as there were to do.
            clock.append(time.perf_counter())
            if len(clock) == total:
                more = {key: stored[key] for key in ("padding", "epoch_padding") if key in stored}
                memory = {"peak_memory_gib": peak_memory_gib()}
                finish(rates(clock[warmup - 1 :]) | {"losses": found} | memory | more)
            return loss

    trl_trainer(
        folder / "start",
        home / "tokenizer",
        [pair for batch in stored["batches"] for pair in batch],
        home / "trl",
        trainer=Timed,
        gradient_accumulation_steps=work.accumulate,
        max_steps=math.ceil(total / work.accumulate),
        bf16=work.precision == "bf16-mixed",
        **({} if side == "trl-default" else {"gradient_checkpointing": False}),
    ).train()


def trl_trainer(
    model: Path, tokenizer: Path, pairs: Sequence[Any], out: Path, trainer: Any = None, **more: Any
) -> Any:
    """TRL's RewardTrainer with rmexp's optimizer, PAIRS pairs a micro-batch in their order."""
    import datasets
    import transformers
    from trl import RewardConfig, RewardTrainer

    keys = ("prompt", "chosen", "rejected")
    settings = {
        "per_device_train_batch_size": PAIRS,
        "max_length": LONGEST,
        "train_sampling_strategy": "sequential",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32"},
    }
    return (trainer or RewardTrainer)(
        model=str(model),
        processing_class=transformers.AutoTokenizer.from_pretrained(tokenizer),
        args=RewardConfig(output_dir=str(out), **{**settings, **more}),
        train_dataset=datasets.Dataset.from_list([{k: pair[k] for k in keys} for pair in pairs]),
    )


def rates(clock: Sequence[float], pairs: list[int] | None = None) -> dict[str, Any]:
    """Pairs a second over all of a window, and its steps; PAIRS a step unless `pairs` says."""
    seconds = [round(after - before, 4) for before, after in pairwise(clock)]
    counts = pairs or [PAIRS] * len(seconds)
    figures = {"pairs_per_second": sum(counts) / (clock[-1] - clock[0]), "seconds": seconds}
    return figures | {"pairs": sum(counts)}


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def finish(figures: dict[str, Any]) -> None:
    """Print the figures of the round and leave at once."""
    print("\n" + json.dumps(figures), flush=True)
    os._exit(0)


def main() -> None:
    """Run the side that the command line names."""
    side, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    timed, warmup = int(sys.argv[4]), int(sys.argv[5])
    if WORKS[name].unit == "responses":
        from bench.scoring import score

        score(side, name, folder, timed, warmup)
    elif side == "rmexp":
        rmexp(name, folder, timed + warmup, warmup)
    else:
        trl(side, name, folder)


if __name__ == "__main__":
    main()

"""One side of a work, in a process of its own: the last line that it prints is JSON.

python -m bench.sides rmexp|trl|trl-default|trl-by-length WORK FOLDER STEPS WARMUP [turns]
Scoring works have the sides rmexp|padded|padded-sorted; see scoring.py. With `turns` the steps are
asked for by lines of standard input, a JSON line each; see quick.py.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.prepare import LONGEST, RATE, overrides
from bench.works import ALL, PAIRS, Work


class Steps:
    """The seconds of a side's steps: the warm-up, then the timed ones.

    With `turns`, sides that run at the same time wait for one another: after its warm-up, and after
    every turn, a side prints its figures and waits for the number of steps of its next turn.
    """

    def __init__(self, timed: int, warmup: int, turns: bool) -> None:
        self.turns = turns
        self.until, self.turn = (warmup, warmup) if turns else (warmup + timed, timed)
        self.seconds: list[float] = []
        self.since = time.perf_counter()

    def begin(self) -> None:
        """Start the clock of the first step; later ones begin where the one before ends."""
        self.since = self.since if self.seconds else time.perf_counter()

    def end(self) -> slice | None:
        """Read the clock after a step: the steps of the turn, if this one is its last."""
        now = time.perf_counter()
        self.seconds.append(round(now - self.since, 4))
        self.since = now
        done = len(self.seconds)
        return slice(done - self.turn, done) if done == self.until else None

    def report(self, figures: dict[str, Any]) -> None:
        """Print a turn's figures and wait for the next one; without one, leave at once."""
        print("\n" + json.dumps(figures), flush=True)
        asked = sys.stdin.readline().strip() if self.turns else ""
        if not asked:
            os._exit(0)
        self.turn = int(asked)
        self.until += self.turn
        self.since = time.perf_counter()


def rmexp(name: str, folder: Path, total: int, steps: Steps) -> None:
    """The real command line; the clock is read after every step."""
    from rmexp.__main__ import main
    from rmexp.training.callbacks import TrainingProgress

    before, start = TrainingProgress.on_train_batch_end, TrainingProgress.on_train_start
    tokens = json.loads((folder / name / "tokens.json").read_text())
    seen: list[list[Any]] = []

    def timed(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        turn = steps.end()
        seen.append(batch.batches)
        before(self, trainer, module, outputs, batch, index)
        if turn is None:
            return
        pairs = [sum(len(b.better_P) for b in step) for step in seen[turn]]
        figures = rates(steps.seconds[turn], pairs, tokens[turn]) | {
            "losses": losses(Path("outputs")),
            "peak_memory_gib": peak_memory_gib(),
        }
        if not steps.turns:  # validation and export are not compared
            figures |= goodput(module.model, seen[turn], sum(figures["seconds"]), ALL[name])
        steps.report(figures)

    def started(self: Any, trainer: Any, module: Any) -> None:
        start(self, trainer, module)
        steps.begin()

    TrainingProgress.on_train_batch_end = timed  # type: ignore[method-assign]
    TrainingProgress.on_train_start = started  # type: ignore[method-assign]
    os.chdir(folder / name)
    sys.argv = ["rmexp", *overrides(name, folder, total)]
    main()


def goodput(model: Any, steps: list[list[Any]], seconds: float, work: Work) -> dict[str, Any]:
    """Distinct tokens of each step, and the share of the matmuls' peak that they were done at."""
    import torch

    from bench.peak import gemm_peak, step_flops

    sizes = [[sum(tree.size for tree in laid_out(batch)) for batch in step] for step in steps]
    flops = sum(step_flops(model, [t for batch in step for t in laid_out(batch)]) for step in steps)
    packed = int(median(size for step in sizes for size in step))
    dtype = torch.bfloat16 if work.autocast() else torch.float32
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


def trl(side: str, name: str, folder: Path, turns: bool) -> None:
    """TRL's RewardTrainer on the prepared micro-batches; the clock is read after each."""
    from trl import RewardTrainer

    work, home = ALL[name], folder / name
    file = "trl-by-length" if side == "trl-by-length" else "trl"
    stored = json.loads((home / f"{file}.json").read_text())
    batches = stored["batches"]
    tokens = [sum(sum(pair["lengths"]) for pair in batch) for batch in batches]
    warmup = 1 if turns else stored["warmup"]
    steps = Steps(len(batches) - warmup, warmup, turns)
    found: list[float] = []

    class Timed(RewardTrainer):
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            found.append(loss.item())
            return loss

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            steps.begin()
            loss = super().training_step(*arguments, **named)
            # An optimizer step lies between two readings, as many in all as there were to do.
            if turn := steps.end():
                more = {key: stored[key] for key in ("padding", "epoch_padding") if key in stored}
                more |= {"losses": found, "peak_memory_gib": peak_memory_gib()}
                seconds = steps.seconds[turn]
                steps.report(rates(seconds, [PAIRS] * len(seconds), tokens[turn]) | more)
            return loss

    trl_trainer(
        folder / "start",
        home / "tokenizer",
        [pair for batch in batches for pair in batch],
        home / "trl",
        trainer=Timed,
        gradient_accumulation_steps=work.accumulate,
        max_steps=math.ceil(len(batches) / work.accumulate),
        bf16=work.autocast(),
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


def rates(seconds: Sequence[float], pairs: Sequence[int], tokens: Sequence[int]) -> dict[str, Any]:
    """Pairs a second over all of a turn, and its steps; `tokens` are of the pairs, unpadded."""
    figures = {"pairs_per_second": sum(pairs) / sum(seconds), "seconds": list(seconds)}
    return figures | {"pairs": sum(pairs), "pair_tokens": sum(tokens)}


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
    turns = sys.argv[6:] == ["turns"]
    steps = Steps(timed, warmup, turns)
    if ALL[name].unit == "responses":
        from bench.scoring import score

        score(side, name, folder, steps)
    elif side == "rmexp":
        rmexp(name, folder, timed + warmup, steps)
    else:
        trl(side, name, folder, turns)


if __name__ == "__main__":
    main()

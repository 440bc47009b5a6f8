"""One side of the benchmark, in a process of its own: prints a line of JSON at its end.

python -m bench.sides prepare FOLDER STEPS
python -m bench.sides rmexp|rmexp-padded|trl|trl-default|trl-by-length FOLDER STEPS WARMUP
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

PAIRS_A_STEP = 8
RATE = 1e-5
HH = (
    Path(__file__).parent.parent.parent / "shared/data/hh_rlhf_harmless_base_test/raw/test.jsonl.gz"
)


def overrides(folder: Path, steps: int) -> list[str]:
    """The rmexp command of a round; `prepare` and the timed side use the same."""
    return [
        "model=hf", f"model.path={folder / 'start'}", "data=hh_rlhf", f"data.path={HH}",
        "loss=bradley_terry", "logger=none", f"trainer.max_steps={steps}", "trainer.validations=1",
        f"optim.lr={RATE}", "optim.head_lr=null", "optim.schedule=constant", "optim.warmup=0",
        f"data.batch_size={PAIRS_A_STEP}", "trainer.keep=none",
    ]  # fmt: skip


def prepare(folder: Path, steps: int) -> dict[str, Any]:
    """Write the starting weights, and the pairs in the order in which rmexp will take them."""
    from rmexp import config
    from rmexp.batches import shuffled_steps
    from rmexp.job import build
    from rmexp.reading import RowReport, read_comparisons
    from rmexp.templates import Template

    config.register()
    source = build(config.compose_config([]).model)
    tokenizer = source.load_tokenizer()
    Template().install(tokenizer)
    source.load_model(tokenizer, 0).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    data = build(config.compose_config(overrides(folder, steps)).data)
    data.prepare(tokenizer, 0, lambda *_: None)
    wanted = [
        data.rows[index]["id"]
        for step in shuffled_steps(data.splits["train"], PAIRS_A_STEP, 0, 0)[:steps]
        for index in step
    ]
    rows = {}
    for comparison in read_comparisons(data.recipe.paths, data.recipe.parse, RowReport()):
        chosen, rejected = ([dict(m) for m in r] for r in comparison.responses)
        prompt = [dict(m) for m in comparison.prompt]
        rows[comparison.id] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(rows[name]) + "\n" for name in wanted))
    return {}


def rmexp(folder: Path, steps: int, clock: list[float], *more: str) -> list[float]:
    """The real command line; the clock is read after every step."""
    from rmexp.__main__ import main
    from rmexp.progress import TrainingProgress

    before = TrainingProgress.on_train_batch_end

    def timed(self: Any, *arguments: Any) -> None:
        clock.append(time.perf_counter())
        before(self, *arguments)
        if len(clock) == steps:  # the timed part is over: validation and export are not compared
            report(folder, clock, losses(Path("outputs")))

    TrainingProgress.on_train_batch_end = timed
    os.chdir(folder)
    sys.argv = ["rmexp", *overrides(folder, steps), *more]
    main()
    return []


def losses(outputs: Path) -> list[float]:
    """train/loss of the newest run."""
    newest = max(outputs.rglob("metrics.jsonl"), key=lambda f: f.stat().st_mtime)
    lines = map(json.loads, newest.read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def trl(folder: Path, steps: int, clock: list[float], **settings: Any) -> None:
    """TRL's RewardTrainer on the same pairs in the same order."""
    import datasets
    import transformers
    from trl import RewardConfig, RewardTrainer

    from rmexp.training import bf16_is_fast

    found: list[float] = []

    class Timed(RewardTrainer):
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            found.append(loss.item())
            return loss

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.append(time.perf_counter())

    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    by_length = settings.get("train_sampling_strategy") == "group_by_length"
    if by_length:
        for row in rows:
            row["length"] = len(json.dumps(row))
    Timed(
        model=str(folder / "start"),
        args=RewardConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=PAIRS_A_STEP,
            max_steps=steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=bf16_is_fast("cpu"),
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=not by_length,
            model_init_kwargs={"dtype": "float32"},
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        callbacks=[Clock()],
    ).train()
    report(folder, clock, found)


WARMUP = 0


def report(folder: Path, clock: list[float], found: list[float]) -> None:
    """Print the figures of the round and leave."""
    timed = clock[WARMUP - 1 :]
    figures = {
        "pairs_per_second": (len(timed) - 1) * PAIRS_A_STEP / (timed[-1] - timed[0]),
        "losses": found,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print("\n" + json.dumps(figures), flush=True)
    os._exit(0)


def main() -> None:
    """Run the side that the command line names."""
    global WARMUP
    side, folder, steps, WARMUP = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    clock: list[float] = []
    if side == "prepare":
        prepare(folder, steps)
    elif side.startswith("rmexp"):
        rmexp(folder, steps, clock, *(["model.layout=padded"] if side == "rmexp-padded" else []))
    elif side == "trl-by-length":
        trl(
            folder,
            steps,
            clock,
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
        )
    else:
        off = side == "trl"
        checkpointing = {"gradient_checkpointing": False} if off else {}
        trl(folder, steps, clock, train_sampling_strategy="sequential", **checkpointing)


if __name__ == "__main__":
    main()

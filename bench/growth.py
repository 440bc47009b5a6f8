"""Growth of cost with length, candidates, rows and steps, and with sharing and padding.

python -m bench.growth start|length|candidates|shared|padding|memory FOLDER
python -m bench.growth cold|warm FOLDER ROWS WORDS

Each in a process of its own; the last line that it prints is JSON. Both layouts are rmexp's own:
the padded one stands in for TRL, which would take hours.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.prepare import start
from bench.sides import finish

LENGTHS = (256, 512, 1024, 2048, 4096)
CANDIDATES = (2, 4, 8, 16)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
PADDING = (0.0, 0.25, 0.5, 0.75)
ROWS = ((1_000, 100), (10_000, 100), (100_000, 100), (10_000, 800))
"""Synthetic rows, and words in each."""

SECONDS = 3.0
"""Seconds spent on repeats of a point; the first repeat counts only if it is the only one."""

STEPS, SAMPLED = 500, 50


def row(number: int, trunk: int, branches: Sequence[int], draw: random.Random) -> dict[str, Any]:
    """A comparison of random tokens as `Collate` takes it; the first response is the best."""
    shared = [draw.randrange(1000, 40000) for _ in range(trunk)]
    tokens = [[*shared, *(draw.randrange(1000, 40000) for _ in range(n))] for n in branches]
    pairs = [[0, k, 1] for k in range(1, len(branches))]
    return {
        "tokens": tokens,
        "pairs": pairs,
        "margins": [float("nan")] * len(pairs),
        "weights": [1.0] * len(pairs),
        "ratings": [float("nan")] * len(tokens),
        "row": number,
        "prompt_key": str(number),
    }


class Bench:
    """SmolLM2 and a way to time forward and backward of a step in either layout."""

    def __init__(self, folder: Path) -> None:
        import transformers
        from omegaconf import OmegaConf

        from rmexp.config.compose import build, option_values
        from rmexp.core.devices import bf16_is_fast
        from rmexp.models.layout_probe import choose_layout, restrict_final_layer

        values = option_values("model/hf") | {"path": str(folder / "start")}
        source = build(OmegaConf.create(values))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "start")
        self.model = source.load_model(tokenizer, 0)
        choose_layout(self.model, "tree")
        restrict_final_layer(self.model)
        self.model.train()
        self.bf16 = bf16_is_fast("cpu")
        self.draw = random.Random(0)

    def rows(self, shapes: Sequence[tuple[int, Sequence[int]]]) -> list[dict[str, Any]]:
        """Comparisons of (trunk, branches) tokens."""
        return [row(n, trunk, branches, self.draw) for n, (trunk, branches) in enumerate(shapes)]

    def both(self, rows: list[dict[str, Any]], most: int = 4096) -> dict[str, float]:
        """Seconds of the step of these rows in both layouts."""
        return {
            "tree": self._seconds(rows, "tree", 4096),
            "padded": self._seconds(rows, "padded", most),
        }

    def _seconds(self, rows: list[dict[str, Any]], layout: Any, most: int) -> float:
        import torch
        from omegaconf import OmegaConf

        from rmexp.batching.collate import BatchLayout, Collate
        from rmexp.config.compose import build, option_values
        from rmexp.models.reward_model import compute_rewards
        from rmexp.training.step_terms import normalise_terms

        batches = Collate(0, most, BatchLayout(layout))(rows).batches
        loss = build(OmegaConf.create(option_values("loss/bradley_terry")))
        totals = loss.total_weights(batches)

        def step() -> None:
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    rewards_N = compute_rewards(self.model, batch)
                normalise_terms(loss(rewards_N, batch), totals).backward()

        found = repeated(step)
        self.model.zero_grad()
        return found


def repeated(step: Callable[[], None]) -> float:
    """Median seconds."""
    found: list[float] = []
    while not found or sum(found) < SECONDS:
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return median(found[1:] or found)


def length(folder: Path) -> list[dict[str, float]]:
    """Seconds a pair against its length; three quarters of it are shared."""
    bench, found = Bench(folder), []
    for size in LENGTHS:
        pairs = max(1, 1024 // size)
        times = bench.both(bench.rows([(size * 3 // 4, [size // 4] * 2)] * pairs))
        found.append({"tokens": size} | {k: v / pairs for k, v in times.items()})
    return found


def candidates(folder: Path) -> list[dict[str, float]]:
    """Seconds a response against how many there are; 16 at a time, 192 tokens before 64 own."""
    bench, found = Bench(folder), []
    for k in CANDIDATES:
        times = bench.both(bench.rows([(192, [64] * k)] * (16 // k)))
        found.append({"candidates": k} | {name: v / 16 for name, v in times.items()})
    return found


def shared(folder: Path) -> list[dict[str, float]]:
    """Pairs a second against the share of 256 tokens shared by two responses."""
    bench, found = Bench(folder), []
    for share in SHARES:
        trunk = int(256 * share)
        times = bench.both(bench.rows([(trunk, [256 - trunk] * 2)] * 4))
        found.append({"share": share} | {name: 4 / v for name, v in times.items()})
    return found


def padding(folder: Path) -> list[dict[str, float]]:
    """Pairs a second against the share of padding where eight pairs are padded to their longest.

    A pair has 128 tokens a side on average, however they are dealt out: one long, seven short.
    Nothing is shared. The padded layout takes them as one batch, as TRL does.
    """
    bench, found = Bench(folder), []
    for share in PADDING:
        long = round(128 / (1 - share))
        sizes = [long, *[round((8 * 128 - long) / 7)] * 7]
        times = bench.both(bench.rows([(0, [size, size]) for size in sizes]), most=10**9)
        found.append({"share": share} | {name: 8 / v for name, v in times.items()})
    return found


def words(number: int, draw: random.Random) -> str:
    """Random lower-case words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(number))


def write_rows(file: Path, count: int, size: int) -> None:
    """Pairs of about `size` words: 60% prompt, the rest two responses."""
    draw = random.Random(0)
    # A few hundred texts cut at random places: drawing every word would take minutes.
    pool = [words(size, draw) for _ in range(200)]

    def text(share: float) -> str:
        return draw.choice(pool)[: int(6 * size * share * draw.uniform(0.5, 1.5))]

    with open(file, "w") as stream:
        for number in range(count):
            row = {"prompt": f"{number} {text(0.6)}", "chosen": f"a {text(0.2)}"}
            stream.write(json.dumps(row | {"rejected": f"b {text(0.2)}"}) + "\n")


def resident() -> dict[str, float]:
    """MiB of this process in memory, and how many of them are pages of files."""
    pages = list(map(int, Path("/proc/self/statm").read_text().split()))
    scale = os.sysconf("SC_PAGE_SIZE") / 2**20
    return {"resident": round(pages[1] * scale), "of_files": round(pages[2] * scale)}


def rows(folder: Path, job: str, count: int, size: int) -> dict[str, float]:
    """Start-up: tokenising (`cold`), or what a second start does (`warm`) up to its first step."""
    from rmexp.batching.collate import BatchLayout
    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register

    home = folder / "rows"
    register()
    composed = compose_config(
        ["model=hf", f"model.path={folder / 'start'}", f"cache={home}",
         "data=jsonl", f"data.path={home / f'{count}-{size}.jsonl'}", "data.max_length=8192"]
    )  # fmt: skip
    tokenizer, data = build(composed.model).load_tokenizer(), build(composed.data)
    before, started = resident(), time.perf_counter()
    data.prepare(tokenizer, 0, lambda *_: None)
    prepared = time.perf_counter()
    if data.from_cache != (job == "warm"):
        sys.exit(f"bench: {job}, but from_cache is {data.from_cache}")
    if job == "cold":
        return {"tokenise_s": prepared - started}
    plan = data.plan()
    plan.steps(0)
    planned = time.perf_counter()
    next(iter(data.train_loader(BatchLayout("tree"))))
    return {
        "start_s": prepared - started,
        "plan_s": planned - prepared,
        "before_mib": before["resident"],
        "resident_mib": resident()["resident"],
        "of_files_mib": resident()["of_files"],
    }


def memory(folder: Path) -> list[dict[str, float]]:
    """MiB in memory while a small model trains on pairs of any length, by the real command line."""
    from rmexp.__main__ import main
    from rmexp.training.callbacks import TrainingProgress

    home = folder / "memory"
    home.mkdir()
    draw = random.Random(0)
    with open(home / "rows.jsonl", "w") as stream:
        for number in range(4 * STEPS):
            sizes = {"prompt": 120, "chosen": 60, "rejected": 60}
            row = {key: words(draw.randint(1, most), draw) for key, most in sizes.items()}
            stream.write(json.dumps(row | {"split": "train" if number else "val"}) + "\n")
    found: list[dict[str, float]] = []
    before = TrainingProgress.on_train_batch_end

    def sampled(self: Any, trainer: Any, *arguments: Any) -> None:
        before(self, trainer, *arguments)
        if trainer.global_step % SAMPLED == 0:
            found.append({"step": trainer.global_step} | resident())
        if trainer.global_step == STEPS:
            finish(found)

    TrainingProgress.on_train_batch_end = sampled  # type: ignore[method-assign]
    os.chdir(home)
    sys.argv = [
        "rmexp", "model=tiny", "model.hidden=64", "model.layers=4", "trainer.precision=bf16-mixed",
        "data=jsonl", f"data.path={home / 'rows.jsonl'}", f"cache={home}", "data.test_share=0",
        "data.batch_size=4", "data.max_length=4096", "loss=bradley_terry", "logger=none",
        f"trainer.max_steps={STEPS}", "trainer.max_epochs=2", "trainer.validations=1",
    ]  # fmt: skip
    main()
    raise SystemExit("bench: the run ended before its steps were over")


POINTS = (length, candidates, shared, padding, memory)


def measure(folder: Path, run: Callable[..., Any]) -> dict[str, Any]:
    """All parts of a round; `run(module, *words)` gives the JSON of a process."""
    run("bench.growth", "start", folder)
    found = {part.__name__: run("bench.growth", part.__name__, folder) for part in POINTS}
    (folder / "rows").mkdir()
    found["rows"] = []
    for count, size in ROWS:
        write_rows(folder / "rows" / f"{count}-{size}.jsonl", count, size)
        jobs = [run("bench.growth", job, folder, count, size) for job in ("cold", "warm")]
        found["rows"].append({"rows": count, "words": size} | jobs[0] | jobs[1])
    return found


def main() -> None:
    """Run the part that the command line names."""
    part, folder = sys.argv[1], Path(sys.argv[2])
    if part == "start":
        start(folder)
        finish({})
    if part in ("cold", "warm"):
        finish(rows(folder, part, int(sys.argv[3]), int(sys.argv[4])))
    finish(next(point for point in POINTS if point.__name__ == part)(folder))


if __name__ == "__main__":
    main()

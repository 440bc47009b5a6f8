"""What the sides of a work start from: weights, rows, and the pairs of each step for TRL.

python -m bench.prepare WORK FOLDER STEPS WARMUP
"""

import json
import random
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from bench.works import ALL, PAIRS

RATE = 1e-5
LONGEST = 2048
"""Tokens; no row has more: rmexp would shorten it, TRL leave it out."""


def overrides(name: str, folder: Path, steps: int) -> list[str]:
    """The rmexp command of a round; `prepare` and the timed side use the same."""
    work = ALL[name]
    return [
        *(word.format(folder=folder / name) for word in work.settings),
        "model=hf", f"model.path={folder / 'start'}", f"cache={folder / 'cache'}",
        "loss=bradley_terry", "logger=none", f"trainer.precision={work.precision}",
        f"data.max_length={LONGEST}",
        f"trainer.max_steps={steps}", "trainer.validations=1", "trainer.keep=none",
        f"optim.lr={RATE}", "optim.head_lr=null", "optim.schedule=constant", "optim.warmup=0",
    ]  # fmt: skip


def start(folder: Path, layers: int | None = None) -> Any:
    """SmolLM2, or its first layers, with a fresh head, saved once for all sides and works.

    Returns its tokenizer.
    """
    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register

    register()
    config = compose_config(["model=smollm2", f"model.layers={layers or 'null'}"])
    source = build(config.model)
    tokenizer = source.load_tokenizer()
    build(config.template).install(tokenizer)
    if not (folder / "start").is_dir():
        model = source.load_model(tokenizer, 0)
        model.save_pretrained(folder / "start")
        tokenizer.save_pretrained(folder / "start")
    return tokenizer


def prepare(name: str, folder: Path, steps: int, warmup: int) -> None:
    """Write weights, rows, and TRL's pairs: those of rmexp's steps, in their order."""
    from rmexp.config.compose import build, compose_config

    work, home = ALL[name], folder / name
    tokenizer = start(folder, work.layers)
    home.mkdir()
    if work.write is not None:
        work.write(home, tokenizer)
    if work.unit == "responses":
        return
    composed = compose_config(overrides(name, folder, steps))
    build(composed.template).install(tokenizer)
    tokenizer.save_pretrained(home / "tokenizer")
    data = build(composed.data)
    data.prepare(tokenizer, 0, lambda *_: None)
    causes = [*data.report.cut, *data.report.dropped]
    if any(f"{LONGEST} tokens" in cause for cause in causes):
        sys.exit(f"bench: TRL would train other rows than rmexp: {causes}")
    epochs = (step for epoch in count() for step in data.plan().steps(epoch))
    made = judged_pairs(data)
    pairs = [[pair for row in step for pair in made(row)] for step in islice(epochs, steps)]
    tokens = [sum(sum(pair["lengths"]) for pair in step) for step in pairs]
    (home / "tokens.json").write_text(json.dumps(tokens))
    seed = random.Random(0)
    if work.sampled:
        before = sample(pairs[:warmup], warmup, seed)
        timed = sample(pairs[warmup:], steps - warmup, seed)
    else:
        before, timed = batches(flat(pairs[:warmup])), batches(flat(pairs[warmup:]))
    write_batches(home / "trl.json", before, timed)
    if "trl-by-length" in work.against:
        every = [pair for row in data.splits["train"] for pair in made(int(row))]
        grouped = by_length(flat(timed))
        write_batches(home / "trl-by-length.json", before, grouped, epoch=every)


def judged_pairs(data: Any) -> Any:
    """row -> its judged pairs as messages, with the token lengths of both sides."""
    from rmexp.data.reader import read_comparisons
    from rmexp.data.row_report import RowReport

    read = read_comparisons(data.source.spec.paths, data.source.spec.parse, RowReport())
    known = {comparison.id: comparison for comparison in read}

    def made(index: int) -> list[dict[str, Any]]:
        row = data.rows[index]
        found, lengths = known[row["id"]], [len(tokens) for tokens in row["tokens"]]
        texts = [[dict(m) for m in response] for response in found.responses]
        prompt = [dict(m) for m in found.prompt]
        return [
            {"prompt": prompt, "chosen": texts[i], "rejected": texts[j],
             "lengths": [lengths[i], lengths[j]]}
            for i, j, verdict in row["pairs"] if verdict
        ]  # fmt: skip

    return made


def flat(steps: Iterable[Sequence[Any]]) -> list[Any]:
    """The pairs of several steps."""
    return list(chain.from_iterable(steps))


def batches(pairs: Sequence[Any], size: int = PAIRS) -> list[list[Any]]:
    """Whole micro-batches of `size` pairs in their order; fewer at the end are left out."""
    whole = len(pairs) // size * size
    return [list(pairs[n : n + size]) for n in range(0, whole, size)]


def sample(steps: Sequence[Sequence[Any]], number: int, seed: random.Random) -> list[list[Any]]:
    """Micro-batches of random pairs of one step each; a step has as many as its share of pairs."""
    home = [step for step in steps for _ in step]
    return [seed.sample(home[int((n + 0.5) * len(home) / number)], PAIRS) for n in range(number)]


def by_length(pairs: Sequence[Any], size: int = PAIRS) -> list[list[Any]]:
    """The pairs in micro-batches of like lengths, long and short ones evenly mixed.

    What TRL's `group_by_length` does within 50 batches. Done to just the pairs of the round, as
    its own sampler on few rows would group them worse, and on all rows train other pairs.
    """
    found = batches(sorted(pairs, key=lambda pair: max(pair["lengths"]), reverse=True), size)
    # A low-discrepancy order (golden ratio), so that any few in a row are like all of them.
    places = sorted(range(len(found)), key=lambda n: (n + 1) * 0.6180339887 % 1)
    return [batch for _, batch in sorted(zip(places, found, strict=True), key=lambda one: one[0])]


def padding(found: Sequence[Sequence[Any]]) -> float:
    """Tokens that TRL pushes through the model for each real one."""
    real = [[n for pair in batch for n in pair["lengths"]] for batch in found]
    return sum(len(lengths) * max(lengths) for lengths in real) / sum(map(sum, real))


def write_batches(
    file: Path, before: list[Any], timed: list[Any], epoch: list[Any] | None = None
) -> None:
    """TRL's micro-batches; `epoch` are all pairs, to say how well its own sampler groups them."""
    stored = {"warmup": len(before), "batches": before + timed, "padding": padding(timed)}
    if epoch is not None:
        from transformers.trainer_pt_utils import get_length_grouped_indices

        order = get_length_grouped_indices([max(pair["lengths"]) for pair in epoch], PAIRS)
        stored["epoch_padding"] = padding(batches([epoch[n] for n in order]))
    file.write_text(json.dumps(stored))


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]), sum(map(int, sys.argv[3:5])), int(sys.argv[4]))
    print("\n{}")

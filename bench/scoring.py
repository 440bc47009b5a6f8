"""Scoring a file: rmexp's Scorer, and the loop that people write over Hugging Face's classifier.

Both render and tokenise within the timed part, both push at most 4,096 tokens at once.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench.sides import Steps, peak_memory_gib
from bench.works import ALL, HH, PAIRS

BUDGET = 4096


def score(side: str, name: str, folder: Path, steps: Steps) -> None:
    """Score the first HH pairs of the file, PAIRS a step; those of a turn at once."""
    from rmexp.data.formats.hh import HH as HHFormat
    from rmexp.data.reader import read_comparisons
    from rmexp.data.row_report import RowReport

    rows = iter(read_comparisons({None: str(HH)}, HHFormat(), RowReport()))
    home, work = folder / "start", ALL[name]
    run = ours(home, work.precision) if side == "rmexp" else theirs(home, side, work.autocast())
    if not steps.turns:
        run(list(islice(rows, PAIRS * (steps.until - steps.turn))))
    while True:
        found = list(islice(rows, PAIRS * steps.turn))
        start = time.perf_counter()
        rewards = run(found)
        seconds = time.perf_counter() - start
        figures = {"responses_per_second": len(rewards) / seconds, "seconds": [round(seconds, 3)]}
        steps.report(figures | {"rewards": rewards, "peak_memory_gib": peak_memory_gib()})


def ours(home: Path, precision: str) -> Any:
    """comparisons -> rewards, by `rmexp.load`."""
    import rmexp
    from rmexp.data.encode import batched_list
    from rmexp.data.row_report import RowReport
    from rmexp.inference.score_file import SORT_WINDOW

    scorer = rmexp.load(home, precision=precision)
    if scorer.layout != "mixed" or scorer.micro_batch_tokens != BUDGET:
        raise SystemExit(f"bench: {scorer.layout=}, {scorer.micro_batch_tokens=}")

    def run(comparisons: Sequence[Any]) -> list[float]:
        windows = batched_list(comparisons, SORT_WINDOW)  # as task=score does
        found = (rewards for w in windows for rewards in scorer.comparisons(w, RowReport()))
        return [reward for rewards in found for reward in rewards or ()]

    return run


def theirs(home: Path, side: str, bf16: bool) -> Any:
    """comparisons -> rewards, by padded batches in file order or sorted by length."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        home, dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def run(comparisons: Sequence[Any]) -> list[float]:
        dialogues = [[*map(dict, (*c.prompt, *r))] for c in comparisons for r in c.responses]
        texts = [tokenizer.apply_chat_template(d, tokenize=False) for d in dialogues]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        order = range(len(ids))
        if side == "padded-sorted":
            order = sorted(order, key=lambda n: len(ids[n]))
        rewards = [0.0] * len(ids)
        for batch in budgeted(ids, order):
            inputs = tokenizer.pad({"input_ids": [ids[n] for n in batch]}, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(**inputs).logits[:, 0]
            for n, reward in zip(batch, logits.tolist(), strict=True):
                rewards[n] = reward
        return rewards

    return run


def budgeted(ids: Sequence[Sequence[int]], order: Sequence[int]) -> Iterator[list[int]]:
    """As many sequences in a batch, in `order`, as have BUDGET tokens once padded."""
    batch: list[int] = []
    width = 0
    for n in order:
        wider = max(width, len(ids[n]))
        if batch and wider * (len(batch) + 1) > BUDGET:
            yield batch
            batch, wider = [], len(ids[n])
        batch, width = [*batch, n], wider
    if batch:
        yield batch

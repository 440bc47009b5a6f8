"""What is compared: the works, the rows they train on, and the ratios that are asked of them."""

import gzip
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared/data"
HH = DATA / "hh_rlhf_harmless_base_test/raw/test.jsonl.gz"
UKP = DATA / "ukp_convarg1/pairs.jsonl.gz"
GSM8K = DATA / "gsm8k_solutions/k4_correctness.jsonl.gz"

PAIRS = 8
"""Pairs of a step, and of a micro-batch of TRL's."""

SIDES = {
    "rmexp": "rmexp",
    "trl-default": "TRL, its defaults (checkpointing on)",
    "trl": "TRL, checkpointing off",
    "trl-by-length": "TRL, checkpointing off, grouped by length",
    "padded": "padded loop, file order",
    "padded-sorted": "padded loop, sorted by length",
}


@dataclass(frozen=True)
class Work:
    """One comparison: `rmexp` and the sides `against` it take turns.

    title       what is done, for the table
    precision   trainer.precision of rmexp, and autocast or not of the others (auto: as rmexp)
    against     side -> (floor, aim) of rmexp's rate over its own; an aim may be missing
    unit        what the rates count, pairs or responses
    settings    rmexp's words for the data; {folder} is the work's own
    write       writes the rows that `settings` name into that folder
    accumulate  micro-batches of PAIRS pairs in an optimizer step of TRL's
    sampled     TRL is timed on a sample of the pairs, a micro-batch a step
    same_steps  both sides take the same pairs a step in the same order: losses can be compared
    needs       the file it stands on, if any
    layers      that the model keeps, from the first; None: all
    """

    title: str
    precision: str
    against: dict[str, tuple[float, float | None]]
    unit: str = "pairs"
    settings: tuple[str, ...] = ()
    write: Callable[[Path, Any], None] | None = None
    accumulate: int = 1
    sampled: bool = False
    same_steps: bool = False
    needs: Path | None = None
    layers: int | None = None

    def autocast(self) -> bool:
        """Whether the sides compute in bf16."""
        from rmexp.core.devices import resolve_precision  # imports torch

        return resolve_precision(self.precision, "cpu") == "bf16-mixed"


LONGEST_HH = 480
"""Tokens of a dialogue: with longer ones TRL without checkpointing does not fit 24 GiB."""


def write_hh(folder: Path, tokenizer: Any) -> None:
    """The publisher's rows whose two dialogues are not too long for the other sides' memory."""
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as stream:
        for row in _read(HH):
            sides = tokenizer([row["chosen"], row["rejected"]])["input_ids"]
            if max(map(len, sides)) <= LONGEST_HH:
                stream.write(json.dumps(row) + "\n")


def write_ukp(folder: Path, tokenizer: Any) -> None:
    """The pairs with a strict verdict; each names its debate side in its prompt."""
    _write_rows(folder, (row for row in _read(UKP) if row["strict"]))


def write_gsm8k(folder: Path, tokenizer: Any) -> None:
    """Lists of four solutions, a right one rated 1 and a wrong one 0."""
    _write_rows(
        folder,
        (
            {k: row[k] for k in ("id", "prompt", "responses")}
            | {"ratings": [float(right) for right in row["correct"]]}
            for row in _read(GSM8K)
        ),
    )


def write_uniform(folder: Path, tokenizer: Any) -> None:
    """Pairs of 157 tokens a side that differ from the first on: nothing is shared, nothing padded.

    The template writes the answer alone. 157 is no multiple of anything that either side rounds to.
    """
    (folder / "answer.jinja").write_text("{{ messages[-1]['content'] + '<|im_end|>' }}")
    pieces = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    words = [piece for piece in pieces if re.fullmatch(" [a-z]{3,}", piece)]
    draw = random.Random(0)
    rows = []
    for number in range(400):
        chosen, rejected = ("".join(draw.sample(words, 156)) for _ in range(2))
        rows.append({"prompt": f"Pair {number}.", "chosen": chosen, "rejected": rejected})
    _write_rows(folder, rows)


def _read(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _write_rows(folder: Path, rows: Any) -> None:
    """Training rows, and one validation row of another prompt, so that all of them are trained."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {"prompt": "Which of them?", "chosen": "This one.", "rejected": "That one."}
    (folder / "val.jsonl").write_text(json.dumps(row) + "\n")


HH_ROWS = ("data=hh_rlhf", "data.path={folder}/rows.jsonl", f"data.batch_size={PAIRS}")
OWN_ROWS = (
    "data=jsonl",
    "data.path={folder}/rows.jsonl",
    "data.val_path={folder}/val.jsonl",
    "data.test_share=0",
)

WORKS = {
    "hh-bf16": Work(
        f"HH harmless up to {LONGEST_HH} tokens, 8 pairs a step, bf16",
        "bf16-mixed",
        {"trl-default": (3.4, 6), "trl": (2.8, 4.5), "trl-by-length": (1.5, 2.5)},
        settings=HH_ROWS,
        write=write_hh,
        same_steps=True,
        needs=HH,
    ),
    "hh-fp32": Work(
        f"HH harmless up to {LONGEST_HH} tokens, 8 pairs a step, fp32",
        "32-true",
        {"trl-default": (3.6, None), "trl": (3.0, None), "trl-by-length": (1.5, None)},
        settings=HH_ROWS,
        write=write_hh,
        same_steps=True,
        needs=HH,
    ),
    "ukp": Work(
        "UKPConvArg1 strict, a debate side a step, bf16",
        "bf16-mixed",
        {"trl": (10, 20)},
        settings=(*OWN_ROWS, "data.group_by_prompt=true", "data.batch_size=1"),
        write=write_ukp,
        accumulate=46,  # of 8 pairs: the 364 that a debate side has on average
        sampled=True,
        needs=UKP,
    ),
    "gsm8k": Work(
        "gsm8k, 8 lists of 4 solutions a step, bf16",
        "bf16-mixed",
        {"trl": (3, None)},
        settings=(*OWN_ROWS, "data.batch_size=8"),
        write=write_gsm8k,
        accumulate=3,  # of 8 pairs: 8 lists make 27 on average
        needs=GSM8K,
    ),
    "uniform": Work(
        "no shared prefix, uniform lengths, 8 pairs a step, bf16",
        "bf16-mixed",
        {"trl": (0.95, None)},
        settings=(
            *OWN_ROWS,
            f"data.batch_size={PAIRS}",
            "template=jinja",
            "template.path={folder}/answer.jinja",
        ),
        write=write_uniform,
        same_steps=True,
    ),
    "scoring-bf16": Work(
        "scoring HH pairs, bf16",
        "bf16-mixed",
        {"padded": (3, None), "padded-sorted": (1.3, None)},
        unit="responses",
        needs=HH,
    ),
    "scoring-fp32": Work(
        "scoring HH pairs, fp32",
        "32-true",
        {"padded": (3, None), "padded-sorted": (1.3, None)},
        unit="responses",
        needs=HH,
    ),
}

QUICK_LAYERS = 8
"""Of SmolLM2's 30: a step is short, so that many are timed."""

QUICK = {
    f"quick-{name}": replace(
        WORKS[like], title=title, precision="auto", layers=QUICK_LAYERS, against=against
    )
    for name, like, title, against in (
        (
            "hh",
            "hh-fp32",
            f"HH harmless up to {LONGEST_HH} tokens, 8 pairs a step",
            {"trl-default": (4, None), "trl-by-length": (2.2, None)},
        ),
        (
            "lists",
            "gsm8k",
            "gsm8k, 8 lists of 4 solutions a step",
            {"trl-default": (3, None), "trl-by-length": (1, None)},
        ),
        (
            "uniform",
            "uniform",
            "no shared prefix, uniform lengths, 8 pairs a step",
            {"trl-default": (0.95, None), "trl": (0.95, None)},
        ),
        (
            "scoring",
            "scoring-fp32",
            "scoring HH pairs",
            {"padded": (3, None), "padded-sorted": (1.3, None)},
        ),
    )
}
"""Works of `python -m bench quick`: those above, in the precision that rmexp takes by itself."""

ALL = WORKS | QUICK

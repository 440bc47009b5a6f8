"""Synthetic rows for `bench gpu`: their lengths and what responses share are those of real data."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Lengths:
    """Distribution of the tokens of a prompt and of its responses.

    Args:
        prompt, answer: (median, standard deviation of the logarithm).
        k: responses to a prompt; the first one is the best, the others are worse.
        words: rmexp's settings.
        pairs: of one of TRL's micro-batches, and prompts of rmexp's step.
        accumulate: TRL's micro-batches in an optimizer step, which has as many pairs as rmexp's.
        count: prompts.
        apart: the two responses share no token, not even those of the template.
    """

    prompt: tuple[int, float]
    answer: tuple[int, float]
    k: int = 2
    words: tuple[str, ...] = ()
    pairs: int = 8
    accumulate: int = 1
    count: int = 400
    apart: bool = False


HH = Lengths((110, 0.75), (36, 0.8))
"""HH harmless: 196 tokens a sequence on average, of which 149 are shared."""

LENGTHS = {
    "hh": HH,
    "hh64": Lengths(HH.prompt, HH.answer, pairs=64, words=("data.micro_batch_tokens=16384",)),
    # UKPConvArg1: a step is a debate side, whose arguments meet in many pairs.
    "ukp": Lengths(
        (24, 0.2), (60, 0.4), k=32, words=("data.group_by_prompt=true",), accumulate=38, count=30
    ),
    "k2": Lengths((1024, 0.2), (128, 0.4), k=2),
    "k4": Lengths((1024, 0.2), (128, 0.4), k=4, accumulate=3, count=100),
    "k8": Lengths((1024, 0.2), (128, 0.4), k=8, accumulate=7, count=100),
    "uniform": Lengths((0, 0), (157, 0), apart=True),
    "1k": Lengths((768, 0), (256, 0)),
    "4k": Lengths((3072, 0), (1024, 0), pairs=4, count=100),
    "16k": Lengths((12288, 0), (4096, 0), pairs=1, count=40),
}


def write_rows(home: Path, lengths: Lengths, tokenizer: Any, shrink: int) -> None:
    """rows.jsonl, and val.jsonl with one pair; lengths and counts are divided by `shrink`."""
    (home / "answer.jinja").write_text("{{ messages[-1]['content'] + '<|im_end|>' }}")
    pieces = (tokenizer.decode([token]) for token in range(1000, 9000))
    words = [piece for piece in pieces if re.fullmatch(" [a-z]{3,}", piece)]  # one token each
    with open(home / "rows.jsonl", "w") as stream:
        for row in rows(lengths, words, shrink):
            stream.write(json.dumps(row) + "\n")
    row = {"prompt": "Which of them?", "chosen": "This one.", "rejected": "That one."}
    (home / "val.jsonl").write_text(json.dumps(row) + "\n")


def rows(lengths: Lengths, words: list[str], shrink: int) -> Iterator[dict[str, Any]]:
    """Rows of one prompt each; of a debate, the pairs of its arguments."""
    draw = random.Random(0)

    def text(size: tuple[int, float]) -> str:
        median, spread = size
        count = round(median / shrink * draw.lognormvariate(0, spread)) if median else 0
        return "".join(draw.choices(words, k=max(1, count)))

    for number in range(max(24, lengths.count // shrink)):
        prompt = f"{number}{text(lengths.prompt)}"
        answers = [f"{n}{text(lengths.answer)}" for n in range(lengths.k)]
        if lengths.apart:
            answers = [text(lengths.answer) for _ in answers]
        if "data.group_by_prompt=true" in lengths.words:
            for n, chosen in enumerate(answers):
                for rejected in draw.sample(answers[n + 1 :], min(12, lengths.k - n - 1)):
                    yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        elif lengths.k == 2:
            yield {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
        else:
            ratings = [1.0, *[0.0] * (lengths.k - 1)]
            yield {"prompt": prompt, "responses": answers, "ratings": ratings}

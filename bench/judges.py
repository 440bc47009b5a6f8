"""Other judges for the demo data: a DPO policy of SmolLM2, and verdicts by a rule.

python -m bench.judges judges    # judges/reference, judges/policy and judges/verdicts.jsonl

The policy is a LoRA adapter, trained by TRL on the best and the worst response to some training
prompts. The verdicts on the test rows take the longer answer.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import trl

from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.config.schema import PACKAGE
from rmexp.data.formats.auto import Auto
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport
from rmexp.policy.policy_model import policy_model

DEMO = PACKAGE / "data" / "demo" / "demo.jsonl"
STEPS = 16
"""Updates by DPO, with two pairs each: a minute or two on one core."""


def demo_rows(split: str) -> list[Comparison]:
    rows = read_comparisons({None: str(DEMO)}, Auto(), RowReport())
    return [one for one in rows if one.split == split]


def preferences(rows: list[Comparison]) -> Iterator[dict[str, Any]]:
    """The best and the worst response to each prompt, for TRL."""
    for one in rows:
        ratings = [rating or 0.0 for rating in one.ratings or ()]
        best, worst = (ratings.index(of(ratings)) for of in (max, min))
        if ratings[best] > ratings[worst]:
            sides = {"chosen": one.responses[best], "rejected": one.responses[worst]}
            yield {"prompt": list(one.prompt)} | {k: list(side) for k, side in sides.items()}


def train_dpo(model: Any, tokenizer: Any, folder: Path) -> None:
    config = trl.DPOConfig(
        output_dir=str(folder / "trainer"), beta=0.1, learning_rate=5e-4, max_steps=STEPS,
        per_device_train_batch_size=2, lr_scheduler_type="constant", logging_steps=4, seed=0,
        save_strategy="no", report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = datasets.Dataset.from_list(list(preferences(demo_rows("train"))))
    trainer = trl.DPOTrainer(
        model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora
    )
    trainer.train()
    trainer.model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")


def verdicts() -> Iterator[dict[str, Any]]:
    """The longer answer of each labelled pair of the test rows."""
    for row in demo_rows("test"):
        sizes = [len(str(response[-1]["content"])) for response in row.responses]
        for pair in pairs_from_ratings(row, 1.0).judgements:
            gap = sizes[pair.i] - sizes[pair.j]
            winner = "first" if gap > 0 else "second" if gap < 0 else "tie"
            yield {"id": row.id, "first": pair.i, "second": pair.j, "winner": winner}


def main() -> None:
    folder, cache = Path(sys.argv[1]), str(Path("~/.cache/rmexp").expanduser())
    smollm2 = policy_model(None, cache)
    tokenizer = smollm2.load_tokenizer()
    for saved in (smollm2.load_language_model(tokenizer, torch.float32), tokenizer):
        saved.save_pretrained(folder / "reference")
    with open(folder / "verdicts.jsonl", "w", encoding="utf-8") as stream:
        for row in verdicts():
            stream.write(json.dumps(row) + "\n")
    base = policy_model(str(folder / "reference"), cache)  # the adapter names it as its base
    train_dpo(base.load_language_model(tokenizer, torch.float32), tokenizer, folder)


if __name__ == "__main__":
    main()

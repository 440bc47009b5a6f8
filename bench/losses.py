"""python -m bench.losses [SET ...]: each loss on the real data that fits it, after a small budget.

Every cell is a run of the real command line from the same weights: STEPS steps of a few thousand
tokens. A finished cell is a line of losses.jsonl; docs/losses-table.md is rewritten after
each. To measure a cell again, delete its line.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rounds import table
from bench.works import DATA, ROOT

CELLS = ROOT / "bench/losses.jsonl"
TABLE = ROOT / "docs/losses-table.md"
STEPS = 16
BUDGET = (
    "seed=0", "logger=none", "trainer.precision=bf16-mixed", f"trainer.max_steps={STEPS}",
    "trainer.max_epochs=30", "trainer.validations=1", "trainer.keep=none", "optim.lr=3e-5",
    "data.max_length=320", "data.batch_size=4", "data.val_share=0.2", "data.test_share=0",
)  # fmt: skip


@dataclass(frozen=True)
class Set:
    """A data set and the losses that are tried on it; `words` fit its size to the budget."""

    option: str
    file: str
    words: tuple[str, ...]
    losses: tuple[str, ...]


SETS = (
    Set("ukp_votes", "ukp_convarg1/all_pairs_with_votes.jsonl.gz", (),
        ("bradley_terry", "contrastive", "contrastive loss.squared=true", "focal",
         "squared_margin", "exponential", "soft_bradley_terry", "ties",
         "ties loss.model=davidson")),
    Set("gsm8k_solutions", "gsm8k_solutions/k4_correctness.jsonl.gz",
        ("data.limit=200", "data.batch_size=2"), ("kwise", "plackett_luce", "infonce", "binary")),
    Set("wmt_mqm", "wmt_mqm_ted/ted_zhen_mqm.jsonl.gz",
        ("data.limit=100", "data.batch_size=1"), ("kwise", "plackett_luce", "regression")),
    Set("prometheus", "prometheus_rated/gpt4_rated.jsonl.gz",
        ("data.limit=200", "data.max_length=768"),
        ("regression", "regression loss.distance=huber", "ordinal")),
    Set("llamafactory_kto", "llamafactory_demos/kto_en_demo.jsonl.gz", (), ("binary",)),
    Set("pandalm", "pandalm_human/annotated_pairs.jsonl.gz", ("data.limit=500",),
        ("bradley_terry", "soft_bradley_terry", "ties")),
    Set("halluqa", "halluqa_zh/halluqa_multi.jsonl.gz",
        ("data.limit=150", "data.batch_size=2"), ("kwise", "infonce")),
    Set("finegrained_rlhf", "finegrained_rlhf/qa_feedback_dev_k4.jsonl.gz",
        ("data.limit=80", "data.batch_size=1", "data.max_length=1024"), ("ties", "plackett_luce")),
    Set("hh_rlhf", "hh_rlhf_harmless_base_test/pairs.jsonl.gz",
        ("data.limit=300",), ("bradley_terry",)),
    Set("uhgeval", "uhgeval_zh/pairs.jsonl.gz",
        ("data.limit=150", "data.max_length=1024", "data.batch_size=1"), ("bradley_terry",)),
)  # fmt: skip


def main() -> None:
    """Run the cells that are missing and write the table."""
    chosen = sys.argv[1:] or [found.option for found in SETS]
    done = {(line["data"], line["loss"]) for line in cells()}
    for found in SETS:
        for loss in found.losses if found.option in chosen else ():
            if (found.option, loss) not in done:
                with open(CELLS, "a") as stream:
                    stream.write(json.dumps(measure(found, loss)) + "\n")
                write()
    write()


def cells() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []


def measure(found: Set, loss: str) -> dict[str, Any]:
    """One run; its metrics on the validation rows."""
    words = [f"data={found.option}", f"data.path={DATA / found.file}", *BUDGET, *found.words]
    words += [f"loss={loss.split()[0]}", *loss.split()[1:]]
    before = set(outputs())
    ran = subprocess.run(
        [sys.executable, "-m", "rmexp", *words], cwd=ROOT, capture_output=True, text=True
    )
    if ran.returncode:
        sys.exit(f"bench.losses: {' '.join(words)} failed:\n{ran.stderr[-3000:]}")
    (run,) = set(outputs()) - before
    result = json.loads((run / "result.json").read_text())
    print(found.option, loss, result["seconds"], "s", flush=True)
    metrics = {
        name.removeprefix("val/"): value
        for name, value in result["metrics"].items()
        if name.startswith("val/") and name.count("/") == 1
    }
    cell = {"data": found.option, "loss": loss, "seconds": result["seconds"], "words": words}
    return cell | {"metrics": metrics}


def outputs() -> list[Path]:
    """The run directories of this checkout."""
    return [file.parent for file in (ROOT / "outputs").rglob("result.json")]


def write() -> None:
    """docs/losses-table.md from what was measured."""
    rows = [
        [
            line["data"],
            line["loss"].replace("loss.", ""),
            shown(line["metrics"], "accuracy"),
            shown(line["metrics"], "spearman"),
            f"{line['metrics']['pairs']:.0f}",
            f"{line['metrics'].get('length_baseline', float('nan')):.3f}".replace("nan", ""),
        ]
        for line in cells()
    ]
    done = {(line["data"], line["loss"]) for line in cells()}
    every = ((one.option, loss) for one in SETS for loss in one.losses)
    missing = ", ".join(f"{data} {loss}" for data, loss in every if (data, loss) not in done)
    heads = "data | loss | val accuracy [95%] | val Spearman [95%] | pairs | longer wins"
    TABLE.write_text(
        f"""# Losses on real data, after a small budget

```bash
python -m bench.losses
```

SmolLM2-135M-Instruct, {STEPS} steps from the same weights, one seed, few rows. **This compares
checkpoints, not losses**, and most intervals overlap. Val rows were not trained on, and no
checkpoint was selected on them. "Longer wins" is the accuracy of that rule on the same pairs.

{chr(10).join(table(heads, rows))}

Not measured yet: {missing or "nothing"}.
"""
    )


def shown(metrics: dict[str, float], name: str) -> str:
    """A metric with its interval."""
    if name not in metrics:
        return ""
    low, high = (metrics.get(f"{name}_{end}", float("nan")) for end in ("low", "high"))
    return f"{metrics[name]:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()

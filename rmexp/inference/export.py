"""A reward model as a plain Hugging Face directory, proved by loading it the way its users do."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rmexp import __version__
from rmexp.core.errors import UserError, note_fallback
from rmexp.evaluation.calibration import CALIBRATION_FILE as CALIBRATION
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.metric_values import format_metric
from rmexp.evaluation.metrics import shown_in
from rmexp.models.reward_model import head_layers
from rmexp.models.trained_state import merge
from rmexp.templates.template import template_fingerprint

EXPORT_TOLERANCE = 1e-4
"""Largest difference of a reward, in fp32, from plain Hugging Face; relative above 1."""


CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, rmexp]
model-index:
- name: {name}
  results:
  - task: {{type: text-classification, name: reward modelling}}
    dataset: {{type: preference, name: "{data}", split: test}}
    metrics:
    - {{type: accuracy, value: {accuracy}, name: pair accuracy}}
---
# {name}

A reward model: it gives a scalar to a dialogue that ends with an answer; higher is better.
Made by rmexp {version} from `{base}`, on the data `{data}`, with the loss `{loss}`.

## Use
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

directory = "path/to/this/directory"
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForSequenceClassification.from_pretrained(directory)
messages = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()
```
The chat template writes every special token: tokenise rendered text with
`add_special_tokens=False`. Template fingerprint: `{fingerprint}`.

## Test metrics
| metric | value |
|---|---|
{rows}

Rewards are comparable between answers to the same prompt.
{scale}"""


SCALE = """
## Scale
`calibration.json` has what the validation rows say of the scale. Rewards had the mean {mean:.4f}
and the deviation {deviation:.4f} there: `(reward - mean) / deviation` normalises them.
"""


TEMPERATURE = """P(one answer is better than another) =
`sigmoid((reward - other) / {temperature:.4f})`, fitted on {pairs} pairs.
"""


def export(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    rewards: Sequence[float],
    facts: Mapping[str, Any],
    home: Path,
    calibration: Calibration | None = None,
) -> None:
    """Write the model, tokenizer, template and card to `home`, once they have passed `prove`.

    Args:
        model: what was trained; LoRA's updates are added to its weights.
        texts: rendered responses to prove it on.
        rewards: their rewards by our own path, in fp32.
        facts: `name base data loss fingerprint metrics`, for the card and `rmexp.json`.
        calibration: what val taught of the reward's scale; it goes with the model.

    Raises:
        UserError: plain Hugging Face loading gives other rewards; nothing is left at `home`.
    """
    aside = home.with_name(f".{home.name}")
    shutil.rmtree(aside, ignore_errors=True)
    merge(model)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    (aside / "rmexp.json").write_text(json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n")
    (aside / "README.md").write_text(_card(facts, calibration), encoding="utf-8")
    if calibration is not None:
        stored = json.dumps(calibration.to_dict(), indent=2) + "\n"
        (aside / CALIBRATION).write_text(stored)
    try:
        verify_export(aside, texts, rewards, padded_left=head_layers(model) is not None)
    except BaseException:
        shutil.rmtree(aside)
        raise
    shutil.rmtree(home, ignore_errors=True)
    os.rename(aside, home)


@torch.no_grad()
def verify_export(
    home: Path, texts: Sequence[str], rewards: Sequence[float], padded_left: bool = True
) -> None:
    """Load the directory as its users do; score alone, and in batches padded right and left.

    Encoders pool the first token, where padding on the left would stand: for them `padded_left` is
    false, and it is said.

    Raises:
        UserError: a reward differs by more than 1e-4 from ours.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        home, dtype=torch.float32
    ).eval()
    ours = torch.tensor(rewards)

    def score(batch: Sequence[str], side: str, count_positions: bool = False) -> torch.Tensor:
        inputs = tokenizer(
            list(batch),
            add_special_tokens=False,
            padding=True,
            padding_side=side,
            return_tensors="pt",
        )
        if count_positions:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return model(**inputs).logits[:, 0]

    def worst(theirs: torch.Tensor) -> float:
        return float(((theirs - ours).abs() / ours.abs().clamp(min=1)).max())

    ways = {
        "alone": torch.cat([score([text], "right") for text in texts]),
        "in a batch padded right": score(texts, "right"),
        "in a batch padded left": score(texts, "left"),
    }
    for way, theirs in ways.items():
        if worst(theirs) <= EXPORT_TOLERANCE:
            continue
        if way.endswith("left") and not padded_left:
            note_fallback(
                f"{type(model).__name__} must be padded on the right, as its tokenizer does."
            )
            continue
        if (
            way.endswith("left")
            and worst(score(texts, "left", count_positions=True)) <= EXPORT_TOLERANCE
        ):
            note_fallback(
                f"{type(model).__name__} numbers positions from the left edge, padding included: "
                "users of the export must pad on the right, as its tokenizer does."
            )
            continue
        raise UserError(
            f"The export does not hold: scored {way} by plain Hugging Face, a reward differs by "
            f"{worst(theirs):.2g} from the trained model's (allowed {EXPORT_TOLERANCE:g})."
        )


def check_fingerprint(home: Path, tokenizer: Any) -> None:
    """The tokenizer of an export must render as it did in training.

    Raises:
        UserError: it does not.
    """
    file = home / "rmexp.json"
    if not file.is_file():
        return
    expected, found = json.loads(file.read_text())["fingerprint"], template_fingerprint(tokenizer)
    if expected != found:
        raise UserError(
            f"{home} was trained with the template {expected}, but renders as {found} now: its "
            "chat_template or tokenizer was changed, or another template= was asked for."
        )


def _card(facts: Mapping[str, Any], calibration: Calibration | None) -> str:
    metrics = facts["metrics"]
    shown = [name for m in shown_in("table") if (name := f"test/{m.name}") in metrics]
    rows = "\n".join(f"| {name} | {format_metric(metrics, name)} |" for name in shown)
    found = {
        "version": __version__,
        "rows": rows,
        "accuracy": metrics.get("test/accuracy", "null"),
        "scale": "" if calibration is None else _scale(calibration),
    }
    return CARD.format(**facts, **found)


def _scale(calibration: Calibration) -> str:
    text = SCALE.format(mean=calibration.reward_mean, deviation=calibration.reward_std)
    if calibration.temperature is None:
        return text
    return text + TEMPERATURE.format(temperature=calibration.temperature, pairs=calibration.pairs)

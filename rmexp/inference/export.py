"""Export of a reward model as a plain Hugging Face directory, verified with plain transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rmexp.core.atomic_file import replace_directory
from rmexp.core.errors import UserError, note_fallback
from rmexp.evaluation.calibration import CALIBRATION_FILE, Calibration
from rmexp.inference.cross_encoder import IDENTITY, write_cross_encoder_files
from rmexp.inference.model_card import ExportFacts, write_card
from rmexp.models.head_file import save_outputs
from rmexp.models.reward_head import MultiOutputHead, replace_head
from rmexp.models.reward_model import head_layers, last_layer
from rmexp.models.trained_state import merge
from rmexp.templates.template import template_fingerprint

EXPORT_TOLERANCE = 1e-4
"""Maximum difference of a reward in fp32; relative for rewards above 1."""

FACTS_FILE = "rmexp.json"
"""The facts in an export; a directory without it is no export of rmexp."""

SERVING_CONFIG = {
    "problem_type": "regression",
    "sentence_transformers": {"activation_fn": IDENTITY},
}
"""Keys of config.json by which other libraries give the reward itself, and not its sigmoid.

`problem_type`: vLLM's `/classify`, ms-swift's deployment, transformers' text-classification
pipeline. `sentence_transformers`: CrossEncoder, and vLLM's `/score`.
"""


def export(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    rewards: Sequence[float],
    facts: ExportFacts,
    home: Path,
    calibration: Calibration | None = None,
) -> None:
    """Write the model, tokenizer, template and card to `home`, after `verify_export`.

    Args:
        model: the trained model; LoRA's updates are merged into its weights, and several outputs
            into one, which are written beside it.
        texts: rendered responses to verify the export with.
        rewards: their rewards as the trained model scores them, in fp32.
        facts: for the card and `rmexp.json`.
        calibration: written beside the model.

    Raises:
        UserError: plain transformers compute other rewards; nothing is left at `home`.
    """
    merge(model)
    head = last_layer(model)
    if isinstance(head, MultiOutputHead):
        replace_head(model, head.single())
    model.config.update(SERVING_CONFIG)
    with replace_directory(home) as folder:
        model.save_pretrained(folder)
        if isinstance(head, MultiOutputHead):
            save_outputs(head, folder)
        tokenizer.save_pretrained(folder)
        write_cross_encoder_files(tokenizer, folder)
        stored = json.dumps(facts.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (folder / FACTS_FILE).write_text(stored, encoding="utf-8")
        write_card(facts, calibration, folder / "README.md")
        if calibration is not None:
            stored = json.dumps(calibration.to_dict(), indent=2) + "\n"
            (folder / CALIBRATION_FILE).write_text(stored, encoding="utf-8")
        verify_export(folder, texts, rewards, padded_left=head_layers(model) is not None)


@torch.no_grad()
def verify_export(
    home: Path, texts: Sequence[str], rewards: Sequence[float], padded_left: bool = True
) -> None:
    """Score texts with plain transformers: alone, and in batches padded right and left.

    Args:
        padded_left: padding on the left must not change rewards. It does for encoders, which pool
            the first token; then it is only noted.

    Raises:
        UserError: a reward differs by more than `EXPORT_TOLERANCE`.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        home, dtype=torch.float32
    ).eval()
    expected = torch.tensor(rewards)

    def difference(batches: Sequence[Sequence[str]], side: str, positions: bool = False) -> float:
        found = []
        for batch in batches:
            inputs = tokenizer(
                list(batch),
                add_special_tokens=False,
                padding=True,
                padding_side=side,
                return_tensors="pt",
            )
            if positions:
                inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            found.append(model(**inputs).logits[:, 0])
        return float(((torch.cat(found) - expected).abs() / expected.abs().clamp(min=1)).max())

    def check(how: str, worst: float) -> None:
        if worst > EXPORT_TOLERANCE:
            raise UserError(
                f"The export does not hold: scored {how} by plain Hugging Face, a reward differs "
                f"by {worst:.2g} from the trained model's (allowed {EXPORT_TOLERANCE:g})."
            )

    check("alone", difference([[text] for text in texts], "right"))
    check("in a batch padded right", difference([texts], "right"))
    worst = difference([texts], "left")
    if worst <= EXPORT_TOLERANCE:
        return
    name = type(model).__name__
    if not padded_left:
        note_fallback(f"{name} must be padded on the right, as its tokenizer does.")
    elif difference([texts], "left", positions=True) <= EXPORT_TOLERANCE:
        note_fallback(
            f"{name} numbers positions from the left edge, padding included: "
            "users of the export must pad on the right, as its tokenizer does."
        )
    else:
        check("in a batch padded left", worst)


def check_fingerprint(home: Path, tokenizer: Any) -> None:
    """Check that the tokenizer of an export renders as it did in training.

    Raises:
        UserError: it does not.
    """
    file = home / FACTS_FILE
    if not file.is_file():
        return
    expected, found = json.loads(file.read_bytes())["fingerprint"], template_fingerprint(tokenizer)
    if expected != found:
        raise UserError(
            f"{home} was trained with the template {expected}, but renders as {found} now: its "
            "chat_template or tokenizer was changed, or another template= was asked for."
        )

"""Settings with which a run fits."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from rmexp.config.compose import build
from rmexp.config.schema import CONF_DIR
from rmexp.models.tuning import LoRA
from rmexp.training.planning.estimate import estimate
from rmexp.training.planning.fake_model import FakeModel

GIBIBYTE = 2**30
MAX_DEVICES = 1024


def propose(
    fake: FakeModel, facts: Mapping[str, Any], available: float, tokens: int, process: int
) -> Iterator[str]:
    """Recomputation or smaller micro-batches, LoRA, more devices: of each the mildest that fits.

    Args:
        facts: the estimate, which needs more than `available` bytes; see it for the others.
    """
    memory, count = facts["memory"], facts["devices"] if facts["strategy"] == "fsdp" else 1
    setting = {"tokens": tokens, "strategy": facts["strategy"], "devices": facts["devices"]}

    def fitting(words: str, models: list[FakeModel], **changes: Any) -> str | None:
        for model, more in zip(models, ("", " model.gradient_checkpointing=true"), strict=False):
            needed = estimate(model, process=process, **(setting | changes))["needed"]
            if needed <= available:
                return f"{words}{more} ({needed / GIBIBYTE:.1f} GiB)".lstrip()
        return None

    def with_recomputation(model: FakeModel) -> list[FakeModel]:
        source = replace(model.source, gradient_checkpointing=True)
        again = model.source.gradient_checkpointing
        return [model] if again else [model, replace(model, source=source)]

    if facts["loading"] > available:
        return
    found, models = None, with_recomputation(fake)
    if facts["training"] - memory["activations"] - memory["casts"] <= available:
        largest = fake.data.columns.numbers("size").max()
        found = fitting("", models)
        while found is None and (tokens := tokens // 2) >= largest:
            found = fitting(f"data.micro_batch_tokens={tokens}", models, tokens=tokens)
    if found:
        yield found
    if not isinstance(fake.tune, LoRA):
        tune: Any = build(OmegaConf.load(CONF_DIR / "tune" / "lora.yaml"))  # type: ignore[arg-type]
        if adapted := fitting("tune=lora", with_recomputation(replace(fake, tune=tune))):
            yield adapted
    while found is None and (count := 2 * count) <= MAX_DEVICES:
        words = f"trainer=fsdp on {count} devices"
        if found := fitting(words, models, strategy="fsdp", devices=count):
            yield found

"""Axolotl: reward models (`reward_model: true`), and the form {type, loss, margin} of it."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from rmexp.tasks.convert.lora import convert_lora
from rmexp.tasks.convert.rows import convert_sources, convert_validation, note_differences
from rmexp.tasks.convert.settings import Count, Decay, NotNegative, Row, Settings
from rmexp.tasks.convert.training import Dialect, convert_training

DIALECT = Dialect(
    batch="micro_batch_size",
    batch_default=1,
    total_batch="batch_size",
    epochs="num_epochs",
    epochs_default=1.0,
    rate_default=None,  # Axolotl demands one
    optimizer="optimizer",
    optimizer_default="adamw_torch_fused",
    schedule="lr_scheduler",
    schedule_default="cosine",
    warmup="warmup_ratio",
    warmup_default=0.03,
    bf16_default="auto",
)


MODEL = (
    Row("base_model", "model.path", str),
    Row("revision_of_model", "model.revision", str),
    Row("trust_remote_code", "model.trust_remote_code", bool),
    Row("attn_implementation", "model.attn_implementation", str),
    Row("torch_compile", "model.compile", bool),
)


LORA = (
    Row("lora_r", "tune.rank", Count),
    Row("lora_alpha", "tune.alpha", Count),
    Row("lora_dropout", "tune.dropout", Decay, 0.0),
)


LOGGER = (
    Row("wandb_project", "logger.project", str),
    Row("wandb_entity", "logger.entity", str),
    Row("wandb_name", "name", str),
)


LOSSES = ("contrastive", "bradley_terry")


TEMPLATES = {
    "tokenizer_default": "tokenizer",
    "chatml": "chatml",
    "llama3": "llama3",
    "gemma": "gemma",
    "mistral_v2v3": "mistral",
    "phi_3": "phi",
    "phi_35": "phi",
}
"""Axolotl's name of a chat template -> our option that renders a dialogue alike."""


def convert_axolotl(s: Settings) -> None:
    """Convert a reward-model configuration, or the `reward_model` setting alone."""
    s.take_rows(MODEL)
    s.take_rows([Row("sequence_len", "data.max_length", Count, 512)])
    _loss(s)
    _data(s)
    _adapter(s)
    _checkpointing(s)
    if s.whole and not s.has("learning_rate"):
        s.leave("learning_rate", "the source has none, and Axolotl no default: give optim.lr")
    convert_training(s, DIALECT, _evaluates(s))
    s.take_rows(LOGGER)
    if s.whole:
        note_differences(s, "cuts off the end of longer answers")


def _loss(s: Settings) -> None:
    setting = s.take("reward_model", bool | Mapping[str, Any])
    if setting is True:
        s.choose("loss", "bradley_terry", "reward_model: true")
        s.take_rows([Row("center_rewards_coefficient", "loss.centring", NotNegative)])
        return
    if setting is False:
        raise s.wrong("reward_model", setting, "should be true or a mapping")
    kind, loss = setting.get("type", "pairwise"), setting.get("loss")
    if kind != "pairwise":
        raise s.wrong("reward_model.type", kind, "should be pairwise")
    if loss not in LOSSES:
        raise s.wrong("reward_model.loss", loss, f"should be {' or '.join(LOSSES)}")
    s.choose("loss", loss, "reward_model.loss")
    if "margin" in setting:
        margin = s.read("reward_model.margin", setting["margin"], NotNegative)
        s.put("loss.margin", margin, "reward_model.margin")
    for key in setting.keys() - {"type", "loss", "margin"}:
        s.leave(f"reward_model.{key}", "not known")
    s.notes.append(
        'data=jsonl reads rows of {"context", "chosen", "rejected", "rating"} as they are.'
    )


def _adapter(s: Settings) -> None:
    name = s.take("adapter", str)
    if name == "qlora":
        s.leave("adapter", "qlora: LoRA, but on weights that are kept in fp32")
    elif name not in (None, "lora"):
        s.leave("adapter", f"there is no {name}: tune is full, lora, last_layers or head")
    on = f"adapter {name}" if name in ("lora", "qlora") else None
    convert_lora(s, on, "adapter: lora", LORA)


def _data(s: Settings) -> None:
    entries = s.take("datasets", list[Any], [])
    if entries:
        convert_sources(s, "datasets", entries, partial(_entry, s))
    tests = s.take("test_datasets", list[Any], [])
    if entries and tests:
        convert_validation(s, "test_datasets", tests)
    share = s.take("val_set_size", NotNegative, 0.0)
    if 0 < share < 1:
        s.put("data.val_share", share, "val_set_size")
    elif s.has("val_set_size") and not tests:
        why = "rmexp selects on rows of its own" if share == 0 else "that is a number of rows"
        s.leave("val_set_size", f"{why}: data.val_share is a share of the prompts, above 0")
    own = s.values["datasets"][0].get("chat_template") if len(entries) == 1 else None
    _template(s, own)


def _entry(s: Settings, place: str, entry: dict[str, Any], ours: str) -> None:
    """The rows of `bradley_terry.chat_template` are {"system", "input", "chosen", "rejected"}."""
    kind = entry.pop("type", None)
    if kind == "bradley_terry.chat_template":
        s.put(f"{ours}.fields.prompt", "input", f"{place}.type {kind}")
        s.put(f"{ours}.fields.system_prompt", "system", f"{place}.type {kind}")
    elif kind is not None:
        s.leave(f"{place}.type", f"{kind}: the form of the rows is told from their columns")
    if ours == "data":
        entry.pop("chat_template", None)


def _template(s: Settings, of_the_data: Any) -> None:
    name = s.take("chat_template", str) if of_the_data is None else str(of_the_data)
    source = s.take("chat_template_jinja", str)
    s.seen.add("chat_template")
    if source is not None and name in (None, "jinja"):
        is_file = source.endswith((".jinja", ".j2"))
        s.choose("template", "jinja" if is_file else "tokenizer", "chat_template_jinja")
        s.put(f"template.{'path' if is_file else 'source'}", source, "chat_template_jinja")
    elif name in TEMPLATES:
        s.choose("template", TEMPLATES[name], "chat_template")
    elif name is not None:
        s.choose("template", "tokenizer", "chat_template, but see below")
        s.leave("chat_template", f"there is no {name}: the tokenizer's own is taken")
    elif s.whole:
        s.choose("template", "tokenizer", s.by_default("chat_template"))
    s.take_rows([Row("default_system_message", "template.system", str)])


def _checkpointing(s: Settings) -> None:
    value = s.take("gradient_checkpointing", bool | Literal["offload", "offload_disk"], False)
    s.state("model.gradient_checkpointing", bool(value), "gradient_checkpointing")


def _evaluates(s: Settings) -> bool:
    """Axolotl evaluates where it has rows to evaluate on, and is told how often."""
    strategy = s.take("eval_strategy", bool | str)
    often = strategy is not None or s.has("eval_steps") or s.has("evals_per_epoch")
    rows = s.has("test_datasets") or float(s.values.get("val_set_size") or 0) > 0
    return often and rows and strategy not in ("no", False)
